"""Composes a place and labels its regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.canvas import VISIBLE_CONTRAST, Canvas
from e2sam.data.synthetic.land.built import lay_boats, lay_roads, lay_town, lay_trees, town_zone
from e2sam.data.synthetic.land.fields import lay_parcels, lay_pivots
from e2sam.data.synthetic.land.nature import (
    lay_clouds,
    lay_cover,
    lay_lakes,
    lay_mountains,
    lay_river,
    lay_sea,
    shoal,
    terrain,
)
from e2sam.data.synthetic.land.place import Mask, Place, fractal
from e2sam.data.synthetic.land.spectra import WATERS, develop, vary
from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.textures import Planes, texture

__all__ = ["paint_land"]

_THEMES = ("farm", "mixed", "wild", "mountains", "coast", "desert", "town")
# Colours show a border between regions that differ by this much.
_VISIBLE_COLOUR = 0.02
# The least region, pixels.
_SMALLEST = 60
# How far a region may grow over pieces too small to be one.
_FARTHEST = 9.0


def paint_land(rng: np.random.Generator, canvas: Canvas, material: Material | None) -> None:
    """Cover the canvas with land at one scale, each piece of one cover with a label."""
    theme = str(rng.choice(_THEMES, p=(0.27, 0.21, 0.12, 0.09, 0.11, 0.08, 0.12)))
    place = _begin(rng, canvas.size, theme)
    zone = _settle(place, theme)
    streams = _water(place, theme)
    if zone is not None:
        zone &= ~place.is_of(WATERS)
        place.units[zone] = place.nature("town" if place.metres > 2.5 else str(rng.choice(("garden", "yard", "grass"))))
    _tame(place)
    place.render()
    if material is not None and rng.random() < 0.3:
        _weather(place, material)
    for cover in streams:
        place.tint(cover, vary(rng, "water"), None)
    shoal(place)
    for alpha, spectrum, tall in place.borders:
        place.tint(alpha * ~place.is_of(WATERS), spectrum, tall)
    if theme not in ("wild", "mountains") or rng.random() < 0.3:
        lay_roads(place, int(rng.integers(0, 4)))
    if zone is not None:
        lay_town(place, zone)
    if rng.random() < 0.6:
        lay_trees(place, np.clip(0.06 * np.exp(fractal(rng, canvas.size, 1.5, 4)), 0, 0.25))
    lay_boats(place)
    clouds, is_named = np.zeros(canvas.size, bool), bool(rng.random() < 0.4)
    if rng.random() < 0.14:
        clouds = lay_clouds(place, is_named)
    if is_named and clouds.any():
        place.units[clouds] = place.nature("cloud")
    canvas.planes[:] = _expose(place, canvas)
    _name(place, canvas, clouds & (not is_named))


def _begin(rng: np.random.Generator, size: tuple[int, int], theme: str) -> Place:
    """A place with natural covers, at a scale that suits its theme."""
    low, high = {"farm": (0.8, 30), "town": (0.4, 25), "mountains": (8, 60), "desert": (2, 60)}.get(theme, (0.6, 60))
    angle = rng.uniform(0, 2 * np.pi)
    is_high = theme == "mountains"
    ground = terrain(rng, size, float(rng.uniform(0.5, 0.95)) if is_high else float(rng.choice([0.0, 0.3])))
    relief = rng.uniform(0.15, 0.45) if is_high else rng.uniform(0.02, 0.12) * (rng.random() < 0.5)
    metres = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    sun = (float(np.sin(angle)), float(np.cos(angle)))
    place = Place(rng, size, metres, sun, ground, float(relief), np.zeros(size, np.int32))
    if is_high:
        lay_mountains(place)
    else:
        lay_cover(place, theme == "desert")
    return place


def _settle(place: Place, theme: str) -> Mask | None:
    """Parcels and pivots; where a town is to be built, if any."""
    rng, size = place.rng, place.size
    share = {"farm": rng.uniform(0.7, 1.0), "mixed": rng.uniform(0.2, 0.65), "coast": 0.35, "town": 0.4}.get(theme, 0.0)
    if share and rng.random() < 0.9:
        noise = fractal(rng, size, float(rng.uniform(1.5, 2.3)), float(rng.uniform(1, 5))) - 1.5 * (place.terrain - 0.5)
        zone = noise > np.quantile(noise[::4, ::4], 1 - share)
        side = float(np.clip(place.pixels(np.exp(rng.uniform(np.log(60), np.log(450)))), 3.5, 130))
        lay_parcels(place, np.asarray(zone, np.bool_), side)
    if (theme == "desert" and rng.random() < 0.75) or (theme == "farm" and rng.random() < 0.12):
        radius = float(np.clip(place.pixels(rng.uniform(200, 500)), 9, 75))
        noise = fractal(rng, size, 2.0, 2)
        lay_pivots(place, np.asarray(noise > rng.uniform(-1.5, 0.8), np.bool_), radius)
    if theme == "town":
        return town_zone(place, float(rng.uniform(0.4, 0.95)))
    if theme in ("farm", "mixed", "coast") and rng.random() < 0.5:
        return town_zone(place, float(rng.uniform(0.02, 0.25)))
    return None


def _water(place: Place, theme: str) -> list[Planes]:
    """Sea, lakes and rivers; the coverage of each river."""
    rng = place.rng
    if theme == "coast":
        lay_sea(place)
    odds = {"wild": 0.7, "mixed": 0.4, "farm": 0.2, "mountains": 0.25, "desert": 0.1, "town": 0.2}.get(theme, 0.2)
    if rng.random() < odds:
        lay_lakes(place, float(np.exp(rng.uniform(np.log(0.01), np.log(0.4)))))
    return [
        lay_river(place, float(np.exp(rng.uniform(np.log(0.8), np.log(24)))))
        for _ in range(rng.binomial(2, odds / 1.5))
    ]


def _tame(place: Place) -> None:
    """Specks of natural cover too small to be a region take the cover around them."""
    groups = np.array([unit.group for unit in place.table], np.int32)[place.units] + 1
    pieces, count = _pieces(groups)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    # Some specks stay, seen but not labelled.
    small = areas < place.rng.choice([8, 30, 80])
    small[0] = False
    holes = small[pieces]
    if holes.any() and not holes.all():
        place.units[:] = place.units[
            tuple(ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True))
        ]


def _weather(place: Place, material: Material) -> None:
    """The surface of a photograph on some covers."""
    kinds = sorted(set(place.kinds().tolist()))
    chosen = tuple(str(kind) for kind in place.rng.choice(kinds, min(2, len(kinds)), replace=False))
    surface = texture(place.rng, place.size, material).mean(0)
    surface = surface / max(float(surface.mean()), 0.05) - 1
    place.bands[:5] *= 1 + np.clip(0.35 * surface, -0.4, 0.5) * place.is_of(chosen)


def _expose(place: Place, canvas: Canvas) -> Planes:
    """All planes of the place."""
    rng = place.rng
    water = place.is_of(WATERS)
    ground = place.terrain.copy()
    if water.any():
        level = float(np.quantile(ground[water][::7], 0.2))
        bank = ndimage.gaussian_filter(water.astype(np.float32), 3)
        ground += bank * (level - ground)
        ground[water] = level
    scale = np.float32(rng.uniform(0.15, 0.85))
    tall = place.tall * np.float32(rng.uniform(0.4, 1.0) * min(1.0, 12 / place.metres))
    heights = np.float32(rng.uniform(0, 0.15)) + scale * ground + tall
    haze = np.array([0.02, 0.012, 0.007, 0.002, 0.0], np.float32) * np.float32(rng.uniform(0, 2))
    place.bands[:5] += haze[:, None, None]
    soft = ndimage.gaussian_filter(place.bands, (0, 0.5, 0.5), truncate=2.5)
    return develop(rng, soft, len(canvas.planes) - 3, heights)


def _pieces(values: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Connected pieces of equal value, numbered from 1; 0 stays 0."""
    names, index = np.unique(values, return_inverse=True)
    index = index.reshape(values.shape).astype(np.int32)
    result = np.zeros(values.shape, np.int32)
    count = 0
    for number, box in enumerate(ndimage.find_objects(index + 1, len(names))):
        if names[number] == 0:
            continue
        pieces, found = ndimage.label(index[box] == number)
        window = result[box]
        window[pieces > 0] = pieces[pieces > 0] + count
        count += int(found)
    return result, count


