"""Vehicles of a street scene: bodies with windows, wheels and lamps, seen from any side, each of one label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from e2sam.data.synthetic.street.view import NEAREST, Points, Sketch, Street
from e2sam.data.synthetic.textures import Planes, random_colour, smooth_field

__all__ = ["paint_vehicle"]

_DARK = np.array([0.04, 0.04, 0.045], np.float32)
_RED = np.array([0.75, 0.06, 0.05], np.float32)
# Vehicles of fewer pixels are drawn without what could not be seen.
_SMALL = 26
# One that hides more of the frame leaves nothing to see.
_LARGEST_SHARE = 0.7
_WARM_WHITE = np.array([1.0, 0.95, 0.8], np.float32)


@dataclass(frozen=True)
class _Type:
    """Ranges of length, width and height (m); the outline from the rear over the roof as shares (along, up) of these.

    `panes` are the indices of the edges of the outline that are the rear window and the windscreen; `side_panes` the
    side windows: (from, to, bottom, top, number of panes) as shares.
    """

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    outline: tuple[tuple[float, float], ...]
    panes: tuple[int, int]
    side_panes: tuple[float, float, float, float, int]
    share: float


_SALOON = ((0, 0.2), (0, 0.6), (0.03, 0.68), (0.15, 0.7), (0.3, 0.98), (0.36, 1), (0.55, 1), (0.73, 0.67), (0.96, 0.55))
_HATCH = ((0, 0.2), (0, 0.6), (0.03, 0.66), (0.1, 0.96), (0.16, 1), (0.56, 1), (0.73, 0.67), (0.96, 0.56), (1, 0.42))
_TALL = ((0, 0.24), (0, 0.58), (0.02, 0.62), (0.07, 0.97), (0.12, 1), (0.6, 1), (0.74, 0.66), (0.96, 0.6), (1, 0.48))
_VAN = ((0, 0.16), (0, 0.56), (0.01, 0.6), (0.02, 0.96), (0.05, 1), (0.72, 1), (0.88, 0.56), (0.98, 0.45), (1, 0.36))
_BUS = ((0, 0.1), (0, 0.45), (0, 0.9), (0.02, 1), (0.98, 1), (1, 0.94), (1, 0.38), (1, 0.1))
_PICKUP = ((0, 0.28), (0, 0.6), (0.36, 0.6), (0.38, 0.95), (0.42, 1), (0.6, 1), (0.74, 0.64), (0.96, 0.58), (1, 0.45))
_BOX = ((0, 0.22), (0, 1), (0.72, 1), (0.73, 0.9), (0.95, 0.88), (1, 0.55), (1, 0.12))

_TYPES = (
    _Type(
        (4.2, 4.9), (1.7, 1.85), (1.38, 1.5), (*_SALOON, (1, 0.42), (1, 0.18)), (3, 6), (0.2, 0.69, 0.68, 0.95, 2), 4
    ),
    _Type((3.6, 4.4), (1.65, 1.8), (1.42, 1.6), (*_HATCH, (1, 0.18)), (2, 5), (0.09, 0.69, 0.67, 0.94, 2), 5),
    _Type((4.3, 4.9), (1.8, 1.95), (1.6, 1.85), (*_TALL, (1, 0.22)), (2, 5), (0.07, 0.7, 0.64, 0.93, 3), 4),
    _Type((4.9, 6.2), (1.9, 2.1), (1.95, 2.6), (*_VAN, (1, 0.14)), (2, 5), (0.6, 0.84, 0.58, 0.92, 1), 1.8),
    _Type((4.5, 5.2), (1.85, 2.0), (1.8, 2.05), (*_VAN, (1, 0.14)), (2, 5), (0.06, 0.84, 0.58, 0.92, 3), 1.2),
    _Type((9.0, 12.5), (2.45, 2.6), (2.9, 3.4), _BUS, (1, 5), (0.04, 0.94, 0.42, 0.86, 6), 1),
    _Type((5.0, 5.6), (1.85, 2.0), (1.7, 1.9), (*_PICKUP, (1, 0.26)), (2, 5), (0.4, 0.7, 0.63, 0.93, 2), 0.8),
    _Type((6.0, 9.5), (2.3, 2.55), (2.9, 3.8), _BOX, (-1, 4), (0.8, 0.95, 0.55, 0.82, 1), 1.2),
)


@dataclass(frozen=True, eq=False)
class _Body:
    """One vehicle in the world: place (X, Z), heading, measures (m), outline (N, 2) of (along, up) in metres."""

    kind: _Type
    place: tuple[float, float]
    heading: float
    length: float
    width: float
    height: float
    outline: Points
    colour: Planes
    glass: Planes

    def world(self, along: Points, across: Points, up: Points) -> Points:
        """(N, 3) of X, Y, Z for (N,) metres from the middle, to the right and upwards."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        x = self.place[0] + along * sin + across * cos
        z = self.place[1] + along * cos - across * sin
        return np.stack(np.broadcast_arrays(x, up, z), 1).astype(np.float64)

    def half_width(self, up: Points) -> Points:
        """Half the width there: bodies are narrower above the belt."""
        slope = 0.02 if self.length > 5.8 else 0.16
        above = np.clip((up / self.height - 0.62) / 0.38, 0, 1)
        return np.asarray(self.width / 2 * (1 - slope * above))

    def side(self, points: Points, sign: float) -> Points:
        """(N, 3) of points (along, up) on the right (1) or left (-1) side."""
        return self.world(points[:, 0], sign * self.half_width(points[:, 1]), points[:, 1])

    def quad(self, edge: tuple[Points, Points], low: float, high: float, start: float, end: float) -> Points:
        """(4, 3) part of the strip over an edge: shares low to high along it, start to end (-1..1) across it."""
        points = np.array([edge[0] + (edge[1] - edge[0]) * share for share in (low, low, high, high)])
        across = self.half_width(points[:, 1]) * np.array([start, end, end, start])
        return self.world(points[:, 0], across, points[:, 1])


