"""What stands along a street: trees, lamp posts, traffic lights, signs, bins, bollards and cones."""

from __future__ import annotations

import numpy as np

from e2sam.data.synthetic import shapes
from e2sam.data.synthetic.street.view import Points, Sketch, Street, capsule, disc
from e2sam.data.synthetic.textures import Planes, random_colour, resample, smooth_field

__all__ = ["paint_furniture", "paint_sprite", "paint_tree"]

_LARGEST_CROWN = 360


def _foot(street: Street, place: tuple[float, float]) -> tuple[float, float, float]:
    """Pixel (x, y) of the foot and pixels for each metre at (X, Z)."""
    foot = street.view.project(np.array([[place[0], 0.0, place[1]]]))
    if not len(foot):
        return -9e3, -9e3, 1.0
    return float(foot[0, 0]), float(foot[0, 1]), street.view.focal / place[1]


def _square(place: tuple[float, float], half: float) -> Points:
    x, z = place
    return np.array([(x - half, z - half), (x + half, z - half), (x + half, z + half), (x - half, z + half)])


def paint_tree(street: Street, place: tuple[float, float], is_bush: bool) -> None:
    """Paint a tree or bush: clumps of leaves with gaps that the sky shines through, on a trunk."""
    rng = street.rng
    x, y, scale = _foot(street, place)
    tall = float(rng.uniform(0.6, 2.0) if is_bush else rng.uniform(3.5, 13)) * scale
    wide = tall * float(rng.uniform(0.8, 1.8) if is_bush else rng.uniform(0.3, 0.8))
    sketch = Sketch(street.view.size, np.array([(x - wide * 0.75, y - tall * 1.1), (x + wide * 0.75, y + 2)]))
    if min(sketch.shape) < 3:
        return
    street.shade(_square(place, 0.35 * wide / scale if is_bush else 0.3), tall / scale)
    if not is_bush:
        _trunk(rng, sketch, (x, y), tall, wide)
    season = rng.choice(["green", "green", "green", "autumn", "bare"])
    if season != "bare" or is_bush:
        hue = (0.35, 0.22, 0.06) if season == "autumn" else (0.16, 0.28, 0.08)
        leaf = np.clip(np.array(hue) * rng.uniform(0.5, 1.6) + rng.normal(0, 0.03, 3), 0.02, 1).astype(np.float32)
        for _ in range(int(rng.integers(2, 5)) if tall > 40 else 2):
            side = wide * rng.uniform(0.8, 1.25)
            middle = (
                x + rng.normal(0, 0.17) * wide,
                y - tall * (rng.uniform(0.4, 0.6) if is_bush else rng.uniform(0.58, 0.82)),
            )
            _clump(rng, sketch, middle, float(max(side, 4)), leaf)
    street.put(sketch, "leaf", place[1])


def _trunk(rng: np.random.Generator, sketch: Sketch, foot: tuple[float, float], tall: float, wide: float) -> None:
    """Trunk and a few boughs."""
    bark = (np.array([0.25, 0.2, 0.16]) * rng.uniform(0.5, 1.4)).astype(np.float32)
    x, y = foot
    thick = tall * rng.uniform(0.015, 0.035)
    fork = (x + rng.normal(0, 0.02) * tall, y - 0.45 * tall)
    sketch.fill(capsule((x, y), fork, (thick, thick * 0.8)), bark)
    for _ in range(int(rng.integers(3, 8))):
        start = (fork[0], fork[1] + rng.uniform(-0.15, 0.1) * tall)
        end = (fork[0] + rng.uniform(-0.5, 0.5) * wide, y - rng.uniform(0.6, 0.95) * tall)
        sketch.fill(capsule(start, end, (thick * 0.5, thick * 0.15)), bark)


