"""The click protocol: how good are masks after 1, 2, 3... simulated clicks, and how many does a good mask take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_number, is_whole, shown
from e2sam.data.clicks import box_of, jittered_box, next_click
from e2sam.errors import PromptError
from e2sam.evaluation.metrics import area_under_clicks, clicks_to_reach, failure_rate, mask_iou

__all__ = ["ClickOptions", "ClickReport", "ObjectClicks", "PromptedModel", "evaluate_clicks", "instance_masks"]

Mask = NDArray[np.bool_]
IOU_AT = (1, 2, 3, 5, 10)
NOC_AT = (80, 85, 90)
FAILURES_AT = (85, 90)


class PromptedAnswer(Protocol):
    """Candidate masks (M, H, W) bool, scores (M,) and logits (M, h, w); the best score is the answer."""

    @property
    def masks(self) -> NDArray[np.bool_]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...


class PromptedModel(Protocol):
    """What the protocol needs of `e2sam.Predictor`, or of a classical method behind the same call."""

    def predict(
        self, points: Any = ..., labels: Any = ..., box: Any = ..., mask: Any = ..., multimask: bool = ...
    ) -> Any:
        """Masks from prompts; see `e2sam.Predictor.predict`."""
        ...


@dataclass(frozen=True)
class ClickOptions:
    """How the protocol is run.

    Attributes
    ----------
    limit
        Most clicks for an object.
    feeds_mask
        Whether the logits of the last answer are given back as mask prompt.
    multimask
        Whether the first click asks for candidates and takes the one of best score.
    repeats
        Further runs with random clicks instead of central ones: how robust is it.
    with_box
        Also measure tight and jittered (10 %) boxes.
    stop_at
        Stop at this IoU; what follows keeps the last value.
    seed
        Of random clicks and boxes.
    """

    limit: int = 20
    feeds_mask: bool = True
    multimask: bool = True
    repeats: int = 0
    with_box: bool = True
    stop_at: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not (is_whole(self.limit, 1) and is_whole(self.repeats, 0) and is_whole(self.seed, 0)):
            raise PromptError(f"Expected at least 1 click, and 0 or more repeats and seed, got {self}.")
        if not is_number(self.stop_at):
            raise PromptError(f"Expected an IoU to stop at, got {shown(self.stop_at)}.")


@dataclass(frozen=True)
class ObjectClicks:
    """What was measured for one object.

    Attributes
    ----------
    name
        Its label.
    area
        Pixels.
    ious
        IoU after each click; shorter than the limit where nothing was left to correct.
    oracle, chosen
        IoU of the best candidate of the first click, and of the one with the best score.
    box_iou, jittered_box_iou
        From a tight box and from one whose edges are moved by up to 10 %; NaN where not measured.
    seconds
        Mean time of a prediction.
    random_ious
        IoUs after each click, one row for each repeat with random clicks.
    """

    name: str
    area: int
    ious: tuple[float, ...]
    oracle: float = float("nan")
    chosen: float = float("nan")
    box_iou: float = float("nan")
    jittered_box_iou: float = float("nan")
    seconds: float = 0.0
    random_ious: tuple[tuple[float, ...], ...] = ()

    def iou_at(self, click: int) -> float:
        """IoU after `click` clicks; the last value where the row ended before."""
        return self.ious[min(click, len(self.ious)) - 1]


@dataclass(frozen=True)
class ClickReport:
    """Measures of all objects, and their means."""

    objects: tuple[ObjectClicks, ...]
    limit: int = 20
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Means, with the keys of `e2sam evaluate clicks --json`, and a row for each object."""
        rows = [item.ious for item in self.objects]
        return {
            "objects": len(rows),
            "iou": {str(click): _mean([item.iou_at(click) for item in self.objects]) for click in IOU_AT},
            "box_iou": _mean([item.box_iou for item in self.objects]),
            "jittered_box_iou": _mean([item.jittered_box_iou for item in self.objects]),
            "noc": {
                str(level): _mean([clicks_to_reach(row, level / 100, self.limit) for row in rows]) for level in NOC_AT
            },
            "fr20": {str(level): failure_rate(rows, level / 100, self.limit) for level in FAILURES_AT},
            "auc": _mean([area_under_clicks(row, self.limit) for row in rows]),
            "oracle_iou": _mean([item.oracle for item in self.objects]),
            "chosen_iou": _mean([item.chosen for item in self.objects]),
            "random": _random_summary(self.objects),
            "seconds_per_click": _mean([item.seconds for item in self.objects]),
            "per_object": [
                {"name": item.name, "area": item.area, "iou": [round(value, 4) for value in item.ious]}
                for item in self.objects
            ],
            **self.facts,
        }


def _mean(values: Sequence[float]) -> float:
    """Mean of what was measured; NaN where nothing was."""
    measured = [value for value in values if not np.isnan(value)]
    return float(np.mean(measured)) if measured else float("nan")


