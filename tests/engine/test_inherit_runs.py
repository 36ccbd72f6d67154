"""Runs of knowledge inheritance that are stopped, killed, shared by two processes, or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inheriting import config_of, losses, run, stack_of, teacher_of

from e2sam.data.lock import WriterLock
from e2sam.data.stack import ChannelStack
from e2sam.errors import ChannelError, TrainingError
from e2sam.training.devices import starts_first
from e2sam.training.inherit import InheritConfig, inherit
from e2sam.training.state import only_run
from e2sam.training.tiles import hold_out
from e2sam.weights.checkpoint import load_checkpoint
from e2sam.weights.zoo import load_model


def test_closed_run_goes_on_exactly(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run(config_of(tmp_path / "a", steps=6))
    generator = inherit(stack_of(), config_of(tmp_path / "b", steps=6), teacher_of())
    first = []
    for step in generator:
        first.append(step)
        if step.step == 4:
            break
    generator.close()
    rest = run(config_of(tmp_path / "b", steps=6, resume=True))
    assert losses(first) | losses(rest) == losses(whole)
    assert min(losses(rest)) == 5
    a, b = (load_checkpoint(tmp_path / part / "student.safetensors").state_dict() for part in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    generator = inherit(stack_of(), config_of(tmp_path), teacher_of())
    for step in generator:
        if step.step == 1:
            break
    generator.close()
    with pytest.raises(TrainingError, match="lora_rank was 8 and is 4"):
        run(config_of(tmp_path, lora_rank=4, resume=True))


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"canonical": ("c0", "nir")}, ChannelError, "nir"),
        ({"canonical": ("c0", "c1", "c2", "c3")}, ChannelError, "one to three"),
        ({"tile_size": 50}, TrainingError, "multiple of 32"),
        ({"seed": -1}, TrainingError, "seed of at least 0"),
        ({"precision": "half"}, TrainingError, "precision of auto, 32-true"),
        ({"merge": "mean"}, Exception, "merge module"),
        ({"out": Path("/nowhere/at/all.safetensors")}, TrainingError, "existing folder"),
        ({"out": None}, TrainingError, r"NAME\.safetensors, got None"),
        ({"out": "student.txt"}, TrainingError, r"NAME\.safetensors"),
        ({"steps": 1.5}, TrainingError, "steps as a whole number"),
        ({"num_tiles": -1}, TrainingError, "num_tiles"),
        ({"seed": "x"}, TrainingError, "seed"),
        ({"lessons": None}, TrainingError, "Lessons"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, Any], error: type, what: str) -> None:
    with pytest.raises(error, match=what):
        run(config_of(tmp_path, **changes))


def test_wrong_stacks_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(TrainingError, match="at least 1 stack"):
        list(inherit([], config, teacher_of()))
    with pytest.raises(TrainingError, match="got None"):
        list(inherit(None, config, teacher_of()))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no transformer blocks"):
        list(inherit([stack_of(4)], config_of(tmp_path, tune="lora"), load_model("tiny", "cpu")))
    with pytest.raises(ChannelError, match="same channels"):
        list(inherit([stack_of(4), stack_of(5)], config, teacher_of()))
    with pytest.raises(TrainingError, match="hold a region out"):
        list(inherit(stack_of(size=(20, 20)), config, teacher_of()))


def test_planes_of_one_series_have_the_same_side_held_out() -> None:
    planes = [stack_of() for _ in range(6)]
    sides = {(scene.train, scene.held) for scene in hold_out(planes, 0, [0] * 6)}
    assert len(sides) == 1 and None not in next(iter(sides))
    held = [scene.held is not None for scene in hold_out(planes * 2, 0, [number // 3 for number in range(12)])]
    assert sum(held) == 3 and len({number // 3 for number, is_held in enumerate(held) if is_held}) == 1


def test_stacks_without_anything_to_see_are_refused(tmp_path: Path) -> None:
    stack = stack_of()
    for data in (np.full(stack.data.shape, np.nan, np.float32), np.full(stack.data.shape, 7, np.uint8)):
        with pytest.raises(ChannelError, match="whose valid pixels differ"):
            list(inherit(ChannelStack(data, stack.channels), config_of(tmp_path), teacher_of()))
    half = np.where(np.arange(4)[:, None, None] == 0, np.nan, np.asarray(stack.data, np.float32))
    assert run(config_of(tmp_path, steps=1, canonical=()), stack=ChannelStack(half, stack.channels))


def test_who_goes_on_with_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    steps = run(config_of(tmp_path, steps=1, resume=True))
    assert [step.message for step in steps if "unfinished" in step.message] == [
        "There is no unfinished run of student.safetensors to go on with: starting from the beginning."
    ]
    assert steps[-1].step == 1
    begun = inherit(stack_of(), config_of(tmp_path), teacher_of())
    for step in begun:
        if step.step == 1:
            break
    begun.close()
    assert "An unfinished run of student.safetensors is given up" in run(config_of(tmp_path, steps=1))[0].message


def test_a_second_run_of_the_same_output_is_refused(tmp_path: Path) -> None:
    first = inherit(stack_of(), config_of(tmp_path, steps=1), teacher_of())
    next(first)
    with pytest.raises(TrainingError, match=rf"one run at a time .*process {os.getpid()} on .*name another"):
        run(config_of(tmp_path, steps=1))
    assert list(first)[-1].step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]
    second = inherit(stack_of(), config_of(tmp_path, steps=1), teacher_of())
    next(second)
    second.close()
    assert not list(tmp_path.glob("*.lock"))


def test_output_that_cannot_be_locked_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(lock: WriterLock) -> bool:
        raise PermissionError("no locks here")

    monkeypatch.setattr(WriterLock, "acquire", refuse)
    with only_run(tmp_path / "a.safetensors", is_first=True):
        pass


def test_of_several_processes_only_the_first_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert starts_first(2, 1, "ddp")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not starts_first(2, 1, "ddp") and not starts_first("auto", 1, "auto")
    assert starts_first(1, 1, "auto"), "a run of one process"
    with only_run(tmp_path / "a", is_first=True), only_run(tmp_path / "a", is_first=False):
        assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    assert not list(tmp_path.iterdir())


SCRIPT = """
import json, os, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
from e2sam.training.inherit import inherit
from inheriting import config_of, stack_of, teacher_of
config = config_of(Path({out!r}), **{changes!r})
for step in inherit(stack_of(), config, teacher_of()):
    # One write for each line: two processes share this pipe.
    os.write(1, (json.dumps([step.step, step.loss.hex()]) + "\\n").encode())
