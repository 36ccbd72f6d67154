"""The training loop on a small task: a line fitted through noisy points."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from e2sam.errors import TrainingError
from e2sam.training.config import TrainStep
from e2sam.training.loop import run_training
from e2sam.training.task import LoopSettings, Outcome, ParameterGroup, StepDraw


class Line(nn.Module):
    """Fits weights with dropout, so that torch's own random numbers matter too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, batch: dict[str, torch.Tensor], progress: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = ((self.inner(batch["x"]) - batch["y"]) ** 2).mean()
        return loss, {}


class LineTask:
    monitor = "fit"

    def __init__(self, rate: float = 1e-2) -> None:
        self.module = Line()
        self.rate = rate
        self.drawn: list[tuple[int, int]] = []
        self.outcome: Outcome | None = None
        self.memory = 10**6
        self.nan_from = 10**6

    def identity(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def prepare(self, fabric: Any) -> Iterator[str]:
        yield "ready"

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([p for p in self.module.parameters() if p.requires_grad], self.rate, 0.01)]

    def batch(self, draw: StepDraw) -> dict[str, torch.Tensor]:
        if len(draw.samples) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        self.drawn.append((draw.step, len(draw.samples)))
        x = torch.stack([torch.from_numpy(draw.sample(i).normal(size=4)).float() for i in draw.samples])
        y = x.sum(1, keepdim=True) * (math.nan if draw.step >= self.nan_from else 1.0)
        return {"x": x, "y": y}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1, 1, 40).view(10, 4)
        return {"fit": -float(((self.module.inner(x) - x.sum(1, keepdim=True)) ** 2).mean())}

    def save(self, path: Path, outcome: Outcome) -> None:
        self.outcome = outcome
        save_file({k: v.clone() for k, v in self.module.state_dict().items()}, path)


def settings(out: Path, **changes: Any) -> LoopSettings:
    values = {"steps": 12, "batch_size": 8, "checkpoint_every": 4, "validate_every": 4, "accelerator": "cpu"}
    return LoopSettings(out=out, **(values | changes))


def losses(steps: list[TrainStep]) -> dict[int, float]:
    return {step.step: step.loss for step in steps if step.step > 0}


def drive(task: LineTask, loop: LoopSettings) -> list[TrainStep]:
    return list(run_training(task, loop))


