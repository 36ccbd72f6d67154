"""People of a street scene, on foot and on two wheels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from e2sam.data.synthetic.street.view import Points, Sketch, Street, capsule, disc
from e2sam.data.synthetic.textures import Planes, random_colour, smooth_field

__all__ = ["paint_cyclist", "paint_person"]

_SKIN = ((0.87, 0.68, 0.56), (0.72, 0.5, 0.38), (0.45, 0.3, 0.22), (0.3, 0.2, 0.15))


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where a flat figure stands: its foot in pixels, pixels for each metre, and -1 where it faces left."""

    foot: tuple[float, float]
    scale: float
    facing: float

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Pixel (x, y) of (right, up) in metres."""
        return self.foot[0] + self.facing * self.scale * point[0], self.foot[1] - self.scale * point[1]

    def limb(self, first: tuple[float, float], second: tuple[float, float], radii: tuple[float, float]) -> Points:
        """Outline of a limb in pixels."""
        return capsule(self.at(first), self.at(second), (radii[0] * self.scale, radii[1] * self.scale))

    def round(self, centre: tuple[float, float], radius: float) -> Points:
        """Outline of a disc in pixels."""
        return disc(self.at(centre), radius * self.scale)

    def box(self, left: float, bottom: float, right: float, top: float) -> Points:
        """Outline in pixels of what the figure reaches."""
        return np.array([self.at((left, bottom)), self.at((right, top))])


@dataclass(frozen=True, eq=False)
class _Clothes:
    """Colours (3,) of a person."""

    skin: Planes
    hair: Planes
    coat: Planes
    legs: Planes
    shoes: Planes

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Clothes:
        """Often dark below, of any colour above."""
        skin = np.array(_SKIN[int(rng.integers(4))], np.float32)
        hair = np.array([0.12, 0.09, 0.07], np.float32) if rng.random() < 0.6 else random_colour(rng)
        legs = random_colour(rng) * np.float32(0.35 if rng.random() < 0.6 else 1)
        coat = random_colour(rng) * np.float32(rng.choice([0.3, 1]))
        return cls(skin, hair, coat, legs, random_colour(rng) * np.float32(0.4))


def _frame(street: Street, place: tuple[float, float]) -> _Frame:
    foot = street.view.project(np.array([[place[0], 0.0, place[1]]]))
    if not len(foot):
        return _Frame((-9e3, -9e3), 1.0, 1.0)
    facing = float(street.rng.choice([-1.0, 1.0]))
    return _Frame((float(foot[0, 0]), float(foot[0, 1])), street.view.focal / place[1], facing)


def paint_person(street: Street, place: tuple[float, float]) -> int:
    """Paint somebody who stands or walks at (X, Z); the label, or 0."""
    rng, frame = street.rng, _frame(street, place)
    tall = float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.95)) if rng.random() < 0.88 else float(rng.uniform(1.0, 1.4))
    frame = _Frame(frame.foot, frame.scale * tall / 1.75, frame.facing)
    sketch = Sketch(street.view.size, frame.box(-0.75, -0.08, 0.75, 1.85))
    if sketch.is_empty:
        return 0
    x, z = place
    street.shade(np.array([(x - 0.2, z - 0.12), (x + 0.2, z - 0.12), (x + 0.2, z + 0.12), (x - 0.2, z + 0.12)]), 1.6)
    clothes = _Clothes.draw(rng)
    stride = float(rng.uniform(0.12, 0.42)) if rng.random() < 0.55 else 0.0
    _legs(rng, sketch, frame, clothes, stride)
    _upper(rng, sketch, frame, clothes, stride)
    sketch.colour *= 1 + np.float32(0.5) * (smooth_field(rng, sketch.shape, 5.0, 2) - 0.5)
    return street.put(sketch, "person", z)


def _legs(rng: np.random.Generator, sketch: Sketch, frame: _Frame, clothes: _Clothes, stride: float) -> None:
    """Two legs: side by side, or one before the other."""
    stance = 0.09 + 0.05 * rng.random()
    for sign, tone in ((-1, 0.75), (1, 1.0)):
        foot = sign * (stride if stride else stance)
        lift = 0.09 if stride and sign < 0 else 0.0
        hip = sign * (0.03 if stride else 0.09)
        knee = (hip + 0.55 * (foot - hip) + (0.06 if stride else 0), 0.48)
        colour = clothes.legs * np.float32(tone)
        bare = clothes.skin if rng.random() < 0.12 else colour
        sketch.fill(frame.limb((hip, 0.9), knee, (0.105, 0.075)), colour)
        sketch.fill(frame.limb(knee, (foot, 0.08 + lift), (0.075, 0.055)), bare)
        toe = 0.13 if stride else 0.03 * sign
        sketch.fill(frame.limb((foot - 0.02, 0.045 + lift), (foot + toe, 0.04 + lift), (0.05, 0.04)), clothes.shoes)


def _upper(rng: np.random.Generator, sketch: Sketch, frame: _Frame, clothes: _Clothes, stride: float) -> None:
    """Torso, arms, head and what is carried."""
    half = 0.13 if stride else 0.19
    hem = float(rng.choice([0.88, 0.8, 0.55], p=[0.6, 0.25, 0.15]))
    swing = stride * 0.8
    far, near = (-0.02 - half * (stride == 0), 1.38), (0.02 + half * (stride == 0), 1.38)
    _arm(rng, sketch, frame, far, (-swing, clothes))
    if rng.random() < 0.25:
        sketch.fill(
            frame.limb((-half - 0.06, 1.32), (-half - 0.06, 1.05), (0.12, 0.13)), random_colour(rng) * np.float32(0.7)
        )
    flare = half * (1.15 if hem > 0.7 else 1.4)
    torso = [
        (-half, 1.4),
        (-0.06, 1.47),
        (0.06, 1.47),
        (half, 1.4),
        (half * 0.85, 1.1),
        (flare, hem),
        (-flare, hem),
        (-half * 0.85, 1.1),
    ]
    sketch.fill(np.array([frame.at(point) for point in torso]), clothes.coat)
    if rng.random() < 0.3:
        sketch.fill(frame.limb((-0.03, 1.42), (0.03, 1.0), (0.04, 0.04)), random_colour(rng), is_body=False)
    _arm(rng, sketch, frame, near, (swing, clothes))
    if rng.random() < 0.25:
        bag = np.array([frame.at(point) for point in ((0.12, 0.95), (0.4, 0.95), (0.42, 0.66), (0.1, 0.66))])
        sketch.fill(bag, random_colour(rng))
    sketch.fill(frame.limb((0, 1.44), (0.01, 1.56), (0.055, 0.055)), clothes.skin * np.float32(0.85))
    _head(rng, sketch, frame, clothes, (0.02, 1.63))


def _arm(
    rng: np.random.Generator,
    sketch: Sketch,
    frame: _Frame,
    shoulder: tuple[float, float],
    pose: tuple[float, _Clothes],
) -> None:
    """An arm that hangs, swings, or is bent."""
    swing, clothes = pose
    tone = clothes.coat * np.float32(rng.uniform(0.7, 0.95))
    elbow = (shoulder[0] + 0.45 * swing + 0.25 * shoulder[0], 1.13)
    hand = (elbow[0] + 0.6 * swing, 0.9) if rng.random() < 0.7 else (elbow[0] + 0.2, 1.15)
    sketch.fill(frame.limb(shoulder, elbow, (0.07, 0.055)), tone)
    sketch.fill(frame.limb(elbow, hand, (0.055, 0.04)), tone if rng.random() < 0.75 else clothes.skin)
    sketch.fill(frame.round(hand, 0.05), clothes.skin)


def _head(
    rng: np.random.Generator, sketch: Sketch, frame: _Frame, clothes: _Clothes, centre: tuple[float, float]
) -> None:
    """Head and hair, seen from the side, the front or behind."""
    x, y = centre
    sketch.fill(frame.limb((x, y - 0.03), (x, y + 0.03), (0.085, 0.1)), clothes.skin, heat=0.08)
    shift = float(rng.choice([-0.04, 0.0, 0.0]))
    low = y + 0.03 if rng.random() < 0.65 else y - 0.06
    sketch.fill(frame.limb((x + shift, y + 0.05), (x + shift - 0.02, low), (0.1, 0.085)), clothes.hair)
    if shift == 0.0 and rng.random() < 0.6:
        sketch.fill(frame.limb((x + 0.01, y + 0.0), (x + 0.01, y - 0.05), (0.075, 0.06)), clothes.skin)


def paint_cyclist(street: Street, place: tuple[float, float], is_motor: bool, has_rider: bool) -> None:
    """Paint a bicycle or motorcycle at (X, Z), and its rider as a thing of its own."""
    rng, frame = street.rng, _frame(street, place)
    sketch = Sketch(street.view.size, frame.box(-1.15, -0.05, 1.15, 1.2))
    if sketch.is_empty:
        return
    x, z = place
    is_end_on = rng.random() < 0.4
    half = 0.2 if is_end_on else 0.85
    street.shade(
        np.array([(x - half, z - 0.15), (x + half, z - 0.15), (x + half, z + 0.15), (x - half, z + 0.15)]), 1.0
    )
    if is_end_on:
        _machine_end_on(rng, sketch, frame, is_motor)
    else:
        _machine(rng, sketch, frame, is_motor)
    if is_motor:
        sketch.heat *= np.float32(rng.uniform(0, 1))
    street.put(sketch, "vehicle", z)
    if has_rider:
        _rider(street, frame, z, is_end_on)


def _machine(rng: np.random.Generator, sketch: Sketch, frame: _Frame, is_motor: bool) -> None:
    """From the side: two wheels, a frame, saddle and handlebar; a motorcycle has a body between."""
    colour, dark = random_colour(rng), np.full(3, 0.06, np.float32)
    radius, thick = (0.31, 0.075) if is_motor else (0.34, 0.028)
    wheels = ((-0.62, radius), (0.62, radius)) if is_motor else ((-0.52, radius), (0.52, radius))
    for wheel in wheels:
        outer, inner = frame.round(wheel, radius), frame.round(wheel, radius - 2 * thick)
        ring = np.concatenate((outer, outer[:1], inner[:1], inner[::-1]))
        sketch.fill(ring, dark, heat=0.3)
        if is_motor:
            sketch.fill(frame.round(wheel, 0.12), np.full(3, 0.5, np.float32))
        for turn in np.arange(3 if frame.scale > 60 else 0) * (np.pi / 3):
            reach = (radius - thick) * np.array([np.cos(turn), np.sin(turn)])
            ends = [(wheel[0] + sign * reach[0], wheel[1] + sign * reach[1]) for sign in (-1, 1)]
            sketch.fill(frame.limb(ends[0], ends[1], (0.006, 0.006)), dark + np.float32(0.3))
    saddle, bars, pedals = (-0.22, 0.92), (0.4, 1.02), (-0.05, 0.3)
    tube = 0.03 if not is_motor else 0.05
    for first, second in (
        (wheels[0], pedals),
        (wheels[0], saddle),
        (pedals, saddle),
        (pedals, (0.35, 0.82)),
        (saddle, (0.35, 0.82)),
        (wheels[1], bars),
    ):
        sketch.fill(frame.limb(first, second, (tube, tube)), colour)
    sketch.fill(frame.limb((saddle[0] - 0.12, 0.94), (saddle[0] + 0.12, 0.95), (0.05, 0.03)), dark)
    sketch.fill(frame.limb(bars, (0.3, 1.06), (0.03, 0.03)), dark)
    if is_motor:
        sketch.fill(frame.limb((-0.2, 0.4), (0.25, 0.42), (0.2, 0.2)), dark + np.float32(0.12), heat=0.8)
        sketch.fill(frame.limb((-0.65, 0.72), (0.3, 0.75), (0.09, 0.17)), colour)
        sketch.fill(frame.limb((-0.6, 0.82), (-0.05, 0.8), (0.06, 0.06)), dark)


def _machine_end_on(rng: np.random.Generator, sketch: Sketch, frame: _Frame, is_motor: bool) -> None:
    """From the front or the rear: narrow."""
    colour, dark = random_colour(rng), np.full(3, 0.06, np.float32)
    wide = 0.08 if is_motor else 0.035
    sketch.fill(frame.limb((0, 0.08), (0, 0.6), (wide, wide)), dark)
    sketch.fill(frame.limb((0, 0.55), (0, 0.95), (wide, wide * 0.8)), colour)
    sketch.fill(frame.limb((-0.3, 1.04), (0.3, 1.04), (0.03, 0.03)), dark)
    sketch.fill(frame.limb((0, 0.8), (0, 1.0), (0.05, 0.05)), dark)
    if is_motor:
        sketch.fill(frame.limb((0, 0.5), (0, 0.85), (0.2, 0.17)), colour, heat=0.6)
        sketch.fill(frame.round((0, 0.85), 0.09), np.array([0.9, 0.85, 0.7], np.float32))


def _rider(street: Street, frame: _Frame, distance: float, is_end_on: bool) -> None:
    """Who sits on it."""
    rng = street.rng
    sketch = Sketch(street.view.size, frame.box(-0.7, 0.1, 0.7, 1.85))
    if sketch.is_empty:
        return
    clothes = _Clothes.draw(rng)
    if is_end_on:
        for sign in (-1, 1):
            sketch.fill(frame.limb((sign * 0.1, 0.95), (sign * 0.17, 0.55), (0.1, 0.08)), clothes.legs)
            sketch.fill(frame.limb((sign * 0.17, 0.55), (sign * 0.12, 0.25), (0.075, 0.06)), clothes.legs)
            sketch.fill(frame.limb((sign * 0.18, 1.42), (sign * 0.29, 1.08), (0.07, 0.05)), clothes.coat)
        sketch.fill(frame.limb((0, 1.38), (0, 0.98), (0.21, 0.18)), clothes.coat)
        head = (0.0, 1.66)
    else:
        sketch.fill(frame.limb((-0.2, 0.96), (0.18, 0.68), (0.11, 0.08)), clothes.legs * np.float32(0.8))
        sketch.fill(frame.limb((0.18, 0.68), (0.02, 0.26), (0.075, 0.055)), clothes.legs)
        sketch.fill(frame.limb((0.0, 0.22), (0.14, 0.2), (0.05, 0.04)), clothes.shoes)
        sketch.fill(frame.limb((-0.2, 1.0), (0.03, 1.38), (0.15, 0.16)), clothes.coat)
        sketch.fill(frame.limb((0.06, 1.38), (0.38, 1.06), (0.065, 0.045)), clothes.coat * np.float32(0.85))
        head = (0.13, 1.64)
    _head(rng, sketch, frame, clothes, head)
    if rng.random() < 0.5:
        sketch.fill(
            frame.limb((head[0] - 0.02, head[1] + 0.06), (head[0] + 0.03, head[1] + 0.06), (0.115, 0.11)),
            random_colour(rng),
        )
    street.put(sketch, "person", distance)
