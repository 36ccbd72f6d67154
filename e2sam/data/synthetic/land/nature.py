"""Terrain, natural covers, waters and clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.land.place import Mask, Place, fractal, raster_line
from e2sam.data.synthetic.land.spectra import SPECTRA, WATERS, vary
from e2sam.data.synthetic.textures import Planes

__all__ = ["flow", "lay_clouds", "lay_cover", "lay_lakes", "lay_mountains", "lay_river", "lay_sea", "shoal", "terrain"]

_WILD = ("conifer", "broadleaf", "shrub", "grass", "steppe", "wetland", "rock", "sand", "soil")


def terrain(rng: np.random.Generator, size: tuple[int, int], ridged: float) -> Planes:
    """Heights (h, w) in [0, 1], the more like a mountain range the larger `ridged`."""
    slope, cells = float(rng.uniform(2.1, 2.8)), float(rng.uniform(1, 3.5))
    heights = fractal(rng, size, slope, cells)
    if ridged > 0:
        folds = 1.6 - np.abs(fractal(rng, size, 2.5, 2.0 * cells)) - 0.4 * np.abs(fractal(rng, size, 2.2, 5 * cells))
        heights = (1 - ridged) * heights + ridged * ndimage.gaussian_filter(folds, 0.8)
    low, high = float(heights.min()), float(heights.max())
    return np.asarray((heights - low) / max(high - low, 1e-6), np.float32)


def lay_cover(place: Place, is_dry: bool) -> None:
    """A base, and over it patches of other covers with ragged borders."""
    rng = place.rng
    weights = np.array([2, 2, 2, 2, 0.5, 0.6, 0.2, 0.1, 0.2] if not is_dry else [0.1, 0.1, 1.5, 0.3, 2, 0, 1.5, 2, 1.5])
    kinds = [str(kind) for kind in rng.choice(_WILD, int(rng.integers(2, 6)), replace=False, p=weights / weights.sum())]
    place.units[:] = place.nature(kinds[0])
    slope = float(rng.choice([rng.uniform(1.6, 2.0), rng.uniform(2.0, 3.0)], p=[0.35, 0.65]))
    for kind in kinds[1:]:
        noise = fractal(rng, place.size, slope, float(np.exp(rng.uniform(np.log(1), np.log(6)))))
        noise += float(rng.normal(0, 0.4)) * (place.terrain - 0.5) * 4
        level = float(np.quantile(noise[::4, ::4], 1 - rng.uniform(0.06, 0.5)))
        if rng.random() < 0.3 and kind in ("conifer", "broadleaf"):
            place.units[noise > level - rng.uniform(0.1, 0.35)] = place.nature("shrub")
        place.units[noise > level] = place.nature(kind)


def lay_mountains(place: Place) -> None:
    """Belts of forest, shrub, grass, rock and snow by height."""
    rng, size = place.rng, place.size
    height = place.terrain + 0.05 * fractal(rng, size, 1.8, 5)
    belts = ["broadleaf", "conifer", "shrub", "grass", "rock", "snow"]
    first, last = int(rng.integers(0, 3)), int(rng.integers(4, 7))
    belts = [belt for belt in belts[first:last] if rng.random() < 0.85 or belt == "rock"]
    cuts = np.sort(np.quantile(height[::4, ::4], rng.uniform(0.1, 0.95, max(0, len(belts) - 1))))
    index = np.searchsorted(cuts, height)
    place.units[:] = np.array([place.nature(belt) for belt in belts])[index]


def lay_lakes(place: Place, share: float) -> None:
    """Standing water in hollows, with islands."""
    rng = place.rng
    kind = str(rng.choice(("water", "turbid"), p=(0.7, 0.3)))
    noise = fractal(rng, place.size, float(rng.uniform(1.7, 3.2)), float(rng.uniform(1.5, 9)))
    noise -= 1.2 * (place.terrain - 0.5)
    level = float(np.quantile(noise[::4, ::4], 1 - share))
    wet = ndimage.binary_opening(noise > level, iterations=1)
    place.units[wet] = place.nature(kind)


def lay_sea(place: Place) -> None:
    """The sea to one side, at times behind a beach or a marsh."""
    rng, size = place.rng, place.size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: size[0], : size[1]]
    away = ((x - size[1] / 2) * np.cos(angle) + (y - size[0] / 2) * np.sin(angle)) / max(size)
    away = away + rng.uniform(0.02, 0.3) * fractal(rng, size, float(rng.uniform(1.6, 2.6)), float(rng.uniform(1, 4)))
    level = float(np.quantile(away[::4, ::4], rng.uniform(0.25, 0.8)))
    if rng.random() < 0.5:
        fringe = str(rng.choice(("sand", "rock", "wetland")))
        place.units[away > level - rng.uniform(0.004, 0.03)] = place.nature(fringe)
    place.units[away > level] = place.nature("sea")


def flow(rng: np.random.Generator, size: tuple[int, int], wave: float, bend: float) -> NDArray[np.float64]:
    """A line (N, 2) as (x, y) right through the frame; it meanders with waves of about `wave` pixels."""
    reach = 1.6 * float(np.hypot(*size))
    step = 2.0
    travel = np.arange(0, 3 * reach, step)
    phase = np.cumsum(2 * np.pi * step / wave * np.exp(rng.normal(0, 0.25) + 0.3 * np.sin(travel / wave * 0.7)))
    swell = bend * (0.6 + 0.5 * np.sin(travel / wave * 1.1 + rng.uniform(0, 6)))
    wander = np.cumsum(rng.normal(0, 0.012, len(travel)))
    course = swell * np.sin(phase) + 0.35 * swell * np.sin(2.3 * phase + 1) + wander + rng.uniform(0, 2 * np.pi)
    points = np.cumsum(np.stack((np.cos(course), np.sin(course)), 1) * step, 0)
    middle = points[int(np.argmin(np.abs(np.hypot(*(points - points[0]).T) - reach / 2)))]
    points += np.array([size[1], size[0]]) * rng.uniform(0.25, 0.75, 2) - middle
    near = (np.abs(points[:, 0] - size[1] / 2) < size[1]) & (np.abs(points[:, 1] - size[0] / 2) < size[0])
    ends = np.flatnonzero(near)
    return np.asarray(points[ends[0] : ends[-1] + 1], np.float64)


def lay_river(place: Place, width: float) -> Planes:
    """A meandering river, labelled from 2.5 pixels of width; its coverage, to be tinted after `render`."""
    rng, size = place.rng, place.size
    points = flow(rng, size, max(18.0, width * float(rng.uniform(7, 14))), float(rng.uniform(0.2, 1.5)))
    steps = np.arange(len(points))
    widths = width * np.exp(0.25 * np.sin(steps / rng.uniform(8, 40)) + 0.15 * np.sin(steps / rng.uniform(3, 9)))
    cover = raster_line(size, points, widths)
    if rng.random() < 0.5:
        # Trees, meadows or gravel follow it.
        belt = raster_line(size, points, widths * rng.uniform(1.6, 4) + 3)
        belt *= fractal(rng, size, 1.3, 8) > rng.uniform(-1, 0.4)
        place.units[belt > 0.5] = place.nature(str(rng.choice(("broadleaf", "wetland", "grass", "sand"))))
    if width >= 2.5:
        place.units[cover > 0.5] = place.nature(str(rng.choice(("water", "turbid"))))
    return cover


def shoal(place: Place) -> None:
    """Water that is lighter near its shores, and waves where pixels are small."""
    rng = place.rng
    water = place.is_of(WATERS)
    if not water.any():
        return
    if rng.random() < 0.6:
        away = ndimage.distance_transform_edt(water).astype(np.float32)
        shallow = np.exp(-away / np.float32(rng.uniform(2, 14))) * water * np.float32(rng.uniform(0.2, 1.0))
        shallow *= np.clip(0.7 + 0.5 * fractal(place.rng, place.size, 1.8, 3), 0, 1.3)
        ground = np.array([0.05, 0.08, 0.07, 0.012, 0.004, 0.0], np.float32)
        place.bands += shallow * ground[:, None, None]
    if place.metres < 4 and rng.random() < 0.5:
        y, x = np.ogrid[: place.size[0], : place.size[1]]
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
        bend = 1.2 * fractal(rng, place.size, 1.6, 5)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + bend)
        place.bands[:5] *= 1 + np.float32(rng.uniform(0.03, 0.2)) * wave * water


def lay_clouds(place: Place, has_labels: bool) -> Mask:
    """Clouds with their shadows; which pixels they hide or, where they are to be labelled, cover."""
    rng, size = place.rng, place.size
    noise = fractal(rng, size, float(rng.uniform(1.5, 2.2)), float(rng.uniform(2, 7)))
    level = float(np.quantile(noise[::4, ::4], 1 - rng.uniform(0.03, 0.25)))
    cover = np.clip((noise - level) * rng.uniform(1.2, 6), 0, 1).astype(np.float32)
    cover = cover * np.float32(1.0 if has_labels else rng.uniform(0.4, 1.0))
    shift = float(rng.uniform(6, 40))
    shadow = ndimage.shift(cover, (shift * place.sun[0], shift * place.sun[1]), order=0)
    place.shade(ndimage.gaussian_filter(shadow, 1.5), float(rng.uniform(0.3, 0.75)))
    white = vary(rng, "cloud", 0.05) if rng.random() < 0.9 else np.array(SPECTRA["cloud"], np.float32)
    place.tint(cover * (0.9 + 0.1 * np.tanh(fractal(rng, size, 1.6, 8))), white, None)
    return np.asarray(cover > (0.5 if has_labels else 0.75), np.bool_)
