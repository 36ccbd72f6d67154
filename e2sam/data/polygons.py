"""Outlines of masks along the edges of their pixels, and back: nothing is smoothed, so areas agree exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from e2sam.data.masks import MaskCrop

__all__ = ["Polygon", "Ring", "mask_of_polygons", "polygons_of", "signed_area"]

Ring = NDArray[np.float64]
"""(N, 2) corners x, y of a closed line; the last corner is not the first again."""

Polygon = tuple[Ring, ...]
"""An outer ring and the rings of its holes."""


def polygons_of(mask: MaskCrop) -> list[Polygon]:
    """Outlines of a mask in pixel (x, y), where pixel (column, row) covers x in column..column + 1.

    One polygon for each part whose pixels share edges; parts that touch at a corner only are apart. Outer rings run
    clockwise on screen (positive `signed_area` in x right, y down), holes the other way. No ring meets itself.
    """
    parts, count = ndimage.label(mask.pixels)
    rings = [part for ring in _trace(mask.pixels) for part in _without_pinches(ring)]
    outer: list[Ring | None] = [None] * count
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring in rings:
        # The highest of the leftmost corners: right below it lies the part, or left above it for a hole.
        x, y = (int(value) for value in min(ring.tolist()))
        if signed_area(ring) > 0:
            outer[parts[y, x] - 1] = ring
        else:
            holes[parts[y, x - 1] - 1].append(ring)
    offset = np.array([mask.x0, mask.y0], np.float64)
    polygons = []
    for around, inner in zip(outer, holes, strict=True):
        assert around is not None
        polygons.append((around + offset, *(hole + offset for hole in inner)))
    return polygons


def mask_of_polygons(polygons: Sequence[ArrayLike], size: tuple[int, int]) -> MaskCrop | None:
    """The union of closed lines (N, 2) in pixel (x, y) of an image of `size`: pixels whose centre lies inside.

    None if there is no such pixel, or a corner is not finite.
    """
    height, width = size
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in polygons]
    if not all(np.isfinite(ring).all() for ring in rings):
        return None
    rings = [ring for ring in rings if len(ring) >= 3]
    if not rings:
        return None
    low = np.clip(np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0)), 0, (width, height)).astype(int)
    if (high <= low).any():
        return None
    total = np.zeros((high[1] - low[1], high[0] - low[0]), bool)
    for ring in rings:
        # skimage has pixel centres at integers, (row, column).
        total |= polygon2mask(total.shape, (ring - low - 0.5)[:, ::-1])
    return MaskCrop.of(total, int(low[0]), int(low[1])) if total.any() else None


def signed_area(ring: Ring) -> float:
    """Area inside a closed line by the shoelace formula; positive where it runs from x towards y."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _trace(pixels: NDArray[np.bool_]) -> list[Ring]:
    """Closed lines around all parts and holes.

    Corners of the outline are where an odd number of the four pixels around is set, or two that touch diagonally, which
    are two corners at one place. Along each row of corners the first and second, third and fourth and so on are joined,
    and likewise along each column; walking these joins in turn gives the rings.
    """
    padded = np.pad(pixels, 1)
    around = (padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:])
    up_left, up_right, down_left, down_right = around
    count = np.sum(around, axis=0)
    y, x = np.nonzero(count % 2 == 1)
    falling = np.argwhere((count == 2) & up_left & down_right)
    rising = np.argwhere((count == 2) & up_right & down_left)
    # Of two corners at one place, `row_order` says which comes first along the row, `column_order` along the column.
    corners = np.concatenate((np.stack((y, x), 1), falling, falling, rising, rising))
    n, f, r = len(y), len(falling), len(rising)
    row_order = np.repeat((0, 0, 1, 0, 1), (n, f, f, r, r))
    column_order = np.repeat((0, 0, 1, 1, 0), (n, f, f, r, r))
    along_row = _joined(np.lexsort((row_order, corners[:, 1], corners[:, 0])))
    along_column = _joined(np.lexsort((column_order, corners[:, 0], corners[:, 1])))
    return [_directed(corners[ring][:, ::-1].astype(np.float64), pixels) for ring in _walk(along_row, along_column)]


def _joined(order: NDArray[np.intp]) -> list[int]:
    partner = np.empty(len(order), np.intp)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return [int(one) for one in partner]


def _walk(along_row: list[int], along_column: list[int]) -> list[list[int]]:
    is_new = [True] * len(along_row)
    rings = []
    for start in range(len(along_row)):
        if is_new[start]:
            ring, at = [], start
            while is_new[at]:
                across = along_row[at]
                is_new[at] = is_new[across] = False
                ring += [at, across]
                at = along_column[across]
            rings.append(ring)
    return rings


def _directed(ring: Ring, pixels: NDArray[np.bool_]) -> Ring:
    """The ring with the set pixels on its right hand on screen."""
    (x0, y0), (x1, _) = ring[0], ring[1]
    row, column = int(y0), int(min(x0, x1))
    is_below = row < pixels.shape[0] and bool(pixels[row, column])
    return ring if is_below == (x1 > x0) else ring[::-1]


def _without_pinches(ring: Ring) -> list[Ring]:
    """Rings that meet themselves at no corner, from one that may."""
    places = [tuple(corner) for corner in ring.tolist()]
    if len(set(places)) == len(places):
        return [ring]
    found: list[Ring] = []
    path: list[tuple[float, ...]] = []
    position: dict[tuple[float, ...], int] = {}
    for place in places:
        if place in position:
            at = position[place]
            loop = path[at:]
            for passed in loop:
                del position[passed]
            del path[at:]
            found.append(np.array(loop))
        position[place] = len(path)
        path.append(place)
    return [*found, np.array(path)]
