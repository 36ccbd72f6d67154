"""From logits to a mask in the image, whose costs grow with the object's outline and not with the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from e2sam.data.masks import MaskCrop
from e2sam.inference.frame import Frame

__all__ = ["tight_mask", "upsampled_crop"]

# Up to so many pixels, working all of a box out costs less than finding and filling what is along the outline.
_MOST_DENSE = 1 << 20
# So many pixels, or pieces of eight pixels in the rows of a cell, are worked on at once: they stay in the caches.
_BAND_PIXELS = 1 << 20
_PIECES_AT_ONCE = 2048


def upsampled_crop(logits: NDArray[np.float32], frame: Frame) -> MaskCrop | None:
    """Where logits (h, w) of the decoder are above 0 in the image; None where they nowhere are.

    The same two bilinear steps as `Sam.postprocess_masks` (to the frame, then to the image), but the second is worked
    out only around the object, and of a large one only at pixels between logits of unlike sign: elsewhere a convex
    combination has the sign of its corners.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None, None]
    height, width = frame.input_size
    inner = F.interpolate(tensor, frame.padded_size, mode="bilinear", align_corners=False)[..., :height, :width]
    out_height, out_width = frame.original_size
    if out_height < height or out_width < width:
        whole = F.interpolate(inner, frame.original_size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
        return _tight(whole, 0, 0)
    return _upsampled_sparse(inner[0, 0].numpy(), frame.original_size)


def tight_mask(packed: NDArray[np.uint8], width: int, corner: tuple[int, int]) -> MaskCrop | None:
    """A mask whose rows are packed bits that each begin a byte, (h, width / 8 rounded up), cut to what is set.

    `corner` is the (x, y) of its first pixel in the image. None for a mask of nothing.
    """
    rows = np.flatnonzero(packed.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(packed, axis=0))[:width])
    (y0, y1), (x0, x1) = ((int(used[0]), int(used[-1]) + 1) for used in (rows, columns))
    if (x0, x1) == (0, width) and width % 8 == 0:
        bits = packed[y0:y1].reshape(-1)
    else:
        bits = np.concatenate(list(_repacked(packed, (y0, y1, x0, x1))))
    return MaskCrop.of_bits(bits, (y1 - y0, x1 - x0), corner[0] + x0, corner[1] + y0)


def _repacked(packed: NDArray[np.uint8], part: tuple[int, int, int, int]) -> Iterator[NDArray[np.uint8]]:
    """Bits of rows and columns of a mask whose rows each begin a byte, one row right after the other."""
    y0, y1, x0, x1 = part
    # Eight rows fill whole bytes.
    at_once = max(8, _BAND_PIXELS // (x1 - x0) // 8 * 8)
    for start in range(y0, y1, at_once):
        rows = packed[start : min(start + at_once, y1), x0 // 8 : -(-x1 // 8)]
        yield np.packbits(np.unpackbits(rows, axis=1)[:, x0 % 8 : x0 % 8 + x1 - x0])


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
    # Rows of a cell are alike where no corners differ in sign, and are written as bytes.
    cells = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    heights, widths = (np.diff(axis.starts[part.start : part.stop + 1]) for axis, part in zip(axes, cells, strict=True))
    packed = np.repeat(np.packbits(np.repeat(every[cells], widths, axis=1), axis=1), heights, axis=0)
    unlike = np.packbits(np.repeat((some & ~every)[cells], widths, axis=1), axis=1)
    pieces = np.argwhere(unlike) + (cells[0].start, 0)
    for begin in range(0, len(pieces), _PIECES_AT_ONCE):
        _fill_pieces(packed, inner, pieces[begin : begin + _PIECES_AT_ONCE], axes, (top, left, right))
    return tight_mask(packed, right - left, (left, top))


def _fill_pieces(
    packed: NDArray[np.uint8],
    inner: NDArray[np.float32],
    pieces: NDArray[np.intp],
    axes: tuple[_Axis, _Axis],
    place: tuple[int, int, int],
) -> None:
    """Interpolate, in `packed`, eight pixels side by side in all rows of a cell: pieces (K, 2), cell and byte.

    `place` is the first row, the first column and the end of the columns that `packed` holds of the image.
    """
    (vertical, horizontal), (top, left, right) = axes, place
    y, byte = pieces.T
    columns = left + 8 * byte[:, None] + np.arange(8)
    is_there = columns < right
    columns = np.minimum(columns, right - 1)
    x, across = horizontal.low[columns], horizontal.share[columns]
    x_next, y, y_next = horizontal.after(x), y[:, None], vertical.after(y)[:, None]
    upper = _lerp(inner[y, x], inner[y, x_next], across)
    lower = _lerp(inner[y_next, x], inner[y_next, x_next], across)
    # Cells differ in height by a row where the image is no multiple of the frame: the last row of the short ones is
    # worked out twice.
    ends = vertical.starts[y + 1] - 1
    rows = np.minimum(vertical.starts[y] + np.arange(int((ends - vertical.starts[y]).max()) + 1), ends)
    inside = _lerp(upper[:, None], lower[:, None], vertical.share[rows][:, :, None]) > 0
    if not is_there.all():
        inside &= is_there[:, None]
    packed[rows - top, byte[:, None]] = np.packbits(inside.reshape(-1)).reshape(rows.shape)


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
