"""The training loop: a generator of steps on Lightning Fabric that a program, a command or a window can drive and stop.

Every random draw of a step follows from (seed, step, sample), see `StepDraw`. Resume is therefore exact without keeping
the state of any sampler or generator: the weights, the optimizer and the number of the step say it all.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from e2sam.errors import TrainingError
from e2sam.training.config import TrainStep
from e2sam.training.devices import connect, is_out_of_memory
from e2sam.training.state import RunState, load_optimizer, optimizer_tensors, read_state, unfinished, write_state
from e2sam.training.task import MOST_UNSOUND_STEPS, LoopSettings, Outcome, StepDraw, TrainingTask
from e2sam.training.trained import TrainedWeights

__all__ = ["run_training"]

logger = logging.getLogger(__name__)

# Settings that do not change what is learned: a resumed run may have others.
_FREE_SETTINGS = ("out", "resume", "seconds", "checkpoint_every", "accelerator", "devices", "num_nodes", "strategy")


def run_training(task: TrainingTask, settings: LoopSettings) -> Generator[TrainStep, None, Path]:
    """Train `task`; yields every step and returns the checkpoint written.

    Step 0 comes first (loss NaN): the lines of the task's preparation, then the validation before the first step (of a
    resumed run: the one that it remembers). Then comes each step once; the last is yielded after the checkpoint is
    written, with the metrics of the weights that were kept, "accepted" (0.0 where nothing was better than before) and
    "kept_step". Closing the generator stops the run and leaves `<out>.state`, from which `resume` goes on. Where memory
    runs out, the batch is held in halves: the optimizer still sees all of its samples.

    Under a strategy of several processes each of them runs this generator; the first one writes.

    Raises
    ------
    TrainingError
        If the settings do not fit the devices or the unfinished run, memory runs out at one sample, or the loss is not
        finite for several steps in a row.
    """
    fabric = connect(settings)
    for message in task.prepare(fabric):
        yield TrainStep(0, settings.steps, math.nan, message=message)
    fabric.barrier()
    run = _Run(task, settings, fabric)
    try:
        yield from run.steps()
    except GeneratorExit:
        run.pause()
        raise
    finally:
        run.tidy()
    return settings.out


class _Run:
    """One run: the wrapped module, its optimizer and where it stands."""

    def __init__(self, task: TrainingTask, settings: LoopSettings, fabric: Any) -> None:
        self.task = task
        self.settings = settings
        self.fabric = fabric
        groups = task.groups()
        self.rates = [group.learning_rate for group in groups]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(group.parameters), "lr": group.learning_rate, "weight_decay": group.weight_decay}
                for group in groups
            ]
        )
        self.module, self.wrapped_optimizer = fabric.setup(task.module, self.optimizer)
        self.weights = TrainedWeights(task.module, settings.ema_decay)
        self.state = RunState(self._identity(), micro_size=settings.batch_size // fabric.world_size)
        self.unsound = 0
        self.saved_step = 0
        self.finished = False
        self.state_path = unfinished(settings.out)
        self.best_path = settings.out.with_name(settings.out.name + ".best")
        if settings.resume and self.state_path.exists():
            self._restore()
        elif fabric.is_global_zero:
            # What another run left must not be taken for this one's.
            self.state_path.unlink(missing_ok=True)
            self.best_path.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self.settings).items() if key not in _FREE_SETTINGS}
        # Through JSON and back, so that tuples compare equal with what was read from disk.
        whole: dict[str, Any] = json.loads(json.dumps({"task": dict(self.task.identity()), "settings": settings}))
        return whole

    # --- the run -----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[TrainStep]:
        """Yield every step; the last after the checkpoint is written."""
        total = self.settings.steps
        if self.state.step == 0:
            yield TrainStep(0, total, math.nan, self._validate_before())
            self._begin()
        else:
            going_on = f"Going on from step {self.state.step} of {total}."
            yield TrainStep(0, total, math.nan, self.state.before, going_on)
        while self.state.step < total and self._goes_on():
            started = time.perf_counter()
            loss, message = self._step()
            self.state.step += 1
            late = self._is_late(self.state.seconds + time.perf_counter() - started)
            metrics = self._validate_if_due(late)
            self.state.seconds += time.perf_counter() - started
            stale = 0 < self.settings.patience <= self.state.stale
            if late or stale:
                message = self._stopped(late)
            if late or stale or self.state.step == total:
                message = " ".join(part for part in (message, self._refusal(metrics)) if part)
                yield TrainStep(self.state.step, total, loss, self._finish(metrics), message)
                return
            if self.settings.checkpoint_every and self.state.step % self.settings.checkpoint_every == 0:
                self._write()
            yield TrainStep(self.state.step, total, loss, metrics, message)

    def _begin(self) -> None:
        """Let the task set weights itself before the first step, in all processes alike."""
        begin = getattr(self.task, "begin", None)
        if begin is None:
            return
        begin()
        for parameter in self.weights.names:
            if self.fabric.world_size > 1:
                parameter.data.copy_(self.fabric.broadcast(parameter.data, src=0))
        self.weights.restart()
        # What was set so may be better than anything that a short run makes of it.
        self._keep_if_better(self._validate())

    def _is_late(self, seconds: float) -> bool:
        """Whether the time for the run is used up; all processes ask at once and go by the first one's clock."""
        limit = self.settings.seconds
        late = 0 < limit <= seconds
        return bool(self.fabric.broadcast(late, src=0)) if limit and self.fabric.world_size > 1 else late

    def _stopped(self, late: bool) -> str:
        """Why the run ends before its last step; empty if it does not."""
        state = self.state
        if state.step == self.settings.steps:
            return ""
        reason = (
            f"{self.settings.seconds:.0f} s are used up" if late else f"no improvement since step {state.best_step}"
        )
        return f"Stopped at step {state.step}: {reason}."

    def _goes_on(self, wanted: bool = True) -> bool:
        """Whether the first process still wants the next step; all processes ask at once."""
        return wanted if self.fabric.world_size == 1 else bool(self.fabric.broadcast(wanted, src=0))

    def pause(self) -> None:
        """Keep the run as it stands, so that it can be resumed, and tell the other processes."""
        if self.finished:
            return
        if self.state.step != self.saved_step:
            self._write()
        self._goes_on(False)

    def tidy(self) -> None:
        """Remove best weights that nothing can go on from: those of a run that ended before it was written once."""
        if self.fabric.is_global_zero and not self.state_path.exists():
            self.best_path.unlink(missing_ok=True)

    # --- one step ----------------------------------------------------------------------------------------------------

    def _step(self) -> tuple[float, str]:
        message = ""
        share = self.settings.batch_size // self.fabric.world_size
        first = share * self.fabric.global_rank
        factor = self.settings.rate(self.state.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        while True:
            try:
                loss = self._gradients(range(first, first + share))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = self._halve(error)
        loss = float(self.fabric.all_reduce(torch.tensor(loss, device=self.fabric.device), reduce_op="mean"))
        self._update(loss)
        return loss, message

    def _gradients(self, samples: range) -> float:
        """Accumulate the gradient of the mean loss over `samples`, `micro_size` of them at a time."""
        step, settings, size = self.state.step, self.settings, self.state.micro_size
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        self.module.train()
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        total = 0.0
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            for part in parts:
                # For dropout and the like inside of modules.
                torch.manual_seed(hash((settings.seed, step, part.start)) % 2**63)
                draw = StepDraw(step, settings.steps, settings.seed, part)
                batch = self.fabric.to_device(self.task.batch(draw))
                with self.fabric.no_backward_sync(self.module, enabled=part is not parts[-1]):
                    loss, _ = self.module(batch, draw.progress)
                    self.fabric.backward(loss * (len(part) / len(samples)))
                total += float(loss.detach()) * len(part) / len(samples)
        return total

    def _halve(self, error: BaseException) -> str:
        """Hold half as many samples at once from here on."""
        size = self.state.micro_size
        if self.fabric.world_size > 1 or size == 1:
            raise TrainingError(
                f"Expected memory for {size} sample(s) at once: choose a smaller batch size, tile or model."
            ) from error
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.state.micro_size = (size + 1) // 2
        message = f"Out of memory: batch {size} -> {self.state.micro_size}, gradients added up over the parts."
        logger.warning(message)
        return message

    def _update(self, loss: float) -> None:
        if not math.isfinite(loss):
            self.unsound += 1
            logger.warning("Step %d left out: its loss is %s.", self.state.step + 1, loss)
            if self.unsound >= MOST_UNSOUND_STEPS:
                raise TrainingError(
                    f"Expected a finite loss, got {loss} at {self.unsound} steps in a row, the last step "
                    f"{self.state.step + 1}: lower the learning rate, or use precision 32-true."
                )
            return
        self.unsound = 0
        if self.settings.clip_norm:
            self.fabric.clip_gradients(
                self.module, self.wrapped_optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        self.wrapped_optimizer.step()
        self.weights.average(self.state.step)

    # --- validation and the weights that are kept --------------------------------------------------------------------

    def _validate_before(self) -> Mapping[str, float]:
        metrics = self._validate()
        self.state.before, self.state.best = dict(metrics), dict(metrics)
        if self.settings.keep == "trained" and self.task.monitor and metrics:
            self.state.best[self.task.monitor] = -math.inf
        self._keep(metrics)
        return metrics

    def _validate_if_due(self, is_last: bool) -> Mapping[str, float]:
        every, step = self.settings.validate_every, self.state.step
        if not (is_last or step == self.settings.steps or (every and step % every == 0)):
            return {}
        metrics = self._validate()
        if self.task.monitor and metrics:
            self.state.stale = 0 if self._keep_if_better(metrics) else self.state.stale + 1
        return metrics

    def _keep_if_better(self, metrics: Mapping[str, float]) -> bool:
        """Keep the weights as they are if they are the best so far and the task has nothing against them."""
        state, monitor = self.state, self.task.monitor
        # Not better is also what no number is.
        if not (monitor and metrics and metrics[monitor] > state.best[monitor]) or self._objection(metrics):
            return False
        state.best, state.best_step = dict(metrics), state.step
        self._keep(metrics)
        return True

    def _objection(self, metrics: Mapping[str, float]) -> str:
        objection = getattr(self.task, "objection", None)
        return str(objection(self.state.before, metrics)) if objection else ""

    def _refusal(self, metrics: Mapping[str, float]) -> str:
        """Why the last weights are not the kept ones, where more than the monitored metric says so."""
        if self.settings.keep == "last" or not metrics or self.state.best_step == self.state.step:
            return ""
        reason = self._objection(metrics)
        return f"The last step's weights were not kept: {reason}." if reason else ""

    def _keep(self, metrics: Mapping[str, float]) -> None:
        """Put the weights aside that may turn out to be the best."""
        ends = self.state.step == self.settings.steps
        if self.task.monitor and metrics and self.settings.keep != "last" and self.fabric.is_global_zero and not ends:
            write_state(self.best_path, self.weights.kept_tensors(), self.state)

    def _validate(self) -> Mapping[str, float]:
        """Metrics of the averaged weights; the first process measures, the others are told."""
        metrics: Mapping[str, float] = {}
        if self.fabric.is_global_zero:
            self.task.module.eval()
            with self.weights.averaged(), torch.no_grad(), self.fabric.autocast():
                metrics = {name: float(value) for name, value in self.task.validate().items()}
        return metrics if self.fabric.world_size == 1 else dict(self.fabric.broadcast(metrics, src=0))

    def _finish(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Save the weights that are kept; returns their metrics."""
        state, kept = self.state, self.state.step
        judged = bool(self.task.monitor and metrics)
        tensors: Mapping[str, torch.Tensor] = {}
        if judged and self.settings.keep != "last" and state.best_step < state.step and self.fabric.is_global_zero:
            # After a kill between two writes these weights may be newer than what the run remembers of them.
            tensors, written = self._best_of(state)
            state.best, state.best_step = written.best, written.best_step
        is_new = state.best_step > 0 if self.settings.keep == "trained" else state.best != state.before
        accepted = not judged or is_new
        if judged and self.settings.keep != "last" and state.best_step < state.step:
            kept, metrics = state.best_step, state.best if accepted else state.before
        outcome = Outcome(state.before, metrics, kept, state.step, round(state.seconds, 3), accepted)
        if self.fabric.is_global_zero:
            self.task.module.eval()
            with self.weights.averaged() if kept == state.step else self.weights.loaded(tensors):
                self.task.save(self.settings.out, outcome)
            self.state_path.unlink(missing_ok=True)
            self.best_path.unlink(missing_ok=True)
        self.fabric.barrier()
        self.finished = True
        return {**metrics, "accepted": float(accepted), "kept_step": float(kept)}

    # --- the unfinished run on disk ----------------------------------------------------------------------------------

    def _write(self) -> None:
        self.saved_step = self.state.step
        if self.fabric.is_global_zero:
            self.state.scaler = dict(self.fabric.strategy.precision.state_dict())
            tensors = self.weights.tensors() | optimizer_tensors(self.optimizer, self.weights.names)
            write_state(self.state_path, tensors, self.state)

    def _restore(self) -> None:
        tensors, state = read_state(self.state_path)
        unlike = _first_difference(state.identity, self.state.identity)
        if unlike:
            raise TrainingError(
                f"Expected the settings of the unfinished run {self.state_path.name}, but {unlike}: "
                "start without resume."
            )
        if state.before and self.task.monitor and self.settings.keep != "last" and self.fabric.is_global_zero:
            self._best_of(state)
        self.weights.load(tensors)
        load_optimizer(self.optimizer, self.weights.names, tensors)
        if state.scaler:
            self.fabric.strategy.precision.load_state_dict(state.scaler)
        state.micro_size = min(state.micro_size, self.state.micro_size)
        self.state, self.saved_step = state, state.step

    def _best_of(self, state: RunState) -> tuple[dict[str, torch.Tensor], RunState]:
        """The weights put aside by the run that stands at `state`, and where it stood then."""
        tensors, best = read_state(self.best_path)
        if best.identity != state.identity or best.step < state.best_step:
            raise TrainingError(
                f"Expected the best weights of this run in {self.best_path.name}, got those of another run: "
                "start without resume."
            )
        return tensors, best


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting in which two runs differ, in words; empty if there is none."""
    for key in sorted(set(old) | set(new)):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            deeper = _first_difference(was, now, f"{prefix}{key}.")
            if deeper:
                return deeper
        elif was != now:
            return f"{prefix}{key} was {was} and is {now}"
    return ""
