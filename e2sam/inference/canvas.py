"""Instances of overlapping tiles, joined into one label image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.inference.prediction import Box

__all__ = ["LabelCanvas"]

# Two tiles mean the same object where they agree this well in what both saw of it.
_SAME_OBJECT_IOU = 0.5
_ROWS_AT_ONCE = 1024


class LabelCanvas:
    """A label image that tiles are added to, in any order; an object that crosses tiles keeps one label.

    Parameters
    ----------
    size
        (height, width) of the image.
    out
        (height, width) int32 of zeros to write to; allocated if None.
    """

    def __init__(self, size: tuple[int, int], out: NDArray[np.int32] | None = None) -> None:
        self._labels = np.zeros(size, np.int32) if out is None else out
        self._parents = [0]
        self._tiles: list[Box] = []

    def add(self, tile: Box, objects: NDArray[np.int32]) -> None:
        """Add the instances (h, w) int32 of a tile (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = tile
        here = self._labels[y0:y1, x0:x1]
        numbers = np.arange(int(objects.max(initial=0)) + 1)
        first_new = len(self._parents)
        self._parents.extend(range(first_new, first_new + len(numbers) - 1))
        given = numbers + first_new - 1
        given[0] = 0
        for local, earlier in self._same_objects(here, objects, self._seen(tile)):
            self._join(int(given[local]), earlier)
        # What an earlier tile drew stays: joined objects meet at no seam, others keep their pixels.
        free = (here == 0) & (objects > 0)
        here[free] = given[objects[free]]
        self._tiles.append(tile)

    def _seen(self, tile: Box) -> NDArray[np.bool_]:
        """Which pixels of a tile earlier tiles have covered."""
        x0, y0, x1, y1 = tile
        seen = np.zeros((y1 - y0, x1 - x0), bool)
        for left, top, right, bottom in self._tiles:
            if left < x1 and right > x0 and top < y1 and bottom > y0:
                seen[max(top - y0, 0) : max(bottom - y0, 0), max(left - x0, 0) : max(right - x0, 0)] = True
        return seen

    def _same_objects(
        self, here: NDArray[np.int32], objects: NDArray[np.int32], seen: NDArray[np.bool_]
    ) -> list[tuple[int, int]]:
        """(number in the tile, label on the canvas) of what is one object, judged where both tiles looked."""
        drawn, tile = here[seen], objects[seen]
        both = (drawn > 0) & (tile > 0)
        if not both.any():
            return []
        labels, places = np.unique(drawn, return_inverse=True)
        roots, merged = np.unique([self._root(int(label)) for label in labels], return_inverse=True)
        rooted = merged[places]
        areas_tile, areas_drawn = np.bincount(tile), np.bincount(rooted)
        pairs, common = np.unique(np.stack((tile[both], rooted[both])), axis=1, return_counts=True)
        union = areas_tile[pairs[0]] + areas_drawn[pairs[1]] - common
        same = common >= _SAME_OBJECT_IOU * union
        return [(int(local), int(roots[place])) for local, place in pairs.T[same]]

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _join(self, first: int, second: int) -> None:
        low, high = sorted((self._root(first), self._root(second)))
        self._parents[high] = low

    def finished(self, min_area: int) -> NDArray[np.int32]:
        """The label image, numbered 1..K without gaps, instances under `min_area` pixels left out."""
        roots = np.array([self._root(label) for label in range(len(self._parents))], np.int32)
        bands = [self._labels[start : start + _ROWS_AT_ONCE] for start in range(0, len(self._labels), _ROWS_AT_ONCE)]
        areas = np.zeros(len(roots), np.int64)
        for band in bands:
            areas += np.bincount(roots[band].ravel(), minlength=len(roots))
        areas[0] = 0
        kept = np.flatnonzero(areas >= max(min_area, 1))
        numbers = np.zeros(len(roots), np.int32)
        numbers[kept] = np.arange(1, len(kept) + 1)
        for band in bands:
            band[...] = numbers[roots[band]]
        return self._labels