def _name(place: Place, canvas: Canvas, hidden: Mask) -> None:
    """Label connected pieces, at times as a register of land use would: coarser, by class, with its own borders."""
    rng, size = place.rng, place.size
    is_register = rng.random() < 0.33
    groups = np.array([unit.group for unit in place.table], np.int32)
    if is_register:
        names = [unit.kind if unit.group == index else str(unit.group) for index, unit in enumerate(place.table)]
        groups = np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int32)
    values = groups[place.units] + 1
    least = int(rng.integers(1, 5) * 1e-3 * size[0] * size[1]) if is_register else _SMALLEST
    pieces, count = _pieces(values)
    pieces = _swallow(pieces, count, max(_SMALLEST, least))
    if is_register and rng.random() < 0.6:
        y, x = np.mgrid[: size[0], : size[1]]
        drift = [np.clip(0.8 * fractal(rng, size, 2.0, 8), -1.5, 1.5) for _ in range(2)]
        rows = np.clip(np.rint(y + drift[0]), 0, size[0] - 1).astype(int)
        columns = np.clip(np.rint(x + drift[1]), 0, size[1] - 1).astype(int)
        pieces = pieces[rows, columns]
    # Borders that moved may have cut something off.
    pieces, count = _pieces(pieces)
    pieces = _swallow(pieces, count, _SMALLEST)
    numbers, index = np.unique(pieces, return_inverse=True)
    index = index.reshape(size)
    shown = _shown(index, len(numbers), canvas.planes)
    labels = np.array([canvas.add_label(row) if number else 0 for number, row in zip(numbers, shown, strict=True)])
    canvas.labels[:] = np.where(hidden, 0, labels[index])


