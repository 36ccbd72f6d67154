"""Where cells are, and their borders and nuclei drawn on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from e2sam.data.synthetic.counts.grid import centres, enlarge, nearest
from e2sam.data.synthetic.textures import Planes

__all__ = ["Labels", "Map", "Sites", "Tissue"]

# How many of the nearest centres may own a pixel: elongated cells reach beyond nearer centres.
_CANDIDATES = 6

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sites:
    """Where cells are: N of them, lengths in pixels of the coarse grid.

    Attributes
    ----------
    places
        (N, 2) centres.
    metric
        (N, 2, 2) turns an offset into one whose length counts along the short axis more than along the long one.
    is_cell
        (N,) whether there is a cell or a hole.
    region
        (N,) number of the islet, gland, vessel or nest around it, or 0.
    reach
        (N,) where a cell ends if no other is in the way.
    nucleus
        (7, N) offset along both axes, radius (0 = outside the section), strength and phase of two wobbles.
    """

    places: NDArray[np.float64]
    metric: Planes
    is_cell: NDArray[np.bool_]
    region: Labels
    reach: Planes
    nucleus: Planes


@dataclass(frozen=True, eq=False)
class Map:
    """Sites drawn on a grid: owner of each pixel, whether a cell covers it, how far its border is, depth in a nucleus.

    `depth` is 1 in the middle of a nucleus, 0 at its border and negative outside.
    """

    owner: Labels
    inside: NDArray[np.bool_]
    edge: Planes
    depth: Planes

    @property
    def nucleus(self) -> NDArray[np.bool_]:
        """Where nuclei are, within cells."""
        return np.asarray(self.inside & (self.depth > 0))


@dataclass(frozen=True, eq=False)
class Tissue:
    """Sites with how their borders bend, (2, h, w) on the coarse grid."""

    sites: Sites
    bend: Planes
    spacing: float
    gap: float

    def draw(self, size: tuple[int, int]) -> Map:
        """Borders on a grid (H, W) that covers the same frame as the coarse grid."""
        owner, best, second, offset = self._owners(size)
        edge = np.minimum((second - best - self.gap) / 2, self.sites.reach[owner] - best)
        return Map(owner, self.sites.is_cell[owner] & (edge > 0), edge, self._depth(owner, offset))

    def _owners(self, size: tuple[int, int]) -> tuple[Labels, Planes, Planes, Planes]:
        """Nearest site of each pixel, distances to it and to the second, and offset (2, H, W) along its axes."""
        coarse = (self.bend.shape[1], self.bend.shape[2])
        rows, columns = (centres(length, low) for length, low in zip(size, coarse, strict=True))
        bend = enlarge(self.bend, size, "linear")
        y, x = rows[:, None] + bend[0], columns[None] + bend[1]
        candidates = self._candidates()[nearest(size, coarse)]
        sy, sx = self.sites.places.T.astype(np.float32)
        m = self.sites.metric
        best, second = np.full(size, np.inf, np.float32), np.full(size, np.inf, np.float32)
        owner, offset = np.zeros(size, np.int64), np.zeros((2, *size), np.float32)
        for site in np.moveaxis(candidates, 2, 0):
            dy, dx = y - sy[site], x - sx[site]
            p = m[site, 0, 0] * dy + m[site, 0, 1] * dx
            q = m[site, 1, 0] * dy + m[site, 1, 1] * dx
            distance = np.hypot(p, q)
            closer = distance < best
            second = np.where(closer, best, np.minimum(second, distance))
            best = np.where(closer, distance, best)
            owner[closer], offset[0, closer], offset[1, closer] = site[closer], p[closer], q[closer]
        return owner, best, second, offset

    def _candidates(self) -> Labels:
        """Sites (h, w, N) that may own a pixel of the coarse grid."""
        coarse = self.bend.shape[1:]
        ground = np.indices(coarse).reshape(2, -1).T + 0.5 + self.bend.reshape(2, -1).T
        count = min(_CANDIDATES, len(self.sites.places))
        return np.asarray(cKDTree(self.sites.places).query(ground, k=count)[1], np.int64).reshape(*coarse, count)

    def _depth(self, owner: Labels, offset: Planes) -> Planes:
        nucleus = self.sites.nucleus[:, owner]
        p, q = offset - nucleus[:2]
        theta = np.arctan2(p, q)
        two, three = nucleus[3] * np.cos(2 * theta + nucleus[4]), nucleus[5] * np.cos(3 * theta + nucleus[6])
        limit = nucleus[2] * (1 + two + three)
        return np.where(limit > 0, 1 - np.hypot(p, q) / np.maximum(limit, 1e-3), -9).astype(np.float32)