"""


def script_of(out: Path, **changes: Any) -> str:
    return textwrap.dedent(SCRIPT.format(folder=str(Path(__file__).parent), out=str(out), changes=changes))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are taken in the same order as in the script."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    out = tmp_path / "two"
    out.mkdir()
    script = tmp_path / "two.py"
    script.write_text(script_of(out, devices=2, strategy="ddp", steps=3), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    found = {step: float.fromhex(loss) for step, loss in map(json.loads, lines) if step}
    one = losses(run(config_of(tmp_path, steps=3)))
    assert found == pytest.approx(one, rel=1e-3)
    assert [path.name for path in out.iterdir()] == ["student.safetensors"]
    two, alone = (load_checkpoint(path / "student.safetensors") for path in (out, tmp_path))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=2e-4, rtol=1e-2)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_killed_run_goes_on_with_the_same_next_loss(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script_of(tmp_path, steps=500, validate_every=0)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = {}
    for line in process.stdout:
        step, loss = json.loads(line)
        seen[step] = float.fromhex(loss)
        if step == 5:
            os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    generator = inherit(stack_of(), config_of(tmp_path, steps=500, validate_every=0, resume=True), teacher_of())
    again: dict[int, float] = {}
    for step in generator:
        if step.step:
            again[step.step] = step.loss
            if step.step > max(seen):
                break
    generator.close()
    whole = run_until(config_of(tmp_path, steps=500, validate_every=0), max(again))
    assert again == {number: whole[number] for number in again}
    assert 5 <= min(again) <= max(seen) + 1


def run_until(config: InheritConfig, last: int) -> dict[int, float]:
    found: dict[int, float] = {}
    generator = inherit(stack_of(), config, teacher_of())
    for step in generator:
        if step.step:
            found[step.step] = step.loss
        if step.step == last:
            break
    generator.close()
    return found