def _swallow(pieces: NDArray[np.int32], count: int, least: int) -> NDArray[np.int32]:
    """Give pieces smaller than `least` to what is next to them, if anything is."""
    small = np.bincount(pieces.ravel(), minlength=count + 1) < least
    small[0] = False
    lost = small[pieces]
    if not lost.any() or lost.all():
        return pieces
    away, where = ndimage.distance_transform_edt(lost, return_indices=True)
    # What lies between many small pieces belongs to none of the large ones.
    return np.where(away > _FARTHEST, 0, pieces[tuple(where)]).astype(np.int32)


def _shown(pieces: NDArray[np.intp], count: int, planes: Planes) -> NDArray[np.bool_]:
    """(count, 1 + K) bool, whether regions differ from their neighbours in colour and in each further plane."""
    areas = np.bincount(pieces.ravel(), minlength=count)
    means = np.stack([np.bincount(pieces.ravel(), plane.ravel(), count) / areas for plane in planes])
    pairs = []
    for first, second in ((pieces[1:], pieces[:-1]), (pieces[:, 1:], pieces[:, :-1])):
        border = first != second
        pairs += [np.stack((first[border], second[border])), np.stack((second[border], first[border]))]
    own, other = np.concatenate(pairs, 1)
    length = np.maximum(np.bincount(own, minlength=count), 1)
    steps = np.stack([np.bincount(own, np.abs(mean[own] - mean[other]), count) / length for mean in means])
    result = np.concatenate((steps[:3].max(0, keepdims=True) > _VISIBLE_COLOUR, steps[3:] > VISIBLE_CONTRAST)).T
    # What differs in no plane as a whole differs in its grain.
    result[~result.any(1), 0] = True
    return np.asarray(result, np.bool_)
