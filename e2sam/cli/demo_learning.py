"""The demo's learning: a student inherits from its teacher, and the model learns from corrections."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from e2sam.data.corrections import CorrectionSet
from e2sam.data.session import Session
from e2sam.data.stack import ChannelStack
from e2sam.modeling.e2sam import E2SAM
from e2sam.training.config import TrainStep
from e2sam.training.finetune import FinetuneConfig, finetune
from e2sam.training.inherit import InheritConfig, inherit

__all__ = ["LearnedResult", "finetune_on", "inherit_on"]

R = TypeVar("R")


@dataclass(frozen=True)
class LearnedResult:
    """What a training run of the demo came to.

    Attributes
    ----------
    out
        The checkpoint.
    steps, seconds
        How long it took.
    before, after
        Figures on what was held out.
    accepted
        Whether the new model is the better one.
    losses
        (step, loss) pairs.
    """

    out: Path
    steps: int
    seconds: float
    before: dict[str, float]
    after: dict[str, float]
    accepted: bool
    losses: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """As the commands `inherit` and `finetune` print it."""
        return {
            "out": str(self.out),
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "before": self.before,
            "after": self.after,
            "accepted": self.accepted,
        }


def inherit_on(stack: ChannelStack, teacher: E2SAM, out: Path, steps: int, say: Callable[[str], None]) -> LearnedResult:
    """Inherit a student of all channels of one stack, without labels; a quarter of it is held out."""
    config = InheritConfig(
        out=out, steps=steps, batch_size=2, num_tiles=6, num_validation_tiles=1, validate_every=steps, accelerator="cpu"
    )
    started = time.perf_counter()
    seen, _ = _drive(inherit(stack, config, teacher), say)
    figures = [step.metrics for step in seen if any(name.startswith("agreement") for name in step.metrics)]
    before, after = (_plain(figures[place]) for place in (0, -1)) if figures else ({}, {})
    accepted = bool(next((step.metrics["accepted"] for step in seen[::-1] if "accepted" in step.metrics), True))
    return LearnedResult(out, steps, time.perf_counter() - started, before, after, accepted, _losses(seen))


def finetune_on(session: Path, model: str, out: Path, steps: int, say: Callable[[str], None]) -> LearnedResult:
    """Fine-tune the decoder on the corrections of a session; one of its images is held out."""
    with Session.open(session, create=False, read_only=True) as opened:
        corrections = CorrectionSet.from_session(opened)
    config = FinetuneConfig(
        out=out,
        model=model,
        steps=steps,
        batch_size=4,
        judged_objects=5,
        judged_clicks=5,
        validate_every=steps,
        checkpoint_every=steps,
        twin=False,
        device="cpu",
        accelerator="cpu",
    )
    seen, result = _drive(finetune(corrections, config), say)
    before, after = _flat(result.before), _flat(result.after)
    return LearnedResult(out, result.steps, result.seconds, before, after, result.accepted, _losses(seen))


def _drive(run: Generator[TrainStep, None, R], say: Callable[[str], None]) -> tuple[list[TrainStep], R]:
    """Run a training to its end; gives its steps and its result."""
    seen: list[TrainStep] = []
    while True:
        try:
            step = next(run)
        except StopIteration as stop:
            return seen, stop.value
        seen.append(step)
        if step.message:
            say(step.message)


def _losses(steps: list[TrainStep]) -> tuple[tuple[float, float], ...]:
    return tuple((float(step.step), float(step.loss)) for step in steps if math.isfinite(step.loss))


def _plain(metrics: Any) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in metrics.items() if name.startswith("agreement")}


def _flat(figures: Any) -> dict[str, float]:
    """IoU by clicks and clicks to reach an IoU, of a click report's JSON."""
    flat = {f"iou_{clicks}_click": value for clicks, value in figures.get("iou", {}).items() if int(clicks) <= 5}
    flat |= {f"noc_{level}": value for level, value in figures.get("noc", {}).items()}
    return {name: round(float(value), 4) for name, value in flat.items()}
