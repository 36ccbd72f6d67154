"""What the covers of land look like in each band, and how bands become planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.data.synthetic.textures import Planes

__all__ = ["NUM_BANDS", "SPECTRA", "VEGETATION", "WATERS", "develop", "vary"]

# Reflectance in blue, green, red, near and short-wave infrared, and warmth.
NUM_BANDS = 6
SPECTRA: dict[str, tuple[float, ...]] = {
    "water": (0.05, 0.055, 0.035, 0.018, 0.008, 0.25),
    "sea": (0.065, 0.06, 0.03, 0.012, 0.006, 0.25),
    "turbid": (0.09, 0.125, 0.115, 0.045, 0.015, 0.3),
    "conifer": (0.02, 0.035, 0.024, 0.2, 0.075, 0.32),
    "broadleaf": (0.026, 0.055, 0.03, 0.36, 0.15, 0.34),
    "shrub": (0.045, 0.072, 0.068, 0.24, 0.21, 0.52),
    "grass": (0.042, 0.085, 0.055, 0.37, 0.21, 0.45),
    "steppe": (0.09, 0.13, 0.16, 0.27, 0.35, 0.7),
    "wetland": (0.035, 0.055, 0.048, 0.2, 0.1, 0.33),
    "lush": (0.028, 0.075, 0.032, 0.46, 0.18, 0.4),
    "maize": (0.03, 0.06, 0.035, 0.38, 0.17, 0.42),
    "rape": (0.05, 0.16, 0.15, 0.44, 0.2, 0.42),
    "ripe": (0.09, 0.14, 0.19, 0.32, 0.36, 0.6),
    "stubble": (0.11, 0.15, 0.18, 0.26, 0.36, 0.72),
    "soil": (0.07, 0.1, 0.14, 0.2, 0.28, 0.78),
    "dark_soil": (0.05, 0.065, 0.082, 0.12, 0.16, 0.74),
    "pale_soil": (0.13, 0.18, 0.23, 0.3, 0.38, 0.8),
    "red_soil": (0.06, 0.085, 0.17, 0.24, 0.32, 0.8),
    "orchard": (0.05, 0.08, 0.075, 0.28, 0.22, 0.5),
    "rock": (0.12, 0.145, 0.165, 0.2, 0.25, 0.68),
    "sand": (0.2, 0.28, 0.36, 0.43, 0.5, 0.85),
    "snow": (0.86, 0.88, 0.88, 0.78, 0.1, 0.04),
    "town": (0.09, 0.105, 0.115, 0.2, 0.2, 0.75),
    "yard": (0.13, 0.15, 0.165, 0.2, 0.23, 0.8),
    "garden": (0.05, 0.085, 0.07, 0.3, 0.2, 0.5),
    "asphalt": (0.075, 0.085, 0.095, 0.115, 0.13, 0.85),
    "track": (0.13, 0.17, 0.2, 0.26, 0.32, 0.75),
    "rail": (0.085, 0.09, 0.1, 0.12, 0.15, 0.75),
    "tile": (0.075, 0.1, 0.21, 0.27, 0.3, 0.9),
    "slate": (0.07, 0.075, 0.08, 0.09, 0.11, 0.92),
    "concrete": (0.22, 0.235, 0.245, 0.27, 0.28, 0.8),
    "metal": (0.42, 0.43, 0.43, 0.42, 0.38, 0.6),
    "pool": (0.3, 0.34, 0.13, 0.03, 0.01, 0.3),
    "paint": (0.3, 0.3, 0.3, 0.3, 0.3, 0.65),
    "cloud": (0.72, 0.72, 0.72, 0.7, 0.5, 0.02),
}
WATERS = ("water", "sea", "turbid")
VEGETATION = ("conifer", "broadleaf", "shrub", "grass", "lush", "maize", "rape", "wetland", "orchard", "garden")


def vary(rng: np.random.Generator, kind: str, spread: float = 0.12) -> Planes:
    """Spectrum (6,) of one piece of a cover."""
    common, own = rng.normal(0, spread), rng.normal(0, spread / 2.5, NUM_BANDS)
    return np.asarray(np.array(SPECTRA[kind]) * np.exp(common + own), np.float32)


def develop(rng: np.random.Generator, bands: Planes, num_extras: int, heights: Planes) -> Planes:
    """Planes (3 + K, H, W) in [0, 1]: natural, dull, false or grey colours, then height, warmth, reflectances."""
    sample = bands[:, ::3, ::3]
    mixing, is_dull = _composite(rng)
    colours = np.tensordot(mixing, bands[:5], 1).astype(np.float32)
    seen = np.tensordot(mixing, sample[:5], 1).reshape(3, -1)
    if is_dull:
        # Reflectance as it is: dark, with one gain for all.
        haze = rng.uniform(0, 0.08) * np.array([0.5, 0.7, 1.0])
        colours = colours * np.float32(rng.uniform(1.0, 2.4)) + haze[:, None, None].astype(np.float32)
    else:
        low, high = np.percentile(seen, (1, rng.choice([97.0, 98.5, 99.7])), axis=1)
        if rng.random() < 0.7:
            # One stretch for all planes keeps the hue.
            low, high = np.full(3, low.min()), np.full(3, max(high.max() * rng.uniform(0.75, 1.0), high.mean()))
        low = low * rng.uniform(0.2, 1.0)
        white = np.maximum(high - low, 0.06) * rng.uniform(0.95, 1.35)
        colours = (colours - low[:, None, None]) / white[:, None, None]
        colours = np.clip(colours, 0, None) ** np.float32(rng.uniform(0.6, 1.05))
        colours = colours * np.float32(rng.uniform(0.9, 1)) + np.float32(rng.uniform(0, 0.08))
        if rng.random() < 0.5:
            grey = colours.mean(0)
            colours = grey + np.float32(rng.uniform(0.5, 1.35)) * (colours - grey)
    planes = np.zeros((3 + num_extras, *heights.shape), np.float32)
    planes[:3] = colours
    for index in range(num_extras):
        if index == 0:
            planes[3] = heights
        elif index == 1:
            planes[4] = bands[5] * rng.uniform(0.6, 1.0) + rng.uniform(0, 0.2)
        else:
            planes[3 + index] = _reflectance(rng, bands, index)
    np.clip(planes, 0, 1, out=planes)
    return planes


def _composite(rng: np.random.Generator) -> tuple[NDArray[np.float64], bool]:
    """Weights (3, 5) of the bands in R, G, B, and whether the picture is left as dark as the land."""
    choice = rng.random()
    order = [2, 1, 0]
    if 0.7 <= choice < 0.93:
        order = [[3, 2, 1], [4, 3, 2], [3, 4, 2], [4, 3, 0], [3, 1, 0]][int(rng.integers(5))]
    mixing = np.eye(5)[order]
    # Infrared is bright: a composite balances it.
    mixing *= np.array([1.0, 1.0, 1.0, 0.45, 0.6])
    if choice >= 0.97:
        mixing = np.tile(rng.dirichlet(np.ones(5)), (3, 1))
    elif choice >= 0.93:
        mixing = rng.dirichlet(np.full(5, 0.4), 3) * np.array([1.0, 1.0, 1.0, 0.45, 0.6])
    return mixing, bool(choice < 0.22)


def _reflectance(rng: np.random.Generator, bands: Planes, index: int) -> Planes:
    """One further plane: near infrared, short-wave infrared, then mixtures."""
    if index in (2, 3):
        return np.asarray(bands[index + 1] * np.float32(rng.uniform(1.2, 2.1)), np.float32)
    mixture = np.tensordot(rng.dirichlet(np.full(5, 0.5)), bands[:5], 1)
    return np.asarray(mixture / max(float(np.percentile(mixture, 98)), 0.05) * rng.uniform(0.6, 1.0), np.float32)