def _clump(rng: np.random.Generator, sketch: Sketch, middle: tuple[float, float], side: float, leaf: Planes) -> None:
    """One clump of leaves, lighter above."""
    small = int(np.clip(side, 6, _LARGEST_CROWN))
    shape = shapes.noise_shape(rng, small)
    fine = smooth_field(rng, (small, small), float(rng.uniform(6, 22)), 3)
    shape *= np.clip((fine - rng.uniform(0.1, 0.38)) * 9, 0, 1)
    # A clump that reached the border of its square would be cut straight there.
    axis = (np.arange(small, dtype=np.float32) + 0.5) / small * 2 - 1
    within = 0.8 - np.hypot(axis[None], axis[:, None]) + 0.35 * (fine - 0.5)
    shape *= np.clip(within * small / 4, 0, 1)
    if int(side) > small:
        shape, fine = resample(shape, (int(side), int(side))), resample(fine, (int(side), int(side)))
    lighter = np.linspace(1.25, 0.6, len(fine), dtype=np.float32)[:, None]
    colour = np.clip(leaf[:, None, None] * (0.35 + 1.3 * fine) * lighter, 0, 1)
    sketch.stamp(shape, int(middle[1] - side / 2), int(middle[0] - side / 2), colour)


def paint_furniture(street: Street, place: tuple[float, float], kind: str) -> None:
    """Paint a "lamp", "light" (traffic light), "sign", "bin", "bollard" or "cone" at (X, Z)."""
    rng = street.rng
    x, y, scale = _foot(street, place)
    tall = {"lamp": rng.uniform(4, 9), "light": rng.uniform(2.8, 3.8), "sign": rng.uniform(2, 3)}.get(kind, 1.1) * scale
    wide = max(0.9 * scale, 0.28 * tall)
    sketch = Sketch(street.view.size, np.array([(x - wide, y - tall * 1.06), (x + wide, y + 0.1 * scale)]))
    if sketch.is_empty:
        return
    street.shade(_square(place, 0.08 if kind in ("lamp", "light", "sign") else 0.25), tall / scale)
    metal = np.clip(rng.choice([0.12, 0.35, 0.55]) + rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)
    if kind in ("lamp", "light", "sign"):
        thick = max(0.55, scale * float(rng.uniform(0.035, 0.08)))
        sketch.fill(capsule((x, y), (x, y - tall), (thick, thick * 0.8)), metal)
    if kind == "lamp":
        _lantern(street, sketch, (x, y - tall), scale, metal)
    elif kind == "light":
        _signals(street, sketch, (x, y - tall), scale)
    elif kind == "sign":
        _plate(rng, sketch, (x, y - tall + 0.3 * scale), scale)
    else:
        _low(rng, sketch, (x, y), scale, kind)
    street.put(sketch, "sign" if kind == "sign" else "metal", place[1])


def _lantern(street: Street, sketch: Sketch, top: tuple[float, float], scale: float, metal: Planes) -> None:
    rng = street.rng
    reach = float(rng.choice([-1.0, 1.0])) * rng.uniform(0, 0.8) * scale
    end = (top[0] + reach, top[1] - 0.1 * scale)
    sketch.fill(capsule(top, end, (0.04 * scale, 0.04 * scale)), metal)
    is_lit = street.light.is_night and rng.random() < 0.85
    colour = np.array([1.0, 0.85, 0.55], np.float32) if is_lit else np.full(3, 0.75, np.float32)
    size = 0.16 * scale
    sketch.fill(
        capsule((end[0] - size, end[1]), (end[0] + size, end[1]), (0.09 * scale,) * 2), colour, glow=float(is_lit)
    )
    if is_lit:
        sketch.lamps.append((*end, max(2.0, 1.6 * size), colour))


def _signals(street: Street, sketch: Sketch, top: tuple[float, float], scale: float) -> None:
    """A dark box with three lamps, one of them lit."""
    half, high = 0.17 * scale, 0.95 * scale
    x, y = top
    box = np.array([(x - half, y), (x + half, y), (x + half, y + high), (x - half, y + high)])
    sketch.fill(box, np.full(3, 0.05, np.float32))
    lit = int(street.rng.integers(3))
    for index, colour in enumerate(((0.95, 0.1, 0.08), (0.95, 0.65, 0.1), (0.1, 0.9, 0.5))):
        is_lit = index == lit
        centre = (x, y + (0.17 + 0.3 * index) * scale)
        shown = np.array(colour, np.float32) * np.float32(1 if is_lit else 0.22)
        sketch.fill(disc(centre, 0.11 * scale), shown, glow=float(is_lit), is_body=False)
        if is_lit and street.light.is_night:
            sketch.lamps.append((*centre, max(1.5, 0.2 * scale), shown))


