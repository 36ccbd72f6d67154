"""A panel of markers, and what each is expected to give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.counts.sites import Map, Tissue
from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["expect", "make_panel"]

_KINDS = ("nuclear", "membrane", "cytoplasm", "granular", "fibre", "empty")


def make_panel(rng: np.random.Generator, num_extras: int) -> tuple[list[str], Planes]:
    """Kinds of M markers, and how much of each (3 + K, M) a plane shows."""
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.08, 0.2, 0.4, 0.14, 0.1, 0.08]))
    kinds = [str(kind) for kind in rng.choice(_KINDS, count + num_extras, p=[0.17, 0.25, 0.3, 0.1, 0.1, 0.08])]
    if rng.random() < 0.85:
        kinds[0] = "nuclear"
    elif kinds[0] not in ("membrane", "cytoplasm"):
        kinds[0] = "membrane"
    for index in range(1, count):
        if (kinds[index] == "nuclear" and rng.random() < 0.8) or (kinds[index] == "empty" and rng.random() < 0.6):
            kinds[index] = str(rng.choice(["membrane", "cytoplasm"]))
    mixture = np.zeros((3 + num_extras, len(kinds)), np.float32)
    mixture[np.arange(3, 3 + num_extras), np.arange(count, count + num_extras)] = 1
    if count <= 3 and rng.random() < 0.75:
        planes = rng.permutation(3)
        mixture[planes[:count], np.arange(count)] = 1
        if count < 3 and rng.random() < 0.6:
            # Two planes equal, or all.
            mixture[planes[count:], int(rng.integers(count))] = 1
    else:
        colours = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0.5, 0)])
        chosen = rng.choice(len(colours), count, replace=False)
        mixture[:3, :count] = (colours[chosen] * rng.uniform(0.6, 1.0, (count, 1))).T
    for index in range(num_extras):
        if rng.random() < 0.1:
            # The same marker again, on its own.
            mixture[3 + index] = np.eye(len(kinds), dtype=np.float32)[int(rng.integers(count))]
    return kinds, mixture


def expect(rng: np.random.Generator, tissue: Tissue, fine: Map, kind: str, of_regions: float) -> Planes:
    """What a marker is expected to give (h, w), about 1 where it is bright; drawn twice as fine."""
    size = (fine.owner.shape[0], fine.owner.shape[1])
    plane: NDArray[np.floating]
    if kind == "nuclear":
        plane = _nuclear(rng, tissue, fine)
    elif kind == "membrane":
        plane = _membrane(rng, tissue, fine, of_regions)
    elif kind == "fibre":
        plane = _fibre(rng, tissue, fine)
    elif kind == "empty":
        plane = np.full(size, rng.uniform(0.005, 0.1))
    else:
        plane = _cytoplasm(rng, tissue, fine, kind == "granular", of_regions)
    pooled = plane.reshape(size[0] // 2, 2, size[1] // 2, 2).mean((1, 3))
    return np.asarray(ndimage.gaussian_filter(pooled, float(rng.uniform(0.2, 0.8))), np.float32)


def _bumps(rng: np.random.Generator, tissue: Tissue, fine: Map, each: float, octaves: int = 1) -> Planes:
    """Smooth field with about `each` bumps for every cell along a side."""
    size = (fine.owner.shape[0], fine.owner.shape[1])
    return smooth_field(rng, size, each * max(size) / (2 * tissue.spacing), octaves)


def _nuclear(rng: np.random.Generator, tissue: Tissue, fine: Map) -> Planes:
    gain = np.exp(rng.normal(0, rng.uniform(0.1, 0.45), len(tissue.sites.places))).astype(np.float32)
    dome = 1 - rng.uniform(0, 0.7) * np.clip(1 - fine.depth, 0, 1) ** 2
    plane = fine.nucleus * gain[fine.owner] * dome
    plane *= 1 - rng.uniform(0.1, 0.6) * _bumps(rng, tissue, fine, 4, 2)
    if rng.random() < 0.4:
        # Nuclei above and below the plane.
        spacing = int(2 * tissue.spacing)
        shift = rng.integers(-spacing, spacing + 1, 2)
        beyond = np.roll(plane[::-1], (int(shift[0]), int(shift[1])), (0, 1))
        plane = plane + rng.uniform(0.05, 0.35) * ndimage.gaussian_filter(beyond, 1.5)
    if rng.random() < 0.3:
        plane = plane + rng.uniform(0.03, 0.15) * fine.inside
    return np.asarray(plane)


def _membrane(rng: np.random.Generator, tissue: Tissue, fine: Map, of_regions: float) -> Planes:
    width = 2 * float(rng.uniform(0.5, 1.0))
    patchy = 1 - rng.uniform(0, 0.8) * _bumps(rng, tissue, fine, 2.5)
    gain = _positive(rng, tissue, of_regions)
    line = np.exp(-((2 * fine.edge / width) ** 2)) + rng.uniform(0, 0.2)
    return np.asarray(fine.inside * gain[fine.owner] * line * patchy)


def _fibre(rng: np.random.Generator, tissue: Tissue, fine: Map) -> Planes:
    """Strands between cells, also along the borders of those in stroma, but not in lumina."""
    size = (fine.owner.shape[0], fine.owner.shape[1])
    field = smooth_field(rng, size, float(rng.uniform(2, 6)), 2) * rng.uniform(6, 20)
    ridge = np.exp(-(((field % 1 - 0.5) / rng.uniform(0.1, 0.25)) ** 2))
    hole = ~tissue.sites.is_cell & (tissue.sites.region > 0)
    free = ~fine.inside & ~hole[fine.owner]
    rim = np.exp(-np.maximum(fine.edge, 0) * 2) * (tissue.sites.region[fine.owner] == 0)
    plane = np.maximum(free, 0.6 * rim) * (0.25 + ridge)
    plane *= smooth_field(rng, size, 3.0, 2)
    return np.asarray(plane)


def _cytoplasm(rng: np.random.Generator, tissue: Tissue, fine: Map, is_granular: bool, of_regions: float) -> Planes:
    gain = _positive(rng, tissue, of_regions)
    grain = 1 - rng.uniform(0, 0.6) * _bumps(rng, tissue, fine, 5, 2)
    if is_granular:
        size = (fine.owner.shape[0], fine.owner.shape[1])
        spots = smooth_field(rng, (size[0] // 2, size[1] // 2), max(size) / 2 / rng.uniform(2, 4))
        grain = np.repeat(np.repeat(np.clip(spots * 4 - 2.4, 0, 1), 2, 0), 2, 1) + 0.05
    hollow = 1 - fine.nucleus * rng.uniform(-0.1, 1.0)
    return np.asarray(fine.inside * gain[fine.owner] * grain * hollow)


def _positive(rng: np.random.Generator, tissue: Tissue, of_regions: float) -> Planes:
    """How strongly each site (N,) has a marker: all, those of some regions, of stroma, or scattered ones.

    `of_regions` is how often it marks nearly all regions, whatever else.
    """
    sites = tissue.sites
    count = len(sites.places)
    gain = np.exp(rng.normal(0, rng.uniform(0.15, 0.6), count))
    choice = str(rng.choice(["all", "regions", "stroma", "scattered"], p=[0.4, 0.25, 0.1, 0.25]))
    is_of_regions = rng.random() < of_regions
    if is_of_regions:
        choice = "regions"
    if not sites.region.any() and choice in ("regions", "stroma"):
        choice = "all"
    if choice == "regions":
        last = int(sites.region.max())
        chosen = rng.random(last + 1) < (0.95 if is_of_regions else rng.uniform(0.4, 1.0))
        chosen[0] = False
        has = chosen[sites.region] & (rng.random(count) < rng.uniform(0.8, 1.0))
    elif choice == "stroma":
        has = sites.region == 0
    elif choice == "scattered":
        has = rng.random(count) < np.exp(rng.uniform(np.log(0.03), np.log(0.35)))
    else:
        has = np.ones(count, bool)
    leak = rng.uniform(0, 0.12)
    return (np.where(has, 1.0, leak) * gain * sites.is_cell).astype(np.float32)
