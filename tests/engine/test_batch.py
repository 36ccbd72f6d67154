"""Many stacks: resumed, spread over processes and a cluster, and no result lost with a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import zarr
from PIL import Image

from e2sam.data.io import read_labels
from e2sam.errors import E2SamError, StackError
from e2sam.inference import batch
from e2sam.inference.automatic import AutomaticOptions
from e2sam.inference.batch import (
    BatchOptions,
    BatchResult,
    BatchTask,
    FoundStack,
    find_stacks,
    predict_many,
    predict_one,
    search_stacks,
)
from e2sam.modeling.build import build_model, teacher_config
from e2sam.weights.checkpoint import save_checkpoint

EVERYTHING = AutomaticOptions(points_per_side=4, min_quality=0.0, min_stability=0.0)
OPTIONS = BatchOptions(automatic=EVERYTHING, device="cpu", workers=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, build_model(teacher_config("vit_test")), {})
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four stacks, one of them in a folder below."""
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c", "below/d"):
        path = tmp_path / "stacks" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, generator.integers(0, 5000, (4, 40, 56), dtype=np.uint16))
    return tmp_path / "stacks"


def test_stacks_are_found_with_a_place_for_each(folder: Path, tmp_path: Path) -> None:
    (folder / "a_labels.png").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()
    out = folder / "out"
    tasks = find_stacks([folder], out)
    assert {task.source.name for task in tasks} == {"a.npy", "b.npy", "c.npy", "d.npy"}
    assert {str(task.target.relative_to(out)) for task in tasks} == {
        "a_labels.tif",
        "b_labels.tif",
        "c_labels.tif",
        "below/d_labels.tif",
    }
    assert find_stacks([folder / "a.npy", folder], out) == find_stacks([folder], out)
    with pytest.raises(StackError, match="there is no"):
        find_stacks([folder / "nothing"], out)
    with pytest.raises(StackError, match="found none"):
        find_stacks([folder / "empty"], tmp_path)
    (folder / "below" / "a.npy").write_bytes(b"")
    with pytest.raises(StackError, match="rename one"):
        find_stacks([folder / "a.npy", folder / "below" / "a.npy"], out)
    for set_name in ("one", "two"):
        place = tmp_path / set_name / "train"
        place.mkdir(parents=True)
        np.save(place / "1.npy", np.zeros((8, 8, 16), np.uint16))
        (place / "1.png").write_bytes(b"")
    sets = [Path(f"h8:{tmp_path / name}") for name in ("one", "two")]
    assert len(find_stacks(sets[:1], out)) == 1
    with pytest.raises(StackError, match="rename one"):
        find_stacks(sets, out)
    (folder / "a_labels.tif").write_bytes(b"")
    with pytest.raises(StackError, match="is a stack itself"):
        find_stacks([folder / "a.npy", folder / "a_labels.tif"], folder)


def test_stores_are_found_whatever_they_are_called(folder: Path, tmp_path: Path) -> None:
    for name in ("s.zarr", "below/plain", "out/old.zarr"):
        store = zarr.create_array(folder / name, shape=(2, 8, 8), dtype="uint8")
        store[:] = 1
        # What lies in a store is no stack of its own.
        np.save(folder / name / "within.npy", np.zeros((2, 8, 8), np.uint8))
    names = {task.source.name for task in find_stacks([folder], folder / "out")}
    assert names == {"a.npy", "b.npy", "c.npy", "d.npy", "s.zarr", "plain"}
    (task,) = find_stacks([folder / "below" / "plain"], tmp_path)
    assert task == BatchTask(folder / "below" / "plain", tmp_path / "plain_labels.tif")


def test_labels_of_any_spelling_are_no_stacks(folder: Path, tmp_path: Path) -> None:
    for ending in ("labels.tif", "labels.tiff", "labels.TIF", "labels_0001.tiff", "Labels.PNG", "percent.TIF"):
        (folder / f"a_{ending}").write_bytes(b"")
    (folder / "labels.tif").write_bytes(b"")
    names = {task.source.name for task in find_stacks([folder], tmp_path)}
    assert names == {"a.npy", "b.npy", "c.npy", "d.npy", "labels.tif"}


def test_a_search_asks_for_no_label_names(folder: Path) -> None:
    (folder / "below" / "a.npy").write_bytes(b"")
    paths = [folder / "a.npy", folder / "below" / "a.npy"]
    assert list(search_stacks(paths)) == [FoundStack(path, Path("a")) for path in paths]