def _plate(rng: np.random.Generator, sketch: Sketch, centre: tuple[float, float], scale: float) -> None:
    """A disc, triangle, diamond or rectangle with a border and a symbol."""
    radius = float(rng.uniform(0.28, 0.5)) * scale
    corners = int(rng.choice([3, 4, 20, 8, 2], p=[0.2, 0.12, 0.35, 0.08, 0.25]))
    rim = np.array(
        ((0.8, 0.08, 0.08), (0.1, 0.2, 0.65), (0.9, 0.75, 0.1), (0.05, 0.4, 0.2))[int(rng.integers(4))], np.float32
    )
    inner = np.full(3, 0.9, np.float32) if rng.random() < 0.6 else rim
    for share, colour in ((1.0, rim), (0.78, inner)):
        if corners == 2:
            wide, high = radius * share * 1.6, radius * share
            outline = np.array([(-wide, -high), (wide, -high), (wide, high), (-wide, high)]) + centre
        else:
            angle = np.arange(corners) * (2 * np.pi / corners) - np.pi / 2 + (np.pi / 8 if corners == 8 else 0)
            outline = np.stack((np.cos(angle), np.sin(angle)), 1) * radius * share + centre
        sketch.fill(outline, colour)
    ink = np.zeros(3, np.float32) if inner.mean() > 0.5 else np.ones(3, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        ends = rng.uniform(-0.4, 0.4, (2, 2)) * radius + centre
        stroke = (0.1 * radius, 0.1 * radius)
        sketch.fill(capsule((ends[0, 0], ends[0, 1]), (ends[1, 0], ends[1, 1]), stroke), ink, is_body=False)


def _low(rng: np.random.Generator, sketch: Sketch, foot: tuple[float, float], scale: float, kind: str) -> None:
    """Something knee- or waist-high."""
    x, y = foot

    def block(low: float, high: float, bottom: float, top: float) -> Points:
        corners = [(-bottom, low), (bottom, low), (top, high), (-top, high)]
        return np.array([(x + side * scale, y - up * scale) for side, up in corners])

    if kind == "cone":
        orange, white = np.array([0.9, 0.35, 0.08], np.float32), np.full(3, 0.9, np.float32)
        sketch.fill(block(0, 0.05, 0.22, 0.22), orange * 0.8)
        sketch.fill(block(0.05, 0.7, 0.16, 0.03), orange)
        sketch.fill(block(0.35, 0.52, 0.098, 0.064), white, is_body=False)
    elif kind == "bollard":
        colour = random_colour(rng)
        sketch.fill(block(0, 0.9, 0.09, 0.09), colour)
        sketch.fill(block(0.65, 0.78, 0.09, 0.09), 1 - colour, is_body=False)
    else:
        colour, wide = random_colour(rng) * np.float32(0.7), float(rng.uniform(0.22, 0.45))
        sketch.fill(block(0, 0.95, wide * 0.85, wide), colour)
        sketch.fill(block(0.92, 1.05, wide * 1.06, wide), colour * np.float32(0.7))
        sketch.fill(block(0.35, 0.6, wide * 0.5, wide * 0.5), random_colour(rng), 0.8, is_body=False)


def paint_sprite(street: Street, place: tuple[float, float]) -> None:
    """Paint a silhouette of the material as something that stands there."""
    assert street.material is not None
    x, y, scale = _foot(street, place)
    side = int(street.rng.uniform(0.5, 2.0) * scale)
    if not 12 <= side <= max(street.view.size):
        return
    picture = shapes.sprite(street.rng, side, street.material)
    rows = np.flatnonzero((picture[3] > 0.5).any(1))
    if not len(rows):
        return
    top = int(y) - int(rows[-1])
    sketch = Sketch(street.view.size, np.array([(x - side / 2, top), (x + side / 2, top + side)]))
    if sketch.is_empty:
        return
    street.shade(_square(place, 0.3 * side / scale), side / scale)
    sketch.stamp(picture[3], top, int(x - side / 2), picture[:3])
    street.put(sketch, "metal", place[1])
