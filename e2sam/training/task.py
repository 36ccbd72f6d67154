"""What a training run is made of: the task that is learned, and the settings of the loop that drives it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from e2sam.errors import TrainingError

__all__ = ["MOST_UNSOUND_STEPS", "LoopSettings", "Outcome", "ParameterGroup", "StepDraw", "TrainingTask"]

# Steps in a row that may be left out, for want of a finite loss or gradient, before a run ends.
MOST_UNSOUND_STEPS = 5


@dataclass(frozen=True)
class LoopSettings:
    """How a run goes on, whatever it learns.

    Attributes
    ----------
    out
        Checkpoint to write; the unfinished run lives beside it in `<out>.state` and `<out>.best`.
    steps
        Optimizer steps in all.
    batch_size
        Samples a step, over all devices together; it must be a multiple of their number.
    seed
        Every random draw follows from the seed, the number of the step and the number of the sample.
    warmup_share, final_share
        Share of the steps over which the learning rate rises; what is left of it at the end of the cosine.
    clip_norm
        Largest norm of the gradient; 0 = not clipped.
    ema_decay
        Decay of the averaged weights that are validated and saved; 0 = the weights themselves.
    checkpoint_every, validate_every
        Steps between two checkpoints of the run, and between two validations; 0 = only at the end (validation: also
        before the first step).
    keep
        "best" = weights of the best validation (those before the first step included), "trained" = of the best
        validation after a step, for a caller who decides himself between old and new, "last" = of the last step.
    patience
        Stop after this many validations without improvement; 0 = never.
    seconds
        Wall-clock time for steps and their validations; 0 = no limit. When it is used up the run ends as after an early
        stop. The averaged weights are what makes any step a good one to end at.
    resume
        Go on from `<out>.state` where there is one.
    accelerator, devices, num_nodes, strategy, precision
        Handed to Lightning Fabric. Strategies: "auto", "ddp" and its variants. Precision "auto" = bf16 (or fp16) mixed
        on CUDA, float32 elsewhere.
    """

    out: Path
    steps: int
    batch_size: int
    seed: int = 0
    warmup_share: float = 0.05
    final_share: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    checkpoint_every: int = 100
    validate_every: int = 0
    keep: str = "best"
    patience: int = 0
    seconds: float = 0.0
    resume: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "num_nodes"):
            if getattr(self, name) < 1:
                raise TrainingError(f"Expected {name} of at least 1, got {getattr(self, name)}.")
        if self.keep not in ("best", "trained", "last"):
            raise TrainingError(f"Expected keep to be 'best', 'trained' or 'last', got {self.keep!r}.")

    def rate(self, step: int) -> float:
        """Factor on the learning rate at the step of this number (0 = the first): linear rise, then half a cosine."""
        rise = max(1, round(self.warmup_share * self.steps))
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(1, self.steps - rise)
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class StepDraw:
    """Which samples a process draws at a step, and the random numbers for them.

    Draws follow from (seed, step, sample) alone: a resumed run draws as the first one would have, two processes with
    half the samples each draw what one would, and a batch cut in halves for want of memory holds the same samples.

    Attributes
    ----------
    step, total
        Number of the step (0 = the first), of how many.
    seed
        Of the run.
    samples
        Numbers of the samples within the step.
    """

    step: int
    total: int
    seed: int
    samples: range

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total

    def shared(self) -> np.random.Generator:
        """A generator that is the same for every sample and process of this step."""
        return np.random.default_rng((self.seed, self.step))

    def sample(self, number: int) -> np.random.Generator:
        """The generator of one of `samples`."""
        return np.random.default_rng((self.seed, self.step, number, 1))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained with one rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    before, after
        Validation before the first step, and of the weights that were kept; empty where nothing was validated.
    kept_step
        Step whose weights were kept; 0 = those before the first step (with `accepted`: as the task's `begin` set them).
    steps
        Steps done (fewer than asked for after an early stop).
    seconds
        Wall-clock time of the steps, those before a resume included.
    accepted
        False where no step was better than what was there before.
    """

    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    kept_step: int = 0
    steps: int = 0
    seconds: float = 0.0
    accepted: bool = True


class TrainingTask(Protocol):
    """What is learned. One loop, `e2sam.training.loop.run_training`, drives every task.

    A task may also have a method `begin()`, called once after the validation before the first step and never on resume,
    that sets trained weights itself (in closed form, for instance); what it set is validated and may be what is kept.
    And it may have a method `objection(before, after)` that says, given two validations, why weights must not be kept
    however good their `monitor` ("" = nothing against them).

    Attributes
    ----------
    module
        The module that is trained. `module(batch, progress)` returns the loss, a scalar tensor that is the mean over
        the samples, and a mapping of named parts of it for the log. It is called through Lightning Fabric, on the
        device, under the precision of the run. Its parameters with `requires_grad` are the trained ones.
    monitor
        Metric of `validate` that says which weights are best, larger being better; "" = the last are kept.
    """

    @property
    def module(self) -> nn.Module:
        """The trained module."""
        ...

    @property
    def monitor(self) -> str:
        """The metric, or ""."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What a resumed run must share with the one it continues; plain JSON."""
        ...

    def prepare(self, fabric: Any) -> Iterator[str]:
        """Long work before the first step (caches), each part announced by one line for the user.

        Processes share it by `fabric.global_rank` of `fabric.world_size`; the loop waits for all of them.
        """
        ...

    def groups(self) -> Sequence[ParameterGroup]:
        """Trained parameters with their rates."""
        ...

    def batch(self, draw: StepDraw) -> Any:
        """Samples `draw.samples`, on the CPU: tensors in dicts, lists or named tuples.

        It may run in a second thread and must depend on nothing but `draw`.
        """
        ...

    def validate(self) -> Mapping[str, float]:
        """Metrics of `module` as it stands, on data that no step ever sees; {} = nothing to validate on."""
        ...

    def save(self, path: Path, outcome: Outcome) -> None:
        """Write the checkpoint of `module` as it stands, atomically."""
        ...
