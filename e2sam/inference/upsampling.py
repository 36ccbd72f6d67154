"""From logits to a mask in the image, whose costs grow with the object's outline and not with the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from e2sam.data.masks import MaskCrop
from e2sam.inference.frame import Frame

__all__ = ["upsampled_crop"]

# Up to so many pixels, working all of a box out costs less than finding where rows cross the outline.
_MOST_DENSE = 1 << 19


def upsampled_crop(logits: NDArray[np.float32], frame: Frame) -> MaskCrop | None:
    """Where logits (h, w) of the decoder are above 0 in the image; None where they nowhere are.

    The same two bilinear steps as `Sam.postprocess_masks` (to the frame, then to the image), but the second is worked
    out only around the object, and of a large one only where a row crosses its outline, between logits of unlike sign:
    elsewhere a convex combination has the sign of its corners.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None, None]
    height, width = frame.input_size
    inner = F.interpolate(tensor, frame.padded_size, mode="bilinear", align_corners=False)[..., :height, :width]
    out_height, out_width = frame.original_size
    if out_height < height or out_width < width:
        whole = F.interpolate(inner, frame.original_size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
        return _tight(whole, 0, 0)
    return _upsampled_sparse(inner[0, 0].numpy(), frame.original_size)


def _tight(mask: NDArray[np.bool_], left: int, top: int) -> MaskCrop | None:
    """A mask whose corner lies at (left, top), cut to the box around what is set."""
    return MaskCrop.of(mask, left, top) if mask.any() else None


@dataclass(frozen=True, eq=False)
class _Axis:
    """Bilinear upsampling along one axis: output i lies between inputs low[i] and low[i] + 1, at `share`.

    The outputs of cell n, those between inputs n and n + 1, begin at starts[n].
    """

    low: NDArray[np.intp]
    share: NDArray[np.float32]
    starts: NDArray[np.intp]

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, num_in: int, num_out: int) -> _Axis:
        position = np.clip((np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5, 0, num_in - 1)
        low = position.astype(np.intp)
        return cls(low, (position - low).astype(np.float32), np.searchsorted(low, np.arange(num_in + 1)))

    def after(self, cell: NDArray[np.intp]) -> NDArray[np.intp]:
        """The inputs that end cells; the last one has none behind it."""
        return np.minimum(cell + 1, len(self.starts) - 2)


def _upsampled_sparse(inner: NDArray[np.float32], size: tuple[int, int]) -> MaskCrop | None:
    """As `upsampled_crop`, from logits in the frame to a larger image, by cells between four neighbouring logits."""
    corners = np.pad(inner > 0, ((0, 1), (0, 1)), mode="edge")
    pairs_any, pairs_all = corners[:-1] | corners[1:], corners[:-1] & corners[1:]
    some, every = pairs_any[:, :-1] | pairs_any[:, 1:], pairs_all[:, :-1] & pairs_all[:, 1:]
    rows, columns = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
    if rows.size == 0:
        return None
    axes = vertical, horizontal = _Axis.of(inner.shape[0], size[0]), _Axis.of(inner.shape[1], size[1])
    top, bottom = int(vertical.starts[rows[0]]), int(vertical.starts[rows[-1] + 1])
    left, right = int(horizontal.starts[columns[0]]), int(horizontal.starts[columns[-1] + 1])
    if (bottom - top) * (right - left) <= _MOST_DENSE:
        return _tight(_all_of(inner, axes, (top, bottom, left, right)), left, top)
    # Cells whose corners agree are set wholly or not at all, those of the outline differ from row to row.
    heights = np.diff(vertical.starts)
    y, x = np.divmod(np.flatnonzero(np.repeat(some & ~every, heights, axis=0)), inner.shape[1])
    begins, ends, across = _outline(inner, y, x, axes)
    # Whether, in each row of the image, the first and the last pixel of each cell are set; what lies outside is not.
    first = np.pad(np.repeat(every, heights, axis=0), ((0, 0), (0, 1)))
    last = np.roll(first, 1)
    first[y, x], last[y, x + 1] = begins, ends
    row, cell = np.divmod(np.flatnonzero(first != last), first.shape[1])
    row, column = np.append(row, y[begins != ends]), np.append(horizontal.starts[cell], across)
    # Two sorted lists become one.
    order = np.argsort(row * (size[1] + 1) + column, kind="stable")
    return _of_ends(row[order], column[order])


def _outline(
    inner: NDArray[np.float32], y: NDArray[np.intp], x: NDArray[np.intp], axes: tuple[_Axis, _Axis]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.intp]]:
    """Whether the first and the last pixel of cells `x` are set in rows `y` of the image.

    Along a row, the logits of a cell change their sign once at most: last, of the cells where the two differ, the first
    column behind that.
    """
    vertical, horizontal = axes
    row, down = vertical.low[y], vertical.share[y]
    flat = inner.reshape(-1)
    upper, lower = row * inner.shape[1], vertical.after(row) * inner.shape[1]
    x_next = horizontal.after(x)
    start = _lerp(flat.take(upper + x), flat.take(lower + x), down)
    slope = _lerp(flat.take(upper + x_next), flat.take(lower + x_next), down) - start
    first, last = horizontal.starts[x], horizontal.starts[x + 1] - 1
    begins, ends = start + slope * horizontal.share[first] > 0, start + slope * horizontal.share[last] > 0
    is_crossed = begins != ends
    start, slope, wanted = start[is_crossed], slope[is_crossed], ends[is_crossed]
    where = (x[is_crossed] - start / slope + 0.5) * (horizontal.low.size / inner.shape[1]) - 0.5
    column = np.clip(np.ceil(where).astype(np.intp), first[is_crossed] + 1, last[is_crossed])
    # The place is worked out, the sign is what counts: rounding may put it off by one.
    before, there = (start + slope * horizontal.share[at] > 0 for at in (column - 1, column))
    column += np.where(there != wanted, 1, np.where(before == wanted, -1, 0))
    return begins, ends, column