def test_each_step_comes_once_and_the_loss_falls(tmp_path: Path) -> None:
    out = tmp_path / "line.safetensors"
    task = LineTask(rate=5e-2)
    steps = drive(task, settings(out, steps=60, validate_every=20, ema_decay=0.9))
    assert [step.step for step in steps] == [0, 0, *range(1, 61)]
    assert steps[0].message == "ready" and math.isnan(steps[1].loss)
    assert steps[-1].loss < 0.5 * steps[2].loss
    assert steps[-1].metrics["fit"] > steps[1].metrics["fit"] and steps[-1].metrics["accepted"] == 1.0
    assert task.outcome is not None and task.outcome.before["fit"] == steps[1].metrics["fit"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.safetensors"]


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    task = LineTask()
    before = task.module.frozen.weight.clone()
    moved = task.module.inner[0].weight.clone()
    drive(task, settings(tmp_path / "a"))
    assert torch.equal(task.module.frozen.weight, before)
    assert not torch.equal(task.module.inner[0].weight, moved)


def test_run_ends_when_its_time_is_used_up(tmp_path: Path) -> None:
    task = LineTask()
    steps = drive(task, settings(tmp_path / "a", validate_every=100, seconds=1e-6))
    assert steps[-1].step == 1 and "used up" in steps[-1].message and "fit" in steps[-1].metrics
    assert task.outcome is not None and task.outcome.steps == 1 and (tmp_path / "a").exists()
    assert drive(LineTask(), settings(tmp_path / "b", seconds=1e6))[-1].step == 12


def test_best_trained_weights_are_kept_even_if_all_were_worse(tmp_path: Path) -> None:
    for keep, step in (("best", 0), ("trained", 4)):
        task = LineTask(rate=5.0)
        last = drive(task, settings(tmp_path / keep, steps=4, keep=keep))[-1]
        assert task.outcome is not None and task.outcome.after["fit"] <= task.outcome.before["fit"]
        assert last.metrics["kept_step"] == step and task.outcome.accepted is (keep == "trained")


def test_rate_rises_then_falls_to_its_final_share(tmp_path: Path) -> None:
    loop = settings(tmp_path / "a", steps=100, warmup_share=0.1, final_share=0.01)
    rates = [loop.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.012


def test_closed_run_resumes_with_the_same_losses_and_weights(tmp_path: Path) -> None:
    whole = drive(LineTask(), settings(tmp_path / "whole"))
    out = tmp_path / "part"
    run = run_training(LineTask(), settings(out))
    first = [next(run) for _ in range(9)]  # two lines of step 0, steps 1..7
    run.close()
    assert not out.exists() and out.with_name("part.state").exists()
    rest = drive(LineTask(), settings(out, resume=True))
    assert losses(first) | losses(rest) == losses(whole)
    assert min(losses(rest)) == 8
    assert rest[1].metrics == whole[1].metrics, "a resumed run remembers what was before"
    a, b = load_file(tmp_path / "whole"), load_file(out)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_run_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    task = LineTask()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drive(task, settings(tmp_path / "a"))
    assert torch.equal(torch.rand(3), expected)


def run_until_killed(out: Path, until: int, resume: bool) -> dict[int, float]:
    """Losses by step of a run in a process of its own, as long as it lives: to `until`, and what it still did then."""
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_loop import LineTask, run_training, settings
        options = settings(Path({str(out)!r}), steps=4000, checkpoint_every=3, resume={resume})
        for step in run_training(LineTask(), options):
            print(step.step, step.loss.hex(), flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen: dict[int, float] = {}
    for line in process.stdout:
        number, loss = line.split()
        if not seen.get(until) and int(number) >= until:
            os.kill(process.pid, signal.SIGKILL)
        seen[int(number)] = float.fromhex(loss)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return seen


def test_killed_run_resumes_with_the_same_next_loss(tmp_path: Path) -> None:
    seen = run_until_killed(tmp_path / "killed", 41, resume=False)
    again = run_until_killed(tmp_path / "killed", 48, resume=True)
    compared = {number: loss for number, loss in again.items() if number > 0 and number in seen}
    assert compared, "the resumed run starts behind the point of death"
    assert compared == {number: seen[number] for number in compared}


def test_a_run_begun_anew_leaves_nothing_of_an_older_one_to_resume(tmp_path: Path) -> None:
    whole = drive(LineTask(), settings(tmp_path / "whole"))
    older = run_training(LineTask(), settings(tmp_path / "a"))
    for _ in range(11):  # two lines of step 0, steps 1..9
        next(older)
    older.close()
    younger = run_training(LineTask(), settings(tmp_path / "a"))
    for _ in range(3):
        next(younger)
    # Killed: nothing of what it has done is on disk yet, and nothing of the older run may be.
    assert not (tmp_path / "a.state").exists()
    rest = drive(LineTask(), settings(tmp_path / "a", resume=True))
    assert losses(rest) == losses(whole)
    assert rest[-1].metrics == whole[-1].metrics


def test_best_weights_of_another_run_are_refused(tmp_path: Path) -> None:
    runs = {rate: run_training(LineTask(rate), settings(tmp_path / str(rate))) for rate in (0.01, 0.1)}
    for run in runs.values():
        for _ in range(11):
            next(run)
        run.close()
    (tmp_path / "0.1.best").replace(tmp_path / "0.01.best")
    with pytest.raises(TrainingError, match="another run"):
        drive(LineTask(), settings(tmp_path / "0.01", resume=True))
    (tmp_path / "0.01.best").unlink()
    with pytest.raises(TrainingError, match="no such file"):
        drive(LineTask(), settings(tmp_path / "0.01", resume=True))


def test_weights_that_another_run_put_aside_are_not_saved(tmp_path: Path) -> None:
    for rate in (5.0, 0.01):
        run = run_training(LineTask(rate), settings(tmp_path / str(rate), steps=4))
        for step in run:
            if step.step == 3:
                break
        if rate == 5.0:
            worse = run
    run.close()
    # The steps of the first run were all worse than the weights before them.
    (tmp_path / "0.01.best").replace(tmp_path / "5.0.best")
    with pytest.raises(TrainingError, match="another run"):
        next(worse)
    assert not (tmp_path / "5.0").exists()


@pytest.mark.parametrize("is_during", [False, True])
def test_run_stopped_before_its_first_step_leaves_nothing(tmp_path: Path, is_during: bool) -> None:
    class Stopped(LineTask):
        def batch(self, draw: StepDraw) -> dict[str, torch.Tensor]:
            raise KeyboardInterrupt

    run = run_training(Stopped(), settings(tmp_path / "a"))
    assert [next(run).step for _ in range(2)] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.best"]
    if is_during:
        with pytest.raises(KeyboardInterrupt):
            next(run)
    else:
        run.close()
    assert not list(tmp_path.iterdir())


def test_step_that_is_stopped_leaves_what_to_go_on_from(tmp_path: Path) -> None:
    class Stopped(LineTask):
        def batch(self, draw: StepDraw) -> dict[str, torch.Tensor]:
            if draw.step == 6:
                raise KeyboardInterrupt
            return super().batch(draw)

    with pytest.raises(KeyboardInterrupt):
        drive(Stopped(), settings(tmp_path / "a"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.state", "a.best"}
    assert min(losses(drive(LineTask(), settings(tmp_path / "a", resume=True)))) == 5


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    run = run_training(LineTask(), settings(tmp_path / "a"))
    for _ in range(4):
        next(run)
    run.close()
    with pytest.raises(TrainingError, match=r"task\.rate was 0\.01 and is 0\.1"):
        drive(LineTask(rate=0.1), settings(tmp_path / "a", resume=True))


def test_damaged_state_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.state").write_bytes(b"not tensors")
    with pytest.raises(TrainingError, match="damaged"):
        drive(LineTask(), settings(tmp_path / "a", resume=True))


def test_out_of_memory_halves_the_batch_and_keeps_its_samples(tmp_path: Path) -> None:
    def plain() -> LineTask:
        task = LineTask()
        torch.manual_seed(3)
        task.module.inner = nn.Sequential(nn.Linear(4, 1))  # no dropout, no batch statistics: halves must add up
        return task

    small = plain()
    small.memory = 3
    steps = drive(small, settings(tmp_path / "a"))
    told = [step.message for step in steps if "Out of memory" in step.message]
    assert told == ["Out of memory: batch 4 -> 2, gradients added up over the parts."]
    assert small.drawn[:4] == [(0, 2)] * 4
    roomy = drive(plain(), settings(tmp_path / "b"))
    torch.testing.assert_close(losses(steps), losses(roomy), atol=1e-6, rtol=1e-5)


def test_no_memory_for_one_sample_is_an_error(tmp_path: Path) -> None:
    task = LineTask()
    task.memory = 0
    with pytest.raises(TrainingError, match="smaller batch size"):
        drive(task, settings(tmp_path / "a"))


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    task = LineTask()
    task.nan_from = 2
    with pytest.raises(TrainingError, match="5 steps in a row"):
        drive(task, settings(tmp_path / "a"))
    assert all(bool(p.isfinite().all()) for p in task.module.parameters())


def test_worse_weights_are_not_taken(tmp_path: Path) -> None:
    class Worse(LineTask):
        def validate(self) -> dict[str, float]:
            return {"fit": -float((self.module.inner[0].weight - start).abs().sum())}

    task = Worse()
    start = task.module.inner[0].weight.detach().clone()
    steps = drive(task, settings(tmp_path / "a"))
    assert steps[-1].metrics["accepted"] == 0.0 and steps[-1].metrics["fit"] == 0.0
    assert torch.equal(load_file(tmp_path / "a")["inner.0.weight"], start)


def test_patience_stops_early(tmp_path: Path) -> None:
    class Flat(LineTask):
        def validate(self) -> dict[str, float]:
            return {"fit": 0.0}

    steps = drive(Flat(), settings(tmp_path / "a", steps=40, patience=2))
    assert steps[-1].step == 8 and "no improvement" in steps[-1].message
    assert (tmp_path / "a").exists() and not (tmp_path / "a.state").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"keep": "first"}, "keep"),
        ({"strategy": "fsdp"}, "sharded"),
        ({"strategy": "ddp_spawn", "devices": 2}, "spawned"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(TrainingError, match=what):
        drive(LineTask(), settings(tmp_path / "a", **changes))
