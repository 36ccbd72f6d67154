"""Measures of masks: IoU, boundary IoU, and what a row of IoUs over clicks says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.errors import PromptError

__all__ = ["area_under_clicks", "boundary_iou", "clicks_to_reach", "failure_rate", "mask_iou"]

Mask = NDArray[np.bool_]


def mask_iou(predicted: Mask, target: Mask, ignore: Mask | None = None) -> float:
    """Intersection over union of two masks (H, W) bool.

    Parameters
    ----------
    ignore
        (H, W) bool, pixels that are not judged.

    Returns
    -------
    float
        In [0, 1]; NaN where both are empty, because then there is nothing to measure.

    Raises
    ------
    PromptError
        If the shapes differ.

    Examples
    --------
    >>> mask_iou(np.array([[True, True]]), np.array([[True, False]]))
    0.5
    """
    _check(predicted, target)
    if ignore is not None:
        _check(ignore, target)
        predicted, target = predicted & ~ignore, target & ~ignore
    union = int((predicted | target).sum())
    return float((predicted & target).sum() / union) if union else float("nan")


def boundary_iou(predicted: Mask, target: Mask, width: int | None = None) -> float:
    """IoU of the inner bands of two masks (Cheng et al., 2021, "Boundary IoU").

    Parameters
    ----------
    width
        Pixels of the band; by default 2 % of the image's diagonal, as for COCO.

    Returns
    -------
    float
        In [0, 1]; NaN where both masks are empty.
    """
    _check(predicted, target)
    if width is None:
        width = max(1, round(0.02 * float(np.hypot(*target.shape))))
    return mask_iou(_band(predicted, width), _band(target, width))


def _band(mask: Mask, width: int) -> Mask:
    """Pixels of a mask within `width` of what is not the mask; the image's border counts as outside."""
    inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3), bool), iterations=width)[1:-1, 1:-1]
    return np.asarray(mask & ~inner)


def _check(first: Mask, second: Mask) -> None:
    if first.shape != second.shape:
        raise PromptError(f"Expected masks of one size, got {first.shape} and {second.shape}: resize one.")


def clicks_to_reach(ious: Sequence[float], threshold: float, limit: int = 20) -> int:
    """Number of clicks (NoC): the first click, from 1, whose IoU is at least `threshold`, else `limit`."""
    for click, value in enumerate(ious[:limit], start=1):
        if value >= threshold:
            return click
    return limit


def failure_rate(rows: Sequence[Sequence[float]], threshold: float, limit: int = 20) -> float:
    """Share of objects that never reach `threshold` within `limit` clicks; NaN without objects."""
    if not rows:
        return float("nan")
    return float(np.mean([not any(value >= threshold for value in row[:limit]) for row in rows]))


def area_under_clicks(ious: Sequence[float], limit: int = 20) -> float:
    """Mean IoU over clicks 1 to `limit`; a row that ended early (nothing left to correct) keeps its last value."""
    if len(ious) == 0:
        return float("nan")
    row = list(ious[:limit])
    return float(np.mean(row + [row[-1]] * (limit - len(row))))
