"""What people build: roads, railways, houses, and things that move on roads and water."""

from __future__ import annotations

import cmath

import numpy as np
from scipy import ndimage

from e2sam.data.synthetic.land.fields import Outline, cut, raster_parts, raster_tiles
from e2sam.data.synthetic.land.nature import flow
from e2sam.data.synthetic.land.place import Line, Mask, Place, fractal, raster_line, raster_lines
from e2sam.data.synthetic.land.spectra import NUM_BANDS, WATERS, vary
from e2sam.data.synthetic.textures import Planes

__all__ = ["lay_boats", "lay_roads", "lay_town", "lay_trees", "town_zone"]

_ROOFS = ("tile", "tile", "slate", "slate", "concrete", "concrete", "metal", "yard")
# Roads narrower than this carry no label.
_NARROWEST = 3.0


def lay_roads(place: Place, count: int) -> None:
    """Roads and railways across the land, after `render`."""
    rng, size = place.rng, place.size
    water = place.is_of(WATERS)
    # Bridges are short.
    deep = ndimage.distance_transform_edt(np.pad(water, 40, mode="edge"))[40:-40, 40:-40] > 16
    land = ndimage.distance_transform_edt(~deep) > 17 if deep.any() else np.ones(size, bool)
    for _ in range(count):
        is_rail = rng.random() < 0.2
        kind = "rail" if is_rail else str(rng.choice(("asphalt", "asphalt", "concrete", "track")))
        breadth = float(rng.uniform(5, 9) if is_rail else rng.choice([5.0, 8.0, 12.0, 26.0], p=[0.35, 0.35, 0.2, 0.1]))
        width = max(0.5, place.pixels(breadth * rng.uniform(0.8, 1.2)))
        points = flow(rng, size, float(rng.uniform(120, 500)), float(rng.choice([0.02, 0.15, 0.5])))
        cover = raster_line(size, points, np.full(len(points), width)) * land
        if width > 4 and rng.random() < 0.7:
            verge = raster_line(size, points, np.full(len(points), width * rng.uniform(1.4, 2.2))) * ~water
            place.tint(verge * np.float32(0.7), vary(rng, str(rng.choice(("grass", "steppe")))), None)
        spectrum = vary(rng, kind)
        place.tint(cover, spectrum)
        if width > 6:
            middle = raster_line(size, points, np.full(len(points), max(0.8, width * 0.06))) * land
            place.tint(middle * np.float32(rng.uniform(0.2, 0.9)), vary(rng, "paint"))
        if width >= _NARROWEST:
            place.units[cover > 0.5] = place.nature("rail" if is_rail else "asphalt")
            if width > 7 and not is_rail:
                _drive(place, points[[_is_at(land, complex(*point)) for point in points]], width)


def _drive(place: Place, points: Line, width: float) -> None:
    """Cars on a road."""
    rng = place.rng
    long, wide = place.pixels(4.6), place.pixels(1.9)
    outlines = []
    if len(points) < 2:
        return
    for index in rng.integers(0, len(points) - 1, int(rng.integers(0, 12))):
        axis = complex(*(points[index + 1] - points[index]))
        axis /= max(abs(axis), 1e-6)
        side = 0.25 * width * float(rng.choice([-1.0, 1.0]))
        outlines.append(_box(complex(*points[index]) + axis * 1j * side, axis, long * rng.uniform(0.9, 2), wide))
    _stand(place, outlines, ["paint"] * len(outlines), 0.012, 0.6, False)


def _box(centre: complex, axis: complex, long: float, wide: float) -> Outline:
    along, across = axis * long / 2, axis * 1j * wide / 2
    return [centre + along + across, centre + along - across, centre - along - across, centre - along + across]


