"""What a fine-tuning run came to, as a page: curves, before and after with intervals, and what the twin reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from e2sam.evaluation.report import Report

__all__ = ["learning_report"]

Curve = Sequence[tuple[float, float]]

_WORDS = {
    "objects": "held-out objects",
    "score": "mean IoU over the first five clicks and the box",
    "box_iou": "IoU from a box",
    "clicks": "clicks, mean over 70, 75, 80, 85 and 90 %",
    "noc85": "clicks to 85 %",
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "not_worse": "not worse",
}


def learning_report(title: str, result: Mapping[str, Any], loss: Curve, scores: Mapping[str, Curve]) -> Report:
    """Put a page together.

    Parameters
    ----------
    title
        Heading.
    result
        As `e2sam finetune --json` prints it.
    loss
        (step, loss) pairs.
    scores
        (step, score) pairs of each figure that was measured on held-out labels while training.
    """
    report = Report(title)
    report.paragraph(str(result["message"]))
    columns = [result["before"], result["after"], result.get("twin") or {}]
    report.table(
        ("", "before", "after", "RGB-only twin"), [(_words(name), *_row(name, columns)) for name in _names(columns)]
    )
    split = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in result["split"].items())
    report.paragraph(f"How labels were divided before training. {split}.")
    if result["difference"]:
        rows = [(_words(name), _shown(value)) for name, value in result["difference"].items()]
        report.table(("after - before", "value"), rows, "Intervals: bootstrap over held-out objects or images, 95 %.")
    report.heading("Loss")
    report.curves({"loss": loss}, "step", "loss")
    report.heading("On held-out labels, while training")
    report.curves(scores, "step", "score")
    return report


def _names(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the figures, those of IoU and of clicks one by one."""
    found = []
    for name, value in columns[1].items():
        if isinstance(value, Mapping):
            found += [f"{name} {part}" for part in value]
        elif name == "per_class":
            found += [f"IoU of {row['class']}" for row in value]
        else:
            found.append(name)
    return found


def _words(name: str) -> str:
    """What a figure is, for a reader of the page."""
    plain = name.removesuffix("_interval")
    kind, _, part = plain.partition(" ")
    words = {"iou": f"IoU after {part} click(s)", "noc": f"clicks to {part} %"}.get(kind) if part else None
    return (words or _WORDS.get(plain, plain)) + (", 95 % interval" if plain != name else "")


def _row(name: str, columns: Sequence[Mapping[str, Any]]) -> list[str]:
    return [_shown(_value(name, column)) for column in columns]


def _value(name: str, column: Mapping[str, Any]) -> Any:
    if name.startswith("IoU of "):
        rows = {f"IoU of {row['class']}": row["iou"] for row in column.get("per_class", ())}
        return rows.get(name)
    first, _, part = name.partition(" ")
    value = column.get(first)
    return value.get(part) if isinstance(value, Mapping) else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return " .. ".join(_shown(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
