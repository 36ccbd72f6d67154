"""Silhouettes of objects as coverage maps (h, w) in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.textures import smooth_field

__all__ = ["blob", "curve", "noise_shape", "polygon", "sprite"]

Coverage = NDArray[np.float32]


def _polar(side: int, aspect: float, angle: float) -> tuple[Coverage, Coverage]:
    """Radius, 1 at the inscribed ellipse, and angle of each pixel of a square of `side`."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    x, y = axis[None, :], axis[:, None]
    u = x * np.cos(angle) + y * np.sin(angle)
    v = (y * np.cos(angle) - x * np.sin(angle)) / aspect
    return np.hypot(u, v).astype(np.float32), np.arctan2(v, u).astype(np.float32)


def _filled(radius: Coverage, limit: Coverage | float, side: int) -> Coverage:
    """Coverage of what lies within the limit, with an edge one pixel soft."""
    return np.clip((limit - radius) * side / 2 + 0.5, 0, 1).astype(np.float32)


def blob(rng: np.random.Generator, side: int, wobble: float = 0.25) -> Coverage:
    """A rounded shape: an ellipse whose radius wobbles with the angle."""
    radius, theta = _polar(side, float(rng.uniform(0.4, 1.0)), float(rng.uniform(0, np.pi)))
    limit = np.full_like(radius, 0.78)
    for wave in range(2, int(rng.integers(3, 8))):
        limit += wobble / wave * rng.normal() * np.cos(wave * theta + rng.uniform(0, 6.3)).astype(np.float32)
    return _filled(radius, np.clip(limit, 0.2, 1.0), side)


def polygon(rng: np.random.Generator, side: int) -> Coverage:
    """A rectangle, regular polygon or star, turned and stretched."""
    aspect = float(rng.uniform(0.25, 1.0))
    angle = float(rng.uniform(0, np.pi)) if rng.random() < 0.6 else 0.0
    radius, theta = _polar(side, aspect, angle)
    if rng.random() < 0.45:
        limit = 0.72 / np.maximum(np.abs(np.cos(theta)), np.abs(np.sin(theta)))
        return _filled(radius, np.clip(limit, 0, 1.0).astype(np.float32), side)
    corners = int(rng.integers(3, 9))
    sector = np.pi / corners
    folded = np.abs((theta + rng.uniform(0, 6.3)) % (2 * sector) - sector)
    if rng.random() < 0.4:
        inner = rng.uniform(0.35, 0.8)
        limit = 0.95 * (inner + (1 - inner) * folded / sector)
    else:
        limit = 0.95 * np.cos(sector) / np.cos(sector - folded)
    return _filled(radius, limit.astype(np.float32), side)


def noise_shape(rng: np.random.Generator, side: int) -> Coverage:
    """An irregular shape: smooth noise above a threshold, fading to the rim."""
    radius, _ = _polar(side, float(rng.uniform(0.5, 1.0)), float(rng.uniform(0, np.pi)))
    field = smooth_field(rng, (side, side), float(rng.uniform(2, 5)), 3) + 0.9 * (1 - radius) - 0.55
    slope = float(np.abs(np.diff(field, axis=1)).mean()) + 1e-4
    return np.clip(field / slope / 4 + 0.5, 0, 1).astype(np.float32)


def curve(rng: np.random.Generator, side: int) -> Coverage:
    """A thin, smoothly bent line."""
    steps = np.linspace(-0.85, 0.85, 48)
    x = steps * rng.uniform(0.7, 1) + 0.12 * rng.normal() * np.sin(steps * rng.uniform(1, 5))
    y = 0.35 * rng.normal() * steps**2 + 0.25 * rng.normal() * np.sin(steps * rng.uniform(1, 6) + rng.uniform(0, 6))
    angle = rng.uniform(0, np.pi)
    points = np.stack((x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)), 1)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    nearest = np.full((side, side), 9.0, np.float32)
    for px, py in np.clip(points, -0.97, 0.97):
        np.minimum(nearest, (axis[None, :] - px) ** 2 + (axis[:, None] - py) ** 2, out=nearest)
    half_width = max(rng.uniform(0.025, 0.12), 2.0 / side)
    return _filled(np.sqrt(nearest), half_width, side)


def sprite(rng: np.random.Generator, side: int, material: Material) -> NDArray[np.float32]:
    """A picture of the material (4, side, side): RGB and coverage, turned, mirrored and stretched."""
    picture = material.sprite(int(rng.integers(material.num_sprites)))
    height, width = picture.shape[1:]
    angle = rng.normal(0, 0.25) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    stretch = float(np.exp(rng.normal(0, 0.15)))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    half = max(height, width) / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))) ** 0.7
    x = mirror * (axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)) * half * stretch + width / 2 - 0.5
    y = (axis[:, None] * np.cos(angle) - axis[None, :] * np.sin(angle)) * half / stretch + height / 2 - 0.5
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
    padded = np.pad(picture, ((0, 0), (1, 1), (1, 1)))
    column = np.clip(column + 1, 0, width)
    row = np.clip(row + 1, 0, height)
    outside = (x < -1) | (x > width) | (y < -1) | (y > height)
    result = (padded[:, row, column] * (1 - fx) + padded[:, row, column + 1] * fx) * (1 - fy) + (
        padded[:, row + 1, column] * (1 - fx) + padded[:, row + 1, column + 1] * fx
    ) * fy
    result[3][outside] = 0
    return np.asarray(result, np.float32)
