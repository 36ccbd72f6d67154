"""Prompts of one object, in pixel (x, y) of the original image, pixel centres at integer + 0.5 as in SAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.data.checks import shown
from e2sam.errors import PromptError

__all__ = ["Prompts", "checked_view"]


@dataclass(frozen=True)
class Prompts:
    """Everything a user said about one object.

    Attributes
    ----------
    points
        (P, 2) float32, pixel (x, y) of the original image.
    labels
        (P,) int32, 1 = inside the object, 0 = outside.
    box
        (4,) float32, x0, y0, x1, y1 in pixels of the original image, or None.
    mask
        (h, w) float32 logits in the decoder's own frame (`Prediction.logits` of an earlier prediction), or None.
    """

    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0,), np.int32))
    box: NDArray[np.float32] | None = None
    mask: NDArray[np.float32] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to predict from."""
        return len(self.points) == 0 and self.box is None and self.mask is None

    @classmethod
    def checked(
        cls,
        points: ArrayLike | None,
        labels: Sequence[int] | ArrayLike | None,
        box: ArrayLike | None,
        mask: ArrayLike | None,
        size: tuple[int, int],
    ) -> Prompts:
        """Check what a caller gave against an image of `size` (height, width) and hold it as arrays.

        Raises
        ------
        PromptError
            If nothing was given, shapes or labels are wrong, or a point lies outside the image.
        """
        prompts = cls(*_checked_points(points, labels, size), _checked_box(box, size), _checked_mask(mask))
        if prompts.is_empty:
            raise PromptError("Expected at least one point, a box or a mask, got none: give one.")
        return prompts


def _checked_points(
    points: ArrayLike | None, labels: ArrayLike | None, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    height, width = size
    array = np.zeros((0, 2), np.float32) if points is None else _numbers(points, "points as (P, 2) pixel (x, y)")
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise PromptError(f"Expected points as (P, 2) pixel (x, y), got shape {array.shape}.")
    marks = np.ones(len(array), np.float32) if labels is None else _numbers(labels, "labels 1 (inside) or 0 (outside)")
    if marks.shape != (len(array),):
        raise PromptError(f"Expected one label for each of {len(array)} points, got shape {marks.shape}.")
    if not np.isin(marks, (0, 1)).all():
        raise PromptError(f"Expected labels 1 (inside) or 0 (outside), got {sorted(set(marks.tolist()))[:8]}.")
    for x, y in array:
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptError(
                f"Expected points inside the image of {width} x {height} pixels (x, y), got ({x:g}, {y:g})."
            )
    return array, marks.astype(np.int32)


def _numbers(given: ArrayLike, what: str) -> NDArray[np.float32]:
    try:
        # What float32 cannot hold becomes inf, which lies outside of every image.
        with np.errstate(over="ignore"):
            return np.asarray(given, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"Expected {what}, got {shown(given, 100)}.") from error


def _checked_box(box: ArrayLike | None, size: tuple[int, int]) -> NDArray[np.float32] | None:
    if box is None:
        return None
    height, width = size
    array = _numbers(box, "a box as x0, y0, x1, y1")
    if array.shape != (4,) or not np.isfinite(array).all():
        raise PromptError(f"Expected a box as x0, y0, x1, y1, got {shown(box)}.")
    x0, y0, x1, y1 = array.tolist()
    if not (x0 < x1 and y0 < y1):
        raise PromptError(f"Expected a box with x0 < x1 and y0 < y1, got {x0:g}, {y0:g}, {x1:g}, {y1:g}.")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise PromptError(
            f"Expected a box over the image of {width} x {height} pixels, got {x0:g}, {y0:g}, {x1:g}, {y1:g}."
        )
    return np.clip(array, 0, np.array([width, height, width, height], np.float32))


def checked_view(view: ArrayLike) -> tuple[int, int, int, int]:
    """What a user sees of an image, x0, y0, x1, y1, in whole pixels.

    Raises
    ------
    PromptError
        If it is not four finite numbers with x0 < x1 and y0 < y1.
    """
    array = _numbers(view, "a view as x0, y0, x1, y1")
    if array.shape != (4,) or not np.isfinite(array).all() or not (array[:2] < array[2:]).all():
        raise PromptError(
            f"Expected a view as x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {shown(view)}: give four numbers."
        )
    x0, y0, x1, y1 = array.tolist()
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _checked_mask(mask: ArrayLike | None) -> NDArray[np.float32] | None:
    if mask is None:
        return None
    array = _numbers(mask, "a mask prompt as (h, w) logits")
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or not np.isfinite(array).all():
        raise PromptError(
            f"Expected a mask prompt as (h, w) finite logits of an earlier prediction, got {array.shape}."
        )
    return array