def _random_summary(objects: Sequence[ObjectClicks]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over repeats of the mean IoU after 1, 3 and 5 random clicks."""
    repeats = min((len(item.random_ious) for item in objects), default=0)
    result = {}
    for click in (1, 3, 5) if repeats else ():
        means = [
            _mean([item.random_ious[repeat][min(click, len(item.random_ious[repeat])) - 1] for item in objects])
            for repeat in range(repeats)
        ]
        result[str(click)] = {"mean": float(np.mean(means)), "std": float(np.std(means))}
    return result


def instance_masks(labels: NDArray[Any], smallest: int = 1) -> dict[str, Mask]:
    """Mask of each instance of a label image (H, W), 0 = unlabelled, with at least `smallest` pixels."""
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return {str(value): labels == value for value, count in zip(values, counts, strict=True) if count >= smallest}


def evaluate_clicks(
    model: PromptedModel,
    targets: dict[str, Mask],
    options: ClickOptions | None = None,
    ignore: Mask | None = None,
) -> ClickReport:
    """Run the protocol on the objects of one image that the model already has.

    Parameters
    ----------
    model
        A predictor whose image is set.
    targets
        (H, W) bool mask of each object by name, none of them empty.
    options
        How it is run.
    ignore
        (H, W) bool, pixels that are not judged and never clicked.

    Raises
    ------
    PromptError
        If a mask is empty, or what was given is of another kind.
    """
    if not isinstance(options, ClickOptions | None):
        raise PromptError(f"Expected ClickOptions or None, got {shown(options)}.")
    options = options or ClickOptions()
    _check_masks(targets, ignore)
    return ClickReport(
        tuple(_measure(model, name, target, options, ignore) for name, target in targets.items()), options.limit
    )


def _check_masks(targets: Any, ignore: Any) -> None:
    if not isinstance(targets, Mapping):
        raise PromptError(f"Expected the mask of each object by its name, got {shown(targets)}.")
    for mask in (*targets.values(), *([] if ignore is None else [ignore])):
        if not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 2):
            raise PromptError(f"Expected each mask as an array (H, W) bool, got {shown(mask)}.")
        if ignore is not None and mask.shape != ignore.shape:
            raise PromptError(f"Expected masks of one size, got {mask.shape} and {ignore.shape}: resize one.")


def _measure(model: PromptedModel, name: str, target: Mask, options: ClickOptions, ignore: Mask | None) -> ObjectClicks:
    if not (target if ignore is None else target & ~ignore).any():
        raise PromptError(f"Expected a mask for object {name}, got an empty one: leave it out.")
    run = _click_run(model, target, options, ignore, None)
    rng = np.random.default_rng((options.seed, int(target.sum())))
    box_iou = jittered = float("nan")
    if options.with_box:
        box_iou = _box_iou(model, box_of(target), target, ignore)
        jittered = _box_iou(model, jittered_box(target, 0.1, rng), target, ignore)
    repeats = tuple(_click_run(model, target, options, ignore, rng).ious for _ in range(options.repeats))
    return ObjectClicks(
        name, int(target.sum()), run.ious, run.oracle, run.chosen, box_iou, jittered, run.seconds, repeats
    )


@dataclass(frozen=True)
class _Run:
    ious: tuple[float, ...]
    oracle: float
    chosen: float
    seconds: float


def _click_run(
    model: PromptedModel, target: Mask, options: ClickOptions, ignore: Mask | None, rng: np.random.Generator | None
) -> _Run:
    predicted, clicked = np.zeros_like(target), np.zeros_like(target)
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    logits = None
    ious: list[float] = []
    oracle = chosen = float("nan")
    seconds = 0.0
    while len(ious) < options.limit:
        click = next_click(target, predicted, clicked, ignore, rng)
        if click is None:
            break
        points.append((click.x, click.y))
        labels.append(click.label)
        clicked[int(click.y), int(click.x)] = True
        start = time.perf_counter()
        answer = model.predict(list(points), list(labels), mask=logits, multimask=options.multimask and not ious)
        seconds += time.perf_counter() - start
        best = int(np.argmax(answer.scores))
        predicted = np.asarray(answer.masks[best])
        logits = answer.logits[best] if options.feeds_mask else None
        ious.append(mask_iou(predicted, target, ignore))
        if len(ious) == 1:
            chosen = ious[0]
            oracle = max(mask_iou(candidate, target, ignore) for candidate in answer.masks)
        if ious[-1] >= options.stop_at:
            break
    return _Run(tuple(ious), oracle, chosen, seconds / max(len(ious), 1))


def _box_iou(model: PromptedModel, box: tuple[float, float, float, float], target: Mask, ignore: Mask | None) -> float:
    answer = model.predict(box=box, multimask=False)
    return mask_iou(np.asarray(answer.masks[int(np.argmax(answer.scores))]), target, ignore)
