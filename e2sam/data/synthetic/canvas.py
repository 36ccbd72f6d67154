"""A scene under construction: planes, instance labels, and what is visible in which plane."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["Canvas", "Layer"]

# An extra channel shows an object where their values differ by this much of the range.
VISIBLE_CONTRAST = 0.12


@dataclass(frozen=True)
class Layer:
    """One thing to paint.

    Attributes
    ----------
    coverage
        (h, w) float32 in [0, 1].
    top, left
        Where its window begins in the scene; may lie outside.
    colour
        (3, h, w) float32 in [0, 1], or None where the colour planes do not show it.
    extras
        (K,) float32 in [0, 1], its value in each further channel; NaN leaves a channel as it is.
    roughness
        How much the extras vary within it.
    """

    coverage: Planes
    top: int
    left: int
    colour: Planes | None
    extras: Planes
    roughness: float = 0.02


@dataclass
class Canvas:
    """Planes (3 + K, H, W) float32 in [0, 1]: colour, then further channels; labels (H, W) int32.

    `visible` holds for each label, 0 first, a (2 + K) bool row: in colour, then in each further channel; `parents` the
    label that it is a part of, or 0.
    """

    planes: Planes
    labels: NDArray[np.int32]
    visible: list[NDArray[np.bool_]] = field(default_factory=list)
    parents: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def empty(cls, num_extras: int, size: tuple[int, int]) -> Canvas:
        """A canvas without anything on it."""
        planes = np.zeros((3 + num_extras, *size), np.float32)
        return cls(planes, np.zeros(size, np.int32), [np.zeros(1 + num_extras, bool)])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.labels.shape
        return height, width

    def paint(self, rng: np.random.Generator, layer: Layer, parent: int = 0, is_object: bool = True) -> int:
        """Paint a layer over what is there; its label, or 0 where nothing of it fell on the canvas."""
        height, width = layer.coverage.shape
        y0, x0 = max(layer.top, 0), max(layer.left, 0)
        y1, x1 = min(layer.top + height, self.size[0]), min(layer.left + width, self.size[1])
        if y0 >= y1 or x0 >= x1:
            return 0
        inner = (slice(y0 - layer.top, y1 - layer.top), slice(x0 - layer.left, x1 - layer.left))
        window = (slice(y0, y1), slice(x0, x1))
        alpha = layer.coverage[inner]
        solid = alpha > 0.5
        if not solid.any():
            return 0
        visible = np.zeros(len(layer.extras) + 1, bool)
        if layer.colour is not None:
            patch = self.planes[(slice(0, 3), *window)]
            patch += alpha * (layer.colour[(slice(None), *inner)] - patch)
            visible[0] = True
        for index, value in enumerate(layer.extras):
            if np.isnan(value):
                continue
            plane = self.planes[(3 + index, *window)]
            visible[index + 1] = abs(float(plane[solid].mean()) - float(value)) > VISIBLE_CONTRAST
            target = np.full(alpha.shape, value, np.float32)
            if layer.roughness > 0 and min(alpha.shape) > 8:
                target += np.float32(layer.roughness) * (smooth_field(rng, (alpha.shape[0], alpha.shape[1]), 3.0) - 0.5)
            plane += alpha * (target - plane)
        if not is_object:
            return 0
        label = self.add_label(visible, parent)
        self.labels[window][solid] = label
        return label

    def add_label(self, visible: NDArray[np.bool_], parent: int = 0) -> int:
        """A new label, seen where `visible` (1 + K,) says, as a part of `parent`."""
        self.visible.append(visible)
        self.parents.append(parent)
        return len(self.visible) - 1

    def shade(self, coverage: Planes, top: int, left: int, strength: float) -> None:
        """Darken the colour planes under a shadow."""
        height, width = coverage.shape
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, self.size[0]), min(left + width, self.size[1])
        if y0 < y1 and x0 < x1:
            self.planes[:3, y0:y1, x0:x1] *= 1 - strength * coverage[y0 - top : y1 - top, x0 - left : x1 - left]