def test_a_folder_of_bands_is_one_stack_where_that_is_asked_for(tmp_path: Path, model: str) -> None:
    for scene in ("S2A.1", "S2B"):
        for band in ("B02", "B03", "B04", "B08"):
            (tmp_path / "scenes" / scene).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 24), 9, np.uint8)).save(tmp_path / "scenes" / scene / f"{band}.png")
    (tmp_path / "scenes" / "S2B" / "rgb_labels.png").write_bytes(b"")
    out = tmp_path / "out"
    tasks = find_stacks([tmp_path / "scenes"], out, of_folders=True)
    assert [(task.source.name, task.target.relative_to(out)) for task in tasks] == [
        ("S2A.1", Path("S2A.1_labels.tif")),
        ("S2B", Path("S2B_labels.tif")),
    ]
    (task,) = find_stacks([tmp_path / "scenes" / "S2B"], out, of_folders=True)
    assert task == tasks[1] and len(find_stacks([tmp_path / "scenes"], out)) == 8
    result = predict_one(task, model, OPTIONS)
    assert (result.channels, result.error) == (4, "")
    assert result.notes == ("Left out as labels: 1 of 5 images in S2B.",)


def test_labels_are_written_and_not_made_again(folder: Path, tmp_path: Path, model: str) -> None:
    tasks = find_stacks([folder], tmp_path / "out")
    results = list(predict_many(tasks, model, OPTIONS))
    assert [result.error for result in results] == [""] * 4
    for result in results:
        labels = read_labels(result.target)
        assert labels.shape == (40, 56)
        assert result.objects == len(np.unique(labels[labels > 0])) > 0
    written = {task.target: task.target.stat().st_mtime_ns for task in tasks}
    tasks[1].target.unlink()
    again = list(predict_many(tasks, model, OPTIONS))
    assert sorted(result.skipped for result in again) == [False, True, True, True]
    assert all(task.target.stat().st_mtime_ns == written[task.target] for task in tasks if task is not tasks[1])
    assert not list((tmp_path / "out").rglob(".*"))


def test_one_bad_stack_does_not_stop_the_others(folder: Path, tmp_path: Path, model: str) -> None:
    (folder / "b.npy").write_bytes(b"no stack")
    results = {Path(r.source).name: r for r in predict_many(find_stacks([folder], tmp_path), model, OPTIONS)}
    assert results["b.npy"].error and "\n" not in results["b.npy"].error
    assert not Path(results["b.npy"].target).exists()
    assert all(not result.error for name, result in results.items() if name != "b.npy")


def test_a_series_gives_a_file_for_each_scene(tmp_path: Path, model: str) -> None:
    np.save(tmp_path / "series.npy", np.random.default_rng(0).integers(0, 255, (3, 2, 40, 48), dtype=np.uint8))
    np.save(tmp_path / "series_0001.npy", np.random.default_rng(1).integers(0, 255, (1, 2, 20, 30), dtype=np.uint8))
    tasks = find_stacks([tmp_path], tmp_path)
    options = BatchOptions(channel_axis="TCYX", automatic=EVERYTHING, device="cpu", workers=1)
    results = list(predict_many(tasks, model, options))
    assert [result.error for result in results] == ["", ""] and all(result.objects for result in results)
    assert sorted(found.name for found in tmp_path.glob("*.tif")) == [
        "series_0001_labels.tif",
        "series_labels.tif",
        "series_labels_0001.tif",
        "series_labels_0002.tif",
    ]
    assert read_labels(tmp_path / "series_0001_labels.tif").shape == (20, 30)
    assert find_stacks([tmp_path], tmp_path) == tasks


def test_memory_that_runs_out_ends_one_stack_alone(
    folder: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch.segment_everything

    def runs_out(predictor: Any, options: Any) -> Any:
        if (predictor.stack.source or Path()).name == "b.npy":
            raise MemoryError
        return real(predictor, options)

    monkeypatch.setattr(batch, "segment_everything", runs_out)
    results = {Path(r.source).name: r for r in predict_many(find_stacks([folder], tmp_path / "out"), model, OPTIONS)}
    assert results["b.npy"].error == "MemoryError"
    assert all(not result.error for name, result in results.items() if name != "b.npy")


def dies_once(task: BatchTask, model: str, options: BatchOptions) -> BatchResult:
    """Stands in for `predict_one`: the process dies at the first stack, once."""
    marker = task.target.parent.parent / "died"
    if task.source.name == "b.npy" and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    task.target.write_text("done")
    return BatchResult(str(task.source), str(task.target))


def dies_always(task: BatchTask, model: str, options: BatchOptions) -> BatchResult:
    """The process dies whenever it meets one stack."""
    if task.source.name == "b.npy":
        os.kill(os.getpid(), signal.SIGKILL)
    return BatchResult(str(task.source), str(task.target))


def test_processes_share_the_work_and_a_dead_one_costs_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "below").mkdir(parents=True)
    tasks = find_stacks([folder], tmp_path / "out")
    monkeypatch.setattr(batch, "predict_one", dies_once)
    monkeypatch.setattr(batch, "_spawned", lambda workers: _forked(workers))
    results = list(predict_many(tasks, "", BatchOptions(workers=2)))
    assert sorted(Path(result.source).name for result in results) == ["a.npy", "b.npy", "c.npy", "d.npy"]
    assert not any(result.error for result in results)
    assert all(task.target.read_text() == "done" for task in tasks)


