"""Alignment check between the channels of a stack: shifts measured on edges, and channels shifted back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from e2sam.data.stack import ChannelStack, LazyArray
from e2sam.data.windowed import WindowedArray

__all__ = ["WARNING_SHIFT", "ChannelShift", "estimate_shift", "estimate_shifts", "shifted"]

WARNING_SHIFT = 2.0
"""Pixels of shift from which on a user is warned."""

_LONGEST_SIDE = 768
_SMALLEST_CORRELATION = 0.15
_AGREEING_QUARTERS = 3
_LARGEST_SHARE = 0.15


@dataclass(frozen=True)
class ChannelShift:
    """How far one channel lies off a reference channel.

    Attributes
    ----------
    name, reference
        The two channels.
    dx, dy
        Pixels to move `name` by, right and down, so that it lies on `reference`.
    correlation
        Correlation of the edges of both after the shift, -1..1.
    is_reliable
        Whether to believe the shift: the edges agree, and at least three quarters of the image say the same.
    """

    name: str
    reference: str
    dx: float
    dy: float
    correlation: float
    is_reliable: bool

    @property
    def distance(self) -> float:
        """Length of the shift, pixels."""
        return float(np.hypot(self.dx, self.dy))

    @property
    def is_warning(self) -> bool:
        """Whether a user should be told: a believable shift of more than `WARNING_SHIFT` pixels."""
        return self.is_reliable and self.distance > WARNING_SHIFT


def estimate_shifts(
    stack: ChannelStack, reference: int | str = 0, channels: Sequence[int | str] | None = None
) -> tuple[ChannelShift, ...]:
    """Shift of each channel against a reference channel.

    Measured on the magnitude of the gradient, which unlike sensors share where their values have nothing in common, by
    phase correlation to a tenth of a pixel (Guizar-Sicairos et al. 2008, as in scikit-image). Large stacks are read
    as their central window of 768 x 768 pixels, for reduced ones would hide small shifts.

    Parameters
    ----------
    stack
        A single scene (C, H, W).
    reference
        The channel that stays.
    channels
        The channels to measure; by default all others.
    """
    (fixed,) = stack.indices([reference])
    others = [index for index in range(stack.num_channels) if index != fixed]
    wanted = others if channels is None else [index for index in stack.indices(list(channels)) if index != fixed]
    rows, columns = (_central(length) for length in stack.size)
    target = _edges(*_read(stack, fixed, rows, columns))
    shifts = []
    for index in wanted:
        moving = _edges(*_read(stack, index, rows, columns))
        dx, dy, correlation, is_reliable = _shift_between(target, moving)
        shifts.append(ChannelShift(stack.names[index], stack.names[fixed], dx, dy, correlation, is_reliable))
    return tuple(shifts)


def estimate_shift(
    reference: NDArray[Any], moving: NDArray[Any], valid: NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """(dx, dy), pixels, to move `moving` (H, W) by so that it lies on `reference` (H, W)."""
    measured = np.ones(reference.shape, bool) if valid is None else valid
    dx, dy, _, _ = _shift_between(_edges(reference, measured), _edges(moving, measured))
    return dx, dy


def shifted(stack: ChannelStack, shifts: Mapping[str, tuple[float, float]]) -> ChannelStack:
    """The stack with channels moved by (dx, dy) pixels, right and down; still read by windows.

    Whole pixels are copied, fractions are interpolated linearly where all neighbours were measured. What moves in from
    outside the image is NaN in a floating channel and nodata where the channel has such a value; an integer channel
    without one repeats its edge, so that its type, and with it its normalization, stays what it was.

    Raises
    ------
    ChannelError
        If a channel does not exist.
    """
    indices = stack.indices(list(shifts)) if shifts else ()
    moves = {
        index: (float(dx), float(dy))
        for index, (dx, dy) in zip(indices, shifts.values(), strict=True)
        if (dx, dy) != (0, 0)
    }
    if not moves:
        return stack
    floating = stack.data.dtype.kind == "f"
    missing = tuple(
        channel.nodata if channel.nodata is not None or not floating else np.nan for channel in stack.channels
    )
    return replace(stack, data=_Shifted(stack.data, moves, missing), _valid=None)


class _Shifted(WindowedArray):
    """An array with some channels moved."""

    def __init__(
        self, data: LazyArray, moves: Mapping[int, tuple[float, float]], missing: Sequence[float | None]
    ) -> None:
        super().__init__(tuple(data.shape), data.dtype)
        self._data = data
        self._moves = moves
        self._missing = missing

    def plane(self, leading: tuple[Any, ...], channel: int, rows: range, columns: range) -> NDArray[Any]:
        if channel not in self._moves:
            return np.asarray(self._data[(*leading, channel, _as_slice(rows), _as_slice(columns))])
        dx, dy = self._moves[channel]
        y0, x0 = int(np.floor(rows.start - dy)), int(np.floor(columns.start - dx))
        # One pixel more on each side, for interpolation.
        wanted_rows = np.arange(y0, y0 + rows[-1] - rows.start + 2)
        wanted_columns = np.arange(x0, x0 + columns[-1] - columns.start + 2)
        missing = self._missing[channel]
        block = self._block(leading, channel, (wanted_rows, wanted_columns), missing)
        moved = _interpolated(block, rows.start - dy - y0, columns.start - dx - x0, missing)
        return moved[..., :: rows.step, :: columns.step]

    def _block(
        self,
        leading: tuple[Any, ...],
        channel: int,
        wanted: tuple[NDArray[np.intp], NDArray[np.intp]],
        missing: float | None,
    ) -> NDArray[Any]:
        rows, columns = (
            np.clip(positions, 0, length - 1) for positions, length in zip(wanted, self.shape[-2:], strict=True)
        )
        window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        inner = np.asarray(self._data[(*leading, channel, *window)])
        block = inner[..., (rows - rows[0])[:, None], columns - columns[0]]
        if missing is not None:
            block[..., rows != wanted[0], :] = missing
            block[..., columns != wanted[1]] = missing
        return block


def _interpolated(block: NDArray[Any], fy: float, fx: float, missing: float | None) -> NDArray[Any]:
    """The block moved by fractions of a pixel; it loses its last row and column."""
    near = block[..., :-1, :-1]
    if fy == 0 and fx == 0:
        return near
    corners = (near, block[..., :-1, 1:], block[..., 1:, :-1], block[..., 1:, 1:])
    weights = ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)
    used = [(corner, weight) for corner, weight in zip(corners, weights, strict=True) if weight > 0]
    total = np.sum([corner.astype(np.float64) * weight for corner, weight in used], axis=0)
    if block.dtype.kind != "f":
        total = np.rint(total)
    if missing is not None:
        measured = np.logical_and.reduce([corner != missing for corner, _ in used])
        total = np.where(measured, total, missing)
    result: NDArray[Any] = total.astype(block.dtype)
    return result


def _as_slice(positions: range) -> slice:
    return slice(positions.start, positions.stop, positions.step)


def _central(length: int) -> slice:
    start = max(0, (length - _LONGEST_SIDE) // 2)
    return slice(start, min(length, start + _LONGEST_SIDE))


def _read(stack: ChannelStack, index: int, rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    block = stack.read(rows, columns, [index])
    return block[0], stack.valid_of(block, [index])[0]


def _edges(plane: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Magnitude of the gradient, robustly scaled, 0 where pixels or their neighbours were not measured."""
    if not valid.any():
        return np.zeros(plane.shape, np.float32)
    filled = np.where(valid, plane, np.median(plane[valid])).astype(np.float32)
    low, high = np.percentile(filled[valid], (1, 99))
    smooth = ndimage.gaussian_filter(np.clip(filled, low, high), 1.0)
    edges: NDArray[np.float32] = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    # An edge between measured and unmeasured pixels is the sensor's, not the scene's.
    edges[ndimage.binary_dilation(~valid, iterations=4)] = 0
    limit = float(np.percentile(edges, 99.5))
    if limit > 0:
        np.minimum(edges, limit, out=edges)
        edges /= limit
    return edges


