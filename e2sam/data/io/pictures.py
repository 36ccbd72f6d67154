"""PNG and JPEG: photographs, masks and single channels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from e2sam.data.io.source import RawImage, reading
from e2sam.errors import StackError

__all__ = ["read_jpeg", "read_png"]

# The next marker behind coded pixels: zeros are stuffed behind FF, restarts (D0..D7) and fill bytes stand among them.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9


def read_png(path: Path) -> RawImage:
    """Read a PNG of 8 or 16 bits; grey with alpha and colour with alpha lose the alpha.

    Raises
    ------
    StackError
        If it is damaged or no PNG.
    """
    with reading(path, "PNG"):
        return _picture(imagecodecs.png_decode(path.read_bytes()))


def read_jpeg(path: Path) -> RawImage:
    """Read a JPEG, grey or colour.

    Raises
    ------
    StackError
        If it is damaged, cut short or no JPEG.
    """
    with reading(path, "JPEG"):
        encoded = path.read_bytes()
        pixels = imagecodecs.jpeg8_decode(encoded)
        if not _has_end(encoded):
            # The decoder fills up with grey what is missing.
            raise StackError(f"Expected a whole JPEG, got {path}, which is cut short: it has no end-of-image marker.")
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            raise StackError(f"Expected a grey or RGB JPEG, got four inks (CMYK) in {path}: convert it to RGB.")
        return _picture(pixels)


def _has_end(encoded: bytes) -> bool:
    """Whether a JPEG's own end marker is there; that of a thumbnail in its head does not count."""
    at = 2
    while found := _MARKER.search(encoded, at):
        marker, at = encoded[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            return True
        # The segment of a marker is stepped over by the length that it states; coded pixels follow that of a scan.
        at += int.from_bytes(encoded[at : at + 2], "big")
    return False


def _picture(pixels: NDArray[Any]) -> RawImage:
    if pixels.ndim == 2:
        return RawImage(pixels, axes="YX", num_colours=1)
    return RawImage(pixels, axes="YXS", num_colours=1 if pixels.shape[2] <= 2 else 3)
