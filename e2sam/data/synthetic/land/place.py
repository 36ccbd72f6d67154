"""One place under construction: which cover lies where, the bands that show it, and how high it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import fft, ndimage

from e2sam.data.synthetic.land.spectra import NUM_BANDS, VEGETATION, WATERS, vary
from e2sam.data.synthetic.textures import Planes

__all__ = ["Line", "Mask", "Place", "Unit", "fractal", "raster_line", "raster_lines", "scatter"]

Mask = NDArray[np.bool_]
Line = NDArray[np.float64]
# Lines are drawn this much larger and averaged.
_FINER = 3
_FORESTS = ("conifer", "broadleaf")


@dataclass(frozen=True, eq=False)
class Unit:
    """A cover with one spectrum.

    Attributes
    ----------
    kind, group
        Its class, and which units make one region where they touch.
    spectrum
        (6,) reflectances and warmth.
    mottle, grain
        How much it varies over many pixels and from one to the next.
    angle, period, furrow
        Direction, distance in pixels and strength of rows.
    """

    kind: str
    group: int
    spectrum: Planes
    mottle: float
    grain: float
    angle: float = 0.0
    period: float = 9.0
    furrow: float = 0.0


@dataclass(eq=False)
class Place:
    """A place seen from above at `metres` per pixel; `sun` is the unit vector (row, column) in which shadows fall."""

    rng: np.random.Generator
    size: tuple[int, int]
    metres: float
    sun: tuple[float, float]
    terrain: Planes
    relief: float
    units: NDArray[np.int32]
    table: list[Unit] = field(default_factory=list)
    bands: Planes = field(default_factory=lambda: np.zeros((NUM_BANDS, 0, 0), np.float32))
    tall: Planes = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    natural: dict[str, int] = field(default_factory=dict)
    borders: list[tuple[Planes, Planes, float]] = field(default_factory=list)

    def pixels(self, metres: float) -> float:
        """A length in pixels."""
        return metres / self.metres

    def unit(
        self, kind: str, group: int | None = None, furrow: float = 0.0, angle: float = 0.0, period: float = 9.0
    ) -> int:
        """Add a unit; without a group it is a region of its own."""
        rng = self.rng
        mottle, grain = rng.uniform(0.03, 0.16), rng.uniform(0.01, 0.06)
        if kind in ("conifer", "broadleaf", "shrub", "steppe", "rock", "town", "garden", "wetland"):
            mottle, grain = rng.uniform(0.1, 0.28), rng.uniform(0.06, 0.22)
        elif kind in WATERS:
            mottle, grain = rng.uniform(0.02, 0.25), rng.uniform(0.01, 0.04)
        index = len(self.table)
        self.table.append(
            Unit(kind, index if group is None else group, vary(rng, kind), mottle, grain, angle, period, furrow)
        )
        return index

    def nature(self, kind: str) -> int:
        """The one unit of a cover that is not parcelled."""
        if kind not in self.natural:
            self.natural[kind] = self.unit(kind)
        return self.natural[kind]

    def kinds(self) -> NDArray[np.str_]:
        """Class of each unit."""
        return np.array([unit.kind for unit in self.table])

    def is_of(self, kinds: tuple[str, ...]) -> Mask:
        """Where one of some classes lies."""
        return np.asarray(np.isin(self.kinds(), kinds)[self.units], np.bool_)

    def render(self) -> None:
        """Fill the bands and the heights from the units."""
        rng, units = self.rng, self.units
        column = {
            name: np.array([getattr(unit, name) for unit in self.table], np.float32)
            for name in ("mottle", "grain", "angle", "period", "furrow")
        }
        self.bands = np.stack([unit.spectrum for unit in self.table], 1)[:, units]
        water = self.is_of(WATERS)
        light = column["mottle"][units] * fractal(rng, self.size, rng.uniform(1.2, 2.0), rng.uniform(1, 6))
        light += column["grain"][units] * _grain(rng, self.size)
        light += self._rows(column)
        self.tall = np.zeros(self.size, np.float32)
        self._crowns(light)
        if self.relief > 0:
            down = self.sun[0] * np.gradient(self.terrain, axis=0) + self.sun[1] * np.gradient(self.terrain, axis=1)
            light -= np.float32(self.relief) * np.clip(down / max(float(down.std()), 1e-4), -2.5, 2.5) * ~water
        self.bands[:5] *= np.exp(np.clip(light, -1.6, 0.9))
        # Where plants thrive, infrared rises and red falls.
        vigour = 0.7 * column["mottle"][units] * fractal(rng, self.size, 1.6, rng.uniform(1.5, 8))
        vigour *= np.isin(self.kinds(), VEGETATION)[units]
        for band, gain in enumerate((-0.8, -0.4, -1.2, 0.6, -0.6, -0.3)):
            self.bands[band] *= np.exp(gain * vigour)
        self.bands[5] += 0.04 * fractal(rng, self.size, 1.8) - 0.15 * self.relief * self.terrain

    def _rows(self, column: dict[str, Planes]) -> Planes:
        """Furrows and tram lines, each unit at its own angle."""
        y, x = np.ogrid[: self.size[0], : self.size[1]]
        angle, period = column["angle"], column["period"]
        along = (np.cos(angle) / period)[self.units] * x + (np.sin(angle) / period)[self.units] * y
        wave = np.cos(2 * np.pi * along)
        return np.asarray(column["furrow"][self.units] * wave * np.abs(wave), np.float32)

    def _crowns(self, light: Planes) -> None:
        """Crowns of trees, single ones where pixels are small."""
        woods = self.is_of(_FORESTS)
        if not woods.any():
            return
        across = self.pixels(self.rng.uniform(5, 11))
        if across < 2.2:
            self.tall[woods] = 0.08
            light[woods] += 0.12 * _grain(self.rng, self.size)[woods]
            return
        crowns = scatter(self.rng, self.size, across)
        shaded = crowns - np.roll(crowns, (-round(2 * self.sun[0]), -round(2 * self.sun[1])), (0, 1))
        light[woods] += (0.9 * (crowns - 0.75) - 0.5 * shaded)[woods]
        self.tall[woods] = 0.05 + 0.12 * crowns[woods]

    def tint(self, alpha: Planes, spectrum: Planes, tall: float | None = 0.0) -> None:
        """Lay a cover (alpha in [0, 1]) over the bands; its height, or None to leave that."""
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        if not len(rows):
            return
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        alpha = alpha[box]
        bands = self.bands[(slice(None), *box)]
        bands += alpha * (spectrum[:, None, None] - bands)
        if tall is not None:
            self.tall[box] += alpha * (np.float32(tall) - self.tall[box])

    def shade(self, alpha: Planes, strength: float) -> None:
        """Darken under a shadow."""
        self.bands[:5] *= 1 - np.float32(strength) * alpha
        self.bands[5] -= 0.15 * alpha


def fractal(rng: np.random.Generator, size: tuple[int, int], slope: float, cells: float = 1.0) -> Planes:
    """Noise (h, w) of mean 0 and deviation 1 whose amplitude falls with frequency**slope above `cells` per side."""
    height, width = (fft.next_fast_len(int(1.15 * side) + 4, True) for side in size)
    white = rng.standard_normal((height, width), dtype=np.float32)
    y = np.fft.fftfreq(height).astype(np.float32)[:, None] * max(size)
    x = np.fft.rfftfreq(width).astype(np.float32)[None] * max(size)
    gain = (y**2 + x**2 + np.float32(cells) ** 2) ** np.float32(-slope / 2)
    gain[0, 0] = 0
    noise = fft.irfft2(fft.rfft2(white) * gain, (height, width))[: size[0], : size[1]]
    noise -= noise.mean()
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def scatter(rng: np.random.Generator, size: tuple[int, int], across: float, sparse: float = 0.0) -> Planes:
    """Round humps (h, w) in [0, 1] about `across` pixels wide; the share `sparse` of them is missing."""
    rows, columns = int(size[0] / across) + 2, int(size[1] / across) + 2
    y = (np.arange(rows)[:, None] + rng.uniform(-0.5, 0.5, (rows, columns))) * across
    x = (np.arange(columns)[None] + rng.uniform(-0.5, 0.5, (rows, columns))) * across
    kept = (rng.random((rows, columns)) >= sparse) & (y >= 0) & (x >= 0) & (y < size[0]) & (x < size[1])
    empty = np.ones(size, bool)
    empty[y[kept].astype(int), x[kept].astype(int)] = False
    if empty.all():
        return np.zeros(size, np.float32)
    away = ndimage.distance_transform_edt(empty).astype(np.float32)
    return np.asarray(np.clip(1 - (away / (0.62 * across)) ** 2, 0, 1), np.float32)


def _grain(rng: np.random.Generator, size: tuple[int, int]) -> Planes:
    white = rng.standard_normal(size, dtype=np.float32)
    return np.asarray(ndimage.gaussian_filter(white, 0.6, truncate=2.5) * 2, np.float32)


def raster_line(size: tuple[int, int], points: Line, widths: Line) -> Planes:
    """Coverage (h, w) of a line through points (N, 2) as (x, y), with a width at each."""
    return raster_lines(size, [(points, widths)])


def raster_lines(size: tuple[int, int], lines: list[tuple[Line, Line]]) -> Planes:
    """Coverage (h, w) of all of several lines."""
    picture = Image.new("L", (size[1] * _FINER, size[0] * _FINER))
    draw = ImageDraw.Draw(picture)
    for points, widths in lines:
        tangent = np.gradient(points, axis=0)
        tangent /= np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
        normal = np.stack((-tangent[:, 1], tangent[:, 0]), 1) * widths[:, None] / 2
        left, right = ((points + side) * _FINER for side in (normal, -normal))
        for quad in np.stack((left[:-1], left[1:], right[1:], right[:-1]), 1).tolist():
            draw.polygon([(px, py) for px, py in quad], fill=255)
    fine = np.asarray(picture, np.float32)
    coverage = fine.reshape(size[0], _FINER, size[1], _FINER).mean((1, 3)) / np.float32(255)
    return np.asarray(coverage, np.float32)