def test_a_stack_that_kills_every_process_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "predict_one", dies_always)
    monkeypatch.setattr(batch, "_spawned", lambda workers: _forked(workers))
    results = {
        Path(r.source).name: r for r in predict_many(find_stacks([folder], tmp_path), "", BatchOptions(workers=2))
    }
    assert len(results) == 4
    assert [name for name, result in results.items() if result.error] == ["b.npy"]


def _forked(workers: int) -> Any:
    """Processes that start at once: what they run is a function of this file, which a spawned one could not import."""
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), batch._begin, (1,))


def never_ends(task: BatchTask, model: str, options: BatchOptions) -> BatchResult:
    """Stands in for `predict_one`: one stack is done at once, the others are being written for long."""
    if task.source.name != "a.npy":
        part = task.target.with_name(f".{task.source.name}.part")
        try:
            part.write_text("half")
            time.sleep(30)
        finally:
            part.unlink()
    return BatchResult(str(task.source), str(task.target))


def test_stopping_ends_the_processes_and_leaves_no_part_of_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "below").mkdir(parents=True)
    monkeypatch.setattr(batch, "predict_one", never_ends)
    monkeypatch.setattr(batch, "_spawned", lambda workers: _forked(workers))
    steps = predict_many(find_stacks([folder], tmp_path / "out"), "", BatchOptions(workers=3))
    assert Path(next(steps).source).name == "a.npy"
    while not list((tmp_path / "out").rglob(".*.part")):
        time.sleep(0.01)
    start = time.monotonic()
    steps.close()
    assert time.monotonic() - start < 4, "neither the stacks nor the time to end were waited for"
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "out").rglob(".*"))


ORPHAN = """
import multiprocessing, time
from e2sam.inference import batch

def work():
    batch._begin(1)
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)

multiprocessing.get_context("fork").Process(target=work).start()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks, to be quick")
def test_a_process_ends_when_its_parent_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=10)
    for process in alive:
        process.kill()
    assert not alive


def test_an_empty_file_is_not_taken_for_labels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = find_stacks([folder / "a.npy"], tmp_path)
    monkeypatch.setattr(batch, "predict_one", lambda task, *_: BatchResult(str(task.source), str(task.target)))
    for content, is_kept in ((b"", False), (b"II*", True)):
        task.target.write_bytes(content)
        assert [result.skipped for result in predict_many([task], "", OPTIONS)] == [is_kept]


def test_probabilities_are_refused_where_a_model_has_none(model: str) -> None:
    for name in ("tiny", model):
        with pytest.raises(E2SamError, match=f"semantic model for --probability, got {name}"):
            next(predict_many([], name, BatchOptions(probability=True)))


def test_real_processes_write_real_labels(folder: Path, tmp_path: Path, model: str) -> None:
    tasks = find_stacks([folder / "a.npy", folder / "b.npy"], tmp_path / "out")
    options = BatchOptions(automatic=EVERYTHING, device="cpu", workers=2)
    results = list(predict_many(tasks, model, options))
    assert [result.error for result in results] == ["", ""]
    alone = predict_one(BatchTask(tasks[0].source, tmp_path / "alone_labels.tif"), model, options)
    np.testing.assert_array_equal(read_labels(alone.target), read_labels(tasks[0].target))


@pytest.mark.filterwarnings("default")
def test_a_cluster_of_two_workers_loses_no_result_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    tasks = []
    for number in range(6):
        tasks.append(BatchTask(tmp_path / f"{number}.npy", tmp_path / "out" / f"{number}_labels.tif"))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(batch, "predict_one", _slow_task())
    settings = {"distributed.scheduler.allowed-failures": 5, "distributed.worker.memory.terminate": False}
    import dask

    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
    ):
        results = []
        for result in predict_many(tasks, "", BatchOptions(scheduler=cluster.scheduler_address)):
            results.append(result)
            if len(results) == 1:
                victim = next(iter(cluster.workers.values()))
                os.kill(victim.process.process.pid, signal.SIGKILL)
    assert sorted(Path(result.source).name for result in results) == [f"{number}.npy" for number in range(6)]
    assert not any(result.error for result in results)
    assert all(task.target.read_text() == "done" for task in tasks)


def _slow_task() -> Any:
    """A task that a worker of the cluster need not import from this file."""

    def run(task: Any, model: str, options: Any) -> Any:
        import time as clock

        clock.sleep(0.4)
        task.target.write_text("done")
        return type("Result", (), {"source": str(task.source), "error": ""})()

    import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(run))


def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(batch, "_CONNECT_TIMEOUT_S", 1)
    with pytest.raises(E2SamError, match="Dask scheduler at"):
        list(
            predict_many(
                [BatchTask(tmp_path / "a.npy", tmp_path / "a.tif")], "", BatchOptions(scheduler="tcp://127.0.0.1:9")
            )
        )