def _shift_between(target: NDArray[np.float32], moving: NDArray[np.float32]) -> tuple[float, float, float, bool]:
    best, dy, dx = _best_shift(target, moving)
    # Unlike sensors see unlike things, and a few bright ones can pull the image; a true shift is the same all over.
    agreeing = 0
    for rows, columns in product(_halves(target.shape[0]), _halves(target.shape[1])):
        _, y, x = _best_shift(target[rows, columns], moving[rows, columns])
        agreeing += np.hypot(y - dy, x - dx) <= WARNING_SHIFT
    # Adding 0 turns -0 into 0.
    return dx + 0.0, dy + 0.0, best, best >= _SMALLEST_CORRELATION and agreeing >= _AGREEING_QUARTERS


def _best_shift(target: NDArray[np.float32], moving: NDArray[np.float32]) -> tuple[float, float, float]:
    """Correlation, dy and dx of the shift under which the edges agree best."""
    if not (target.any() and moving.any()):
        return -1.0, 0.0, 0.0
    taper = np.outer(np.hanning(target.shape[0] + 2)[1:-1], np.hanning(target.shape[1] + 2)[1:-1])
    first, second = ((edges - edges.mean()) * taper for edges in (target, moving))
    candidates = [(0.0, 0.0)]
    # Phase correlation weighs all frequencies alike and can lock on noise; plain correlation is the second opinion.
    for normalization in ("phase", None):
        (dy, dx), _, _ = phase_cross_correlation(first, second, upsample_factor=10, normalization=normalization)
        candidates.append((float(dy), float(dx)))
    return max((_correlation(target, moving, dy, dx), dy, dx) for dy, dx in candidates)


def _halves(length: int) -> tuple[slice, slice]:
    """Two overlapping parts of an axis, each of three fifths."""
    part = -(-length * 3 // 5)
    return slice(0, part), slice(length - part, length)


def _correlation(target: NDArray[np.float32], moving: NDArray[np.float32], dy: float, dx: float) -> float:
    """Correlation of the edges after a shift, over what both cover."""
    height, width = target.shape
    rows = slice(max(0, int(np.ceil(dy))), min(height, height + int(np.floor(dy))))
    columns = slice(max(0, int(np.ceil(dx))), min(width, width + int(np.floor(dx))))
    if abs(dy) > height * _LARGEST_SHARE or abs(dx) > width * _LARGEST_SHARE:
        return -1.0
    first = target[rows, columns]
    second = ndimage.shift(moving, (dy, dx), order=1, prefilter=False)[rows, columns]
    spread = float(first.std() * second.std())
    if spread == 0:
        return -1.0
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread)
