"""Which cells lie where: stroma, sheets and nests, with islets, glands, follicles and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.counts.sites import Sites, Tissue
from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["make_tissue"]


def make_tissue(rng: np.random.Generator, coarse: tuple[int, int], of_regions: bool) -> Tissue:
    """Cells of one spacing in stroma, with islets, glands and vessels."""
    spacing = float(np.exp(rng.uniform(np.log(6.5), np.log(15))))
    spacing = max(min(spacing, max(6.5, max(coarse) / 4)), max(coarse) / 22)
    if of_regions:
        spacing = min(spacing, max(6.5, max(coarse) / 14))
    box = np.array(coarse, float)
    layout = _Layout([], spacing)
    stroma = _lattice(rng, np.full(2, -spacing), box + spacing, spacing * float(rng.uniform(0.9, 1.1)))
    turn = smooth_field(rng, coarse, float(rng.uniform(1, 4)))
    where = np.clip(stroma, 0, box - 1).astype(int)
    angle = rng.uniform(0, np.pi) + 2.5 * turn[where[:, 0], where[:, 1]] + rng.normal(0, 0.3, len(stroma))
    kinds = ["sheet", "islets", "glands", "follicles", "nests", "mixed"]
    kind = str(rng.choice(kinds, p=[0.24, 0.15, 0.14, 0.12, 0.2, 0.15]))
    if of_regions and kind == "sheet":
        kind = "mixed"
    aspect = float(rng.uniform(1.0, 1.3)) if kind == "sheet" else float(rng.uniform(1.1, 2.6))
    layout.add(stroma, angle, aspect, 1.0, True, 0)
    base = layout.rows[0]
    base[:, 3] = np.maximum(1, base[:, 3] * np.exp(rng.normal(0, 0.15, len(base))))
    density = smooth_field(rng, coarse, float(rng.uniform(1.5, 5)), 2)[where[:, 0], where[:, 1]]
    share = float(rng.uniform(0.75, 1.0)) if kind in ("sheet", "nests") else float(rng.uniform(0.35, 0.95))
    base[:, 5] = rng.random(len(base)) < np.clip(share + rng.uniform(0, 0.8) * (density - 0.5), 0, 1)
    if kind == "nests":
        _gather_nests(rng, base, where, coarse)
    _structures(rng, layout, kind, box, int(base[:, 6].max()), 0.2 if of_regions else 0.35)
    return _finish_tissue(rng, layout, coarse)


def _gather_nests(
    rng: np.random.Generator, base: NDArray[np.float64], where: NDArray[np.int64], coarse: tuple[int, int]
) -> None:
    """Make regions of stroma (N, 7), at pixels `where`, with rounder cells and next to no holes."""
    field = smooth_field(rng, coarse, float(rng.uniform(2, 5)), 2)
    nests, _ = ndimage.label(field > np.quantile(field, rng.uniform(0.4, 0.75)))
    base[:, 6] = nests[where[:, 0], where[:, 1]]
    in_nest = base[:, 6] > 0
    base[in_nest, 3] = np.minimum(base[in_nest, 3], 1.25)
    base[in_nest, 5] = rng.random(int(in_nest.sum())) < 0.97


@dataclass
class _Layout:
    """Sites in the making: rows of (row, column, angle, aspect, scale, is cell, region)."""

    rows: list[NDArray[np.float64]]
    spacing: float

    def clear(self, centre: NDArray[np.float64], radius: float) -> None:
        """Take away what lies within a disc."""
        self.rows = [each[np.hypot(*(each[:, :2] - centre).T) > radius] for each in self.rows]

    def add(
        self,
        places: NDArray[np.float64],
        angle: NDArray[np.float64] | float,
        aspect: float,
        scale: float,
        is_cell: bool,
        region: int,
    ) -> None:
        """More sites."""
        each = np.zeros((len(places), 7))
        each[:, :2], each[:, 2], each[:, 3:] = places, angle, (aspect, scale, is_cell, region)
        self.rows.append(each)


def _lattice(
    rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64], spacing: float
) -> NDArray[np.float64]:
    """Places (N, 2) of a shaken hexagonal grid over a box."""
    middle = (low + high) / 2
    half = float(np.hypot(*(high - low))) / 2 + spacing
    rows, columns = np.arange(-half, half, spacing * 0.87), np.arange(-half, half, spacing)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    grid[1::2, :, 1] += spacing / 2
    bend = np.stack([smooth_field(rng, (len(rows), len(columns)), len(columns) / 4) - 0.5 for _ in range(2)], -1)
    grid = (grid + rng.uniform(0.4, 1.6) * spacing * bend).reshape(-1, 2)
    grid += rng.normal(0, rng.uniform(0.1, 0.25) * spacing, grid.shape)
    turn = rng.uniform(0, np.pi)
    grid = middle + grid @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(grid[((grid >= low) & (grid < high)).all(1)])


def _disc(rng: np.random.Generator, centre: NDArray[np.float64], radius: float, spacing: float) -> NDArray[np.float64]:
    places = _lattice(rng, centre - radius, centre + radius + 1e-6, spacing)
    away = places - centre
    within = np.hypot(*away.T) < radius * _wobble(rng, np.arctan2(*away.T), 0.15)
    return np.asarray(places[within])


def _wobble(rng: np.random.Generator, theta: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Radius (N,) around 1 of a rounded shape at angles."""
    wobble = np.ones(theta.shape)
    for wave in (2, 3, 4):
        wobble += 2 * strength / wave * rng.uniform(0, 1) * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    return wobble


