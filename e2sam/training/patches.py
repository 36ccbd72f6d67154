"""Parts of a window to train on: what surrounds one object, on the grid of the logits and of the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.modeling.e2sam import ModelConfig

__all__ = ["Extent", "Patch", "cut", "extent_of", "patch_around", "patch_size"]

Kind = TypeVar("Kind", bound=np.generic)
# Side in positions of the logits: the size of frame that `tiny` was trained at.
_SMALLEST_SIDE = 64
_ROOM = 1.5

Extent = tuple[int, int, int, int]
"""top, left, bottom, right in positions of the logits, the last two exclusive."""


@dataclass(frozen=True)
class Patch:
    """A part of the grid of the logits.

    Attributes
    ----------
    top, left, height, width
        In positions of the logits.
    logits_stride, embedding_step
        Pixels of the frame for a position, positions for one of the embedding.
    """

    top: int
    left: int
    height: int
    width: int
    logits_stride: int
    embedding_step: int

    @classmethod
    def whole(cls, grid: tuple[int, int], config: ModelConfig) -> Patch:
        """All of a grid (h, w)."""
        return cls(0, 0, *grid, config.logits_stride, config.embedding_stride // config.logits_stride)

    def of_grid(self, values: NDArray[Kind]) -> NDArray[Kind]:
        """(..., height, width) part of values (..., h, w) on the grid of the logits."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    @property
    def place(self) -> tuple[int, int, int, int]:
        """top, left, height, width in positions of the embedding, as `cut` takes them."""
        top, left, height, width = (
            side // self.embedding_step for side in (self.top, self.left, self.height, self.width)
        )
        return top, left, height, width

    def of_points(
        self, points: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Points (P, 2) of the frame as seen from the patch; what a user clicked beyond it is left out."""
        moved = points - np.array([self.left, self.top], np.float32) * self.logits_stride
        size = np.array([self.width, self.height], np.float32) * self.logits_stride
        kept = (labels >= 2) | ((moved >= 0) & (moved < size)).all(axis=1)
        return moved[kept].clip(0, size), labels[kept]


def extent_of(target: NDArray[np.uint8]) -> Extent:
    """Where a target (h, w) covers anything; all of it for an object too small to cover any."""
    if not target.any():
        return 0, 0, *target.shape
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def patch_size(extents: Sequence[Extent], grid: tuple[int, int], config: ModelConfig) -> tuple[int, int]:
    """(height, width) with room around each of some objects, at most the whole grid."""
    step = config.pad_multiple // config.logits_stride
    sides = []
    for axis in (0, 1):
        longest = max(extent[axis + 2] - extent[axis] for extent in extents)
        wanted = max(_SMALLEST_SIDE, int(_ROOM * longest) + step)
        sides.append(min(grid[axis], -(-wanted // step) * step))
    return sides[0], sides[1]


def patch_around(
    extent: Extent, size: tuple[int, int], grid: tuple[int, int], config: ModelConfig, generator: np.random.Generator
) -> Patch:
    """A patch of a size that holds an object, anywhere that its alignment allows: objects are seen at many places."""
    step = config.pad_multiple // config.logits_stride
    corner = []
    for axis in (0, 1):
        low = max(0, extent[axis + 2] - size[axis])
        high = min(extent[axis], grid[axis] - size[axis])
        places = np.arange(-(-low // step) * step, high + 1, step)
        corner.append(int(generator.choice(places)) if len(places) else low // step * step)
    return Patch(corner[0], corner[1], *size, config.logits_stride, config.embedding_stride // config.logits_stride)


def cut(embedding: Tensor, places: Tensor) -> Tensor:
    """Parts (B, 256, h, w) of an embedding (1, 256, h', w') at places (B, 4) of one size; (1, ...) if all are whole."""
    rows = places.tolist()
    if tuple(rows[0][2:]) == tuple(embedding.shape[-2:]):
        return embedding
    return torch.cat([embedding[..., t : t + h, left : left + w] for t, left, h, w in rows])
