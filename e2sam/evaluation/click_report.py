"""The click protocol as a page: figures, the curve over clicks, and the worst objects as pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from e2sam.data.clicks import next_click
from e2sam.data.stack import ChannelStack
from e2sam.evaluation.clicks import ClickReport, PromptedModel
from e2sam.evaluation.pictures import Picture, draw_masks, draw_points, picture_of
from e2sam.evaluation.report import Report

__all__ = ["click_report", "click_through"]

Mask = NDArray[np.bool_]
_GALLERY = 6
_CLICKS_SHOWN = 5


def click_through(model: PromptedModel, target: Mask, clicks: int) -> tuple[list[tuple[float, float]], list[int], Mask]:
    """Click at one object as the protocol does; returns points, labels and the mask after the last click."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    mask, clicked = np.zeros_like(target), np.zeros_like(target)
    logits = None
    for number in range(clicks):
        click = next_click(target, mask, clicked)
        if click is None:
            break
        points.append((click.x, click.y))
        labels.append(click.label)
        clicked[int(click.y), int(click.x)] = True
        answer = model.predict(points, labels, mask=logits, multimask=number == 0)
        best = int(np.argmax(answer.scores))
        mask, logits = np.asarray(answer.masks[best]), answer.logits[best]
    return points, labels, mask


def click_report(
    title: str, measured: ClickReport, stack: ChannelStack, model: PromptedModel, targets: Mapping[str, Mask]
) -> Report:
    """A page on one image: `model` is a predictor that has it, `targets` are the masks that were measured."""
    figures = measured.to_json()
    report = Report(title)
    report.table(
        ("", "value"),
        [
            ("objects", figures["objects"]),
            *((f"IoU after {at} click(s)", value) for at, value in figures["iou"].items() if int(at) <= measured.limit),
            ("IoU from a box", figures["box_iou"]),
            *((f"clicks to {level} % IoU, at most {measured.limit}", value) for level, value in figures["noc"].items()),
            *((f"never reach {level} %", value) for level, value in figures["fr20"].items()),
            ("seconds a click", figures["seconds_per_click"]),
        ],
    )
    report.heading("Over clicks")
    clicks = range(1, measured.limit + 1)
    mean = [(float(click), float(np.mean([one.iou_at(click) for one in measured.objects]))) for click in clicks]
    report.curves({"mean IoU": mean}, "clicks", "IoU")
    report.heading("Worst objects")
    shown = min(_CLICKS_SHOWN, measured.limit)
    report.paragraph(f"White: the labelled outline. Orange: the mask after {shown} click(s). Green and red: clicks.")
    report.pictures(_worst(measured, stack, model, targets, shown))
    return report


def _worst(
    measured: ClickReport, stack: ChannelStack, model: PromptedModel, targets: Mapping[str, Mask], clicks: int
) -> list[tuple[Picture, str]]:
    picture = picture_of(stack, max(stack.size))
    ordered = sorted(measured.objects, key=lambda one: one.iou_at(clicks))[:_GALLERY]
    found = []
    for one in ordered:
        target = targets[one.name]
        points, labels, mask = click_through(model, target, clicks)
        drawn = draw_points(draw_masks(picture, mask, target), points, labels)
        found.append((_around(drawn, target | mask), f"object {one.name}: IoU {one.iou_at(clicks):.2f}"))
    return found


def _around(picture: Picture, mask: Mask) -> Picture:
    """The part of a picture around a mask, with as much again on every side."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    margin = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0]), 16) // 2
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    return picture[top : int(rows[-1]) + margin + 1, left : int(columns[-1]) + margin + 1]
