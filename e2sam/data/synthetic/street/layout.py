"""Streets as a camera on a car or on a pavement sees them: vehicles, people, houses, trees, signs on a road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.street.figures import paint_cyclist, paint_person
from e2sam.data.synthetic.street.furniture import paint_furniture, paint_sprite, paint_tree
from e2sam.data.synthetic.street.ground import Section, paint_ground, paint_markings, paint_sky, reflect
from e2sam.data.synthetic.street.vehicles import paint_vehicle
from e2sam.data.synthetic.street.view import NEAREST, Light, Street, View
from e2sam.data.synthetic.street.walls import FrontStyle, paint_barrier, paint_house
from e2sam.data.synthetic.textures import Planes, random_colour

__all__ = ["paint_street"]

_FARTHEST = 70.0


@dataclass(eq=False)
class _Plan:
    """What will stand on a street: (Z, what paints it), in any order; places (X, Z) with a large thing on them."""

    street: Street
    section: Section
    things: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    taken: list[tuple[float, float]] = field(default_factory=list)

    def add(self, along: float, lateral: float, paint: Callable[[tuple[float, float]], object]) -> None:
        """Something at a place of the street, unless that is behind the camera or taken."""
        place = self.street.view.place(along, lateral)
        if any(np.hypot(place[0] - x, place[1] - z) < 3.6 for x, z in self.taken):
            return
        if (
            place[1] > NEAREST * 2
            and not self.street.view.is_tiny(place[1], 1.6)
            and abs(place[0]) < 1.5 * place[1] + 8
        ):
            self.things.append((place[1], lambda: paint(place)))

    def paint(self) -> None:
        """Everything, the farthest first."""
        for _, paint in sorted(self.things, key=lambda thing: -thing[0]):
            paint()


def paint_street(rng: np.random.Generator, canvas: Canvas, material: Material | None = None) -> None:
    """Fill an empty canvas with a street; what stands on it has the size that its place asks for.

    Parameters
    ----------
    rng
        Source of everything random.
    canvas
        To paint on; plane 3, if there is one, is depth, plane 4 thermal.
    material
        Silhouettes and photographs, of which a few things and some skies are made.
    """
    light = _draw_light(rng)
    view = _draw_view(rng, canvas.size)
    section = Section(
        float(rng.uniform(2.6, 8)),
        float(rng.uniform(1.4, 5)) if rng.random() < 0.85 else 0.0,
        float(rng.uniform(0.8, 3)) if rng.random() < 0.3 else 0.0,
    )
    street = Street.begin(rng, canvas, material, view, light)
    paint_sky(street)
    paint_ground(street, section)
    paint_markings(street, section)
    _houses(street, section)
    if rng.random() < 0.15:
        reflect(street, float(rng.uniform(0.15, 0.6)))
    plan = _Plan(street, section)
    crowd = rng.uniform(0.2, 1.6)
    if rng.random() < 0.35:
        _close_up(plan)
    _parked(plan)
    _traffic(plan, crowd)
    _people(plan, crowd)
    _roadside(plan)
    plan.paint()
    street.finish()


def _draw_light(rng: np.random.Generator) -> Light:
    """Sun, overcast, dusk or night, with or without haze."""
    kind = str(rng.choice(["sun", "overcast", "dusk", "night"], p=[0.47, 0.31, 0.1, 0.12]))
    density = float(np.exp(rng.uniform(np.log(0.0005), np.log(0.02))))
    if kind == "night":
        gain = rng.uniform(0.2, 0.6) * np.array([1.0, rng.uniform(0.8, 1), rng.uniform(0.6, 1.1)])
        return Light(_f32(gain), _f32(rng.uniform(0.01, 0.12) * np.array([0.9, 0.9, 1.2])), density, True, None, 0.0)
    sky = np.clip(rng.uniform(0.7, 0.98) + rng.normal(0, 0.015, 3) + (-0.05, 0, 0.05), 0, 1)
    if kind == "overcast":
        return Light(_f32(rng.uniform(0.6, 0.95) * np.ones(3)), _f32(sky), density, False, None, 0.0)
    if kind == "dusk":
        warm = np.array([1.0, rng.uniform(0.6, 0.85), rng.uniform(0.4, 0.75)])
        return Light(
            _f32(rng.uniform(0.5, 0.85) * (0.5 + 0.5 * warm)), _f32(sky * warm * 0.85), density, True, None, 0.0
        )
    angle, long = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.8)
    sun = (float(long * np.cos(angle)), float(long * np.sin(angle)))
    return Light(
        _f32(rng.uniform(0.9, 1.2) * np.ones(3)), _f32(sky), density, False, sun, float(rng.uniform(0.3, 0.65))
    )


def _f32(values: object) -> Planes:
    return np.asarray(values, np.float32)


def _draw_view(rng: np.random.Generator, size: tuple[int, int]) -> View:
    """Along the street, across it, or anything between; from a pavement, a lane or a bus."""
    choice = rng.random()
    if choice < 0.55:
        yaw = rng.normal(0, 0.08)
    elif choice < 0.8:
        yaw = rng.choice([-1, 1]) * rng.uniform(0.25, 1.0)
    else:
        yaw = rng.choice([-1, 1]) * rng.uniform(1.2, np.pi / 2)
    # Whoever looks across a street stands on its other side.
    offset = rng.uniform(-5, 5) if choice < 0.55 else np.sign(yaw) * rng.uniform(0 if choice < 0.8 else 4, 11)
    bend = rng.normal(0, 0.0012) if choice < 0.55 and rng.random() < 0.5 else 0.0
    return View(
        size,
        float(rng.uniform(0.55, 1.3) * max(size)),
        float(rng.uniform(0.3, 0.7) * size[1]),
        float(rng.uniform(0.25, 0.6) * size[0]),
        float(rng.uniform(1.2, 2.2) if rng.random() < 0.8 else rng.uniform(2.5, 4.5)),
        float(yaw),
        float(offset),
        float(bend),
        float(rng.uniform(0.35, 1.0)),
    )


def _range(view: View) -> tuple[float, float]:
    """How far along the street the camera sees."""
    return (0.0, _FARTHEST) if abs(view.yaw) < 0.25 else (-0.35 * _FARTHEST, 0.7 * _FARTHEST)


def _houses(street: Street, section: Section) -> None:
    """A skyline far away, and rows of houses on each side, the farthest first."""
    rng, view = street.rng, street.view
    is_night = street.light.is_night
    blocks: list[tuple[float, Callable[[], None]]] = []
    if rng.random() < 0.8:
        x = -1.2 * 150
        while x < 180:
            width, z, height = rng.uniform(8, 45), rng.uniform(130, 200), rng.uniform(6, 45)
            style = FrontStyle.draw(rng, _house_colour(rng), is_night)
            corners = ((float(x), float(z)), (float(x + width), float(z)))
            blocks.append((float(z), partial(paint_house, street, corners, float(height), style, 0.0)))
            x += width + rng.exponential(10)
    for side in (-1, 1):
        if rng.random() < 0.85 and side * view.yaw < 0.25:
            _row(street, section, side, blocks)
    for _, paint in sorted(blocks, key=lambda block: -block[0]):
        paint()


def _house_colour(rng: np.random.Generator) -> Planes:
    """Plaster, stone, brick or concrete; at times any colour."""
    tints = ((1, 0.95, 0.85), (1, 1, 1), (1, 0.62, 0.5), (1, 0.88, 0.68), (0.92, 0.97, 1))
    muted = np.array(tints[int(rng.integers(len(tints)))]) * rng.uniform(0.25, 0.95)
    share = 0.5 if rng.random() < 0.15 else 0.1
    return _f32(muted + share * (random_colour(rng) - muted))


def _row(street: Street, section: Section, side: int, blocks: list[tuple[float, Callable[[], None]]]) -> None:
    """One row of houses, of similar colours."""
    rng, view = street.rng, street.view
    wall = _house_colour(rng)
    setback = section.edge + (float(rng.uniform(0, 10)) if rng.random() < 0.5 else 0.3)
    typical, gap = float(np.exp(rng.uniform(np.log(5), np.log(24)))), float(rng.choice([0.0, 0.0, 3.0, 12.0]))
    along, end = (-4.0 if _range(view)[0] == 0 else -45.0), 110.0
    has_roofs = rng.random() < 0.45
    while along < end:
        length = float(rng.uniform(6, 26))
        place, back = side * setback, side * (setback + 11.0)
        height = float(np.clip(typical * np.exp(rng.normal(0, 0.2)), 3, 40))
        street_front = (view.place(along, place), view.place(along + length, place))
        behind = view.place(along, back), view.place(along + length, back)
        ordered = (street_front[1], street_front[0], behind[0])
        if behind[1][1] < behind[0][1]:
            ordered = (street_front[0], street_front[1], behind[1])
        z = max(street_front[0][1], street_front[1][1])
        if z > NEAREST:
            style = FrontStyle.draw(rng, wall, street.light.is_night)
            roof = float(rng.uniform(1.5, 4)) if has_roofs else 0.0
            blocks.append((z, partial(paint_house, street, ordered, height, style, roof)))
        along += length + (rng.exponential(gap) if gap else 0.0)


def _parked(plan: _Plan) -> None:
    """Rows of parked vehicles, along the kerb or side by side."""
    rng, view, section = plan.street.rng, plan.street.view, plan.section
    for side in (-1, 1):
        if rng.random() < 0.3:
            continue
        is_angled = rng.random() < 0.2
        spacing = float(rng.uniform(2.5, 3.2)) if is_angled else float(rng.uniform(5.3, 6.8))
        turn = float(rng.choice([-1, 1]) * rng.uniform(0.9, np.pi / 2)) if is_angled else 0.0
        density, lateral = rng.uniform(0.35, 1.0), side * (section.road - (0.4 if is_angled else 0.95))
        start, end = _range(view)
        for along in np.arange(start + rng.uniform(0, spacing), end, spacing):
            if rng.random() > density:
                continue
            flip = np.pi if rng.random() < (0.15 if side > 0 else 0.85) else 0.0
            heading = view.heading(float(along)) + flip + turn + rng.normal(0, 0.02)
            kind = int(rng.choice(8, p=[0.25, 0.3, 0.22, 0.08, 0.08, 0.0, 0.05, 0.02]))
            plan.add(float(along), lateral, _vehicle(plan.street, float(heading), kind))


def _vehicle(street: Street, heading: float, kind: int | None) -> Callable[[tuple[float, float]], object]:
    return lambda place: paint_vehicle(street, place, heading, kind)


def _traffic(plan: _Plan, crowd: float) -> None:
    """Vehicles that drive, in the lanes of both directions, and those on two wheels."""
    rng, view, section = plan.street.rng, plan.street.view, plan.section
    start, end = _range(view)
    for lane in (-1, 1):
        along = start + rng.exponential(14)
        while along < end:
            lateral = lane * section.road * rng.uniform(0.25, 0.45)
            heading = view.heading(float(along)) + (0.0 if lane > 0 else np.pi) + rng.normal(0, 0.04)
            if rng.random() < 0.2:
                is_motor, has_rider = bool(rng.random() < 0.4), bool(rng.random() < 0.9)
                plan.add(float(along), float(lateral), _cycle(plan.street, is_motor, has_rider))
            else:
                plan.add(float(along), float(lateral), _vehicle(plan.street, float(heading), None))
            along += rng.uniform(7, 12) + rng.exponential(14 / crowd)


def _cycle(street: Street, is_motor: bool, has_rider: bool) -> Callable[[tuple[float, float]], object]:
    return lambda place: paint_cyclist(street, place, is_motor, has_rider)


def _people(plan: _Plan, crowd: float) -> None:
    """People on the pavements, alone and in groups, and some on the road."""
    rng, section, street = plan.street.rng, plan.section, plan.street
    start, end = _range(street.view)
    for _ in range(rng.poisson(9 * crowd)):
        along = float(start + (end - start) * rng.random() ** 2)
        side = float(rng.choice([-1, 1]))
        lateral = (
            side * rng.uniform(section.road + 0.2, max(section.edge, section.road + 1.2))
            if rng.random() < 0.8
            else rng.uniform(-4, 4)
        )
        for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 6))):
            spot = along + rng.normal(0, 0.5), lateral + rng.normal(0, 0.4)
            plan.add(float(spot[0]), float(spot[1]), lambda place: paint_person(street, place))
    for _ in range(rng.poisson(0.7)):
        lateral = float(rng.choice([-1, 1])) * (section.road + rng.uniform(0.2, 1))
        is_motor = bool(rng.random() < 0.3)
        plan.add(float(rng.uniform(start, end / 2)), lateral, _cycle(street, is_motor, False))


def _roadside(plan: _Plan) -> None:
    """Trees, bushes, lamp posts, signs, bins, barriers, and at times something of the material."""
    rng, section, street = plan.street.rng, plan.section, plan.street
    start, end = _range(street.view)
    for side in (-1, 1):
        edge = side * (section.road + 0.5)
        if rng.random() < 0.5:
            is_bush, beyond = bool(rng.random() < 0.25), side * (section.edge + rng.uniform(0, 2))
            lateral = beyond if rng.random() < 0.5 else edge
            for along in np.arange(start + rng.uniform(0, 8), end, rng.uniform(5, 16)):
                plan.add(float(along), lateral + rng.normal(0, 0.3), _tree(street, is_bush))
        for along in np.arange(start + rng.uniform(0, 15), end, rng.uniform(15, 35)):
            plan.add(float(along), edge, _furniture(street, "lamp"))
        if rng.random() < 0.4:
            _barrier(plan, side)
        if rng.random() < 0.2:
            kind = str(rng.choice(["bollard", "cone"]))
            for along in np.arange(start + rng.uniform(2, 8), start + rng.uniform(10, 40), rng.uniform(1.5, 3)):
                plan.add(float(along), edge, _furniture(street, kind))
    for _ in range(int(rng.integers(1, 8))):
        kind = str(rng.choice(["light", "sign", "sign", "bin", "bollard", "cone"]))
        lateral = float(rng.choice([-1, 1])) * rng.uniform(section.road + 0.3, section.edge + 0.8)
        plan.add(float(start + (end - start) * rng.random() ** 2), lateral, _furniture(street, kind))
    if street.material is not None and street.material.num_sprites > 0:
        for _ in range(rng.poisson(0.8)):
            lateral = rng.uniform(-section.edge, section.edge)
            plan.add(float(rng.uniform(start, end / 3)), float(lateral), lambda place: paint_sprite(street, place))


def _tree(street: Street, is_bush: bool) -> Callable[[tuple[float, float]], object]:
    return lambda place: paint_tree(street, place, is_bush)


def _furniture(street: Street, kind: str) -> Callable[[tuple[float, float]], object]:
    return lambda place: paint_furniture(street, place, kind)


def _barrier(plan: _Plan, side: int) -> None:
    """A fence, hedge, wall or rail along part of one side, in panels."""
    rng, view, section, street = plan.street.rng, plan.street.view, plan.section, plan.street
    kind = str(rng.choice(["fence", "hedge", "wall", "rail"], p=[0.35, 0.25, 0.2, 0.2]))
    lateral = side * (section.road + 0.2 if kind == "rail" else section.edge + 0.2)
    along, end = _range(view)[0] + rng.uniform(0, 20), _range(view)[1]
    length = float(rng.uniform(4, 12))
    while along < end and rng.random() < 0.9:
        first, second = view.place(along, lateral), view.place(along + length, lateral)
        z = (first[1] + second[1]) / 2
        if max(first[1], second[1]) > NEAREST * 2:
            plan.things.append((z, partial(paint_barrier, street, first, second, kind)))
        along += length


def _close_up(plan: _Plan) -> None:
    """Vehicles near the camera, of any kind, at any angle, and people."""
    rng, street = plan.street.rng, plan.street
    for _ in range(int(rng.integers(0, 3))):
        kind = int(rng.integers(8)) if rng.random() < 0.4 else int(rng.integers(4))
        # Long ones would fill the frame with one side.
        z = float(rng.uniform(3.5, 9)) + (6 if kind in (5, 7) else 0)
        x = float(rng.uniform(-0.45, 0.45) * z * street.view.size[1] / street.view.focal)
        if any(np.hypot(x - other[0], z - other[1]) < 5 for other in plan.taken):
            continue
        plan.taken.append((x, z))
        plan.things.append((z, partial(paint_vehicle, street, (x, z), float(rng.uniform(0, 2 * np.pi)), kind)))
    for _ in range(rng.poisson(0.8)):
        z = float(rng.uniform(2.2, 7))
        x = float(rng.uniform(-0.45, 0.45) * z * street.view.size[1] / street.view.focal)
        plan.things.append((z, partial(paint_person, street, (x, z))))
