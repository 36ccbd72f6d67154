"""Cultivated land: parcels, circles of irrigation, tracks and hedges between them."""

from __future__ import annotations

import cmath
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from e2sam.data.synthetic.land.place import Mask, Place, fractal
from e2sam.data.synthetic.land.spectra import vary

__all__ = ["cut", "lay_parcels", "lay_pivots", "raster_parts", "raster_tiles"]

Outline = list[complex]
_CROPS = ("lush", "maize", "rape", "ripe", "stubble", "soil", "dark_soil", "pale_soil", "red_soil", "grass", "orchard")
_MOST_PARCELS = 700


def _halve(outline: Outline, middle: complex, normal: complex) -> tuple[Outline, Outline]:
    """The parts of a convex outline on both sides of a line."""
    first: Outline = []
    second: Outline = []
    for here, after in zip(outline, outline[1:] + outline[:1], strict=True):
        side = ((here - middle) * normal.conjugate()).real
        other = ((after - middle) * normal.conjugate()).real
        (first if side >= 0 else second).append(here)
        if (side >= 0) != (other >= 0):
            crossing = here + (after - here) * (side / (side - other))
            first.append(crossing)
            second.append(crossing)
    return first, second


def _area(outline: Outline) -> float:
    turned = outline[1:] + outline[:1]
    return abs(sum((here.conjugate() * after).imag for here, after in zip(outline, turned, strict=True))) / 2


def cut(
    rng: np.random.Generator, size: tuple[int, int], area: float, angle: float, aspect: float, jitter: float
) -> tuple[list[Outline], list[tuple[complex, complex, int]]]:
    """Cut the frame into convex parts of about `area`; also the cuts, as both ends and how deep each was."""
    height, width = size
    corners = [complex(-9, -9), complex(width + 9, -9), complex(width + 9, height + 9), complex(-9, height + 9)]
    waiting: list[tuple[Outline, float, int]] = [(corners, aspect, 0)]
    parts: list[Outline] = []
    cuts: list[tuple[complex, complex, int]] = []
    draws = rng.random((4 * _MOST_PARCELS, 4))
    area = max(area, height * width / _MOST_PARCELS)
    for draw in draws:
        if not waiting:
            break
        outline, slender, depth = waiting.pop()
        if _area(outline) < area * (0.5 + 1.6 * draw[0]) or len(outline) < 3:
            parts.append(outline)
            continue
        if draw[3] < 0.07:
            slender = 1 / slender
        axis = cmath.exp(1j * (angle + jitter * (draw[1] - 0.5)))
        along = [(point * axis.conjugate()).real for point in outline]
        across = [(point * axis.conjugate()).imag * slender for point in outline]
        share = 0.32 + 0.36 * draw[2]
        centre = sum(outline) / len(outline)
        if max(along) - min(along) < max(across) - min(across):
            place = (min(across) + share * (max(across) - min(across))) / slender
            normal = axis * 1j
        else:
            place = min(along) + share * (max(along) - min(along))
            normal = axis
        middle = centre + normal * (place - (centre * normal.conjugate()).real)
        first, second = _halve(outline, middle, normal)
        if len(first) < 3 or len(second) < 3:
            parts.append(outline)
            continue
        ends = [point for point in first if any(point == other for other in second)]
        if len(ends) == 2:
            cuts.append((ends[0], ends[1], depth))
        waiting += [(first, slender, depth + 1), (second, slender, depth + 1)]
    return parts + [outline for outline, _, _ in waiting], cuts


def raster_parts(size: tuple[int, int], parts: list[Outline], values: list[int]) -> NDArray[np.int32]:
    """A picture (h, w) of outlines filled with values, 0 elsewhere."""
    picture = Image.new("I", (size[1], size[0]))
    draw = ImageDraw.Draw(picture)
    for outline, value in zip(parts, values, strict=True):
        if len(outline) >= 2:
            draw.polygon([(point.real, point.imag) for point in outline], fill=value)
    return np.array(picture, np.int32)


def raster_tiles(size: tuple[int, int], parts: list[Outline]) -> NDArray[np.int32]:
    """Index (h, w) of the part at each pixel, of parts that fill the frame."""
    picture = raster_parts(size, parts, list(range(1, len(parts) + 1)))
    # Rounded corners leave gaps of a pixel.
    picture = np.where(picture == 0, ndimage.maximum_filter(picture, 3), picture)
    return np.maximum(picture - 1, 0).astype(np.int32)


def _season(rng: np.random.Generator) -> tuple[list[str], NDArray[np.float64]]:
    """The few crops of one landscape and how common each is."""
    count = int(rng.integers(2, 7))
    crops = [str(name) for name in rng.choice(_CROPS, count, replace=False)]
    return crops, rng.dirichlet(np.full(count, 1.5))


