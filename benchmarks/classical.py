"""What a user has without a network: classical segmentation from the same clicks, behind the call of a predictor."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.segmentation import flood, random_walker, slic, watershed
from skimage.transform import resize

__all__ = ["Answer", "FloodFill", "GraphCut", "RandomWalker", "Watershed", "methods"]

# Capacities of the graph cut are integers: this many units to one nat.
_UNITS = 1000


@dataclass(frozen=True, eq=False)
class Answer:
    """One mask, as a predictor answers."""

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]


class _Clicked:
    """Common part: a picture (H, W, 3) in [0, 1] worked on at `side` pixels, seeds from clicks, one mask back."""

    side = 384

    def __init__(self, picture: NDArray[np.float32], blur: float = 1.0) -> None:
        self.size = picture.shape[:2]
        self.scale = min(1.0, self.side / max(self.size))
        small = tuple(max(8, round(length * self.scale)) for length in self.size)
        self.picture = resize(picture, small, order=1, anti_aliasing=self.scale < 1).astype(np.float32)
        self.lab = gaussian(rgb2lab(self.picture), blur, channel_axis=2)

    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: ArrayLike | None = None,
        mask: Any = None,
        multimask: bool = True,
    ) -> Answer:
        """The mask of these clicks or of a box; earlier logits are not used."""
        del mask, multimask
        seeds = np.zeros(self.picture.shape[:2], np.int32)
        if box is not None:
            self._mark_box(seeds, np.asarray(box, float))
        for (x, y), label in zip(points or (), labels or (), strict=True):
            self._mark(seeds, x * self.scale, y * self.scale, 1 if label else 2)
        small = self.segment(seeds)
        if self.scale < 1:
            small = resize(small.astype(np.float32), self.size, order=1) > 0.5
        return Answer(small[None], np.ones(1, np.float32), small[None].astype(np.float32))

    @staticmethod
    def _mark(seeds: NDArray[np.int32], x: float, y: float, value: int) -> None:
        row, column = min(int(y), seeds.shape[0] - 1), min(int(x), seeds.shape[1] - 1)
        seeds[row, column] = value

    def _mark_box(self, seeds: NDArray[np.int32], box: NDArray[np.float64]) -> None:
        x0, y0, x1, y1 = (box * self.scale).round().astype(int).tolist()
        outside = np.ones(seeds.shape, bool)
        outside[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = False
        seeds[outside] = 2
        rows, columns = (y1 - y0) // 4, (x1 - x0) // 4
        seeds[y0 + rows : max(y1 - rows, y0 + rows + 1), x0 + columns : max(x1 - columns, x0 + columns + 1)] = 1

    def _with_border(self, seeds: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where nothing was marked as outside, the border of the image is, unless the object was clicked there."""
        if (seeds == 2).any():
            return seeds
        marked = seeds.copy()
        ring = np.ones(seeds.shape, bool)
        ring[1:-1, 1:-1] = False
        marked[ring & (seeds == 0)] = 2
        return marked

    def segment(self, seeds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Mask at the working size from seeds: 1 inside, 2 outside, 0 unknown."""
        raise NotImplementedError


class FloodFill(_Clicked):
    """Flood fill in CIELAB from each inner click, less what floods from outer clicks at half the tolerance."""

    def __init__(self, picture: NDArray[np.float32], tolerance: float, blur: float = 1.0) -> None:
        super().__init__(picture, blur)
        self.tolerance = tolerance

    def segment(self, seeds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """See `_Clicked.segment`."""
        inside = self._flooded(np.argwhere(seeds == 1), self.tolerance)
        count = int((seeds == 2).sum())
        outside = self._flooded(np.argwhere(seeds == 2), self.tolerance / 2) if count < 50 else seeds == 2
        return inside & ~outside | (seeds == 1)

    def _flooded(self, places: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
        covered = np.zeros(self.lab.shape[:2], bool)
        for row, column in places[:40]:
            if not covered[row, column]:
                distance = np.linalg.norm(self.lab - self.lab[row, column], axis=2)
                covered |= flood((distance <= tolerance).astype(np.uint8), (int(row), int(column)))
        return covered


class Watershed(_Clicked):
    """Seeded watershed of the colour gradient."""

    def __init__(self, picture: NDArray[np.float32], compactness: float, blur: float = 1.0) -> None:
        super().__init__(picture, blur)
        self.compactness = compactness
        steps = [ndimage.sobel(self.lab, axis=axis) ** 2 for axis in (0, 1)]
        self.gradient = np.sqrt((steps[0] + steps[1]).sum(2))
        self.gradient /= self.gradient.max() + 1e-6

    def segment(self, seeds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """See `_Clicked.segment`."""
        found: NDArray[np.int32] = watershed(self.gradient, self._with_border(seeds), compactness=self.compactness)
        return found == 1


class RandomWalker(_Clicked):
    """Random walker (Grady, 2006)."""

    side = 192

    def __init__(self, picture: NDArray[np.float32], beta: float, blur: float = 0.7) -> None:
        super().__init__(picture, blur)
        self.beta = beta

    def segment(self, seeds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """See `_Clicked.segment`."""
        marked = self._with_border(seeds)
        if not (marked == 1).any():
            return np.zeros(seeds.shape, bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: NDArray[np.int32] = random_walker(
                self.lab / 100, marked, beta=self.beta, mode="cg_j", tol=1e-2, channel_axis=2
            )
        return found == 1


class GraphCut(_Clicked):
    """Graph cut over superpixels with colour histograms of inside and outside, as GrabCut and Lazy Snapping do."""

    def __init__(self, picture: NDArray[np.float32], smoothness: float, blur: float = 0.7) -> None:
        super().__init__(picture, blur)
        self.smoothness = smoothness
        count = int(np.clip(self.picture.shape[0] * self.picture.shape[1] / 60, 60, 1500))
        self.pieces = slic(self.lab, count, compactness=8, channel_axis=2, start_label=0, convert2lab=False)
        self.count = int(self.pieces.max()) + 1
        areas = np.bincount(self.pieces.ravel(), minlength=self.count)
        self.colours = np.stack(
            [np.bincount(self.pieces.ravel(), self.lab[..., k].ravel(), self.count) / areas for k in range(3)], 1
        )
        self.links = self._neighbours()

    def _neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Pairs (E, 2) of touching pieces, and the likeness of their colours times the length of their border."""
        pairs = np.concatenate(
            (
                np.stack((self.pieces[:, :-1].ravel(), self.pieces[:, 1:].ravel()), 1),
                np.stack((self.pieces[:-1].ravel(), self.pieces[1:].ravel()), 1),
            )
        )
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
        unique, length = np.unique(pairs, axis=0, return_counts=True)
        distance = ((self.colours[unique[:, 0]] - self.colours[unique[:, 1]]) ** 2).sum(1)
        return unique, np.exp(-distance / (2 * distance.mean() + 1e-6)) * length / length.mean()

    def segment(self, seeds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """See `_Clicked.segment`: the cut, then the models from it, twice."""
        marked = self._with_border(seeds)
        inside, outside = np.unique(self.pieces[marked == 1]), np.unique(self.pieces[marked == 2])
        outside = np.setdiff1d(outside, inside)
        if len(inside) == 0:
            return np.zeros(seeds.shape, bool)
        chosen_in, chosen_out = inside, outside if len(outside) else np.setdiff1d(np.arange(self.count), inside)
        result = np.zeros(self.count, bool)
        for _ in range(2):
            result = self._cut(self._cost(chosen_in), self._cost(chosen_out), inside, outside)
            if result.all() or not result.any():
                break
            chosen_in, chosen_out = np.flatnonzero(result), np.flatnonzero(~result)
        return result[self.pieces]

    def _cost(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Minus log likelihood of each piece's colour under a kernel density of the members' colours."""
        some = self.colours[members[:: max(1, len(members) // 60)]]
        distance = ((self.colours[:, None] - some[None]) ** 2).sum(2)
        return -np.log(np.exp(-distance / (2 * 8.0**2)).mean(1) + 1e-4)

    def _cut(
        self,
        cost_in: NDArray[np.float64],
        cost_out: NDArray[np.float64],
        inside: NDArray[np.int64],
        outside: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Pieces on the source's side of the least cut."""
        cost_in, cost_out = cost_in.copy(), cost_out.copy()
        cost_in[outside], cost_out[inside] = 1e3, 1e3
        source, sink = self.count, self.count + 1
        nodes = np.arange(self.count)
        pairs, weights = self.links
        weights = weights * self.smoothness
        rows = np.concatenate((np.full(self.count, source), nodes, pairs[:, 0], pairs[:, 1]))
        columns = np.concatenate((nodes, np.full(self.count, sink), pairs[:, 1], pairs[:, 0]))
        capacity = (np.concatenate((cost_out, cost_in, weights, weights)) * _UNITS).astype(np.int32)
        graph = coo_array((capacity, (rows, columns)), shape=(self.count + 2, self.count + 2)).tocsr()
        rest = graph - maximum_flow(graph, source, sink).flow
        rest.data = np.maximum(rest.data, 0)
        rest.eliminate_zeros()
        reached = breadth_first_order(rest, source, return_predecessors=False)
        result = np.zeros(self.count + 2, bool)
        result[reached] = True
        return result[: self.count]


def methods() -> dict[str, tuple[type[_Clicked], tuple[float, ...]]]:
    """Each method and the settings of which the best for a set is reported."""
    return {
        "flood fill": (FloodFill, (8.0, 20.0)),
        "watershed": (Watershed, (0.0, 0.001)),
        "random walker": (RandomWalker, (300.0, 3000.0)),
        "graph cut": (GraphCut, (1.0, 4.0)),
    }
