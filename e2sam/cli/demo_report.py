"""The demo's report: one page with the figures and pictures of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from e2sam.cli.demo_clicks import ClickedObject
from e2sam.cli.demo_learning import LearnedResult
from e2sam.data.channels import ChannelScore, Suggestion
from e2sam.data.stack import ChannelStack
from e2sam.evaluation.report import Report

__all__ = ["write_report"]

_TITLES = {
    "photograph": "A photograph with disparity",
    "synthetic": "A synthetic scene whose objects colour hardly shows",
}


class _SceneFacts(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def stack(self) -> ChannelStack: ...
    @property
    def ranking(self) -> Sequence[ChannelScore]: ...
    @property
    def suggested(self) -> Sequence[Suggestion]: ...
    @property
    def colour_only(self) -> Sequence[ClickedObject]: ...
    @property
    def objects(self) -> Sequence[ClickedObject]: ...
    @property
    def pictures(self) -> Mapping[str, Path]: ...


def write_report(
    path: Path,
    scenes: Sequence[_SceneFacts],
    inherited: LearnedResult | None,
    tuned: LearnedResult | None,
    facts: Mapping[str, Any],
) -> None:
    """Write the page; pictures are inside of it.

    Parameters
    ----------
    path
        The file; "student_objects.png" is taken from beside it.
    scenes
        Stacks with what was clicked in them.
    inherited, tuned
        Training runs; None where they were left out.
    facts
        "seconds" and "model".
    """
    report = Report("e2sam demo")
    report.paragraph(
        f"Model: {facts['model']}, embedded. The whole run took {facts['seconds']:.0f} seconds on this machine. Clicks "
        "are simulated: the first in the middle of the object, each next where the mask is most wrong."
    )
    for scene in scenes:
        _scene(report, scene)
    if inherited is not None:
        _inherited(report, inherited, path.parent / "student_objects.png")
    if tuned is not None:
        _tuned(report, tuned)
    report.write(path)


def _scene(report: Report, scene: _SceneFacts) -> None:
    report.heading(_TITLES.get(scene.name, scene.name))
    height, width = scene.stack.size
    report.paragraph(f"{scene.stack.num_channels} channels of {width} x {height} pixels; blue: not measured.")
    report.pictures([(_read(scene.pictures["channels"]), "Every channel, normalized as the model sees it.")], 960)
    report.table(
        ("channel", "score", "information", "entropy, bits", "largest |correlation| before"),
        [(one.name, one.score, one.information, one.entropy, one.redundancy) for one in scene.ranking],
        "Ranking: information x (1 - largest |correlation| with a better channel).",
    )
    report.table(
        ("suggested selection", "index", "why"),
        [(", ".join(one.names), one.score, one.reason) for one in scene.suggested],
        "Suggestions: optimum index factor of the triple.",
    )
    report.pictures(
        [(_read(scene.pictures["objects"]), "Masks after three clicks (orange), true outlines (white), clicks.")], 960
    )
    report.table(
        ("object", "1 click, colour", "1 click, all", "3 clicks, colour", "3 clicks, all", "drawn from"),
        [
            (one.name, plain.ious[0], one.ious[0], plain.ious[-1], one.ious[-1], ", ".join(one.drawn))
            for plain, one in zip(scene.colour_only, scene.objects, strict=True)
        ],
        "IoU with the true outline (of the photograph: drawn by hand), with R, G, B selected and with every channel.",
    )


def _inherited(report: Report, result: LearnedResult, picture: Path) -> None:
    report.heading("Inherit: a student of all channels, without labels")
    report.paragraph(
        f"{result.steps} steps, {result.seconds:.0f} seconds: a first taste; `e2sam inherit` trains for longer. The "
        "student encodes all channels in one pass and serves any selection of them."
        + (
            ""
            if result.accepted
            else " No step was better without being clearly worse in a part: the untrained one stays."
        )
    )
    _before_after(report, result, "Agreement (IoU) of its masks with the teacher's on the part held out.")
    report.curves({"loss": result.losses}, "step", "loss")
    if picture.is_file():
        caption = "The student's masks from the same three clicks, with three selections, all from one encoder pass."
        report.pictures([(_read(picture), caption)], 960)


def _tuned(report: Report, result: LearnedResult) -> None:
    report.heading("Fine-tune: learning from corrections")
    report.paragraph(
        f"{result.steps} steps, {result.seconds:.0f} seconds, on corrected cells of one stack, judged on another. "
        + ("The new model was taken." if result.accepted else "The new model was not better, so the old one stays.")
    )
    _before_after(report, result, "On the stack held out.")
    report.curves({"loss": result.losses}, "step", "loss")


def _before_after(report: Report, result: LearnedResult, caption: str) -> None:
    rows = [(name.replace("_", " "), result.before[name], result.after.get(name)) for name in result.before]
    report.table(("", "before", "after"), rows, caption)


def _read(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
