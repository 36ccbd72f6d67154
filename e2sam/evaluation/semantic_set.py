"""A semantic model on a labelled set: image by image, with what a report shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2sam.data.io.datasets import LabelledItem
from e2sam.evaluation.pictures import Picture, colour_classes, picture_of
from e2sam.evaluation.report import Report
from e2sam.evaluation.semantic import ConfusionMatrix, SemanticScores
from e2sam.inference.semantic import segment_semantic
from e2sam.modeling.e2sam import E2SAM

__all__ = ["ScoredImage", "score_images", "semantic_report"]

_GALLERY = 6
_LONGEST = 480


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """One image of a set.

    Attributes
    ----------
    name
        Of the image.
    counts
        `ConfusionMatrix.counts` of this image alone.
    wrong
        Share of its counted pixels that are wrong; NaN where nothing is labelled.
    pictures
        (h, w, 3) uint8: what a person sees, labels, prediction, side by side.
    """

    name: str
    counts: NDArray[np.int64]
    wrong: float
    pictures: Picture


def score_images(model: E2SAM, items: Iterable[LabelledItem], matrix: ConfusionMatrix) -> Iterator[ScoredImage]:
    """Predict each image and add it to `matrix`."""
    for item in items:
        stack, labels = item.load()
        predicted = segment_semantic(model, stack).labels
        own = ConfusionMatrix(
            matrix.values, matrix.names, ignore_index=matrix.ignore_index, legacy_ignore10=matrix.legacy_ignore10
        )
        own.update(predicted, labels)
        matrix.counts += own.counts
        total = int(own.counts.sum())
        wrong = 1 - float(np.diag(own.counts[:, :-1]).sum()) / total if total else float("nan")
        step = max(1, -(-max(labels.shape) // _LONGEST))
        shown = picture_of(stack, _LONGEST)
        truth, answer = (colour_classes(part[::step, ::step], matrix.values) for part in (labels, predicted))
        gap = np.full((shown.shape[0], 4, 3), 255, np.uint8)
        yield ScoredImage(item.name, own.counts, wrong, np.concatenate((shown, gap, truth, gap, answer), axis=1))


def semantic_report(title: str, scores: SemanticScores, images: list[ScoredImage]) -> Report:
    """Scores, the table of classes, the confusion matrix and the worst images as pictures."""
    report = Report(title)
    report.table(
        ("", "value"),
        [
            ("mean IoU", scores.miou),
            ("pixel accuracy", scores.pixel_accuracy),
            ("mean recall", scores.mean_recall),
            ("images", len(images)),
            ("not counted", "nothing" if scores.ignore_index is None else f"label {scores.ignore_index}"),
        ],
    )
    report.heading("Classes")
    rows = [(row.name, row.iou, row.recall, row.pixels) for row in scores.per_class]
    report.table(("class", "IoU", "recall", "pixels"), rows, "A class that is not labelled anywhere has no IoU.")
    report.heading("Which class is taken for which")
    report.confusion([row.name for row in scores.per_class], scores.confusion)
    report.heading("Worst images")
    worst = sorted((image for image in images if not np.isnan(image.wrong)), key=lambda image: -image.wrong)[:_GALLERY]
    captions = [
        (image.pictures, f"{image.name}: {image.wrong:.1%} wrong (image, labels, prediction)") for image in worst
    ]
    report.pictures(captions, side=960)
    return report