def _stand(place: Place, outlines: list[Outline], kinds: list[str], tall: float, spread: float, gabled: bool) -> None:
    """Boxes that stand on the ground, each a thing of its own, with shadows."""
    if not outlines:
        return
    rng, size = place.rng, place.size
    numbers = list(range(1, len(outlines) + 1))
    picture = raster_parts(size, outlines, numbers)
    spectra = np.zeros((NUM_BANDS, 2 * len(outlines) + 1), np.float32)
    gain = np.ones(2 * len(outlines) + 1, np.float32)
    for number, kind in zip(numbers, kinds, strict=True):
        spectra[:, number] = spectra[:, number + len(outlines)] = vary(rng, kind, spread)
    faces = picture.copy()
    if gabled:
        halves = []
        for outline in outlines:
            wide = outline[1] - outline[0]
            is_gabled = abs(wide) > 3 and rng.random() < 0.75
            halves.append([outline[0], outline[0] + wide / 2, outline[3] + wide / 2, outline[3]] if is_gabled else [])
            if is_gabled:
                normal = wide / max(abs(wide), 1e-6)
                lit = normal.imag * place.sun[0] + normal.real * place.sun[1]
                number = len(halves)
                gain[number], gain[number + len(outlines)] = 1 - 0.3 * lit, 1 + 0.3 * lit
        second = raster_parts(size, halves, [number + len(outlines) for number in numbers])
        faces = np.where((second - len(outlines) == picture) & (picture > 0), second, faces)
    reach = max(1.0, place.pixels(70 * tall) * float(rng.uniform(0.5, 1.3)))
    fallen = np.zeros(size, bool)
    for part in np.linspace(0.25, 1, max(2, int(reach / 2))):
        moved = complex(place.sun[1], place.sun[0]) * reach * part
        fallen |= raster_parts(size, [[point + moved for point in outline] for outline in outlines], numbers) > 0
    place.shade((fallen & (picture == 0)).astype(np.float32), float(rng.uniform(0.35, 0.7)))
    solid = picture > 0
    place.bands[:, solid] = (spectra * gain)[:, faces[solid]]
    place.bands[:5, solid] *= np.exp(rng.normal(0, 0.03, int(solid.sum()))).astype(np.float32)
    place.tall[solid] = np.float32(tall) * 1.5
    areas = np.bincount(picture.ravel(), minlength=len(outlines) + 1)
    named = np.array(
        [-1] + [place.unit(kind) if areas[number] >= 60 else -1 for number, kind in zip(numbers, kinds, strict=True)]
    )
    keep = named[picture]
    place.units[keep >= 0] = keep[keep >= 0]


def town_zone(place: Place, share: float) -> Mask:
    """Where a town lies: around one or more centres, ragged."""
    rng, size = place.rng, place.size
    y, x = np.ogrid[: size[0], : size[1]]
    noise = 0.6 * fractal(rng, size, float(rng.uniform(1.3, 1.9)), 5)
    away = np.full(size, np.inf, np.float32)
    for row, column in rng.random((int(rng.integers(1, 5)), 2)):
        away = np.minimum(away, np.hypot(y - row * size[0], x - column * size[1]) / max(size) * rng.uniform(0.7, 2))
    field = noise - 4 * away
    zone = field > np.quantile(field[::4, ::4], 1 - share)
    return np.asarray(zone & ~place.is_of((*WATERS, "snow")), np.bool_)


