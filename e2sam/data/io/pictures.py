"""PNG and JPEG: photographs, masks and single channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from e2sam.data.io.source import RawImage, reading
from e2sam.errors import StackError

__all__ = ["read_jpeg", "read_png"]


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
        If it is damaged or no JPEG.
    """
    with reading(path, "JPEG"):
        pixels = imagecodecs.jpeg8_decode(path.read_bytes())
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            raise StackError(f"Expected a grey or RGB JPEG, got four inks (CMYK) in {path}: convert it to RGB.")
        return _picture(pixels)


def _picture(pixels: NDArray[Any]) -> RawImage:
    if pixels.ndim == 2:
        return RawImage(pixels, axes="YX", num_colours=1)
    return RawImage(pixels, axes="YXS", num_colours=1 if pixels.shape[2] <= 2 else 3)