def paint_vehicle(street: Street, place: tuple[float, float], heading: float, kind: int | None = None) -> int:
    """Paint a vehicle with its shadow at (X, Z); its label, or 0 where it is out of the frame."""
    rng, view = street.rng, street.view
    shares = np.array([each.share for each in _TYPES])
    chosen = _TYPES[int(rng.choice(len(_TYPES), p=shares / shares.sum())) if kind is None else kind]
    length, width, height = (float(rng.uniform(*limits)) for limits in (chosen.length, chosen.width, chosen.height))
    outline = np.array(chosen.outline) * (length, height) - (length / 2, 0)
    glass = (rng.uniform(0.05, 0.25) + rng.uniform(0, 0.08, 3)).astype(np.float32)
    body = _Body(chosen, place, heading, length, width, height, outline, _paintwork(rng), glass)
    ends = np.array([-0.5, -0.5, 0.5, 0.5, -0.5, -0.5, 0.5, 0.5])
    box = body.world(ends * length, np.array([-0.5, 0.5, 0.5, -0.5] * 2) * width, np.array([0.0] * 4 + [height] * 4))
    if box[:, 2].max() < NEAREST + 0.2:
        return 0
    front = box[box[:, 2] > NEAREST]
    sketch = Sketch(view.size, view.project(front) if (box[:, 2] > NEAREST).all() else _all_of(view.size))
    if sketch.is_empty:
        return 0
    _draw(street, sketch, body)
    if float(sketch.coverage.sum()) > _LARGEST_SHARE * view.size[0] * view.size[1]:
        return 0
    street.shade(box[[0, 1, 2, 3]][:, [0, 2]], height)
    sketch.colour *= 1 + np.float32(0.25) * (smooth_field(rng, sketch.shape, 2.0) - 0.5)
    sketch.heat *= np.float32(rng.uniform(0, 0.3))
    return street.put(sketch, "vehicle", max(NEAREST, float(box[:, 2].min())))


def _all_of(size: tuple[int, int]) -> Points:
    return np.array([[0, 0], [size[1], size[0]]], np.float64)


def _paintwork(rng: np.random.Generator) -> Planes:
    """Most cars are white, grey or black."""
    if rng.random() < 0.6:
        return np.asarray(rng.choice([0.08, 0.15, 0.35, 0.5, 0.62, 0.8, 0.9]) + rng.normal(0, 0.02, 3), np.float32)
    colour = random_colour(rng) * np.float32(0.8)
    if rng.random() < 0.5:
        colour[int(rng.integers(3))] += np.float32(rng.uniform(0.1, 0.5))
    return np.asarray(np.clip(colour, 0.03, 0.95), np.float32)


