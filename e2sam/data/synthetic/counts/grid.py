"""A coarse grid and a fine one over the same extent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.data.synthetic.textures import Planes

__all__ = ["centres", "enlarge", "nearest"]


def centres(length: int, low: int) -> Planes:
    """Middles of `length` pixels, in pixels of a grid of `low` over the same extent."""
    return ((np.arange(length) + 0.5) * (low / length)).astype(np.float32)


def nearest(size: tuple[int, int], low: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (H, 1) and columns (1, W) of a coarse grid (h, w) that take its values to a size (H, W)."""
    rows, columns = (centres(length, each).astype(np.int64) for length, each in zip(size, low, strict=True))
    return rows[:, None], columns[None]


def enlarge(planes: Planes, size: tuple[int, int], method: str) -> Planes:
    """Planes (C, h, w) at a size (H, W), "nearest", or "linear" or "cubic" by two matrix products."""
    low = (planes.shape[1], planes.shape[2])
    if method == "nearest":
        rows, columns = nearest(size, low)
        return np.ascontiguousarray(planes[:, rows, columns], np.float32)
    down, across = (_weights(length, each, method) for length, each in zip(size, low, strict=True))
    return np.asarray(down @ planes @ across.T, np.float32)


def _weights(length: int, low: int, method: str) -> Planes:
    """(length, low) matrix of "linear" or "cubic" interpolation between the middles of pixels."""
    centre = centres(length, low) - 0.5
    matrix = np.zeros((length, low), np.float32)
    lines = np.arange(length)
    base = np.floor(centre).astype(int)
    for tap in range(-1, 3):
        t = np.abs(centre - base - tap)
        if method == "linear":
            weight = np.clip(1 - t, 0, 1)
        else:
            weight = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
        np.add.at(matrix, (lines, np.clip(base + tap, 0, low - 1)), weight)
    return matrix
