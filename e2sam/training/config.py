"""Settings and progress of training: frozen data, saved in the checkpoint that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["TrainStep"]


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