def lay_town(place: Place, zone: Mask) -> None:
    """Streets and houses within a zone, after `render`; houses are labelled where they are large enough."""
    rng, size = place.rng, place.size
    block = float(np.clip(place.pixels(rng.uniform(50, 110)), 3.2, 130))
    plot = float(np.clip(place.pixels(rng.uniform(16, 40)), 2.0, 90))
    angle, jitter = rng.uniform(0, np.pi), float(rng.choice([0.0, 0.2, 0.6]))
    blocks, cuts = cut(rng, size, block**2, angle, float(rng.uniform(1, 2)), jitter)
    street = place.pixels(rng.uniform(5, 10))
    is_single = plot > 7
    # A town far away is blocks of a few pixels.
    if not is_single:
        _quarter(place, zone, blocks, min(1.0, street))
        return
    ends = [np.array([[start.real, start.imag], [end.real, end.imag]]) for start, end, _ in cuts]
    lines = raster_lines(size, [(both, np.full(2, street)) for both in ends if _meets(zone, both)])
    lines *= ndimage.binary_dilation(zone, iterations=2)
    place.tint(lines, vary(rng, "asphalt"))
    if street >= _NARROWEST:
        place.units[lines > 0.5] = place.nature("asphalt")
    parts, _ = cut(rng, size, plot**2, angle, 1.3, jitter / 2)
    blocked = ndimage.binary_dilation(lines > 0.3, iterations=max(1, int(place.pixels(2))))
    outlines, kinds = [], []
    pools = []
    few = [str(kind) for kind in rng.choice(_ROOFS, 3)]
    for part in parts:
        centre = sum(part) / max(len(part), 1)
        row, column = int(centre.imag), int(centre.real)
        if not (0 <= row < size[0] and 0 <= column < size[1]) or not zone[row, column] or rng.random() < 0.2:
            continue
        axis = cmath.exp(1j * (angle + (np.pi / 2 if rng.random() < 0.4 else 0)))
        long, wide = plot * rng.uniform(0.45, 0.85), plot * rng.uniform(0.35, 0.6)
        house = _box(centre, axis, long, wide)
        if any(_is_at(blocked, corner) for corner in [*house, centre]):
            continue
        outlines.append(house)
        kinds.append(str(rng.choice(few)))
        if rng.random() < 0.15 and place.metres < 1.5:
            pools.append(_box(centre + axis * 1j * wide * 0.9, axis, place.pixels(9), place.pixels(5)))
    _stand(place, outlines[:150], kinds[:150], float(rng.uniform(0.06, 0.16)), 0.25, True)
    for pool in pools[:8]:
        mask = (raster_parts(size, [pool], [1]) > 0) & zone & ~blocked
        place.tint(mask.astype(np.float32), vary(rng, "pool"))
        if mask.sum() >= 40:
            place.units[mask] = place.unit("pool")
    _park(place, cuts, zone, street)


def _meets(zone: Mask, ends: Line) -> bool:
    steps = np.linspace(0, 1, 12)[:, None]
    points = (ends[0] * (1 - steps) + ends[1] * steps).astype(int)
    rows, columns = np.clip(points[:, 1], 0, zone.shape[0] - 1), np.clip(points[:, 0], 0, zone.shape[1] - 1)
    return bool(zone[rows, columns].any())


def _is_at(mask: Mask, point: complex) -> bool:
    row = min(max(int(point.imag), 0), mask.shape[0] - 1)
    return bool(mask[row, min(max(int(point.real), 0), mask.shape[1] - 1)])


def _park(place: Place, cuts: list[tuple[complex, complex, int]], zone: Mask, street: float) -> None:
    """Cars along streets."""
    rng = place.rng
    if place.metres > 1.2:
        return
    cars = []
    for start, end, _ in cuts:
        axis = (end - start) / max(abs(end - start), 1e-6)
        for _ in range(int(rng.integers(0, 5))):
            point = start + (end - start) * rng.random() + axis * 1j * street * 0.35 * rng.choice([-1, 1])
            if _is_at(zone, point):
                cars.append(_box(point, axis, place.pixels(4.6), place.pixels(1.9)))
    _stand(place, cars[:60], ["paint"] * len(cars[:60]), 0.012, 0.6, False)


