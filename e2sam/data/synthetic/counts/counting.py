"""Counts of what is expected, and how they are brought to [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["add_noise", "count_markers"]


def count_markers(rng: np.random.Generator, expected: Planes, is_clean: bool) -> tuple[Planes, Planes]:
    """Counted planes (M, h, w) scaled to [0, 1], and what they would be without noise."""
    rate = _rates(rng, expected)
    counts = _process(rng, (rate if is_clean else add_noise(rng, rate), rate))
    percentile = float(rng.choice([95, 98, 99, 99.5, 99.9]))
    power = float(rng.uniform(0.5, 0.9)) if rng.random() < 0.2 else 1.0
    top = _tops(rng, counts[0], percentile)
    first, second = (np.clip(each / top, 0, 1).astype(np.float32) ** np.float32(power) for each in counts)
    return first, second


def _rates(rng: np.random.Generator, expected: Planes) -> NDArray[np.float64]:
    """Mean counts (M, h, w): markers of unlike brightness over some background."""
    size = (expected.shape[1], expected.shape[2])
    bright = float(np.exp(rng.uniform(np.log(2.5), np.log(110))))
    peak = bright * np.exp(rng.normal(0, 0.5, len(expected)))
    ground = rng.uniform(0, 0.04, len(expected))
    if rng.random() < 0.1:
        # Tissue that glows by itself.
        glow = smooth_field(rng, size, float(rng.uniform(1, 4)), 3)
        expected = expected + np.float32(rng.uniform(0.15, 0.6)) * glow
    rate = (expected + ground[:, None, None]) * np.clip(peak, 1.0, 200)[:, None, None]
    if rng.random() < 0.08:
        # Lines of the scan differ.
        rate = rate * np.exp(rng.normal(0, rng.uniform(0.05, 0.2), (1, size[0], 1)))
    return np.asarray(rate)


def _process(rng: np.random.Generator, stacks: tuple[NDArray[np.float64], ...]) -> list[NDArray[np.float64]]:
    """Stacks (M, h, w), all smoothed and compressed the same way, or left as they are."""
    sigma = float(rng.uniform(0.4, 0.9)) if rng.random() < 0.25 else 0.0
    is_median = sigma == 0 and rng.random() < 0.1
    cofactor = float(rng.uniform(1, 5)) if rng.random() < 0.25 else 0.0
    results = []
    for planes in stacks:
        if sigma:
            planes = ndimage.gaussian_filter(planes, (0, sigma, sigma))
        elif is_median:
            planes = ndimage.median_filter(planes, (1, 3, 3))
        results.append(np.arcsinh(planes / cofactor) if cofactor else planes)
    return results


def _tops(rng: np.random.Generator, counts: NDArray[np.float64], percentile: float) -> NDArray[np.float64]:
    """What is as bright as can be in each plane (M, 1, 1)."""
    # Where next to nothing was counted, a scale for all images leaves the plane dark.
    least = np.where(rng.random(len(counts)) < 0.5, rng.uniform(1, 4, len(counts)), 0)[:, None, None]
    top = np.percentile(counts, percentile, axis=(1, 2), keepdims=True)
    # Of a plane that is nearly all zeros the percentile is zero.
    top = np.maximum(top, np.maximum(0.3 * counts.max((1, 2), keepdims=True) * (top <= 0), 1e-3))
    return np.asarray(np.maximum(top, least))


def add_noise(rng: np.random.Generator, rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of given rates, with some pixels far too bright, and at times with noise of reading out."""
    counts = rng.poisson(rate).astype(np.float64)
    if rng.random() < 0.5:
        hot = rng.random(rate.shape) < np.exp(rng.uniform(np.log(1e-4), np.log(4e-3)))
        counts[hot] += rng.exponential(1.5 * rate.max(), int(hot.sum()))
    if rng.random() < 0.25:
        counts = np.maximum(counts + rng.normal(0, rng.uniform(0.3, 2.0), rate.shape), 0)
    return counts
