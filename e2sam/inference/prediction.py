"""What the decoder said about one prompt: candidate masks, drawn only where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from e2sam.data.masks import MaskCrop
from e2sam.inference.frame import Frame

__all__ = ["Box", "CloseUp", "Prediction", "crops_iou", "packed_bands", "upsampled_crop"]

# x0, y0, x1, y1 in pixels of the image; x1 and y1 are the first outside.
Box = tuple[int, int, int, int]

_EMPTY: Box = (0, 0, 0, 0)
# Up to so many pixels, working all of a box out costs less than finding and filling what is along the outline.
_MOST_DENSE = 1 << 20
# Larger masks are worked out by bands of so many pixels, and cells, which stay in the processor's cache.
_BAND_PIXELS = 1 << 20
_CELLS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class CloseUp:
    """A closer look: logits (h, w) float32 of some candidates, in the frame of a small window of the image."""

    logits: Mapping[int, NDArray[np.float32]]
    frame: Frame
    window: Box


@dataclass(frozen=True, eq=False)
class Prediction:
    """Candidate masks of one object.

    Attributes
    ----------
    scores
        (M,) float32, predicted IoU of each candidate.
    logits
        (M, h, w) float32 in the decoder's own frame; one of them can be given back as `mask`.
    channels
        Names of the channels that the winning view drew from.
    view
        Name of the view whose masks these are: a composite of a teacher, or "student".
    frame
        Geometry of the window that was encoded.
    window
        The part of the image that was encoded, (x0, y0, x1, y1).
    size
        (height, width) of the image.
    close_up
        Where the object was looked at closer: the masks of that look, in place of those that `logits` give.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    channels: tuple[str, ...]
    view: str
    frame: Frame
    window: Box
    size: tuple[int, int]
    close_up: CloseUp | None = None
    _crops: dict[int, MaskCrop | None] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def best(self) -> int:
        """Index of the candidate with the best predicted quality."""
        return int(np.argmax(self.scores))

    def crop(self, candidate: int | None = None) -> MaskCrop | None:
        """A candidate (the best if None) cut to its bounding box; None if it is empty.

        Costs as much as the object is large, whatever the size of the image.
        """
        index = self.best if candidate is None else candidate
        if index not in self._crops:
            logits, frame, (left, top, _, _) = self.logits[index], self.frame, self.window
            if self.close_up is not None and index in self.close_up.logits:
                closer = self.close_up
                logits, frame, (left, top, _, _) = closer.logits[index], closer.frame, closer.window
            crop = upsampled_crop(logits, frame)
            self._crops[index] = None if crop is None else crop.moved(left, top)
        return self._crops[index]

    def mask_crop(self, candidate: int | None = None) -> tuple[Box, NDArray[np.bool_]]:
        """Smallest box (x0, y0, x1, y1) around a candidate (the best if None) and its mask (y1 - y0, x1 - x0) bool.

        An empty mask has the box (0, 0, 0, 0).
        """
        crop = self.crop(candidate)
        return (_EMPTY, np.zeros((0, 0), bool)) if crop is None else (crop.box, crop.pixels)

    def mask_box(self, candidate: int | None = None) -> Box:
        """Smallest box (x0, y0, x1, y1) around a candidate (the best if None); (0, 0, 0, 0) if it is empty."""
        crop = self.crop(candidate)
        return _EMPTY if crop is None else crop.box

    def mask(self, candidate: int | None = None) -> NDArray[np.bool_]:
        """One candidate (the best if None) as (H, W) bool."""
        (x0, y0, x1, y1), crop = self.mask_crop(candidate)
        whole = np.zeros(self.size, bool)
        whole[y0:y1, x0:x1] = crop
        return whole

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(M, H, W) bool, every candidate over the whole image."""
        whole = np.zeros((len(self), *self.size), bool)
        for index in range(len(self)):
            (x0, y0, x1, y1), crop = self.mask_crop(index)
            whole[index, y0:y1, x0:x1] = crop
        return whole


def crops_iou(
    first: tuple[Box, NDArray[np.bool_]], second: tuple[Box, NDArray[np.bool_]], within: Box | None = None
) -> float:
    """IoU in [0, 1] of two masks given as (box, crop), over the image or over a box of it; 1 where both are empty."""
    areas = [int(_part(*mask, within or mask[0]).sum()) for mask in (first, second)]
    (box, other) = first[0], second[0]
    shared = (max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3]))
    if within is not None:
        shared = (*np.maximum(shared[:2], within[:2]).tolist(), *np.minimum(shared[2:], within[2:]).tolist())
    common = int((_part(*first, shared) & _part(*second, shared)).sum())
    union = sum(areas) - common
    return common / union if union else 1.0


def _part(box: Box, crop: NDArray[np.bool_], wanted: Box) -> NDArray[np.bool_]:
    """The part of a mask that lies in a box, cut to where both are."""
    x0, y0 = max(wanted[0], box[0]) - box[0], max(wanted[1], box[1]) - box[1]
    x1, y1 = min(wanted[2], box[2]) - box[0], min(wanted[3], box[3]) - box[1]
    return crop[y0 : max(y0, y1), x0 : max(x0, x1)]


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


def _upsampled_sparse(inner: NDArray[np.float32], size: tuple[int, int]) -> MaskCrop | None:
    """As `upsampled_crop`, from logits in the frame to a larger image, by cells between four neighbouring logits."""
    corners = np.pad(inner > 0, ((0, 1), (0, 1)), mode="edge")
    pairs_any, pairs_all = corners[:-1] | corners[1:], corners[:-1] & corners[1:]
    some, every = pairs_any[:, :-1] | pairs_any[:, 1:], pairs_all[:, :-1] & pairs_all[:, 1:]
    rows, columns = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
    if rows.size == 0:
        return None
    vertical, horizontal = _Axis.of(inner.shape[0], size[0]), _Axis.of(inner.shape[1], size[1])
    top, bottom = vertical.starts[rows[0]], vertical.starts[rows[-1] + 1]
    left, right = horizontal.starts[columns[0]], horizontal.starts[columns[-1] + 1]
    part = (int(top), int(bottom), int(left), int(right))
    if (bottom - top) * (right - left) <= _MOST_DENSE:
        return _tight(_all_of(inner, (vertical, horizontal), part), part[2], part[0])
    bands = _bands(inner, (some, every), (vertical, horizontal), part)
    return packed_bands(bands, part[1] - part[0], part[3] - part[2], (part[2], part[0]))


def _bands(
    inner: NDArray[np.float32],
    cells: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    axes: tuple[_Axis, _Axis],
    part: tuple[int, int, int, int],
) -> Iterator[NDArray[np.bool_]]:
    """The rows `part[0]` to `part[1]` and columns `part[2]` to `part[3]` of a mask, some rows at a time.

    `cells` says of each cell between four logits whether some of them, and whether all of them are above 0.
    """
    some, every = cells
    (vertical, horizontal), (top, bottom, left, right) = axes, part
    first, last = int(vertical.low[top]), int(vertical.low[bottom - 1])
    at_once = max(1, int(_BAND_PIXELS / max(1, right - left) * inner.shape[0] / len(vertical.low)))
    inner_columns = horizontal.low[left:right]
    for start in range(first, last + 1, at_once):
        stop = min(start + at_once, last + 1)
        corner = int(vertical.starts[start])
        band = np.empty((int(vertical.starts[stop]) - corner, right - left), bool)
        for row in range(start, stop):
            band[vertical.starts[row] - corner : vertical.starts[row + 1] - corner] = every[row, inner_columns]
        mixed = np.argwhere(some[start:stop] & ~every[start:stop]) + (start, 0)
        for begin in range(0, len(mixed), _CELLS_AT_ONCE):
            _fill_mixed(band, (corner, left), inner, mixed[begin : begin + _CELLS_AT_ONCE], axes)
        yield band


def packed_bands(
    bands: Iterable[NDArray[np.bool_]], height: int, width: int, corner: tuple[int, int]
) -> MaskCrop | None:
    """A mask from bands of its rows, cut to the box of what is set, without ever holding all of its pixels.

    Parameters
    ----------
    bands
        (h, width) bool, together `height` rows.
    height, width
        Of the mask.
    corner
        (x, y) of its first pixel in the image.
    """
    packed = np.empty((height, -(-width // 8)), np.uint8)
    used_rows, used_columns = np.zeros(height, bool), np.zeros(width, bool)
    done = 0
    for band in bands:
        packed[done : done + len(band)] = np.packbits(band, axis=1)
        used_rows[done : done + len(band)] = band.any(axis=1)
        used_columns |= band.any(axis=0)
        done += len(band)
    rows, columns = np.flatnonzero(used_rows), np.flatnonzero(used_columns)
    if rows.size == 0:
        return None
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


@dataclass(frozen=True, eq=False)
class _Axis:
    """Bilinear upsampling along one axis: output i lies between inputs low[i] and low[i] + 1, at `share`."""

    low: NDArray[np.intp]
    share: NDArray[np.float32]
    starts: NDArray[np.intp]

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, num_in: int, num_out: int) -> _Axis:
        position = np.clip((np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5, 0, num_in - 1)
        low = position.astype(np.intp)
        return cls(low, (position - low).astype(np.float32), np.searchsorted(low, np.arange(num_in + 1)))


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


def _fill_mixed(
    crop: NDArray[np.bool_],
    corner: tuple[int, int],
    inner: NDArray[np.float32],
    cells: NDArray[np.intp],
    axes: tuple[_Axis, _Axis],
) -> None:
    """Interpolate, in `crop`, the outputs within cells (K, 2) whose corners have unlike signs."""
    outputs, shares, inside, nearest = [], [], [], []
    for axis, cell in zip(axes, cells.T, strict=True):
        spans = axis.starts[cell + 1] - axis.starts[cell]
        index = axis.starts[cell][:, None] + np.arange(int(spans.max(initial=0)))
        inside.append(np.arange(index.shape[1]) < spans[:, None])
        index = np.minimum(index, len(axis.low) - 1)
        outputs.append(index)
        shares.append(axis.share[index])
        nearest.append(np.minimum(cell + 1, len(axis.starts) - 2))
    (y, x), (y_next, x_next) = cells.T, nearest
    across = shares[1][:, None, :]
    upper = _lerp(inner[y, x][:, None, None], inner[y, x_next][:, None, None], across)
    lower = _lerp(inner[y_next, x][:, None, None], inner[y_next, x_next][:, None, None], across)
    values = _lerp(upper, lower, shares[0][:, :, None])
    rows, columns = outputs[0][:, :, None] - corner[0], outputs[1][:, None, :] - corner[1]
    if inside[0].all() and inside[1].all():
        crop[rows, columns] = values > 0
        return
    chosen = inside[0][:, :, None] & inside[1][:, None, :]
    every_row, every_column = (np.broadcast_to(index, chosen.shape)[chosen] for index in (rows, columns))
    crop[every_row, every_column] = values[chosen] > 0


def _lerp(start: NDArray[np.float32], end: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    return start + (end - start) * share


def _tight(mask: NDArray[np.bool_], left: int, top: int) -> MaskCrop | None:
    """A mask whose corner lies at (left, top), cut to the box around what is set."""
    return MaskCrop.of(mask, left, top) if mask.any() else None
