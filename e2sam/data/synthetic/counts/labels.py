"""Labels of cells, nuclei and regions, where some plane shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.counts.sites import Labels, Map, Tissue
from e2sam.data.synthetic.textures import Planes

__all__ = ["Shown", "label_cells", "label_regions"]

# A marker shows a thing whose mean differs from the ground by this much of the range.
_VISIBLE_CONTRAST = 0.08


@dataclass(frozen=True, eq=False)
class Shown:
    """Noiseless markers (M, h, w), their shares in each plane (3 + K, M), and the cells on the same grid."""

    means: Planes
    mixture: Planes
    drawn: Map

    def table(self, numbers: Labels, count: int) -> NDArray[np.bool_]:
        """Which planes (count, 1 + K), colour first, show things numbered 0 .. count - 1 (h, w), else -1."""
        outside = numbers < 0
        ground = np.percentile(self.means[:, outside if outside.mean() > 0.1 else ~outside], 20, axis=1)
        flat, has = numbers.ravel(), numbers.ravel() >= 0
        areas = np.maximum(np.bincount(flat[has], minlength=count), 1)
        inner = np.stack([np.bincount(flat[has], plane.ravel()[has], count) / areas for plane in self.means])
        contrast = np.abs(inner - ground[:, None])
        planes = self.mixture @ contrast > _VISIBLE_CONTRAST
        return np.concatenate((planes[:3].any(0, keepdims=True), planes[3:])).T


def label_cells(
    rng: np.random.Generator, canvas: Canvas, drawn: Map, shown: Shown, has_nuclear: bool
) -> NDArray[np.int32]:
    """Label cells as annotators do, or as pipelines that expand nuclei do; some scenes nuclei as parts too.

    Labels are on the grid of `drawn`.
    """
    count = int(max(drawn.owner.max(), shown.drawn.owner.max())) + 1
    visible = shown.table(np.where(shown.drawn.inside, shown.drawn.owner, -1), count)
    seen = shown.table(np.where(shown.drawn.nucleus, shown.drawn.owner, -1), count)
    nuclei = np.where(drawn.nucleus, drawn.owner, -1)
    is_expanded = rng.random() < 0.4 and has_nuclear
    has_parts = rng.random() < 0.35 and has_nuclear
    if is_expanded:
        unit = drawn.owner.shape[0] / shown.drawn.owner.shape[0]
        distance, index = (np.asarray(each) for each in ndimage.distance_transform_edt(nuclei < 0, return_indices=True))
        cells = np.where(distance <= rng.integers(1, 4) * unit, nuclei[index[0], index[1]], -1)
    else:
        cells = np.where(drawn.inside, drawn.owner, -1)
    numbers = np.zeros(count + 1, np.int32)
    parts = np.zeros(count + 1, np.int32)
    for cell in np.unique(cells[cells >= 0]):
        if (visible[cell] | seen[cell]).any():
            numbers[cell] = canvas.add_label(visible[cell] | seen[cell])
            if has_parts and seen[cell].any():
                parts[cell] = canvas.add_label(seen[cell], parent=int(numbers[cell]))
    labels = numbers[cells]
    if has_parts:
        inside = np.where(cells == nuclei, parts[nuclei], 0)
        labels[inside > 0] = inside[inside > 0]
    return labels


def label_regions(
    rng: np.random.Generator, canvas: Canvas, tissue: Tissue, drawn: Map, shown: Shown
) -> NDArray[np.int32]:
    """Label islets, glands and vessels as wholes, at times with the lumen as a part.

    Labels are on the grid of `drawn`.
    """
    labels = np.zeros(drawn.owner.shape, np.int32)
    sites = tissue.sites
    count = int(sites.region.max()) + 1
    region = sites.region[shown.drawn.owner]
    visible = shown.table(np.where(region > 0, region, -1), count)
    has_lumen = rng.random() < 0.4
    around = sites.region[drawn.owner]
    near = drawn.inside | ~sites.is_cell[drawn.owner]
    smooth = 0.25 * tissue.spacing * drawn.owner.shape[0] / shown.drawn.owner.shape[0]
    for number in range(1, count):
        if not visible[number].any():
            continue
        mask = ndimage.binary_closing(np.pad((around == number) & near, 6), iterations=3)[6:-6, 6:-6]
        whole = np.asarray(ndimage.binary_fill_holes(mask), np.float32)
        pieces, found = ndimage.label((ndimage.gaussian_filter(whole, smooth) > 0.5) & (labels == 0))
        if not found:
            continue
        mask = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        label = canvas.add_label(visible[number])
        labels[mask] = label
        lumen = np.where(sites.is_cell[drawn.owner] | (around != number), False, mask)
        if has_lumen and lumen.any():
            labels[lumen] = canvas.add_label(visible[number], parent=label)
    return labels
