"""Upright planes of a street scene: house fronts with windows, fences, hedges and garden walls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from e2sam.data.synthetic.street.view import NEAREST, Points, Sketch, Street
from e2sam.data.synthetic.textures import Planes, random_colour, smooth_field, texture

__all__ = ["FrontStyle", "paint_barrier", "paint_house"]


@dataclass(frozen=True, eq=False)
class FrontStyle:
    """How the fronts of a house look: colours (3,), spacing of windows (m) and their share of it, ground floor."""

    wall: Planes
    glass: Planes
    frame: Planes
    storey: float
    pitch: float
    window: tuple[float, float]
    shop: tuple[float, Planes] | None
    lit: float
    courses: float

    @classmethod
    def draw(cls, rng: np.random.Generator, wall: Planes, is_night: bool) -> FrontStyle:
        """A style around a colour that neighbours share."""
        own = np.clip(wall + rng.normal(0, 0.06) + rng.normal(0, 0.03, 3), 0.05, 0.95).astype(np.float32)
        glass = np.clip(rng.uniform(0.05, 0.45) + rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)
        frame = np.clip(own + rng.choice([-0.2, 0.25, 0.05]), 0, 1).astype(np.float32)
        window = (float(rng.uniform(0.3, 0.92)), float(rng.uniform(0.35, 0.8)))
        shop = (float(rng.uniform(2.6, 4.0)), random_colour(rng)) if rng.random() < 0.45 else None
        lit = float(rng.uniform(0.05, 0.6)) if is_night else 0.0
        storey, pitch = float(rng.uniform(2.7, 3.6)), float(rng.uniform(1.6, 4.5))
        return cls(own, glass, frame, storey, pitch, window, shop, lit, float(rng.choice([0.0, 0.0, 0.3, 0.8])))


@dataclass(frozen=True, eq=False)
class _Wall:
    """An upright plane, in metres: place along it and Z of each column, both (w,), and height of each pixel (h, w)."""

    sketch: Sketch
    along: Planes
    distance: Planes
    up: Planes

    def near(self, distance_to: Planes, width: Planes | float, is_upright: bool) -> Planes:
        """How much of a pixel (h, w) lies within `width` of what `distance_to` measures from, all in metres."""
        pixel = np.abs(np.diff(self.up, axis=0)).mean(0)[None] if is_upright else np.abs(np.gradient(self.along))[None]
        return np.clip((width - distance_to) / np.maximum(pixel, 1e-3) + 0.5, 0, 1).astype(np.float32)


def _wall(street: Street, first: tuple[float, float], second: tuple[float, float], outline: Points) -> _Wall | None:
    """The plane through two places (X, Z), within an outline (N, 3) that is filled; None where it is out of sight."""
    view = street.view
    pixels = view.project(outline)
    sketch = Sketch(view.size, pixels)
    if min(sketch.shape) < 2:
        return None
    sketch.fill(pixels, np.zeros(3, np.float32))
    if not sketch.coverage.any():
        return None
    slope = (sketch.left + np.arange(sketch.shape[1]) + 0.5 - view.centre) / view.focal
    (x0, z0), (x1, z1) = first, second
    bottom = (x1 - x0) - slope * (z1 - z0)
    share = (slope * z0 - x0) / np.where(np.abs(bottom) < 1e-6, 1e-6, bottom)
    share = np.clip(share, -0.2, 1.2)
    distance = np.maximum(z0 + share * (z1 - z0), NEAREST).astype(np.float32)
    along = (share * np.hypot(x1 - x0, z1 - z0)).astype(np.float32)
    row = (sketch.top + np.arange(sketch.shape[0]) + 0.5 - view.horizon).astype(np.float32)
    up = np.float32(view.height) - row[:, None] * (distance / np.float32(view.focal))[None]
    return _Wall(sketch, along, distance, up.astype(np.float32))


def _upright(first: tuple[float, float], second: tuple[float, float], low: float, high: float) -> Points:
    (x0, z0), (x1, z1) = first, second
    return np.array([(x0, low, z0), (x0, high, z0), (x1, high, z1), (x1, low, z1)])


def paint_house(
    street: Street, corners: tuple[tuple[float, float], ...], height: float, style: FrontStyle, roof: float
) -> None:
    """Paint the fronts along consecutive places (X, Z), the farther first, and the roof, as one thing.

    A roof of positive height rises above the first two places; its gable stands above the others.
    """
    outlines = []
    pairs = sorted(pairwise(corners), key=lambda pair: -(pair[0][1] + pair[1][1]))
    parts: list[_Wall] = []
    for first, second in pairs:
        wall = _wall(street, first, second, _upright(first, second, 0, height))
        if wall is not None:
            tone = np.float32(1.0 if (first, second) == (corners[0], corners[1]) else street.rng.uniform(0.7, 1.1))
            _front(street, wall, height, style, tone)
            parts.append(wall)
        outlines.append(street.view.project(_upright(first, second, 0, height + roof)))
    whole = Sketch(street.view.size, np.concatenate(outlines))
    if whole.is_empty or not parts:
        return
    depth = np.full(whole.shape, np.nan, np.float32)
    if roof > 0:
        _roof(street, whole, corners, height, roof)
    for wall in parts:
        _merge(whole, wall, street.view.depth(wall.distance), depth)
    nearest = max(NEAREST, min(z for _, z in corners))
    unset = np.isnan(depth) & (whole.coverage > 0)
    depth[unset] = street.view.depth(nearest)
    street.put(whole, "wall", nearest + 5, depth)


def _merge(whole: Sketch, wall: _Wall, values: Planes, depth: Planes) -> None:
    """Put a part over the whole that it belongs to, and its depth (w,) into the depths (h, w)."""
    part = wall.sketch
    y, x = part.top - whole.top, part.left - whole.left
    window = (slice(max(y, 0), y + part.shape[0]), slice(max(x, 0), x + part.shape[1]))
    height, width = whole.coverage[window].shape
    inner = (slice(max(-y, 0), max(-y, 0) + height), slice(max(-x, 0), max(-x, 0) + width))
    whole.stamp(part.coverage, part.top, part.left, part.colour)
    whole.glow[window] = np.maximum(whole.glow[window], part.glow[inner])
    solid = part.coverage[inner] > 0
    depth[window][solid] = np.broadcast_to(values[inner[1]], solid.shape)[solid]


def _roof(street: Street, sketch: Sketch, corners: tuple[tuple[float, float], ...], height: float, roof: float) -> None:
    """A ridge roof along the first front; seen from the street its slope is a band above the wall."""
    (x0, z0), (x1, z1) = corners[0], corners[1]
    back = np.array([z1 - z0, -(x1 - x0)]) / max(np.hypot(x1 - x0, z1 - z0), 1e-6)
    if len(corners) > 2:
        away = np.array(corners[2]) - np.array(corners[1])
        back *= 1.0 if float(back @ away) > 0 else -1.0
    ridge = [(x + 4 * back[0], height + roof, z + 4 * back[1]) for x, z in (corners[1], corners[0])]
    tone = random_colour(street.rng) * np.float32(0.3) + np.array([0.25, 0.15, 0.12], np.float32)
    sketch.fill(street.view.project(np.array([(x0, height, z0), (x1, height, z1), *ridge])), tone)
    if len(corners) > 2:
        (x2, z2) = corners[2]
        gable = [(x1, height, z1), ridge[0], (x2, height, z2)]
        sketch.fill(street.view.project(np.array(gable)), tone * np.float32(0.6) + np.float32(0.15))


def _front(street: Street, wall: _Wall, height: float, style: FrontStyle, tone: np.float32) -> None:
    """Colour a wall: its surface, rows of windows, shop fronts with panes, a cornice."""
    rng, sketch = street.rng, wall.sketch
    surface = 1 + np.float32(0.25) * (smooth_field(rng, sketch.shape, 3.0, 3) - 0.5)
    colour = style.wall[:, None, None] * surface
    up = np.clip(wall.up, 0, height)
    if style.courses:
        joint = np.abs((up / style.courses) % 1 - 0.5) * style.courses
        colour *= 1 - np.float32(0.25) * wall.near(0.5 * style.courses - joint, 0.03, True)
    base = style.shop[0] if style.shop else 0.6
    storeys = (up - base) / style.storey
    columns = wall.along / style.pitch
    beside = np.abs(columns % 1 - 0.5) * style.pitch
    above = np.abs(storeys % 1 - 0.5) * style.storey
    is_wall = (storeys >= 0) & (storeys < np.floor((height - base - 0.3) / style.storey))
    half = (0.5 * style.window[0] * style.pitch, 0.5 * style.window[1] * style.storey)
    frame = wall.near(beside[None], half[0] + 0.12, False) * wall.near(above, half[1] + 0.12, True) * is_wall
    pane = wall.near(beside[None], half[0], False) * wall.near(above, half[1], True) * is_wall
    colour += 0.7 * frame * (style.frame[:, None, None] - colour)
    number = (np.floor(columns).astype(np.int64)[None] * 7 + np.floor(storeys).astype(np.int64) * 13) % 61
    tones = rng.uniform(0.5, 1.6, 61).astype(np.float32)
    sky = 0.4 * np.clip(wall.up / height, 0, 1) * np.float32(rng.uniform(0, 1))
    glass = style.glass[:, None, None] * tones[number] + sky * (street.light.fog[:, None, None] - 0.2)
    colour += pane * (np.clip(glass, 0, 1) - colour)
    if style.lit:
        is_lit = pane * (rng.random(61) < style.lit).astype(np.float32)[number]
        colour += is_lit * (np.array([0.9, 0.72, 0.4], np.float32)[:, None, None] * tones[number] * 0.6 - colour)
        sketch.glow[:] = is_lit
    if style.shop:
        _shop(street, wall, style, colour, sketch.glow)
    cornice = wall.near(height - wall.up, 0.35, True)
    colour += np.float32(rng.uniform(0, 0.7)) * cornice * (style.frame[:, None, None] - colour)
    sketch.colour = np.clip(colour * tone, 0, 1).astype(np.float32)


def _shop(street: Street, wall: _Wall, style: FrontStyle, colour: Planes, glow: Planes) -> None:
    """Shop windows and doors on the ground floor, with a sign above."""
    assert style.shop is not None
    rng, (top, paint) = street.rng, style.shop
    up = wall.up
    width = float(rng.uniform(2, 5))
    cells = wall.along / width
    number = np.floor(cells).astype(np.int64) % 17
    beside = np.abs(cells % 1 - 0.5) * width
    is_shop = ((up > 0) & (up < top)).astype(np.float32)
    colour += 0.9 * is_shop * (paint[:, None, None] * 0.7 - colour)
    pane = wall.near(beside[None], 0.45 * width, False) * ((up > 0.4) & (up < top - 0.8))
    goods = np.stack([rng.random(17, dtype=np.float32)[number] for _ in range(3)])[:, None, :] * 0.5
    goods = goods * (0.5 + smooth_field(rng, wall.sketch.shape, 14.0, 2))
    colour += pane * (goods - colour)
    sign = (up > top - 0.7) & (up < top - 0.1)
    letters = (smooth_field(rng, wall.sketch.shape, 40.0) > 0.6) & (up > top - 0.55) & (up < top - 0.25)
    colour += sign * (np.clip(paint * 1.2, 0, 1)[:, None, None] - colour)
    colour += 0.8 * letters * ((1 - paint)[:, None, None] - colour)
    if street.light.is_night and rng.random() < 0.7:
        np.maximum(glow, np.float32(rng.uniform(0.3, 1)) * pane, out=glow)


def paint_barrier(street: Street, first: tuple[float, float], second: tuple[float, float], kind: str) -> None:
    """Paint a "wall", "hedge", "fence" or guard "rail" between two places (X, Z) of the ground."""
    rng = street.rng
    height = float(rng.uniform(0.7, 2.2)) if kind != "rail" else 0.75
    wall = _wall(street, first, second, _upright(first, second, 0, height))
    if wall is None:
        return
    sketch, up = wall.sketch, wall.up
    if kind == "hedge":
        leaves = smooth_field(rng, sketch.shape, float(rng.uniform(15, 50)), 3)
        green = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.2, 0.4), rng.uniform(0.05, 0.2)], np.float32)
        sketch.colour = green[:, None, None] * (0.4 + 1.2 * leaves)
        edge = np.clip((height - 0.3 * leaves[::-1] - up) * 8, 0, 1)
        sketch.coverage *= edge.astype(np.float32)
    elif kind == "wall":
        sketch.colour = texture(rng, sketch.shape, street.material) * np.float32(0.3) + random_colour(rng)[
            :, None, None
        ] * np.float32(0.6)
        courses = float(rng.uniform(0.15, 0.5))
        joint = np.abs((up / courses) % 1 - 0.5) * courses
        sketch.colour *= 1 - np.float32(0.3) * wall.near(0.5 * courses - joint, 0.02, True)
    else:
        sketch.colour += random_colour(rng)[:, None, None] * np.float32(0.8)
        sketch.coverage *= _bars(rng, wall, height, kind)
    middle = max(NEAREST, (first[1] + second[1]) / 2)
    depth = np.broadcast_to(street.view.depth(wall.distance)[None], sketch.shape)
    street.put(sketch, "leaf" if kind == "hedge" else "wall", middle, np.asarray(depth))


def _bars(rng: np.random.Generator, wall: _Wall, height: float, kind: str) -> Planes:
    """Coverage (h, w) of a fence of upright bars between two beams, or of a rail on posts."""
    pitch = float(rng.uniform(1.5, 3)) if kind == "rail" else float(rng.uniform(0.12, 0.4))
    thick = 0.06 if kind == "rail" else pitch * float(rng.uniform(0.07, 0.28))
    bars = wall.near(np.abs((wall.along / pitch) % 1 - 0.5)[None] * pitch, thick, False)
    beams = [0.62, 0.4] if kind == "rail" else [height - 0.08, 0.15]
    result = np.broadcast_to(bars, wall.up.shape).copy()
    for beam in beams:
        np.maximum(result, wall.near(np.abs(wall.up - beam), 0.09 if kind == "rail" else 0.05, True), out=result)
    return result
