"""Tissue in counts, painted on a canvas."""

from __future__ import annotations

import numpy as np

from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.counts.counting import count_markers
from e2sam.data.synthetic.counts.grid import enlarge, nearest
from e2sam.data.synthetic.counts.labels import Shown, label_cells, label_regions
from e2sam.data.synthetic.counts.layout import make_tissue
from e2sam.data.synthetic.counts.markers import expect, make_panel

__all__ = ["paint_counts"]


def paint_counts(rng: np.random.Generator, canvas: Canvas, is_clean: bool = False) -> None:
    """Fill the canvas with tissue in counts; without noise if `is_clean`.

    Mostly cells have labels, at times with their nuclei as parts; else islets, glands and vessels do.
    """
    size = canvas.size
    coarse = _coarse_size(rng, size)
    method = str(rng.choice(["nearest", "linear", "cubic"], p=[0.45, 0.3, 0.25]))
    of_regions = rng.random() < 0.2
    tissue = make_tissue(rng, coarse, of_regions)
    kinds, mixture = make_panel(rng, len(canvas.planes) - 3)
    if of_regions:
        kinds[0] = str(rng.choice(["cytoplasm", "membrane"]))
    shares = [1.0 if of_regions and not index else 0.6 * of_regions for index in range(len(kinds))]
    fine = tissue.draw((2 * coarse[0], 2 * coarse[1]))
    expected = np.stack([expect(rng, tissue, fine, *each) for each in zip(kinds, shares, strict=True)])
    counts, means = count_markers(rng, expected, is_clean)
    canvas.planes[:] = np.clip(np.einsum("pm,mhw->phw", mixture, enlarge(counts, size, method)), 0, 1)
    if rng.random() < 0.04:
        canvas.planes[:3] = 1 - canvas.planes[:3]
    shown = Shown(means, mixture, tissue.draw(coarse))
    # Labels are as coarse as the pixels that show.
    drawn = shown.drawn if method == "nearest" else tissue.draw(size)
    if of_regions:
        labels = label_regions(rng, canvas, tissue, drawn, shown)
    else:
        labels = label_cells(rng, canvas, drawn, shown, "nuclear" in kinds)
    canvas.labels[:] = labels[nearest(size, coarse)] if method == "nearest" else labels


def _coarse_size(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    """Pixels that were counted, over a canvas of some size."""
    side = min(float(np.exp(rng.uniform(np.log(60), np.log(160)))), max(size))
    height, width = (min(max(16, round(length * side / max(size))), length) for length in size)
    return height, width