def _structures(
    rng: np.random.Generator, layout: _Layout, kind: str, box: NDArray[np.float64], region: int, largest: float
) -> None:
    """Put islets, glands and vessels, none above a share `largest` of the frame, where they do not overlap."""
    spacing = layout.spacing
    taken: list[tuple[NDArray[np.float64], float]] = []
    sizes = {"islets": (2.0, 5.0), "glands": (1.1, 3.2), "follicles": (4.0, 9.0)}
    tries = {"sheet": 2, "nests": 4}.get(kind, 30)
    cover = float(rng.uniform(0.2, 0.7)) * box.prod()
    for _ in range(tries):
        each = kind
        if kind == "mixed":
            each = str(rng.choice(["islets", "glands", "vessels"]))
        if kind in ("sheet", "nests") or rng.random() < 0.15:
            each = "vessels"
        low, high = sizes.get(each, (0.9, 2.2))
        radius = min(spacing * float(np.exp(rng.uniform(np.log(low), np.log(high)))), largest * float(box.max()))
        centre = rng.uniform(0, box)
        if any(np.hypot(*(centre - c)) < 1.1 * (radius + r) + 0.3 * spacing for c, r in taken):
            continue
        taken.append((centre, radius))
        region += 1
        layout.clear(centre, 1.05 * radius + 0.35 * spacing)
        if each in ("glands", "vessels"):
            _ring(rng, layout, centre, radius, each == "vessels", region)
        else:
            tight = float(rng.uniform(0.75, 1.0))
            layout.add(_disc(rng, centre, radius, spacing * tight), rng.uniform(0, 3), 1.1, tight, True, region)
        if sum(np.pi * r**2 for _, r in taken) > cover:
            break