def _draw(street: Street, sketch: Sketch, body: _Body) -> None:
    """All parts, the hidden ones first."""
    rng, view = street.rng, street.view
    radius = 0.48 if body.length > 5.8 else float(rng.uniform(0.29, 0.36))
    axles = (-0.5 + rng.uniform(0.14, 0.2)) * body.length, (0.5 - rng.uniform(0.13, 0.18)) * body.length
    for sign in (-1.0, 1.0):
        for axle in axles:
            _tyre(street, sketch, body, axle, sign, radius)
    edges = []
    for index in range(len(body.outline) - 1):
        first, second = body.outline[index], body.outline[index + 1]
        normal = np.array([first[1] - second[1], second[0] - first[0]]) / max(float(np.hypot(*(second - first))), 1e-6)
        quad = body.quad((first, second), 0, 1, -1, 1)
        outward = (
            body.world(normal[:1], np.zeros(1), normal[1:])[0] - body.world(np.zeros(1), np.zeros(1), np.zeros(1))[0]
        )
        towards = np.array([0, view.height, 0]) - quad.mean(0)
        if float(outward @ towards) > 0:
            edges.append((-float(np.linalg.norm(towards)), index, quad, normal))
    for _, index, quad, normal in sorted(edges, key=lambda edge: edge[0]):
        shade = 0.72 + 0.4 * max(0.0, float(normal[1])) + 0.05 * float(normal[0])
        sketch.fill(view.project(quad), np.clip(body.colour * shade, 0, 1), heat=0.5 if normal[0] > 0.2 else 0.0)
        if index in body.kind.panes:
            _pane(street, sketch, body, index)
        elif abs(normal[0]) > 0.9 and min(sketch.shape) > 12:
            _end(street, sketch, body, float(normal[0]))
    right = body.world(np.zeros(1), np.ones(1), np.zeros(1))[0] - body.world(np.zeros(1), np.zeros(1), np.zeros(1))[0]
    middle = np.array([body.place[0], view.height, body.place[1]])
    sideways = float(right @ (np.array([0, view.height, 0]) - middle))
    if abs(sideways) > body.width / 2:
        _side(street, sketch, body, float(np.sign(sideways)), (axles, radius))


def _wheel(body: _Body, axle: float, across: float, radius: float, share: float) -> Points:
    angle = np.arange(18) * (2 * np.pi / 18)
    along, up = axle + share * radius * np.cos(angle), radius + share * radius * np.sin(angle)
    return body.world(along, np.full(18, across), up)


def _tyre(street: Street, sketch: Sketch, body: _Body, axle: float, sign: float, radius: float) -> None:
    """A whole tyre; the body hides most of it."""
    outer, inner = sign * body.width * 0.49, sign * body.width * 0.38
    corners = np.array([axle] * 4), np.array([outer, inner, inner, outer]), np.array([0, 0, 2, 2]) * radius
    warm = 0.7 if street.rng.random() < 0.4 else 0.0
    outlines = [body.world(*corners)]
    if min(sketch.shape) > _SMALL:
        outlines += [_wheel(body, axle, across, radius, 1) for across in (inner, outer)]
    for outline in outlines:
        sketch.fill(street.view.project(outline), _DARK, heat=warm)


def _pane(street: Street, sketch: Sketch, body: _Body, index: int) -> None:
    """Rear window or windscreen, with a reflection."""
    rng = street.rng
    edge = (body.outline[index], body.outline[index + 1])
    is_front = index == body.kind.panes[1]
    if not is_front and rng.random() < (0.5 if body.length > 5.2 else 0.03):
        return
    sketch.fill(street.view.project(body.quad(edge, 0.1, 0.93, -0.88, 0.88)), body.glass, is_body=False)
    start = rng.uniform(-0.85, 0.3)
    band = street.view.project(body.quad(edge, 0.1, 0.93, start, min(0.88, start + rng.uniform(0.2, 0.9))))
    sky = np.minimum(street.light.fog * 1.1, 1)
    sketch.fill(band, sky, float(rng.uniform(0.05, 0.6)), is_body=False)


def _end(street: Street, sketch: Sketch, body: _Body, facing: float) -> None:
    """Lamps, number plate, grille and bumper of the rear (facing < 0) or the front."""
    rng, is_front = street.rng, facing > 0
    along = np.array([body.outline[:, 0].max() if is_front else body.outline[:, 0].min()])
    unit = min(body.height, 1.9)

    def part(low: float, high: float, start: float, end: float) -> Points:
        up = np.array([low, low, high, high]) * unit
        across = np.array([start, end, end, start]) * body.width / 2
        return street.view.project(body.world(np.repeat(along, 4), across, up))

    sketch.fill(part(0.16, 0.3, -0.96, 0.96), body.colour * np.float32(rng.choice([0.25, 0.85])), is_body=False)
    if is_front:
        sketch.fill(part(0.27, 0.42, -0.55, 0.55), _DARK * 1.5, is_body=False)
    plate = np.array(rng.choice([0.85, 0.75]) * np.array([1, 1, rng.choice([1.0, 0.3])]), np.float32)
    sketch.fill(part(0.27, 0.34, -0.28, 0.28), plate, is_body=False)
    is_lit = street.light.is_night or rng.random() < 0.15
    colour = _WARM_WHITE * np.float32(1.0 if is_lit else 0.75) if is_front else _RED * np.float32(1 if is_lit else 0.7)
    low, inner = rng.uniform(0.36, 0.44), rng.uniform(0.55, 0.75)
    for sign in (-1, 1):
        lamp = part(low, low + rng.uniform(0.06, 0.2), sign * inner, sign * 0.95)
        sketch.fill(lamp, colour, glow=float(is_lit), heat=0.8 if is_lit else 0.0, is_body=False)
        if is_lit and len(lamp) and street.light.is_night:
            x, y = lamp.mean(0)
            sketch.lamps.append((float(x), float(y), float(np.ptp(lamp[:, 0])) * (1.2 if is_front else 0.5), colour))


