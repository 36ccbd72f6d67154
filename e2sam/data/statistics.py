"""What the channels of a stack hold and share: information, noise and mutual correlation, on valid pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2sam.data.normalize import ChannelRecipe, apply_recipes, fit_recipes
from e2sam.data.sampling import sample_blocks
from e2sam.data.stack import ChannelStack

__all__ = ["ChannelStatistics", "channel_statistics"]

_ENTROPY_BINS = 256
# Values looked at in all: 4 channels by a million pixels, or 580 channels by 7,000.
_MAX_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Figures of N channels after normalization to [0, 1], over valid pixels.

    Attributes
    ----------
    deviation
        (N,) standard deviation.
    noise
        (N,) standard deviation of the noise: Immerkaer (1996), "Fast noise variance estimation", so fine texture counts
        as noise in part.
    entropy
        (N,) bits, of a histogram of 256 bins.
    valid_share
        (N,) share of valid pixels, 0..1.
    correlation
        (N, N) Pearson correlation over the pixels valid in both; 0 where a channel is constant.
    """

    deviation: NDArray[np.float64]
    noise: NDArray[np.float64]
    entropy: NDArray[np.float64]
    valid_share: NDArray[np.float64]
    correlation: NDArray[np.float64]

    @property
    def information(self) -> NDArray[np.float64]:
        """(N,) standard deviation x share of the variance that is not noise x share of valid pixels."""
        variance = np.maximum(self.deviation**2, 1e-12)
        signal: NDArray[np.float64] = np.clip(1 - self.noise**2 / variance, 0, 1)
        return self.deviation * signal * self.valid_share

    @property
    def signal_to_noise(self) -> NDArray[np.float64]:
        """(N,) standard deviation over that of the noise, at most 1000."""
        ratio: NDArray[np.float64] = self.deviation / np.maximum(self.noise, 1e-3 * self.deviation + 1e-12)
        return ratio


def channel_statistics(stack: ChannelStack, recipes: Sequence[ChannelRecipe] | None = None) -> ChannelStatistics:
    """Measure the channels of a stack on a bounded sample; seconds at most, whatever its size.

    Parameters
    ----------
    stack
        Any stack; series and volumes by their middle scene.
    recipes
        Normalization of each channel; fitted if None.
    """
    values, valid = sample_blocks(stack, max_values=_MAX_VALUES)
    planes = apply_recipes(values, valid, fit_recipes(stack) if recipes is None else recipes)
    flat, measured = planes.reshape(len(planes), -1), valid.reshape(len(planes), -1)
    counts = measured.sum(axis=1)
    mean = np.where(counts > 0, (flat * measured).sum(axis=1, dtype=np.float64) / np.maximum(counts, 1), 0)
    centred = np.where(measured, flat - mean[:, None].astype(np.float32), np.float32(0))
    deviation = np.sqrt((centred.astype(np.float64) ** 2).sum(axis=1) / np.maximum(counts, 1))
    return ChannelStatistics(
        deviation=deviation,
        noise=np.array([_noise(plane, known) for plane, known in zip(planes, valid, strict=True)]),
        entropy=np.array([_entropy(line[known]) for line, known in zip(flat, measured, strict=True)]),
        valid_share=counts / max(flat.shape[1], 1),
        correlation=_correlation(centred, measured, deviation),
    )


def _correlation(
    centred: NDArray[np.float32], measured: NDArray[np.bool_], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    varies = deviation > 1e-6
    scaled = centred / np.where(varies, deviation, 1)[:, None].astype(np.float32)
    known = measured.astype(np.float32)
    products = (scaled @ scaled.T).astype(np.float64)
    if measured.all():
        raw = products / max(measured.shape[1], 1)
    else:
        # Each pair over its own common pixels, with their own spread: a hole in one channel says nothing of the other.
        pairs = np.maximum((known @ known.T).astype(np.float64), 1)
        sums = (scaled @ known.T).astype(np.float64) / pairs
        squares = ((scaled**2) @ known.T).astype(np.float64) / pairs
        spread = np.sqrt(np.maximum(squares - sums**2, 1e-12))
        raw = (products / pairs - sums * sums.T) / (spread * spread.T)
    result: NDArray[np.float64] = np.clip(raw, -1, 1)
    result[~varies, :] = 0
    result[:, ~varies] = 0
    np.fill_diagonal(result, 1)
    return result


def _noise(plane: NDArray[np.float32], valid: NDArray[np.bool_]) -> float:
    """Noise from the difference of two Laplacians, blind to flat, sloping and straight-edged parts."""
    if min(plane.shape) < 3:
        return 0.0
    known = np.ones((plane.shape[0] - 2, plane.shape[1] - 2), bool)
    response = np.zeros(known.shape, np.float32)
    for down, weights in enumerate(((1, -2, 1), (-2, 4, -2), (1, -2, 1))):
        for across, weight in enumerate(weights):
            window = np.s_[down : down + known.shape[0], across : across + known.shape[1]]
            response += np.float32(weight) * plane[window]
            known &= valid[window]
    if not known.any():
        return 0.0
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(response[known]).mean())


def _entropy(values: NDArray[np.float32]) -> float:
    if values.size == 0:
        return 0.0
    counts, _ = np.histogram(values, bins=_ENTROPY_BINS, range=(0, 1))
    shares = counts[counts > 0] / values.size
    return max(0.0, float(-(shares * np.log2(shares)).sum()))
