"""Sky and ground of a street scene: road, pavements, verges, and what is painted on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from e2sam.data.synthetic.street.view import NEAREST, Points, Sketch, Street
from e2sam.data.synthetic.textures import Planes, smooth_field, texture

__all__ = ["Section", "paint_ground", "paint_markings", "paint_sky", "reflect"]


@dataclass(frozen=True)
class Section:
    """Cross section of a street, metres: half the width of the road, of a pavement at each side, of a verge between."""

    road: float
    pavement: float
    verge: float

    @property
    def edge(self) -> float:
        """Where the houses may begin."""
        return self.road + self.verge + self.pavement


def paint_sky(street: Street) -> None:
    """Flat, graded or clouded sky, dark at night, at times a photograph."""
    rng, view = street.rng, street.view
    rows = int(np.ceil(view.horizon)) + 2
    sketch = Sketch(view.size, np.array([[0, 0], [view.size[1], rows]]))
    sketch.coverage[:] = 1
    blue = rng.uniform(0, 1) * np.array([0.6, 0.3, 0.0])
    zenith = street.light.fog * (rng.uniform(0.7, 1.0) - 0.6 * blue)
    ramp = np.linspace(0, 1, sketch.shape[0], dtype=np.float32)[None, :, None] ** np.float32(rng.uniform(0.5, 2))
    colour = zenith.astype(np.float32)[:, None, None] + ramp * (street.light.fog - zenith)[:, None, None]
    colour = np.broadcast_to(colour, (3, *sketch.shape)).astype(np.float32)
    if rng.random() < 0.6:
        clouds = smooth_field(rng, sketch.shape, float(rng.uniform(2, 7)), 4)
        cover = np.clip((clouds - rng.uniform(0.3, 0.6)) * rng.uniform(1.5, 5), 0, 1)
        colour += rng.uniform(0.2, 0.9) * cover * (np.float32(rng.uniform(0.6, 1.0)) * street.light.fog.max() - colour)
    if street.material is not None and rng.random() < 0.15:
        colour = 0.4 * colour + 0.6 * texture(rng, sketch.shape, street.material)
    sketch.colour = np.asarray(np.clip(colour, 0, 1), np.float32)
    # The light of a night is already in the fog.
    sketch.glow[:] = 1
    street.put(sketch, "sky", 0.0, np.zeros(sketch.shape, np.float32))


def paint_ground(street: Street, section: Section) -> None:
    """Verge, pavements and road, each seen in the right perspective."""
    rng, view = street.rng, street.view
    top = int(max(0, np.floor(view.horizon)))
    rows = (np.arange(top, view.size[0]) + 0.5 - view.horizon).astype(np.float32)[:, None]
    distance = np.clip(view.focal * view.height / np.maximum(rows, 0.05), NEAREST, 2000).astype(np.float32)
    right = (np.arange(view.size[1], dtype=np.float32) + 0.5 - view.centre)[None] / view.focal * distance
    cos, sin = np.cos(view.yaw), np.sin(view.yaw)
    along = (distance * cos + right * sin).astype(np.float32)
    lateral = (right * cos - distance * sin + view.offset - view.bend * along**2).astype(np.float32)
    pixel = np.hypot(*np.gradient(lateral)) + 1e-4
    depth = view.depth(distance) * np.ones_like(lateral)
    grain = smooth_field(rng, lateral.shape, float(rng.uniform(20, 60)), 2) - 0.5
    grain += (rng.random(lateral.shape, dtype=np.float32) - 0.5) * np.float32(0.8)
    coarse = smooth_field(rng, lateral.shape, 5.0, 3) - 0.5
    edge = section.road + section.verge
    bands = [("verge", -1e9, 1e9)]
    if section.pavement > 0:
        bands += [("pavement", -section.edge, -edge), ("pavement", edge, section.edge)]
    bands.append(("road", -section.road, section.road))
    paving, lawn = _stone(rng), _lawn(rng, section.verge > 0)
    for matter, low, high in bands:
        sketch = Sketch(view.size, np.array([[0, top], [view.size[1], view.size[0]]]), 0)
        # A kerb of some centimetres stands out at the border.
        cover = np.clip((high - lateral) / pixel + 0.5, 0, 1) * np.clip((lateral - low) / pixel + 0.5, 0, 1)
        sketch.coverage = (cover * np.clip(rows + 0.5, 0, 1)).astype(np.float32)
        if matter == "road":
            sketch.colour = _asphalt(street, (along, lateral, pixel), grain, coarse)
        elif matter == "pavement":
            sketch.colour = _paving(rng, (along, lateral, pixel), grain, paving)
            kerb = np.clip((0.18 - np.minimum(np.abs(lateral - low), np.abs(lateral - high))) / pixel + 0.5, 0, 1)
            sketch.colour += kerb * np.float32(rng.choice([-0.12, 0.15]))
        else:
            sketch.colour = lawn[:, None, None] * (1 + 0.7 * grain + 0.6 * coarse)
        np.clip(sketch.colour, 0, 1, out=sketch.colour)
        street.put(sketch, matter, distance, depth)
    street.ground = len(street.canvas.visible) - 1


def _stone(rng: np.random.Generator) -> Planes:
    return np.asarray(np.clip(rng.uniform(0.3, 0.7) + rng.normal(0, 0.015, 3), 0, 1), np.float32)


def _lawn(rng: np.random.Generator, is_green: bool) -> Planes:
    if is_green or rng.random() < 0.5:
        return np.asarray(np.array([0.25, 0.36, 0.13]) * rng.uniform(0.6, 1.4) + rng.normal(0, 0.03, 3), np.float32)
    return _stone(rng)


def _asphalt(street: Street, place: tuple[Planes, Planes, Planes], grain: Planes, coarse: Planes) -> Planes:
    """Grey with little contrast: grain, worn tracks, patches."""
    rng, (along, lateral, pixel) = street.rng, place
    grey = np.float32(rng.uniform(0.18, 0.55))
    value = 1 + np.float32(rng.uniform(0.1, 0.45)) * grain + np.float32(rng.uniform(0.1, 0.5)) * coarse
    value += np.float32(rng.uniform(0, 0.1)) * np.cos(lateral * np.float32(2 * np.pi / 1.7))
    for _ in range(int(rng.integers(0, 5))):
        start, side = rng.uniform(2, 30), rng.uniform(-6, 6)
        inside = (np.abs(along - start) < rng.uniform(0.5, 5)) & (np.abs(lateral - side) < rng.uniform(0.3, 2))
        value[inside] *= np.float32(rng.uniform(0.75, 1.15))
    if rng.random() < 0.3:
        crack = np.abs(lateral - rng.uniform(-3, 3) - 0.3 * np.sin(along * 0.9)) < 0.04 + 0.3 * pixel
        value[crack & (along < 40)] *= np.float32(0.75)
    tint = np.clip(1 + rng.normal(0, 0.02, 3), 0.8, 1.2).astype(np.float32)
    return np.asarray(tint[:, None, None] * (grey * value), np.float32)


def _paving(rng: np.random.Generator, place: tuple[Planes, Planes, Planes], grain: Planes, stone: Planes) -> Planes:
    """Slabs with joints that fade where they are too fine to see."""
    along, lateral, pixel = place
    slab = float(rng.uniform(0.4, 1.2))
    value = 1 + np.float32(0.25) * grain
    if rng.random() < 0.7:
        joint = np.minimum(np.abs((along / slab) % 1 - 0.5), np.abs((lateral / slab) % 1 - 0.5)) * slab
        value -= np.float32(rng.uniform(0.05, 0.3)) * (joint < 0.02) * np.clip(1 - pixel / slab * 3, 0, 1)
    return np.asarray(stone[:, None, None] * value, np.float32)


def _strip(street: Street, start: float, end: float, low: float, high: float) -> Points:
    """Outline in pixels of a part of the ground: metres along the street, metres across it."""
    steps = np.linspace(start, end, 2 if abs(street.view.bend) < 1e-5 else 6)
    places = [street.view.place(along, low) for along in steps]
    places += [street.view.place(along, high) for along in steps[::-1]]
    return street.view.project(np.array([(x, 0.0, z) for x, z in places]))


def paint_markings(street: Street, section: Section) -> None:
    """Lines of dashes, edge lines, a crossing: each dash and each bar is a thing."""
    rng = street.rng
    paint = np.array([0.85, 0.85, 0.82] if rng.random() < 0.8 else [0.8, 0.62, 0.15], np.float32) * rng.uniform(0.6, 1)
    start, end = (2.0, 60.0) if abs(street.view.yaw) < 0.6 else (-30.0, 30.0)
    if rng.random() < 0.75:
        period, share = float(rng.uniform(4, 10)), float(rng.choice([0.4, 0.5, 0.65]))
        lanes = [0.0] if section.road < 5 else [-section.road / 3, section.road / 3]
        for lane in lanes:
            for along in np.arange(start + rng.uniform(0, period), end, period):
                outline = _strip(street, along, along + share * period, lane - 0.08, lane + 0.08)
                _mark(street, outline, paint)
    if rng.random() < 0.4:
        for side in (-1, 1):
            place = side * (section.road - rng.uniform(0.2, 0.5))
            _mark(street, _strip(street, start, end, place - 0.08, place + 0.08), paint)
    if rng.random() < 0.3:
        along, length = float(rng.uniform(5, 20)), float(rng.uniform(2.5, 4))
        for lateral in np.arange(-section.road + 0.4, section.road - 0.5, 1.0):
            _mark(street, _strip(street, along, along + length, lateral, lateral + 0.5), paint)
    if rng.random() < 0.12:
        for lateral in (-0.72, 0.72, 2.2, 3.64):
            _mark(street, _strip(street, start, end, lateral - 0.05, lateral + 0.05), np.full(3, 0.3, np.float32))
    for _ in range(int(rng.integers(0, 3))):
        along, lateral = rng.uniform(3, 20), rng.uniform(-section.road, section.road)
        _mark(street, _strip(street, along, along + 0.7, lateral, lateral + 0.7), np.full(3, 0.15, np.float32))
    street.ground = len(street.canvas.visible) - 1


def _mark(street: Street, outline: Points, paint: Planes) -> None:
    """Paint on the ground, worn; a speck that is too small to ask for belongs to the road."""
    sketch = Sketch(street.view.size, outline)
    if sketch.is_empty:
        return
    sketch.fill(outline, paint)
    area = float((sketch.coverage > 0.5).sum())
    if area < 4:
        return
    worn = smooth_field(street.rng, sketch.shape, 12.0, 2)
    sketch.colour *= 0.75 + 0.3 * worn
    row = float(np.clip(outline[:, 1].mean() - street.view.horizon, 1, None))
    depth = np.full(sketch.shape, np.nan, np.float32)
    distance = street.view.focal * street.view.height / row
    street.put(sketch, "line", distance, depth, is_object=area >= 60)


def reflect(street: Street, wet: float) -> None:
    """Mirror what stands behind in the wet ground."""
    view, canvas = street.view, street.canvas
    top = int(np.ceil(view.horizon))
    rows = np.clip(2 * top - np.arange(top, view.size[0]), 0, view.size[0] - 1)
    if not len(rows):
        return
    mirrored = canvas.planes[:3, rows]
    is_ground = canvas.labels[top:] <= street.ground
    share = np.float32(wet) * is_ground * (0.5 + 0.5 * smooth_field(street.rng, is_ground.shape, 6.0, 2))
    canvas.planes[:3, top:] += share * (mirrored - canvas.planes[:3, top:])
