"""Masks of many stacks, by several processes or a Dask cluster: what is there is kept, what dies is tried again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from e2sam.data.io import STACK_SUFFIXES, read_with_notes, stem_of, write_labels
from e2sam.data.io.datasets import open_dataset
from e2sam.data.io.labels import is_labels_name
from e2sam.data.io.zarr_store import is_zarr
from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError, StackError
from e2sam.inference.automatic import AutomaticOptions, segment_everything
from e2sam.inference.predictor import Predictor
from e2sam.inference.semantic import segment_semantic
from e2sam.weights.checkpoint import read_checkpoint_info
from e2sam.weights.zoo import load_model

__all__ = [
    "BatchOptions",
    "BatchResult",
    "BatchTask",
    "FoundStack",
    "find_stacks",
    "predict_many",
    "predict_one",
    "search_stacks",
]

_SUFFIX = "_labels.tif"
# Sets in the layouts of E2SAM's release; see `open_dataset`.
_SETS = ("shift:", "h8:")
# A worker that dies takes the stacks that it worked on with it; each is tried this often.
_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 20
# A process that is told to end removes the file that it is writing.
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class FoundStack:
    """One stack that a search came to.

    Attributes
    ----------
    source
        Its file or zarr store, or the set that it is in.
    place
        Where it lies below the folder that was searched, without its suffix.
    item
        Its name in a set such as `shift:DIR`, else empty.
    """

    source: Path
    place: Path
    item: str = ""


@dataclass(frozen=True)
class BatchTask:
    """One stack and where its labels go; `item` names an image of a set such as `shift:DIR`."""

    source: Path
    target: Path
    item: str = ""


@dataclass(frozen=True)
class BatchOptions:
    """How stacks are read and what is done with them.

    Attributes
    ----------
    channels
        Names of the selected channels, or "auto".
    channel_axis, channel_names, nodata
        As `read_stack`.
    device, exact
        As `load_model`.
    automatic
        What "segment everything" looks for.
    workers
        Processes; 0 takes one for every two cores.
    scheduler
        Address of a Dask scheduler whose workers see the same files, or None for this machine.
    probability
        With a semantic model, also write how sure it is of each pixel's class, in percent: NAME_percent.tif.
    overwrite
        Make again what is there.
    """

    channels: tuple[str, ...] | Literal["auto"] = "auto"
    channel_axis: int | str | None = None
    channel_names: tuple[str, ...] | None = None
    nodata: float | None = None
    device: str = "auto"
    exact: bool = False
    automatic: AutomaticOptions = field(default_factory=AutomaticOptions)
    workers: int = 0
    scheduler: str | None = None
    probability: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class BatchResult:
    """What became of one stack.

    Attributes
    ----------
    source, target
        The stack and its labels; of a series, the folder's first.
    objects
        Instances, or classes found.
    what
        "objects" or "classes".
    seconds
        Time that it took.
    skipped
        Whether the labels were there already.
    error
        One line, empty where all went well.
    channels
        Number of channels of the stack; 0 where it was not read.
    notes
        What its user should know of how it was read.
    """

    source: str
    target: str
    objects: int = 0
    what: str = "objects"
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""
    channels: int = 0
    notes: tuple[str, ...] = ()


def find_stacks(paths: Sequence[Path], out: Path, of_folders: bool = False) -> list[BatchTask]:
    """Stacks behind files and folders (searched through), each with its place under `out`; see `search_stacks`.

    Raises
    ------
    StackError
        If a path does not exist, a folder holds no stack, two stacks would have the same labels, or labels would be
        written over a stack.
    """
    tasks: dict[Path, BatchTask] = {}
    for found in search_stacks(paths, out, of_folders):
        _add(tasks, BatchTask(found.source, out / f"{found.place}{_SUFFIX}", found.item))
    sources = {task.source.resolve() for task in tasks.values()}
    over = next((target for target in tasks if target.resolve() in sources), None)
    if over is not None:
        raise StackError(f"Expected labels beside the stacks, but {over} is a stack itself: name another folder.")
    return list(tasks.values())


def search_stacks(paths: Sequence[Path], out: Path | None = None, of_folders: bool = False) -> Iterator[FoundStack]:
    """Stacks behind files, zarr stores, sets such as `shift:DIR`, and folders (searched through, but for `out`).

    What is named twice is found twice. With `of_folders` the images of a folder are the channels of one stack.

    Raises
    ------
    StackError
        If a path does not exist, or a folder holds no stack.
    """
    for path in paths:
        if str(path).startswith(_SETS):
            yield from (FoundStack(path, Path(item.name), item.name) for item in open_dataset(str(path)))
            continue
        if not path.exists():
            raise StackError(f"Expected a stack or a folder of stacks, but there is no {path}.")
        if not path.is_dir() or is_zarr(path):
            yield FoundStack(path, Path(path.stem))
            continue
        below = sorted(set(_stacks_below(path, out, of_folders)))
        if not below:
            raise StackError(f"Expected stacks ({', '.join(STACK_SUFFIXES)}, zarr) in {path}, found none.")
        for source in below:
            yield FoundStack(source, (source.parent.relative_to(path) if source != path else Path()) / stem_of(source))


def _add(tasks: dict[Path, BatchTask], task: BatchTask) -> None:
    known = tasks.setdefault(task.target, task)
    if known != task:
        both = " and ".join(f"{one.source}{f' ({one.item})' if one.item else ''}" for one in (known, task))
        raise StackError(f"Expected one stack for each label file, got {both}: rename one.")


def _stacks_below(folder: Path, out: Path | None, of_folders: bool) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        within = Path(place)
        stores = [name for name in folders if is_zarr(within / name)]
        # Chunks of a store are no stacks, and what was written to `out` is none to read.
        folders[:] = [name for name in folders if name not in stores and within / name != out]
        images = [name for name in files if Path(name).suffix.lower() in STACK_SUFFIXES and not is_labels_name(name)]
        found = (within / name for name in (*stores, *images) if not name.startswith("."))
        yield from (within if of_folders and path.name in images else path for path in found)


def predict_many(
    tasks: Sequence[BatchTask], model: str | Path, options: BatchOptions | None = None
) -> Generator[BatchResult, None, None]:
    """Masks of many stacks, each result as soon as it is on disk.

    A stack that cannot be read gives a result with its error; the others go on. A process that dies costs no result:
    its stacks are given to another. Stopping the generator ends the processes; what is on disk is whole.

    Parameters
    ----------
    tasks
        From `find_stacks`.
    model
        As `load_model` takes it; workers of a cluster must find a file at the same path.
    options
        How to read and what to do.

    Raises
    ------
    E2SamError
        If probabilities are wanted of a promptable model, or the scheduler does not answer.
    """
    chosen = options or BatchOptions()
    if chosen.probability:
        _check_probability(model)
    todo = []
    for task in tasks:
        if _is_there(task.target) and not chosen.overwrite:
            yield BatchResult(str(task.source), str(task.target), skipped=True)
        else:
            todo.append(task)
    if not todo:
        return
    if chosen.scheduler is not None:
        yield from _on_cluster(todo, str(model), chosen)
        return
    workers = min(chosen.workers or max(1, (os.cpu_count() or 1) // 2), len(todo))
    if workers == 1:
        for task in todo:
            yield predict_one(task, str(model), chosen)
    else:
        yield from _in_processes(todo, str(model), chosen, workers)


def _is_there(target: Path) -> bool:
    """Whether labels were written; an empty file is what another program or a full disk left."""
    return target.is_file() and target.stat().st_size > 0


def _check_probability(model: str | Path) -> None:
    path = Path(model)
    if path.suffix == ".safetensors":
        # What lies on a cluster alone is found out there.
        is_semantic = not path.exists() or read_checkpoint_info(path).config.semantic is not None
    else:
        is_semantic = False
    if not is_semantic:
        raise E2SamError(f"Expected a semantic model for --probability, got {model}: leave --probability out.")


def predict_one(task: BatchTask, model: str, options: BatchOptions) -> BatchResult:
    """Labels of one stack, written whole or not at all; a series gives a file for each of its scenes."""
    start = time.perf_counter()
    result = BatchResult(str(task.source), str(task.target))
    try:
        # A model that cannot be loaded fails for every stack alike, and says so for each.
        loaded = _loaded(model, options.device, options.exact)
        stack, notes = _read(task, options)
        result = replace(result, channels=stack.num_channels, notes=tuple(notes))
        task.target.parent.mkdir(parents=True, exist_ok=True)
        with loaded.lock:
            objects = sum(
                _predict_scene(stack.plane(*index), _target_of(task.target, index), loaded.predictor, options)
                for index in reversed(list(np.ndindex(*stack.num_planes)))
            )
    except (E2SamError, OSError, MemoryError, RuntimeError, ValueError) as error:
        # Memory that runs out and what a library stumbles over end this stack, not the others.
        told = " ".join(str(error).split()) or type(error).__name__
        return replace(result, error=told, seconds=time.perf_counter() - start)
    what = "objects" if loaded.predictor.model.config.semantic is None else "classes"
    return replace(result, objects=objects, what=what, seconds=time.perf_counter() - start)


def _read(task: BatchTask, options: BatchOptions) -> tuple[ChannelStack, list[str]]:
    if task.item:
        images = {item.name: item for item in open_dataset(str(task.source))}
        return images[task.item].load()[0], []
    names = None if options.channel_names is None else list(options.channel_names)
    return read_with_notes(task.source, options.channel_axis, names, nodata=options.nodata)


def _target_of(target: Path, index: tuple[int, ...]) -> Path:
    """The first scene of a series has the name that says that the work is done, and is written last.

    The others are called NAME_labels_0001.tif: NAME_0001_labels.tif are the labels of a stack NAME_0001.
    """
    if not any(index):
        return target
    return target.with_stem("_".join((target.stem, *(f"{position:04d}" for position in index))))


def _percent_of(target: Path) -> Path:
    return target.with_name("_percent".join(target.name.rsplit("_labels", 1)))


def _predict_scene(stack: ChannelStack, target: Path, predictor: Predictor, options: BatchOptions) -> int:
    if _is_there(target) and not options.overwrite:
        return 0
    if predictor.model.config.semantic is None:
        predictor.set_stack(stack, options.channels)
        labels = segment_everything(predictor, options.automatic)
    else:
        found = segment_semantic(predictor.model, stack, with_probabilities=options.probability)
        labels = found.labels
        if found.probabilities is not None:
            percent = np.rint(100 * found.probabilities.max(axis=0)).astype(np.uint8)
            write_labels(_percent_of(target), percent, stack.geo)
    write_labels(target, labels, stack.geo)
    return len(np.unique(labels)) - int((labels == 0).any())


@dataclass(frozen=True)
class _Loaded:
    """A model for every stack of a process; a cluster's worker may call from several threads."""

    predictor: Predictor
    lock: threading.Lock


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, exact: bool) -> _Loaded:
    # Each image is seen once: embeddings on disk would only push out those that will be used.
    return _Loaded(Predictor(load_model(model, device, exact), cache=False), threading.Lock())


