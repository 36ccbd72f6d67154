"""Cells spread on glass under fluorescence: bright around the nucleus, fading to a dim rim, with thin extensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic import shapes
from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["paint_culture"]

# A stain shows cells whose rims differ from the ground by this much of the range.
_VISIBLE_STAIN = 0.03
_MOST_CELLS = 60


@dataclass(frozen=True, eq=False)
class _Stains:
    """How strongly each plane (P,) shows the body, what lies around the nucleus, the rim, the nucleus and grains.

    `floor` and `bend` say how a body fades from its middle to its rim: floor + (1 - floor) * depth ** bend.
    """

    body: NDArray[np.float64]
    inner: NDArray[np.float64]
    rim: NDArray[np.float64]
    nucleus: NDArray[np.float64]
    grains: NDArray[np.float64]
    floor: float
    bend: float

    @classmethod
    def draw(cls, rng: np.random.Generator, num_planes: int) -> _Stains:
        """Stains of one culture: most planes show one or two structures; colour always shows bodies or their rims."""
        strengths = rng.uniform(0.2, 1.0, (5, num_planes)) * (rng.random((5, num_planes)) < 0.4)
        if max(strengths[0, :3].max(), strengths[2, :3].max()) < 0.3:
            strengths[0, int(rng.integers(3))] = rng.uniform(0.4, 1.0)
        if rng.random() < 0.8:
            strengths[3, int(rng.integers(3))] = rng.uniform(0.5, 1.2)
        body, inner, rim, nucleus, grains = strengths
        floor, bend = float(rng.uniform(0.05, 0.5)), float(np.exp(rng.normal(0, 0.5)))
        return cls(body, inner, 0.6 * rim, nucleus, grains, floor, bend)


def paint_culture(rng: np.random.Generator, canvas: Canvas) -> None:
    """Put cells on a dark ground; a nucleus has a label of its own, as a part of its cell."""
    num_planes = len(canvas.planes)
    for plane in canvas.planes:
        plane[:] = rng.uniform(0, 0.06) + rng.uniform(0, 0.06) * smooth_field(
            rng, canvas.size, float(rng.uniform(1, 4))
        )
    stains = _Stains.draw(rng, num_planes)
    side = float(np.exp(rng.uniform(np.log(26), np.log(190))))
    count = int(np.clip(rng.uniform(0.2, 1.4) * canvas.size[0] * canvas.size[1] / side**2, 3, _MOST_CELLS))
    softness = float(rng.uniform(0.0, 0.08))
    extensions = float(rng.uniform(0, 4))
    for _ in range(count):
        _cell(rng, canvas, stains, max(16, int(side * np.exp(rng.normal(0, 0.25)))), softness, extensions)
    for _ in range(int(rng.integers(0, 5))):
        _debris(rng, canvas, side)
    # As a percentile recipe would show it.
    canvas.planes /= np.maximum(np.percentile(canvas.planes, 99.5, axis=(1, 2), keepdims=True), 0.2) * rng.uniform(
        0.7, 1.2
    )
    np.clip(canvas.planes, 0, 1, out=canvas.planes)


def _cell(
    rng: np.random.Generator, canvas: Canvas, stains: _Stains, side: int, softness: float, extensions: float
) -> None:
    """One cell over what is there."""
    coverage = _spread(rng, side, extensions)
    solid = coverage > 0.5
    if not solid.any():
        return
    depth = ndimage.distance_transform_edt(solid).astype(np.float32)
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    thickness = float(depth.max())
    depth /= thickness
    nucleus = solid * _nucleus(rng, side, (int(row), int(column)), thickness)
    away = np.hypot(*np.ogrid[-row : side - row, -column : side - column]).astype(np.float32)
    body = stains.floor + (1 - stains.floor) * depth**stains.bend
    inner = np.exp(-((away / (thickness * rng.uniform(0.8, 1.8))) ** 2))
    rim = np.exp(-(((depth * thickness) / max(1.5, 0.15 * thickness)) ** 2))
    fine = smooth_field(rng, (side, side), float(rng.uniform(6, max(7, side / 4))), 2)
    grains = np.clip(fine * 3 - 1.6, 0, 1) * np.maximum(inner, body * 0.5)
    hollow = 1 - nucleus * rng.uniform(-0.2, 0.8)
    grain = 1 - rng.uniform(0, 0.5) * fine
    gain = np.exp(rng.normal(0, 0.3))
    soft = ndimage.gaussian_filter(coverage, softness * side) if softness > 0.01 else coverage
    where = _place(rng, canvas, side)
    if where is None:
        return
    place, window = where
    for index, plane in enumerate(canvas.planes):
        value = stains.body[index] * body * grain * hollow + stains.inner[index] * inner * grain * hollow
        value += stains.rim[index] * rim + stains.grains[index] * grains + stains.nucleus[index] * nucleus
        patch = plane[place]
        patch += (soft * value * gain)[window] - 0.5 * patch * (soft * min(1.0, float(stains.body[index])))[window]
    edge = np.maximum(stains.body * stains.floor, stains.rim * 0.5) * gain
    shown = edge > _VISIBLE_STAIN
    label = canvas.add_label(np.concatenate(([shown[:3].any()], shown[3:])))
    canvas.labels[place][solid[window]] = label
    stained = stains.nucleus * gain > 0.15
    if stained.any():
        part = canvas.add_label(np.concatenate(([stained[:3].any()], stained[3:])), parent=label)
        canvas.labels[place][(nucleus > 0.5)[window]] = part


def _nucleus(rng: np.random.Generator, side: int, centre: tuple[int, int], thickness: float) -> Planes:
    """Coverage (side, side) of a nucleus around (row, column), smaller than the cell is thick there."""
    coverage = np.zeros((side, side), np.float32)
    diameter = max(6, int(2 * thickness * rng.uniform(0.5, 0.95)))
    top, left = centre[0] - diameter // 2, centre[1] - diameter // 2
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + diameter, side), min(left + diameter, side)
    coverage[y0:y1, x0:x1] = shapes.blob(rng, diameter, 0.1)[y0 - top : y1 - top, x0 - left : x1 - left]
    return coverage


def _spread(rng: np.random.Generator, side: int, extensions: float) -> Planes:
    """Coverage (side, side) of a spread cell: a wobbling ellipse with a few tapering extensions."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    angle = rng.uniform(0, np.pi)
    u = axis[None] * np.cos(angle) + axis[:, None] * np.sin(angle)
    v = (axis[:, None] * np.cos(angle) - axis[None] * np.sin(angle)) / rng.uniform(0.35, 1.0)
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    limit = np.full_like(radius, rng.uniform(0.4, 0.7))
    for wave in range(2, 6):
        limit += 0.12 / wave * rng.normal() * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    for _ in range(rng.poisson(extensions)):
        towards = np.cos(theta - rng.uniform(0, 2 * np.pi))
        limit += rng.uniform(0.1, 0.5) * np.clip(towards, 0, 1) ** rng.uniform(6, 60)
    coverage: Planes = np.clip((np.clip(limit, 0.2, 0.85) - radius) * side / 2 + 0.5, 0, 1).astype(np.float32)
    return coverage


def _debris(rng: np.random.Generator, canvas: Canvas, side: float) -> None:
    """Something out of focus that is no object."""
    each = max(12, int(side * rng.uniform(0.2, 0.9)))
    glow = np.pad(shapes.blob(rng, each, 0.2), each // 2)
    glow = ndimage.gaussian_filter(glow, each * rng.uniform(0.03, 0.15))
    where = _place(rng, canvas, len(glow))
    if where is not None:
        place, window = where
        strength = rng.uniform(0, 0.8, len(canvas.planes)) * (rng.random(len(canvas.planes)) < 0.5)
        canvas.planes[(slice(None), *place)] += strength[:, None, None].astype(np.float32) * glow[window]


def _place(
    rng: np.random.Generator, canvas: Canvas, side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where a square falls on the canvas, and which part of it does; None where nothing does."""
    height, width = canvas.size
    top, left = int(rng.integers(-side // 2, height - side // 2)), int(rng.integers(-side // 2, width - side // 2))
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side, height), min(left + side, width)
    if y0 >= y1 or x0 >= x1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
