"""Simulated clicks: where a user would click next, given what the model shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Click", "box_of", "jittered_box", "next_click", "training_click"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """One click: pixel (x, y) with centres at integer + 0.5, and whether it says "inside"."""

    x: float
    y: float
    is_positive: bool

    @property
    def label(self) -> int:
        """1 inside, 0 outside."""
        return int(self.is_positive)


def _depth(region: Mask) -> NDArray[np.float32]:
    """Distance of each pixel of a region to what is not the region; beyond the image counts as outside."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    depth = np.zeros(region.shape, np.float32)
    if len(rows) == 0:
        return depth
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    depth[window] = ndimage.distance_transform_edt(np.pad(region[window], 1))[1:-1, 1:-1]
    return depth


def next_click(
    target: Mask,
    predicted: Mask,
    clicked: Mask | None = None,
    ignore: Mask | None = None,
    rng: np.random.Generator | None = None,
) -> Click | None:
    """The click of the evaluation protocol: the middle of the largest error.

    Follows the simulator of RITM (Sofiiuk et al., 2021): of the missed and the wrongly covered region the deeper one
    is clicked at its deepest pixel.

    Parameters
    ----------
    target, predicted
        (H, W) bool: the object, and the mask so far (empty at first).
    clicked
        (H, W) bool, pixels clicked before; they are not clicked again.
    ignore
        (H, W) bool, pixels where nothing is known: no errors there.
    rng
        With a generator, a random pixel of the chosen region, as a hurried user would: for robustness.

    Returns
    -------
    Click or None
        None where there is no error left to click.
    """
    judged = np.ones_like(target) if ignore is None else ~ignore
    missed, wrong = target & ~predicted & judged, ~target & predicted & judged
    depth_missed, depth_wrong = _depth(missed), _depth(wrong)
    if clicked is not None:
        depth_missed[clicked] = 0
        depth_wrong[clicked] = 0
    is_positive = bool(depth_missed.max(initial=0) >= depth_wrong.max(initial=0))
    depth = depth_missed if is_positive else depth_wrong
    if not depth.any():
        return None
    if rng is None:
        index = int(depth.argmax())
    else:
        index = int(rng.choice(np.flatnonzero(depth)))
    row, column = divmod(index, target.shape[1])
    return Click(column + 0.5, row + 0.5, is_positive)


def training_click(target: Mask, predicted: Mask, rng: np.random.Generator) -> Click | None:
    """A click for training: a random pixel of the inner half of the larger error (RITM's training sampler)."""
    missed, wrong = _depth(target & ~predicted), _depth(~target & predicted)
    is_positive = bool(missed.max(initial=0) >= wrong.max(initial=0))
    depth = missed if is_positive else wrong
    if not depth.any():
        return None
    index = int(rng.choice(np.flatnonzero(depth > depth.max() / 2)))
    row, column = divmod(index, target.shape[1])
    return Click(column + 0.5, row + 0.5, is_positive)


def box_of(target: Mask) -> tuple[float, float, float, float]:
    """Tight box x0, y0, x1, y1 around a mask that is not empty."""
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def jittered_box(target: Mask, share: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Box around a mask whose edges are each moved by up to `share` of its width or height, within the image."""
    x0, y0, x1, y1 = box_of(target)
    shift = rng.uniform(-share, share, 4) * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    x0, x1 = max(0.0, x0 + shift[0]), min(float(target.shape[1]), x1 + shift[2])
    y0, y1 = max(0.0, y0 + shift[1]), min(float(target.shape[0]), y1 + shift[3])
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
