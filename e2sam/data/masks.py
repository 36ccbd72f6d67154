"""Masks held as their bounding box only, so that the cost of an object is its own size and never the image's."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.errors import PromptError

__all__ = ["Box", "MaskCrop", "intersect", "unite"]

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are the first pixels outside."""

_HEADER = struct.Struct("<2siiII")
_MAGIC = b"M1"
# Past so many pixels a mask is held as bits: an eighth of the memory, and nothing is unpacked that nobody looks at.
_MOST_UNPACKED = 1 << 20
_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


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

    A large one that was stored or sent is held as it came, and unpacked only where somebody looks at it.

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

    __slots__ = ("_area", "_bits", "_deflated", "_pixels", "shape", "x0", "y0")

    def __init__(self, pixels: NDArray[np.bool_], x0: int, y0: int) -> None:
        self.shape: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
        self.x0 = x0
        self.y0 = y0
        self._pixels: NDArray[np.bool_] | None = pixels
        # Of a mask without pixels at hand: its bits, as `to_bytes` deflates them, or both; and what was counted.
        self._bits: NDArray[np.uint8] | None = None
        self._deflated: bytes | None = None
        self._area: int | None = None

    @classmethod
    def of_bits(cls, bits: NDArray[np.uint8], shape: tuple[int, int], x0: int, y0: int) -> MaskCrop:
        """A mask of `shape` (h, w) from its bits, as `numpy.packbits` makes them of the pixels row by row."""
        height, width = shape
        if height * width <= _MOST_UNPACKED:
            pixels = np.unpackbits(bits, count=height * width).reshape(shape).view(bool)
            pixels.flags.writeable = False
            return cls(pixels, x0, y0)
        bits = bits.view()
        bits.flags.writeable = False
        return cls._held(shape, x0, y0, bits=bits)

    @classmethod
    def _held(
        cls,
        shape: tuple[int, int],
        x0: int,
        y0: int,
        pixels: NDArray[np.bool_] | None = None,
        bits: NDArray[np.uint8] | None = None,
        deflated: bytes | None = None,
        area: int | None = None,
    ) -> MaskCrop:
        """A mask held as it is given."""
        mask = cls.__new__(cls)
        mask.shape, mask.x0, mask.y0 = shape, x0, y0
        mask._pixels, mask._bits, mask._deflated, mask._area = pixels, bits, deflated, area
        return mask

    def compact(self) -> MaskCrop:
        """The same mask, held as bits where it is large."""
        is_held = self._pixels is None or self._pixels.size <= _MOST_UNPACKED
        return self if is_held else MaskCrop.of_bits(self.bits, self.shape, self.x0, self.y0)

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
        return MaskCrop._held(self.shape, *place, self._pixels, self._bits, self._deflated, self._area)

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(h, w) bool; worked out at each call where they are not at hand."""
        return self._rows(0, self.shape[0]) if self._pixels is None else self._pixels

    @property
    def bits(self) -> NDArray[np.uint8]:
        """The pixels packed by eight, row by row, as `numpy.packbits` does it."""
        if self._pixels is not None:
            return np.packbits(self._pixels)
        if self._bits is None:
            assert self._deflated is not None
            self._bits = _inflated(self._deflated, self.shape)
        return self._bits

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the mask takes, or will take as soon as somebody looks at it."""
        return _num_packed(self.shape) if self._pixels is None else self._pixels.nbytes

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
            self._area = _count_set(self.bits)
        return self._area

    def thinned(self, step: int) -> NDArray[np.bool_]:
        """The middle pixel of each `step` x `step` of them, (h / step, w / step) rounded up."""
        height, width = self.shape
        rows = np.minimum(np.arange(0, height, step) + step // 2, height - 1)
        if self._pixels is not None:
            lines = self._pixels[rows]
        elif width % 8:
            lines = np.concatenate([self._rows(row, row + 1) for row in rows.tolist()])
        else:
            # Rows that begin a byte need not be looked for one by one.
            lines = np.unpackbits(self.bits.reshape(height, -1)[rows], axis=1).view(bool)
        found = lines[:, step // 2 :: step]
        is_short = found.shape[1] * step < width
        return np.ascontiguousarray(np.concatenate((found, lines[:, -1:]), axis=1) if is_short else found)

    def _rows(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Some whole rows of the pixels."""
        if self._pixels is not None:
            return self._pixels[top:bottom]
        width = self.shape[1]
        first, end = top * width, bottom * width
        found = np.unpackbits(self.bits[first // 8 : -(-end // 8)])[first % 8 :][: end - first]
        rows: NDArray[np.bool_] = found.reshape(bottom - top, width).view(bool)
        return rows

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
        """The mask as bytes: offset, size, and its bits packed by rows and deflated. Equal masks give equal bytes."""
        deflated = self._deflated or zlib.compress(np.ascontiguousarray(self.bits).data, 1)
        if self._pixels is None:
            self._deflated = deflated
        return _HEADER.pack(_MAGIC, self.x0, self.y0, *self.shape) + deflated

    @classmethod
    def from_bytes(cls, data: bytes, area: int | None = None) -> MaskCrop:
        """The mask that `to_bytes` wrote; `area` where it is known, so that nobody has to count."""
        magic, x0, y0, height, width = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise PromptError(f"Expected a stored mask, got bytes that begin with {magic!r}.")
        deflated = data[_HEADER.size :]
        if height * width <= _MOST_UNPACKED:
            return cls.of_bits(_inflated(deflated, (height, width)), (height, width), x0, y0)
        return cls._held((height, width), x0, y0, deflated=deflated, area=area)


def _num_packed(shape: tuple[int, int]) -> int:
    """Bytes that the bits of a mask fill."""
    return -(-shape[0] * shape[1] // 8)


def _inflated(deflated: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The bits of a mask of `shape`, read-only; zlib is told how many, or it moves them again and again."""
    # What a damaged head tells is not believed: nothing deflates to less than 1 / 1032.
    size = min(_num_packed(shape), 1032 * len(deflated))
    return np.frombuffer(zlib.decompress(deflated, bufsize=max(1, size)), np.uint8)


def _count_set(bits: NDArray[np.uint8]) -> int:
    """Number of bits that are set."""
    # numpy counts them itself from 2.0 on, and eight bytes as fast as one.
    if not hasattr(np, "bitwise_count"):
        return int(_BITS_SET[bits].sum(dtype=np.int64))
    words = bits[: bits.size // 8 * 8].view(np.uint64)
    return sum(int(np.bitwise_count(part).sum(dtype=np.int64)) for part in (words, bits[8 * words.size :]))
