"""Masks held as their bounding box only, so that the cost of an object is its own size and never the image's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from e2sam.errors import PromptError

__all__ = ["Box", "MaskCrop", "intersect", "masks_of_labels", "unite"]

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are the first pixels outside."""

_HEADER = struct.Struct("<2siiII")
_PIXELS, _RUNS = b"M1", b"M2"
_COUNT = struct.Struct("<Q")
# Past so many pixels a mask is held as runs: a fraction of the memory, and no pixels are made that nobody looks at.
_MOST_PIXELS = 1 << 20
# A mask is read in parts that stay in the caches.
_PART = 1 << 20
# Nothing deflates to less than 1 / 1032: what a damaged head tells is not believed beyond that.
_MOST_INFLATED = 1032


def intersect(first: Box, second: Box) -> Box | None:
    """The box that two boxes share, or None."""
    x0, y0, x1, y1 = (
        max(first[0], second[0]),
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def unite(first: Box, second: Box) -> Box:
    """The smallest box around two boxes."""
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )


class MaskCrop:
    """A non-empty mask cut to its bounding box; never changed once it is made.

    A large one is held as runs of set pixels, so that it costs as much as its outline is long.

    Parameters
    ----------
    pixels
        (h, w) bool; its first and last row and column each hold a set pixel.
    x0, y0
        Column and row of `pixels[0, 0]` in the image.

    Attributes
    ----------
    shape
        (h, w) of `pixels`.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((5, 6), bool)
    >>> mask[1:3, 2:5] = True
    >>> crop = MaskCrop.of(mask)
    >>> crop.box, crop.area
    ((2, 1, 5, 3), 6)
    """

    __slots__ = ("_area", "_deflated", "_pixels", "_runs", "shape", "x0", "y0")

    def __init__(self, pixels: NDArray[np.bool_], x0: int, y0: int) -> None:
        self.shape: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
        self.x0 = x0
        self.y0 = y0
        self._pixels: NDArray[np.bool_] | None = pixels
        # Of a mask without pixels at hand: its runs, as `to_bytes` deflates them, or both; and what was counted.
        self._runs: NDArray[np.int64] | None = None
        self._deflated: bytes | None = None
        self._area: int | None = None

    @classmethod
    def of_runs(cls, runs: NDArray[np.int64], shape: tuple[int, int], x0: int, y0: int) -> MaskCrop:
        """A mask of `shape` (h, w) from its `runs`."""
        height, width = shape
        if height * width <= _MOST_PIXELS:
            pixels = _expanded(runs, 0, height * width).reshape(shape)
            pixels.flags.writeable = False
            return cls(pixels, x0, y0)
        runs = runs.view()
        runs.flags.writeable = False
        return cls._held(shape, x0, y0, runs=runs)

    @classmethod
    def _held(
        cls,
        shape: tuple[int, int],
        x0: int,
        y0: int,
        pixels: NDArray[np.bool_] | None = None,
        runs: NDArray[np.int64] | None = None,
        deflated: bytes | None = None,
        area: int | None = None,
    ) -> MaskCrop:
        """A mask held as it is given."""
        mask = cls.__new__(cls)
        mask.shape, mask.x0, mask.y0 = shape, x0, y0
        mask._pixels, mask._runs, mask._deflated, mask._area = pixels, runs, deflated, area
        return mask

    def compact(self) -> MaskCrop:
        """The same mask, held as runs where it is large."""
        is_held = self._pixels is None or self._pixels.size <= _MOST_PIXELS
        return self if is_held else MaskCrop.of_runs(self.runs, self.shape, self.x0, self.y0)

    @classmethod
    def of(cls, mask: ArrayLike, x0: int = 0, y0: int = 0) -> MaskCrop:
        """Cut a mask (h, w), whose first pixel lies at column `x0` and row `y0` of the image, to its bounding box.

        Raises
        ------
        PromptError
            If it is not two-dimensional or holds no pixel.
        """
        array = np.asarray(mask)
        if array.ndim != 2:
            raise PromptError(f"Expected a mask as (H, W), got shape {array.shape}.")
        array = array.astype(bool, copy=False)
        rows = np.flatnonzero(array.any(axis=1))
        if rows.size == 0:
            raise PromptError("Expected a mask with at least 1 pixel, got an empty one: add a point inside the object.")
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(array[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        # A copy, so that a small object does not keep a whole image's mask alive.
        pixels = np.array(array[top:bottom, left:right], order="C")
        pixels.flags.writeable = False
        return cls(pixels, x0 + left, y0 + top)

    def moved(self, right: int, down: int) -> MaskCrop:
        """The same mask, so many pixels further."""
        place = self.x0 + right, self.y0 + down
        return MaskCrop._held(self.shape, *place, self._pixels, self._runs, self._deflated, self._area)

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(h, w) bool; worked out at each call where they are not at hand."""
        return self._rows(0, self.shape[0]) if self._pixels is None else self._pixels

    @property
    def runs(self) -> NDArray[np.int64]:
        """(2R,) int64, rising: where each run of set pixels begins and ends, counted row by row."""
        if self._pixels is not None:
            flat = self._pixels.reshape(-1)
            return _runs_in(flat[at : at + _PART] for at in range(0, flat.size, _PART))
        if self._runs is None:
            assert self._deflated is not None
            self._runs = _inflated(self._deflated, self.shape)
        return self._runs

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the mask takes, or will take as soon as somebody looks at it."""
        if self._pixels is not None:
            return self._pixels.nbytes
        if self._runs is not None:
            return self._runs.nbytes
        assert self._deflated is not None
        return 16 * int(_COUNT.unpack_from(self._deflated)[0])

    @property
    def is_fixed(self) -> bool:
        """Whether nobody can change the pixels behind its back."""
        return self._pixels is None or not self._pixels.flags.writeable

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1; x1 and y1 are the first pixels outside."""
        height, width = self.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def area(self) -> int:
        """Number of pixels."""
        if self._pixels is not None:
            return int(np.count_nonzero(self._pixels))
        if self._area is None:
            self._area = int((self.runs[1::2] - self.runs[::2]).sum())
        return self._area

    def thinned(self, step: int) -> NDArray[np.bool_]:
        """The middle pixel of each `step` x `step` of them, (h / step, w / step) rounded up."""
        rows, columns = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in self.shape)
        if self._pixels is not None:
            found: NDArray[np.bool_] = self._pixels[np.ix_(rows, columns)]
            return found
        height, width = self.shape
        row, column = np.divmod(self.runs, width)
        # How many of the pixels that are taken lie before each end of a run.
        before = np.searchsorted(rows, np.arange(height + 1))[row] * columns.size
        is_taken = np.isin(np.arange(height + 1), rows)[row]
        before += np.where(is_taken, np.searchsorted(columns, np.arange(width))[column], 0)
        return _expanded(before, 0, rows.size * columns.size).reshape(rows.size, columns.size)

    def _rows(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Some whole rows of the pixels."""
        if self._pixels is not None:
            return self._pixels[top:bottom]
        width = self.shape[1]
        return _expanded(self.runs, top * width, bottom * width).reshape(bottom - top, width)

    def full(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as (H, W) bool of an image of `size` (height, width)."""
        return self.window((0, 0, size[1], size[0]))

    def window(self, box: Box) -> NDArray[np.bool_]:
        """The mask within `box` of the image, (y1 - y0, x1 - x0) bool."""
        x0, y0, x1, y1 = box
        window = np.zeros((y1 - y0, x1 - x0), bool)
        shared = intersect(self.box, box)
        if shared is not None:
            left, top, right, bottom = shared
            window[top - y0 : bottom - y0, left - x0 : right - x0] = self.part(shared)
        return window

    def part(self, box: Box) -> NDArray[np.bool_]:
        """The pixels of a box that lies within that of the mask, (y1 - y0, x1 - x0) bool, to be read only."""
        x0, y0, x1, y1 = box
        return self._rows(y0 - self.y0, y1 - self.y0)[:, x0 - self.x0 : x1 - self.x0]

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether the mask lies inside an image of `size` (height, width)."""
        x0, y0, x1, y1 = self.box
        return x0 >= 0 and y0 >= 0 and x1 <= size[1] and y1 <= size[0]

    def to_bytes(self) -> bytes:
        """The mask as bytes: offset, size, and its bits packed by rows, or its runs if it is large, deflated.

        Equal masks give equal bytes.
        """
        if self.shape[0] * self.shape[1] <= _MOST_PIXELS:
            head, body = _PIXELS, zlib.compress(np.packbits(self.pixels).data, 1)
        else:
            head, body = _RUNS, self._deflated or _deflated(self.runs)
            if self._pixels is None:
                self._deflated = body
        return _HEADER.pack(head, self.x0, self.y0, *self.shape) + body

    @classmethod
    def from_bytes(cls, data: bytes, area: int | None = None) -> MaskCrop:
        """The mask that `to_bytes` wrote; `area` where it is known, so that nobody has to count.

        Raises
        ------
        PromptError
            If they are no mask, or not all of one.
        """
        if len(data) < _HEADER.size + _COUNT.size or data[:2] not in (_PIXELS, _RUNS):
            raise PromptError(f"Expected a stored mask, got {len(data)} bytes that begin with {data[:2]!r}.")
        head, x0, y0, height, width = _HEADER.unpack_from(data)
        body = data[_HEADER.size :]
        if head == _RUNS:
            return cls._held((height, width), x0, y0, deflated=body, area=area)
        count = height * width
        bits = np.frombuffer(_inflate(body, -(-count // 8)), np.uint8)
        if count <= _MOST_PIXELS:
            pixels = np.unpackbits(bits, count=count).reshape(height, width).view(bool)
            pixels.flags.writeable = False
            return cls(pixels, x0, y0)
        # Large masks too were stored so, before there were runs.
        parts = (np.unpackbits(bits[at // 8 :], count=min(_PART, count - at)) for at in range(0, count, _PART))
        return cls.of_runs(_runs_in(part.view(bool) for part in parts), (height, width), x0, y0)


def masks_of_labels(labels: NDArray[Any]) -> Iterator[tuple[int, MaskCrop]]:
    """Each label above 0 of (H, W) integers, ascending, with its mask."""
    present = np.unique(labels)
    present = present[present > 0]
    # Dense numbers, so that labels of billions cost nothing.
    dense = np.zeros(labels.shape, np.int32)
    above = labels > 0
    dense[above] = np.searchsorted(present, labels[above]) + 1
    for number, where in enumerate(ndimage.find_objects(dense), start=1):
        yield int(present[number - 1]), MaskCrop.of(dense[where] == number, where[1].start, where[0].start)


def _runs_in(parts: Iterable[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Runs of set pixels in a flat mask that comes in parts."""
    ends, at, is_set = [], 0, False
    for part in parts:
        ends.append(at + np.flatnonzero(np.diff(part, prepend=is_set)))
        at, is_set = at + part.size, bool(part[-1])
    return np.concatenate((*ends, [at] if is_set else [])).astype(np.int64)


def _expanded(runs: NDArray[np.int64], start: int, end: int) -> NDArray[np.bool_]:
    """The pixels of runs from one to another, counted row by row."""
    first, behind = np.searchsorted(runs, (start, end)).tolist()
    lengths = np.diff(runs[first:behind], prepend=start, append=end)
    is_set = np.zeros(lengths.size, bool)
    is_set[1 - first % 2 :: 2] = True
    return np.repeat(is_set, lengths)


def _deflated(runs: NDArray[np.int64]) -> bytes:
    """Runs as bytes: how many, and all their lengths and gaps, first the lowest byte of each, deflated."""
    lengths = np.diff(runs, prepend=0).astype("<i8").view(np.uint8).reshape(-1, 8)
    return _COUNT.pack(runs.size // 2) + zlib.compress(np.ascontiguousarray(lengths.T).data, 1)


def _inflated(deflated: bytes, shape: tuple[int, int]) -> NDArray[np.int64]:
    """The runs that `_deflated` wrote of a mask of `shape`."""
    (count,) = _COUNT.unpack_from(deflated)
    data = np.frombuffer(_inflate(deflated[_COUNT.size :], 16 * count), np.uint8)
    lengths = np.ascontiguousarray(data.reshape(8, -1).T).view("<i8")[:, 0]
    runs = np.cumsum(lengths, dtype=np.int64)
    height, width = shape
    # A mask is cut to what is set: it has a run in its first row, and one in its last.
    fits = runs.size > 0 and 0 <= runs[0] < width and (height - 1) * width < runs[-1] <= height * width
    if not fits or (lengths[1:] < 1).any():
        raise PromptError("Expected a stored mask, got runs that do not fit it: the mask is damaged.")
    runs.flags.writeable = False
    return runs


def _inflate(deflated: bytes, size: int) -> bytes:
    """`size` bytes, and no memory for more, whatever is in them."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(deflated, min(size, _MOST_INFLATED * len(deflated)) + 1)
    except zlib.error as error:
        raise PromptError(f"Expected a stored mask, got bytes that cannot be inflated: {error}.") from None
    if len(data) != size or not inflater.eof:
        raise PromptError(f"Expected a stored mask of {size} bytes, got {len(data)}: the mask is damaged.")
    return data
