"""Settings and progress of training: frozen data, saved in the checkpoint that it made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2sam.data.checks import is_whole, shown
from e2sam.errors import TrainingError

__all__ = ["TrainStep", "check_run", "check_whole", "checked_out"]

_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


@dataclass(frozen=True)
class TrainStep:
    """One step of a training run, as yielded to whoever drives it.

    Attributes
    ----------
    step, total
        Steps done, of how many.
    loss
        Loss of this step; NaN at step 0, which comes before the first one.
    metrics
        Named figures that were measured at this step, such as "agreement_1_click"; empty at most steps.
    message
        One line for the user where something happened ("Out of memory: batch 4 -> 2."), else empty.
    """

    step: int
    total: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


def checked_out(out: object) -> Path:
    """The checkpoint to write, as a path.

    Raises
    ------
    TrainingError
        If it is no path, or of another kind than `load_model` takes.
    """
    if not isinstance(out, str | os.PathLike) or Path(out).suffix != ".safetensors":
        raise TrainingError(f"Expected a checkpoint to write, NAME.safetensors, got {out!r:.80}.")
    return Path(out)


def check_whole(config: object, **least: int) -> None:
    """Refuse settings that are no whole numbers, or less than they may be.

    Raises
    ------
    TrainingError
        For the first of them.
    """
    for name, smallest in least.items():
        value = getattr(config, name)
        if not is_whole(value, smallest):
            raise TrainingError(f"Expected {name} as a whole number of at least {smallest}, got {shown(value, 40)}.")


def check_run(seed: int, accelerator: str, strategy: str, precision: str) -> None:
    """Refuse settings of a run that no machine could take, before images and weights are read.

    Raises
    ------
    TrainingError
        If the seed is negative, or a name is none that Lightning Fabric knows and steps can be yielded under.
    """
    if not is_whole(seed, 0):
        raise TrainingError(f"Expected a seed of at least 0, got {shown(seed, 40)}.")
    for what, given, allowed in (("accelerator", accelerator, _ACCELERATORS), ("precision", precision, _PRECISIONS)):
        if given not in allowed:
            raise TrainingError(f"Expected {what} of {', '.join(allowed)}, got {given!r}.")
    if not (strategy == "auto" or strategy.startswith("ddp")):
        raise TrainingError(
            f"Expected strategy 'auto' or 'ddp', got {strategy!r}: sharded strategies are not supported."
        )
    if strategy.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise TrainingError(
            f"Expected strategy 'ddp', whose processes run the same command, got {strategy!r}: steps cannot "
            "be yielded out of spawned processes."
        )