def lay_parcels(place: Place, zone: Mask, side: float) -> None:
    """Cover a zone with parcels of about `side` pixels, too small ones as one mosaic; call before `render`."""
    rng, size = place.rng, place.size
    slender = float(rng.choice([1.0, 1.5, 3.0, 6.0]))
    jitter = float(rng.choice([0.0, 0.15, 0.5, 0.9]))
    parts, cuts = cut(rng, size, side**2, rng.uniform(0, np.pi), slender, jitter)
    crops, shares = _season(rng)
    group = len(place.table) if side < 12 else None
    follows = rng.random() < 0.6
    values = []
    for outline in parts:
        centre = sum(outline) / max(len(outline), 1)
        row = int(np.clip(centre.imag, 0, size[0] - 1))
        column = int(np.clip(centre.real, 0, size[1] - 1))
        if follows and not zone[row, column]:
            values.append(0)
            continue
        values.append(_parcel(place, outline, str(rng.choice(crops, p=shares)), group) + 1)
    picture = np.array(values, np.int32)[raster_tiles(size, parts)]
    bend = float(rng.choice([0.0, 1.5, 4.0]))
    y, x = np.mgrid[: size[0], : size[1]]
    if bend:
        y = np.clip(y + bend * fractal(rng, size, 2.2, 3), 0, size[0] - 1).astype(int)
        x = np.clip(x + bend * fractal(rng, size, 2.2, 3), 0, size[1] - 1).astype(int)
        picture = picture[y, x]
    inside = (picture > 0) & (zone | follows)
    place.units[inside] = picture[inside] - 1
    place.borders = _borders(place, cuts, (y, x), inside, side)


def _parcel(place: Place, outline: Outline, crop: str, group: int | None) -> int:
    """A unit for one parcel, with rows along its longest side."""
    rng = place.rng
    sides = [after - here for here, after in zip(outline, outline[1:] + outline[:1], strict=True)]
    angle = cmath.phase(max(sides, key=abs)) + math.pi / 2
    is_orchard = crop == "orchard"
    period = max(2.3, place.pixels(float(rng.uniform(4, 8) if is_orchard else rng.choice([1.5, 3, 12, 24]))))
    furrow = float(rng.uniform(0.15, 0.45) if is_orchard else rng.uniform(0, 0.12) * (rng.random() < 0.6))
    if place.metres > 8:
        furrow *= 0.3
    return place.unit(crop, group, furrow, angle, period)


def _borders(
    place: Place,
    cuts: list[tuple[complex, complex, int]],
    where: tuple[NDArray[np.int64], NDArray[np.int64]],
    inside: Mask,
    side: float,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], float]]:
    """Tracks and hedges along cuts as coverage, spectrum and height."""
    rng, size = place.rng, place.size
    found = []
    for kind, breadth, share, tall in (
        ("track", 3.5, rng.uniform(0, 0.6), 0.0),
        ("conifer", 6, rng.uniform(0, 0.5), 0.08),
    ):
        width = place.pixels(breadth * rng.uniform(0.7, 1.3))
        if width < 0.25 or side < 7 or rng.random() < 0.4:
            continue
        picture = Image.new("L", (size[1], size[0]))
        draw = ImageDraw.Draw(picture)
        for start, end, depth in cuts:
            if depth < 7 and rng.random() < share:
                draw.line([start.real, start.imag, end.real, end.imag], fill=255, width=max(1, round(width)))
        alpha = np.asarray(picture, np.float32)[where] / 255 * min(1.0, width) * inside
        if kind == "conifer":
            alpha = alpha * (fractal(rng, size, 0.8, 20) > -0.7)
        found.append((alpha.astype(np.float32), vary(rng, kind), tall))
    return found


def lay_pivots(place: Place, zone: Mask, radius: float) -> None:
    """Circles of irrigation on a grid, some cut to sectors; call before `render`."""
    rng, size = place.rng, place.size
    crops, shares = _season(rng)
    spacing = radius * float(rng.choice([2.05, 2.3, 2.8]))
    turn = float(rng.normal(0, 0.1))
    offset = rng.uniform(0, spacing, 2)
    reach = int(max(size) / spacing) + 2
    for row in range(-reach, reach):
        for column in range(-reach, reach):
            if rng.random() < 0.3:
                continue
            point = complex(column * spacing + offset[0], row * spacing + offset[1]) * cmath.exp(1j * turn)
            y0, x0 = int(point.imag - radius) - 1, int(point.real - radius) - 1
            y1, x1 = int(point.imag + radius) + 2, int(point.real + radius) + 2
            box = (slice(max(y0, 0), max(min(y1, size[0]), 0)), slice(max(x0, 0), max(min(x1, size[1]), 0)))
            y = np.arange(box[0].start, box[0].stop)[:, None] - point.imag
            x = np.arange(box[1].start, box[1].stop)[None] - point.real
            own = radius * float(rng.choice([1.0, 1.0, 1.0, 0.7]))
            disc = (np.hypot(y, x) <= own) & zone[box]
            if not disc.any():
                continue
            place.units[box][disc] = place.unit(str(rng.choice(crops, p=shares)), None, 0.0)
            if rng.random() < 0.35:
                start, share = rng.uniform(-np.pi, np.pi), rng.uniform(0.8, np.pi)
                sector = disc & ((np.arctan2(y, x) - start) % (2 * np.pi) < share)
                place.units[box][sector] = place.unit(str(rng.choice(crops, p=shares)), None, 0.0)