def _of_ends(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> MaskCrop | None:
    """A mask from where its runs begin and end, row by row."""
    if rows.size == 0:
        return None
    (left, top), (right, bottom) = (columns[::2].min(), rows[0]), (columns[1::2].max(), rows[-1] + 1)
    shape = int(bottom - top), int(right - left)
    runs = (rows - top) * shape[1] + columns - left
    # What ends with one row and begins with the next is one run.
    goes_on = np.flatnonzero(runs[1:-1:2] == runs[2::2])
    runs = np.delete(runs, np.concatenate((2 * goes_on + 1, 2 * goes_on + 2)))
    return MaskCrop.of_runs(runs, shape, int(left), int(top))


def _all_of(
    inner: NDArray[np.float32], axes: tuple[_Axis, _Axis], part: tuple[int, int, int, int]
) -> NDArray[np.bool_]:
    """Interpolate every output in rows `part[0]` to `part[1]` and columns `part[2]` to `part[3]`."""
    top, bottom, left, right = part
    rows, columns = (
        torch.from_numpy(axis.low[a:b]) for axis, a, b in zip(axes, (top, left), (bottom, right), strict=True)
    )
    first = int(rows[0])
    needed = torch.from_numpy(inner[first : int(rows[-1]) + 2])
    rows = rows - first
    height, width = needed.shape
    across = torch.lerp(
        needed.index_select(1, columns),
        needed.index_select(1, (columns + 1).clamp_(max=width - 1)),
        torch.from_numpy(axes[1].share[left:right]),
    )
    values = torch.lerp(
        across.index_select(0, rows),
        across.index_select(0, (rows + 1).clamp_(max=height - 1)),
        torch.from_numpy(axes[0].share[top:bottom, None]),
    )
    inside: NDArray[np.bool_] = (values > 0).numpy()
    return inside


def _lerp(start: NDArray[np.float32], end: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    return start + (end - start) * share
