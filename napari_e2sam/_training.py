"""A training run in a process of its own: a JSON task on standard input, a JSON line for each step on standard output.

``{"kind": "finetune" | "inherit", "session", "stack_id", "model", "out", "settings"}``; the last line is the result,
``{"out", "before", "after", "accepted", "message"}``, or ``{"error"}``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TextIO

from e2sam.errors import E2SamError
from e2sam.training.config import TrainStep
from napari_e2sam._priority import lower_process_priority

__all__ = ["main", "run"]


def run(task: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
    """Run one task; yields what is written."""
    out = Path(task["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    yield from _finetune(task, out) if task["kind"] == "finetune" else _inherit(task, out)


def _finetune(task: Mapping[str, Any], out: Path) -> Generator[dict[str, Any], None, None]:
    from e2sam.training.finetune import FinetuneConfig, finetune

    # The twin on three channels is a comparison that the window does not show: its time would be waited for nothing.
    config = FinetuneConfig(out=out, model=task["model"], twin=False, **task["settings"])
    steps = finetune(task["session"], config)
    while True:
        try:
            yield _step(next(steps))
        except StopIteration as end:
            result = end.value
            break
    yield {
        "out": str(result.out),
        "before": result.before,
        "after": result.after,
        "accepted": bool(result.accepted),
        "message": result.message,
    }


def _inherit(task: Mapping[str, Any], out: Path) -> Generator[dict[str, Any], None, None]:
    from e2sam.data.session import Session
    from e2sam.training.inherit import InheritConfig, inherit

    with Session.open(task["session"], create=False, read_only=True) as session:
        stack = session.load_stack(task["stack_id"])
        selection = session.stack(task["stack_id"]).selection
    settings = {name: value for name, value in task["settings"].items() if name == "steps"}
    canonical = tuple(selection) if selection is not None and len(selection) <= 3 else ()
    config = InheritConfig(out=out, teacher=task["model"], canonical=canonical, **settings)
    before: dict[str, float] = {}
    last = TrainStep(0, 0, 0.0)
    for last in inherit([stack], config):
        if last.step == 0 and last.metrics:
            before = dict(last.metrics)
        yield _step(last)
    after = dict(last.metrics)
    accepted = bool(after.pop("accepted", 1.0))
    after.pop("kept_step", None)
    key = "agreement_3_clicks"
    told = f"Agreement with the teacher after 3 clicks, on a held-out part: {after.get(key, math.nan):.3f}"
    if key in before:
        told += f" ({before[key]:.3f} before training)"
    if not accepted and last.message:
        told += f". {last.message.rstrip('.')}"
    yield {"out": str(out), "before": before, "after": after, "accepted": accepted, "message": f"{told}."}


def _step(step: TrainStep) -> dict[str, Any]:
    return {
        "step": step.step,
        "total": step.total,
        "loss": None if math.isnan(step.loss) else step.loss,
        "metrics": {name: float(value) for name, value in step.metrics.items()},
        "message": step.message,
    }


def _write(stream: TextIO, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message, default=str) + "\n")
    stream.flush()


def main() -> int:
    """Run the task on standard input; whatever else prints goes to standard error."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Whoever goes on annotating meanwhile is not to wait for it.
    lower_process_priority()
    try:
        for message in run(json.loads(sys.stdin.readline())):
            _write(stream, message)
    except E2SamError as error:
        _write(stream, {"error": str(error)})
        return 2
    except MemoryError:
        _write(stream, {"error": "Out of memory: close other programs, or train a smaller model."})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