def _side(street: Street, sketch: Sketch, body: _Body, sign: float, wheels: tuple[tuple[float, float], float]) -> None:
    """One side: sheet metal that darkens downwards, windows, doors, wheels with rims."""
    view, rng = street.view, street.rng
    sketch.fill(view.project(body.side(body.outline, sign)), body.colour * np.float32(rng.uniform(0.72, 1.0)))

    def part(start: float, end: float, low: float, high: float) -> Points:
        along = (np.array([start, end, end, start]) - 0.5) * body.length
        up = np.array([low, low, high, high]) * body.height
        return view.project(body.side(np.stack((along, up), 1), sign))

    is_small = min(sketch.shape) < _SMALL
    for low, high, gain in ((0.1, 0.28, 0.45), (0.28, 0.4, 0.8), (0.55, 0.6, 1.25))[: 1 if is_small else 3]:
        tone = np.clip(body.colour * gain, 0, 1).astype(np.float32)
        sketch.fill(part(0.02, 0.98, low, high), tone, 0.8, is_body=False)
    _side_panes(street, sketch, body, sign)
    if min(sketch.shape) > 40 and body.length < 5.8:
        for place in (0.35, 0.55, 0.74):
            sketch.fill(part(place, place + 0.006, 0.2, 0.65), body.colour * np.float32(0.5), is_body=False)
    axles, radius = wheels
    rim = np.full(3, rng.choice([0.15, 0.4, 0.65]), np.float32)
    across = sign * body.width * 0.5
    for axle in axles:
        sketch.fill(view.project(_wheel(body, axle, across, radius, 1)), _DARK, heat=0.3)
        if is_small:
            continue
        arch = _wheel(body, axle, across, radius, 1.18)
        sketch.fill(view.project(arch), _DARK * np.float32(0.6), is_body=False)
        sketch.fill(view.project(_wheel(body, axle, across, radius, 0.65)), rim, is_body=False)
        sketch.fill(view.project(_wheel(body, axle, across, radius, 0.2)), rim * np.float32(0.5), is_body=False)


def _side_panes(street: Street, sketch: Sketch, body: _Body, sign: float) -> None:
    """Side windows: within the outline, drawn in by the frame, split by pillars."""
    start, end, low, high, count = body.kind.side_panes
    belt, top = low * body.height, high * body.height
    rear, front = ((share - 0.5) * body.length for share in (start, end))
    roof = body.outline[body.outline[:, 1] > 0.95 * body.height]
    is_boxed = body.kind.outline in (_BUS, _BOX)
    rear_top = rear if is_boxed else max(rear, float(roof[:, 0].min()))
    front_top = front if is_boxed else min(front, float(roof[:, 0].max()))
    for pane in range(count):
        low_share, high_share = (pane + 0.04) / count, (pane + 0.94) / count
        along = [rear + (front - rear) * low_share, rear + (front - rear) * high_share]
        upper = [rear_top + (front_top - rear_top) * share for share in (high_share, low_share)]
        points = np.array([[along[0], belt], [along[1], belt], [upper[0], top], [upper[1], top]])
        outline = street.view.project(body.side(points, sign))
        sketch.fill(outline, body.glass, is_body=False)
        if street.rng.random() < 0.6 and min(sketch.shape) > _SMALL:
            shares = street.rng.uniform(0.2, 0.8, 2)
            cut = points[[0, 3]] + shares[:, None] * (points[[1, 2]] - points[[0, 3]])
            shine = np.concatenate((points[:1], cut, points[3:]))
            sketch.fill(
                street.view.project(body.side(shine, sign)),
                np.minimum(street.light.fog, 1),
                float(street.rng.uniform(0.05, 0.5)),
                is_body=False,
            )
