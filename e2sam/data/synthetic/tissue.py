"""Cells packed side by side, as in tissue and in dense cultures, with membranes, nuclei and gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from e2sam.data.synthetic import shapes
from e2sam.data.synthetic.canvas import Canvas, Layer
from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["paint_tissue"]

# A stain shows the borders of cells where membranes or gaps differ from the cells by this much of the range.
_VISIBLE_STAIN = 0.15


@dataclass(frozen=True, eq=False)
class _Packing:
    """Cell index of each pixel (H, W), how far the next cell's centre is beyond its own, and the cells' centres."""

    nearest: NDArray[np.int64]
    margin: Planes
    sites: NDArray[np.float64]
    spacing: float


def paint_tissue(rng: np.random.Generator, canvas: Canvas) -> None:
    """Fill the canvas with touching cells; a nucleus has a label of its own, as a part of its cell."""
    packing = _pack(rng, canvas.size)
    count, num_planes = len(packing.sites), len(canvas.planes)
    is_cell = rng.random(count) < rng.uniform(0.6, 1.0)
    gap = float(rng.choice([0.0, 0.04, 0.12])) * packing.spacing
    inside = is_cell[packing.nearest] & (packing.margin > gap)
    membrane = np.exp(-((packing.margin / max(1.2, 0.12 * packing.spacing * rng.uniform(0.5, 1.5))) ** 2))
    membrane *= is_cell[packing.nearest]
    ground, body, rim = (
        rng.uniform(0, 0.12, num_planes),
        rng.uniform(0, 0.6, num_planes),
        rng.uniform(0, 0.7, num_planes),
    )
    rim[rng.random(num_planes) < 0.5] = 0
    body[rng.random(num_planes) < 0.3] = 0
    if rim[:3].max() < 0.25 and rng.random() < 0.8:
        rim[int(rng.integers(3))] = rng.uniform(0.25, 0.7)
    spread = rng.uniform(0.05, 0.5)
    for index in range(num_planes):
        gains = np.exp(rng.normal(0, spread, count))
        grain = 1 - rng.uniform(0, 0.6) * smooth_field(rng, canvas.size, float(rng.uniform(8, 60)), 2)
        plane = ground[index] + inside * gains[packing.nearest] * grain * body[index] + membrane * rim[index]
        canvas.planes[index] = plane
    shown = np.maximum(rim, np.where(gap > 0, body, body * spread)) > _VISIBLE_STAIN
    visible = np.concatenate(([shown[:3].any()], shown[3:]))
    labels = np.zeros(count, np.int32)
    for cell in np.flatnonzero(is_cell):
        labels[cell] = canvas.add_label(visible)
    canvas.labels[:] = np.where(inside, labels[packing.nearest], 0)
    if rng.random() < 0.8:
        _nuclei(rng, canvas, packing, labels)
    if rng.random() < 0.2:
        canvas.planes[:3] = 1 - canvas.planes[:3]


def _pack(rng: np.random.Generator, size: tuple[int, int]) -> _Packing:
    """A Voronoi diagram of a shaken grid of centres, its borders bent by smooth noise."""
    spacing = float(np.exp(rng.uniform(np.log(14), np.log(90))))
    shake = rng.uniform(0.15, 0.45) * spacing
    rows, columns = (np.arange(-spacing, length + spacing, spacing) for length in size)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    sites = grid + rng.normal(0, shake, grid.shape)
    bend = spacing * rng.uniform(0, 0.8)
    places = np.indices(size).astype(np.float32)
    for axis in range(2):
        places[axis] += bend * (smooth_field(rng, size, 2.5 * max(size) / spacing, 2) - 0.5)
    distances, nearest = cKDTree(sites).query(places.reshape(2, -1).T, k=2)
    margin = (distances[:, 1] - distances[:, 0]).reshape(size)
    return _Packing(nearest[:, 0].reshape(size), margin.astype(np.float32), sites, spacing)


def _nuclei(rng: np.random.Generator, canvas: Canvas, packing: _Packing, labels: NDArray[np.int32]) -> None:
    """A rounded nucleus in most cells, bright in some stains and dark in others."""
    stain = rng.uniform(0.3, 1.0, len(canvas.planes)) * (rng.random(len(canvas.planes)) < 0.5)
    stain[int(rng.integers(3))] = rng.uniform(0.35, 1.0)
    share = rng.uniform(0.35, 0.75)
    is_soft = rng.random() < 0.6
    for cell, (row, column) in enumerate(packing.sites):
        side = max(8, int(packing.spacing * share * np.exp(rng.normal(0, 0.15))))
        if not labels[cell] or rng.random() < 0.1:
            continue
        coverage = shapes.blob(rng, side, 0.12)
        if is_soft:
            coverage = ndimage.gaussian_filter(coverage, side * rng.uniform(0.03, 0.1))
        gain = np.float32(np.exp(rng.normal(0, 0.2)))
        colour = np.broadcast_to(np.clip(stain[:3, None, None] * gain, 0, 1), (3, side, side)).astype(np.float32)
        extras = np.where(stain[3:] > 0, np.clip(stain[3:] * gain, 0, 1), np.nan).astype(np.float32)
        top, left = int(row) - side // 2, int(column) - side // 2
        canvas.paint(rng, Layer(coverage, top, left, colour, extras, 0.1), parent=int(labels[cell]))