def _quarter(place: Place, zone: Mask, blocks: list[Outline], street: float) -> None:
    """Roofs, gardens and streets of a few pixels each."""
    rng, size = place.rng, place.size
    picture = raster_tiles(size, blocks)
    kinds = rng.choice(
        ("tile", "slate", "concrete", "metal", "garden", "yard", "broadleaf"),
        len(blocks),
        p=np.array([3, 3, 3, 1, 2, 3, 1]) / 16,
    )
    spectra = np.stack([vary(rng, str(kind), 0.2) for kind in kinds], 1)
    edge = (picture != np.roll(picture, 1, 0)) | (picture != np.roll(picture, 1, 1))
    density = np.clip(0.55 + 0.25 * fractal(rng, size, 1.5, 4), 0.15, 0.95) * zone
    place.bands += density * (spectra[:, picture] - place.bands)
    place.tint((edge & zone) * np.float32(0.75 * street), vary(rng, "asphalt"), None)
    speck = np.exp(0.35 * rng.standard_normal(size, dtype=np.float32))
    place.bands[:5] *= np.where(zone, speck, 1)
    place.tall += 0.06 * zone * rng.random(size, dtype=np.float32)


def lay_trees(place: Place, share: Planes) -> None:
    """Single trees with shadows where `share` (h, w) of the land says, labelled where large."""
    rng, size = place.rng, place.size
    across = place.pixels(float(rng.uniform(5, 12)))
    if across < 1.5:
        return
    count = int(min(120, share.mean() * size[0] * size[1] / across**2))
    spectrum = vary(rng, str(rng.choice(("broadleaf", "conifer"))))
    free = ~place.is_of((*WATERS, "conifer", "broadleaf", "asphalt", "rail", "tile", "slate", "concrete", "metal"))
    y, x = np.ogrid[: size[0], : size[1]]
    is_named = rng.random() < 0.5
    for _ in range(count):
        row, column = rng.random(2) * size
        if rng.random() > share[int(row), int(column)] * 4 or not free[int(row), int(column)]:
            continue
        radius = across / 2 * rng.uniform(0.6, 1.4)
        reach = int(2.5 * radius) + 2
        box = (
            slice(max(int(row) - reach, 0), int(row) + reach),
            slice(max(int(column) - reach, 0), int(column) + reach),
        )
        dy, dx = y[box[0]] - row, x[:, box[1]] - column
        theta = np.arctan2(dy, dx)
        limit = radius * (1 + 0.12 * np.sin(3 * theta + row) + 0.08 * np.sin(7 * theta + column))
        crown = np.clip(limit - np.hypot(dy, dx) + 0.5, 0, 1).astype(np.float32)
        sy, sx = dy - place.sun[0] * radius, dx - place.sun[1] * radius
        place.bands[:5, *box] *= 1 - 0.5 * np.clip(radius - np.hypot(sy, sx) + 0.5, 0, 1) * (1 - crown)
        lit = 1 - 0.35 * (dy * place.sun[0] + dx * place.sun[1]) / radius
        bands = place.bands[:, *box]
        bands += crown * (spectrum[:, None, None] * lit - bands)
        place.tall[box] = np.maximum(place.tall[box], 0.1 * crown)
        if is_named and 3 * radius**2 >= 60:
            place.units[box][crown > 0.5] = place.unit("broadleaf")


def lay_boats(place: Place) -> None:
    """Ships on water, after `render`."""
    rng = place.rng
    water = ndimage.binary_erosion(place.is_of(WATERS), iterations=4)
    rows, columns = np.nonzero(water)
    if len(rows) < 600 or place.metres > 15:
        return
    outlines = []
    for index in rng.integers(0, len(rows), int(rng.integers(1, 9))):
        long = float(np.clip(place.pixels(np.exp(rng.uniform(np.log(8), np.log(200)))), 3, 90))
        axis = cmath.exp(1j * rng.uniform(0, 2 * np.pi))
        centre = complex(columns[index], rows[index])
        wide = long * rng.uniform(0.14, 0.3)
        bow = centre + axis * long * 0.62
        hull = _box(centre, axis, long * 0.9, wide)
        outline = [bow, hull[1], hull[2], hull[3], hull[0]]
        if all(_is_at(water, point) for point in outline):
            outlines.append(outline)
    kinds = [str(rng.choice(("metal", "concrete", "paint", "tile"))) for _ in outlines]
    _stand(place, outlines, kinds, 0.02, 0.3, False)
