"""How well predicted classes match labelled ones: sums over a whole data set, explicit about what is not counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_whole, shown
from e2sam.errors import E2SamError

__all__ = ["ClassScore", "ConfusionMatrix", "SemanticScores", "bootstrap_miou"]


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table.

    Attributes
    ----------
    name, value
        Name of the class and its value in label images.
    iou
        Intersection over union, sums over the data set; NaN where no pixel is labelled with this class.
    recall
        Share of its labelled pixels that were found; NaN where there are none.
    pixels
        Number of pixels that are labelled with this class and counted.
    """

    name: str
    value: int
    iou: float
    recall: float
    pixels: int


@dataclass(frozen=True)
class SemanticScores:
    """Scores of one data set.

    Attributes
    ----------
    miou
        Mean IoU over the classes that are not NaN.
    pixel_accuracy, mean_recall
        Share of counted pixels that are right; mean of the classes' recalls.
    per_class
        One row a class.
    confusion
        (K, K) int64, rows the labelled class, columns the predicted one.
    ignore_index
        The label value that was not counted, or None.
    """

    miou: float
    pixel_accuracy: float
    mean_recall: float
    per_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    ignore_index: int | None


class ConfusionMatrix:
    """Sums of (labelled, predicted) pairs over a data set.

    Parameters
    ----------
    values
        Value of each class in label images.
    names
        Name of each class; its value where None.
    ignore_index
        Label value that is not counted, or None to count every labelled pixel. A labelled pixel of any other value that
        is not a class is an error, never dropped in silence.
    legacy_ignore10
        Score as the evaluation released with E2SAM did, for comparison with published numbers: label 10 is not counted,
        whatever it means, and a class without labelled pixels that was predicted anywhere scores 0 instead of NaN.

    Examples
    --------
    >>> matrix = ConfusionMatrix(values=(1, 2), ignore_index=0)
    >>> matrix.update(np.array([[1, 2], [2, 2]]), np.array([[1, 1], [2, 0]]))
    >>> [round(row.iou, 2) for row in matrix.scores().per_class]
    [0.5, 0.5]
    """

    def __init__(
        self,
        values: Sequence[int],
        names: Sequence[str] | None = None,
        *,
        ignore_index: int | None = None,
        legacy_ignore10: bool = False,
    ) -> None:
        given = tuple(values) if isinstance(values, Iterable) else ()
        if not given or len(set(given)) != len(given) or not all(map(is_whole, given)):
            raise E2SamError(f"Expected each class value once, as whole numbers, got {shown(values)}.")
        self.values = tuple(int(value) for value in given)
        self.names = tuple(names) if names is not None else tuple(str(value) for value in self.values)
        if len(self.names) != len(self.values):
            raise E2SamError(f"Expected a name for each of {len(self.values)} classes, got {len(self.names)}.")
        self.ignore_index = 10 if legacy_ignore10 else ignore_index
        self.legacy_ignore10 = legacy_ignore10
        self.counts = np.zeros((len(given), len(given) + 1), np.int64)

    def update(
        self, predicted: NDArray[np.integer], labels: NDArray[np.integer], counted: NDArray[np.bool_] | None = None
    ) -> None:
        """Add one image.

        Parameters
        ----------
        predicted
            (H, W) predicted class values. A value that is no class (such as 0 where nothing was predicted) is wrong
            wherever a class was labelled.
        labels
            (H, W) labelled class values.
        counted
            (H, W) bool, pixels to count; None = all. The ignored value is left out in any case.

        Raises
        ------
        E2SamError
            If sizes differ, or a label is neither a class nor the ignored value.
        """
        predicted, labels = np.asarray(predicted), np.asarray(labels)
        if predicted.shape != labels.shape:
            raise E2SamError(f"Expected a prediction of shape {labels.shape} like its labels, got {predicted.shape}.")
        counted = np.ones(labels.shape, bool) if counted is None else np.asarray(counted)
        if counted.shape != labels.shape or counted.dtype.kind != "b":
            raise E2SamError(
                f"Expected what is counted as {labels.shape} bool like the labels, got {counted.shape} {counted.dtype}."
            )
        if self.ignore_index is not None:
            counted = counted & (labels != self.ignore_index)
        truth = labels[counted].ravel()
        rows = _positions(truth, self.values)
        unknown = rows == len(self.values)
        if unknown.any():
            strange = sorted(set(truth[unknown].tolist()))
            raise E2SamError(
                f"Expected labels of {list(self.values)}, got {strange[:5]}: name the classes, or pass the value that "
                "means unlabelled as ignore index."
            )
        columns = _positions(predicted[counted].ravel(), self.values)
        width = len(self.values) + 1
        self.counts += np.bincount(rows * width + columns, minlength=self.counts.size).reshape(self.counts.shape)

    def scores(self) -> SemanticScores:
        """Scores of everything added so far."""
        confusion = self.counts[:, :-1]
        right = np.diag(confusion).astype(np.float64)
        labelled = self.counts.sum(1).astype(np.float64)
        union = labelled + confusion.sum(0) - right
        scored = union > 0 if self.legacy_ignore10 else labelled > 0
        iou = np.where(scored, right / np.maximum(union, 1), np.nan)
        recall = np.where(labelled > 0, right / np.maximum(labelled, 1), np.nan)
        table = tuple(
            ClassScore(name, value, float(iou[index]), float(recall[index]), int(labelled[index]))
            for index, (name, value) in enumerate(zip(self.names, self.values, strict=True))
        )
        total = labelled.sum()
        return SemanticScores(
            miou=_nanmean(iou),
            pixel_accuracy=float(right.sum() / total) if total else float("nan"),
            mean_recall=_nanmean(recall),
            per_class=table,
            confusion=confusion.copy(),
            ignore_index=self.ignore_index,
        )


def bootstrap_miou(
    counts: Sequence[NDArray[np.int64]], repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean IoU when images (or blocks of one image) are drawn again with replacement.

    Parameters
    ----------
    counts
        `ConfusionMatrix.counts` of each image, (K, K + 1).
    repeats, seed, level
        Number of draws, seed of the draws, share of them inside the interval.

    Returns
    -------
    tuple
        Lower and upper end; (NaN, NaN) where there is only one image.
    """
    if len(counts) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    stacked = np.stack(counts)
    means = np.empty(repeats)
    for repeat in range(repeats):
        drawn = stacked[generator.integers(0, len(stacked), len(stacked))].sum(0)
        right, labelled = np.diag(drawn[:, :-1]), drawn.sum(1)
        union = labelled + drawn[:, :-1].sum(0) - right
        means[repeat] = _nanmean(np.where(labelled > 0, right / np.maximum(union, 1), np.nan))
    tail = (1 - level) / 2
    low, high = np.nanquantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _positions(values: NDArray[np.integer], classes: Sequence[int]) -> NDArray[np.int64]:
    """Position of each value among `classes`, or their number where it is none of them."""
    order = np.argsort(classes)
    ordered = np.asarray(classes)[order]
    found = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return np.where(ordered[found] == values, order[found], len(ordered)).astype(np.int64)


def _nanmean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