def _in_processes(
    todo: Sequence[BatchTask], model: str, options: BatchOptions, workers: int
) -> Generator[BatchResult, None, None]:
    left = dict.fromkeys(todo, _ATTEMPTS)
    while left:
        # After a death, one process for what it took along: the stack that kills it is found without harming others.
        suspects = [task for task, attempts in left.items() if attempts < _ATTEMPTS]
        count = 1 if suspects else workers
        pool = _spawned(count)
        try:
            yield from _until_one_dies(pool, left, suspects or list(left), model, options, count)
        except (KeyboardInterrupt, GeneratorExit):
            _end(pool)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _spawned(workers: int) -> ProcessPoolExecutor:
    """Fresh processes that share the cores; a forked one would inherit torch's threads half-way."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    """Make a process end when it is told to or its parent is gone; Ctrl-C is the parent's to answer."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_TIMEOUT_S)
        os._exit(1)


def _in_process(task: BatchTask, model: str, options: BatchOptions) -> BatchResult:
    """`predict_one`, of which the pool would take the order to end for a result."""
    try:
        return predict_one(task, model, options)
    except SystemExit:
        os._exit(1)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool without waiting for their stacks."""
    processes = list((pool._processes or {}).values())
    for process in processes:
        process.terminate()
    left = {process.sentinel for process in processes}
    end = time.monotonic() + _END_TIMEOUT_S
    while left and time.monotonic() < end:
        left -= set(wait_for(left, end - time.monotonic()))
    for process in processes:
        process.kill()


def _until_one_dies(
    pool: ProcessPoolExecutor,
    left: dict[BatchTask, int],
    waiting: list[BatchTask],
    model: str,
    options: BatchOptions,
    count: int,
) -> Generator[BatchResult, None, None]:
    """Work through `waiting`, removing from `left` what is done, until all is or a process of the pool has died.

    No more stacks are given out than there are processes, so that what a dying one takes along is known.
    """
    running: dict[Future[BatchResult], BatchTask] = {}
    while waiting or running:
        try:
            # Giving out work finds a pool broken too, where a process died while the last result was used.
            while waiting and len(running) < count:
                task = waiting.pop(0)
                running[pool.submit(_in_process, task, model, options)] = task
            future = next(as_completed(running))
            result = future.result()
        except BrokenProcessPool:
            for future, task in running.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    del left[task]
                    yield future.result()
                    continue
                left[task] -= 1
                if left[task] == 0:
                    del left[task]
                    yield BatchResult(str(task.source), str(task.target), error="the process died on it (memory?)")
            return
        del left[running.pop(future)]
        yield result


def _on_cluster(todo: Sequence[BatchTask], model: str, options: BatchOptions) -> Generator[BatchResult, None, None]:
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as as_dask_completed
    except ImportError as error:
        raise E2SamError("Expected Dask for --scheduler: pip install 'napari-e2sam[cluster]'.") from error
    try:
        client = Client(options.scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise E2SamError(f"Expected a Dask scheduler at {options.scheduler}, got no answer: {error}.") from error
    with client:
        by_key = {}
        futures = []
        for task in todo:
            # Not pure: the result is the file. Dask gives the tasks of a worker that dies to another.
            future = client.submit(predict_one, task, model, options, pure=False, retries=_ATTEMPTS - 1)
            by_key[future.key] = task
            futures.append(future)
        for future in as_dask_completed(futures, loop=client.loop):
            if future.status == "finished":
                yield future.result()
            else:
                task = by_key[future.key]
                yield BatchResult(str(task.source), str(task.target), error=f"{future.exception()}")
