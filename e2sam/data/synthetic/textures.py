"""Textures and smooth fields, procedural or from photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.data.synthetic.material import Material

__all__ = ["random_colour", "resample", "smooth_field", "texture"]

Planes = NDArray[np.float32]


def _weights(length: int, samples: int) -> Planes:
    """(length, samples) matrix of linear interpolation from a grid whose ends are the ends of the axis."""
    position = np.linspace(0, samples - 1, length, dtype=np.float32) if length > 1 else np.zeros(1, np.float32)
    low = np.minimum(position.astype(np.int64), max(samples - 2, 0))
    fraction = position - low
    matrix = np.zeros((length, samples), np.float32)
    rows = np.arange(length)
    matrix[rows, low] = 1 - fraction
    matrix[rows, np.minimum(low + 1, samples - 1)] += fraction
    return matrix


def resample(planes: Planes, size: tuple[int, int]) -> Planes:
    """Planes (..., h, w) at another size, bilinear, by two matrix products."""
    height, width = planes.shape[-2:]
    result = _weights(size[0], height) @ planes @ _weights(size[1], width).T
    return np.asarray(result, np.float32)


def smooth_field(rng: np.random.Generator, size: tuple[int, int], cells: float, octaves: int = 1) -> Planes:
    """Smooth random field (h, w) in [0, 1] with about `cells` bumps along the longer side; octaves add finer ones."""
    field = np.zeros(size, np.float32)
    longest = max(size)
    for octave in range(octaves):
        grid = tuple(max(2, round(cells * 2**octave * side / longest) + 1) for side in size)
        field += resample(rng.random(grid, dtype=np.float32), size) * 0.6**octave
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


def random_colour(rng: np.random.Generator) -> Planes:
    """A colour (3,) in [0, 1]: grey, muted or vivid."""
    grey = rng.random(dtype=np.float32)
    spread = rng.choice([0.0, 0.15, 0.4, 1.0], p=[0.15, 0.35, 0.3, 0.2])
    colour = grey + spread * (rng.random(3, dtype=np.float32) - 0.5)
    return np.asarray(np.clip(colour, 0, 1), np.float32)


def texture(rng: np.random.Generator, size: tuple[int, int], material: Material | None) -> Planes:
    """A colour texture (3, h, w) float32 in [0, 1]: photograph, noise, stripes, gradient or flat."""
    has_photos = material is not None and material.num_photos > 0
    kind = rng.choice(
        ["photo", "noise", "stripes", "gradient", "flat", "grain"],
        p=[0.45, 0.2, 0.08, 0.09, 0.13, 0.05] if has_photos else [0.0, 0.4, 0.15, 0.15, 0.2, 0.1],
    )
    if kind == "photo" and material is not None:
        return _photo_texture(rng, size, material)
    first, second = random_colour(rng), random_colour(rng)
    if rng.random() < 0.6:
        # Most surfaces vary little within themselves.
        second = np.clip(first + rng.uniform(0.05, 0.3) * (second - first), 0, 1)
    return first[:, None, None] + (second - first)[:, None, None] * _mixture(rng, size, str(kind))


def _mixture(rng: np.random.Generator, size: tuple[int, int], kind: str) -> Planes:
    """Share (h, w) of the second colour."""
    if kind == "flat":
        return np.zeros(size, np.float32)
    if kind == "noise":
        field = smooth_field(rng, size, float(rng.uniform(1.5, 14)), int(rng.integers(1, 5)))
        if rng.random() < 0.25:
            return (field > rng.uniform(0.35, 0.65)).astype(np.float32)
        return field
    if kind == "grain":
        return rng.random(size, dtype=np.float32)
    y, x = np.ogrid[: size[0], : size[1]]
    angle = rng.uniform(0, np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    if kind == "gradient":
        low, high = float(along.min()), float(along.max())
        return np.asarray((along - low) / max(high - low, 1e-6), np.float32)
    wave = np.sin(along * (2 * np.pi / rng.uniform(4, 40)) + rng.uniform(0, 6))
    if rng.random() < 0.3:
        across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
        wave = wave * np.sin(across * (2 * np.pi / rng.uniform(4, 40)))
    if rng.random() < 0.5:
        wave = np.sign(wave)
    return np.asarray(wave * 0.5 + 0.5, np.float32)


def _photo_texture(rng: np.random.Generator, size: tuple[int, int], material: Material) -> Planes:
    photo = material.photo(int(rng.integers(material.num_photos)))
    zoom = float(np.exp(rng.uniform(np.log(0.6), np.log(3.0))))
    height = int(np.clip(size[0] * zoom, 8, photo.shape[0]))
    width = int(np.clip(size[1] * zoom, 8, photo.shape[1]))
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    step = max(1, int(zoom))
    block = photo[top : top + height : step, left : left + width : step].transpose(2, 0, 1).astype(np.float32)
    patch = resample(block / np.float32(255), size)
    if rng.random() < 0.5:
        patch = patch[:, :, ::-1]
    if rng.random() < 0.4:
        patch = patch[rng.permutation(3)]
    gain = rng.uniform(0.6, 1.3)
    shift = rng.uniform(-0.2, 0.2, (3, 1, 1)).astype(np.float32)
    return np.clip((patch - 0.5) * gain + 0.5 + shift * rng.random(), 0, 1).astype(np.float32)