def _ring(
    rng: np.random.Generator,
    layout: _Layout,
    centre: NDArray[np.float64],
    radius: float,
    is_vessel: bool,
    region: int,
) -> None:
    """Cells around a lumen: upright in a gland, flat in the wall of a vessel."""
    spacing = layout.spacing
    aspect = float(rng.uniform(1.5, 2.4)) if is_vessel else float(rng.uniform(1.0, 1.7))
    # Along the ring a flat cell takes more, an upright one less than the spacing.
    count = max(4, round(2 * np.pi * radius / (spacing * (aspect**0.5 if is_vessel else 0.9 / aspect**0.5))))
    theta = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 6.3) + rng.normal(0, 0.8 / count, count)
    squeeze, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    wobble = _wobble(rng, theta, 0.12)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def around(distance: float, jitter: float) -> NDArray[np.float64]:
        circle = np.stack((np.sin(theta), squeeze * np.cos(theta)), 1) @ turned
        return np.asarray(centre + circle * (distance * wobble + rng.normal(0, jitter * spacing, count))[:, None])

    thickness = spacing * (0.6 if is_vessel else 1.15)
    places = around(radius, 0.1)
    outward = places - centre
    angle = np.arctan2(outward[:, 0], outward[:, 1]) + (np.pi / 2 if is_vessel else 0)
    layout.add(places, angle, aspect, 1.0, True, region)
    inner = radius - thickness
    if inner > 0.3 * spacing:
        layout.add(around(inner, 0.04), 0.0, 1.0, 1.0, False, region)
        core = _lattice(rng, centre - inner, centre + inner, spacing)
        core = core[np.hypot(*(core - centre).T) < squeeze * inner - 0.5 * spacing]
        layout.add(core, 0.0, 1.0, 1.0, False, region)
        if len(core) and rng.random() < 0.4:
            # Blood or shed cells.
            layout.rows[-1][:, 5] = rng.random(len(core)) < rng.uniform(0.1, 0.6)
    layout.add(centre[None], 0.0, 1.0, 1.0, False, region)


def _finish_tissue(rng: np.random.Generator, layout: _Layout, coarse: tuple[int, int]) -> Tissue:
    """Sites with nuclei."""
    table, spacing = np.concatenate(layout.rows), layout.spacing
    count = len(table)
    angle, long = table[:, 2], np.sqrt(table[:, 3])
    scale = table[:, 4] * np.exp(rng.normal(0, rng.uniform(0.05, 0.2), count))
    # Lymphocytes among larger cells.
    scale[rng.random(count) < rng.uniform(-0.2, 0.3)] *= rng.uniform(0.65, 0.9)
    row, column = np.sin(angle), np.cos(angle)
    metric = np.stack((np.stack((row, column), -1) / long[:, None], np.stack((column, -row), -1) * long[:, None]), 1)
    metric /= scale[:, None, None]
    nucleus = _nuclei(rng, count, spacing)
    sites = Sites(
        table[:, :2],
        metric.astype(np.float32),
        table[:, 5] > 0,
        table[:, 6].astype(np.int64),
        (spacing * rng.uniform(0.5, 0.75) * np.exp(rng.normal(0, 0.1, count))).astype(np.float32),
        nucleus,
    )
    bend = np.stack([smooth_field(rng, coarse, 2.0 * max(coarse) / spacing, 2) - 0.5 for _ in range(2)])
    gap = float(rng.choice([0.0, 0.5, 1.2], p=[0.5, 0.3, 0.2]))
    return Tissue(sites, bend * np.float32(spacing * rng.uniform(0.1, 0.6)), spacing, gap)


def _nuclei(rng: np.random.Generator, count: int, spacing: float) -> Planes:
    """Nuclei (7, N) as `Sites` has them; some lie outside the section."""
    share = rng.uniform(0.26, 0.42) * spacing
    nuclei = (
        *rng.normal(0, 0.05 * spacing, (2, count)),
        np.clip(share * np.exp(rng.normal(0, 0.12, count)), 1.6, 0.48 * spacing)
        * (rng.random(count) > rng.uniform(0, 0.15)),
        rng.normal(0, 0.1, count),
        rng.uniform(0, 6.3, count),
        rng.normal(0, 0.06, count),
        rng.uniform(0, 6.3, count),
    )
    return np.stack(nuclei).astype(np.float32)
