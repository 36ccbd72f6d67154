"""Is the new model better? Figures on held-out labels, with intervals, before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.evaluation.clicks import ClickOptions, ObjectClicks, evaluate_clicks
from e2sam.evaluation.metrics import clicks_to_reach
from e2sam.evaluation.semantic import ConfusionMatrix, bootstrap_miou
from e2sam.inference.predictor import Predictor
from e2sam.inference.semantic import segment_semantic, semantic_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.training.dataset import LabelledScene
from e2sam.training.semantic import SemanticImage

__all__ = [
    "ClickFigures",
    "SemanticFigures",
    "commonest_class",
    "compare_clicks",
    "judge_classes",
    "judge_clicks",
]

_REPEATS = 2000
_LEVEL = 0.95
_FIRST_CLICKS = 5
# IoU in percent. Whether few objects just reach a single level is chance: the mean over several says more.
_LEVELS = (70, 75, 80, 85, 90)


@dataclass(frozen=True)
class ClickFigures:
    """What the click protocol measured on held-out objects.

    Attributes
    ----------
    objects
        One for each object, always in the same order.
    limit
        Most clicks for an object.
    """

    objects: tuple[ObjectClicks, ...]
    limit: int

    @property
    def scores(self) -> NDArray[np.float64]:
        """(K,) mean IoU over the first five clicks and the box: what decides."""
        return np.array(
            [np.mean([*(one.iou_at(k + 1) for k in range(_FIRST_CLICKS)), one.box_iou]) for one in self.objects]
        )

    def noc(self, level: int = 85) -> NDArray[np.float64]:
        """(K,) number of clicks to `level` % IoU."""
        return np.array([clicks_to_reach(one.ious, level / 100, self.limit) for one in self.objects], float)

    @property
    def clicks(self) -> NDArray[np.float64]:
        """(K,) mean number of clicks to 70, 75, 80, 85 and 90 % IoU: what decides beside the scores."""
        return np.asarray(np.mean([self.noc(level) for level in _LEVELS], axis=0), float)

    def to_json(self) -> dict[str, Any]:
        """Means, and bootstrap intervals over the objects."""
        return {
            "objects": len(self.objects),
            "score": _mean(self.scores),
            "score_interval": _interval(self.scores),
            "iou": {str(k): _mean(np.array([one.iou_at(k) for one in self.objects])) for k in (1, 3, 5)},
            "box_iou": _mean(np.array([one.box_iou for one in self.objects])),
            "clicks": _mean(self.clicks),
            "noc": {str(level): _mean(self.noc(level)) for level in (80, 85, 90)},
            "noc85_interval": _interval(self.noc()),
        }


def judge_clicks(model: E2SAM, scenes: Sequence[LabelledScene], limit: int = 20, most: int = 24) -> ClickFigures:
    """Run the click protocol on the objects of held-out scenes, at most `most` of them, evenly spread over the list."""
    total = sum(len(scene.objects) for scene in scenes)
    chosen = set(np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist())
    predictor = Predictor(model)
    found: list[ObjectClicks] = []
    number = 0
    for scene in scenes:
        masks = {}
        for labelled in scene.objects:
            if number in chosen:
                masks[str(number)] = labelled.mask.full(scene.stack.size)
            number += 1
        if masks:
            predictor.set_stack(scene.stack, scene.channels or "auto", scene.fitted())
            found += evaluate_clicks(predictor, masks, ClickOptions(limit=limit)).objects
    return ClickFigures(tuple(found), limit)


def compare_clicks(before: ClickFigures, after: ClickFigures) -> dict[str, Any]:
    """Differences object by object (after - before) with intervals, and whether the new model is not worse.

    Worse means: the mean score fell, or the mean number of clicks rose (docs/results.md says what other rules took).
    """
    score, clicks, at_85 = after.scores - before.scores, after.clicks - before.clicks, after.noc() - before.noc()
    return {
        "score": _mean(score),
        "score_interval": _interval(score),
        "clicks": _mean(clicks),
        "clicks_interval": _interval(clicks),
        "noc85": _mean(at_85),
        "noc85_interval": _interval(at_85),
        "not_worse": _mean(score) >= 0 and _mean(clicks) <= 0,
    }


@dataclass(frozen=True)
class SemanticFigures:
    """What was measured on held-out pixels; `to_json` gives mIoU, its interval and the table of classes.

    With `is_commonest_class` these are no model's figures, but those of one class everywhere.
    """

    matrix: ConfusionMatrix
    blocks: tuple[NDArray[np.int64], ...]
    is_commonest_class: bool = False

    @property
    def miou(self) -> float:
        """Mean IoU."""
        return self.matrix.scores().miou

    def to_json(self) -> dict[str, Any]:
        """Figures as JSON values; a class without labels has None."""
        scores = self.matrix.scores()
        return {
            "miou": _plain(scores.miou),
            "miou_interval": [_plain(end) for end in bootstrap_miou(self.blocks)],
            "pixel_accuracy": _plain(scores.pixel_accuracy),
            "is_commonest_class": self.is_commonest_class,
            "per_class": [
                {"class": row.name, "iou": _plain(row.iou), "pixels": row.pixels} for row in scores.per_class
            ],
        }


def judge_classes(model: E2SAM, images: Sequence[SemanticImage], ignore_index: int | None) -> SemanticFigures:
    """Score a model on held-out images, or on the held-out pixels of one image."""
    semantic = semantic_config(model)
    return _score(
        ((image, segment_semantic(model, image.load()[0]).labels) for image in images),
        semantic.values,
        semantic.classes,
        ignore_index,
    )


def commonest_class(
    images: Sequence[SemanticImage],
    values: Sequence[int],
    names: Sequence[str],
    ignore_index: int | None,
    counts: NDArray[np.int64],
) -> SemanticFigures:
    """What is reached without a model: everything is the class that is commonest in training."""
    value = values[int(np.argmax(counts))]
    constant = ((image, np.full(image.load()[1].shape, value, np.int32)) for image in images)
    return replace(_score(constant, values, names, ignore_index), is_commonest_class=True)


def _score(
    predicted: Iterable[tuple[SemanticImage, NDArray[np.int32]]],
    values: Sequence[int],
    names: Sequence[str],
    ignore_index: int | None,
) -> SemanticFigures:
    whole = ConfusionMatrix(values, names, ignore_index=ignore_index)
    blocks = []
    for image, labels in predicted:
        _, truth = image.load()
        counted = np.ones(truth.shape, bool) if image.counted is None else image.counted
        for place in _blocks(truth.shape, image.counted is not None):
            part = ConfusionMatrix(values, names, ignore_index=ignore_index)
            part.update(labels[place], truth[place], counted[place])
            if part.counts.any():
                blocks.append(part.counts)
                whole.counts += part.counts
    return SemanticFigures(whole, tuple(blocks))


def _blocks(shape: tuple[int, ...], is_one_image: bool) -> list[tuple[slice, slice]]:
    """What is drawn again for an interval: images, or, of a single one, its 5 x 5 blocks."""
    if not is_one_image:
        return [(slice(None), slice(None))]
    edges = [np.linspace(0, length, 6).astype(int) for length in shape]
    cells = [[slice(int(a), int(b)) for a, b in pairwise(edge)] for edge in edges]
    return [(rows, columns) for rows in cells[0] for columns in cells[1]]


def _interval(values: NDArray[np.float64]) -> list[float | None]:
    """Bootstrap interval of a mean over objects; [None, None] for fewer than two."""
    if len(values) < 2:
        return [None, None]
    generator = np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (_REPEATS, len(values)))].mean(1)
    low, high = np.quantile(means, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return [float(low), float(high)]


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
