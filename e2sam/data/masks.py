"""Masks held as their bounding box only, so that the cost of an object is its own size and never the image's."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.errors import PromptError

__all__ = ["Box", "MaskCrop", "intersect", "unite"]

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are the first pixels outside."""

_HEADER = struct.Struct("<2siiII")
_MAGIC = b"M1"


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


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """A non-empty mask cut to its bounding box.

    Attributes
    ----------
    pixels
        (h, w) bool; its first and last row and column each hold a set pixel.
    x0, y0
        Column and row of `pixels[0, 0]` in the image.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((5, 6), bool)
    >>> mask[1:3, 2:5] = True
    >>> crop = MaskCrop.of(mask)
    >>> crop.box, crop.area
    ((2, 1, 5, 3), 6)
    """

    pixels: NDArray[np.bool_]
    x0: int
    y0: int

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

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1; x1 and y1 are the first pixels outside."""
        height, width = self.pixels.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.pixels))

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
            window[top - y0 : bottom - y0, left - x0 : right - x0] = self.pixels[
                top - self.y0 : bottom - self.y0, left - self.x0 : right - self.x0
            ]
        return window

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether the mask lies inside an image of `size` (height, width)."""
        x0, y0, x1, y1 = self.box
        return x0 >= 0 and y0 >= 0 and x1 <= size[1] and y1 <= size[0]

    def to_bytes(self) -> bytes:
        """The mask as bytes: offset, size, and its bits packed by rows and deflated. Equal masks give equal bytes."""
        height, width = self.pixels.shape
        return _HEADER.pack(_MAGIC, self.x0, self.y0, height, width) + zlib.compress(
            np.packbits(self.pixels).tobytes(), 1
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> MaskCrop:
        """The mask that `to_bytes` wrote."""
        magic, x0, y0, height, width = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise PromptError(f"Expected a stored mask, got bytes that begin with {magic!r}.")
        bits = np.frombuffer(zlib.decompress(data[_HEADER.size :]), np.uint8)
        pixels = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
        pixels.flags.writeable = False
        return cls(pixels, x0, y0)
