"""TIFF of every kind: plain, ImageJ, OME, GeoTIFF, BigTIFF, tiled, striped, planar, interleaved, pyramids."""

from __future__ import annotations

import struct
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from e2sam.data.io.source import RawImage, reading
from e2sam.data.io.tiff_chunks import Decoded
from e2sam.data.io.tiff_metadata import channels_of, geo_reference_of, nodata_of, stated_axes
from e2sam.data.io.tiff_series import Coloured, Stacked, chosen_series, palette_of, position_axis
from e2sam.data.stack import LazyArray
from e2sam.errors import StackError

__all__ = ["read_tiff"]

# Smaller images are read at once: that is faster, and shows at once whether the file is whole.
_MAX_LOADED_BYTES = 64 << 20
_ALPHA = (1, 2)
_PLANAR = 2


def read_tiff(path: Path) -> RawImage:
    """Open the image of a TIFF at full size; several of one shape (positions of a microscope) along a leading axis.

    Uncompressed images are mapped, compressed ones are decoded where they are read. A picture with a palette is read in
    its colours.

    Raises
    ------
    StackError
        If the file is damaged, cut short or no TIFF, or holds several images that differ.
    """
    with reading(path, "TIFF"):
        file = tifffile.TiffFile(path)
        try:
            _check_chain(file, path)
            chosen = chosen_series(file, path)
            for series in chosen:
                _check_whole(series, path)
            raw = _image_of(file, chosen, path)
        except BaseException:
            file.close()
            raise
    if isinstance(raw.data, np.ndarray):
        file.close()
    else:
        # Decoded on demand: the file stays open as long as somebody holds the pixels.
        weakref.finalize(raw.data, file.close)
    return raw


def _image_of(file: tifffile.TiffFile, chosen: list[Any], path: Path) -> RawImage:
    first = chosen[0]
    is_small = sum(int(series.nbytes) for series in chosen) <= _MAX_LOADED_BYTES
    parts = [_pixels(file, series, path, is_small) for series in chosen]
    axes, channels, geo = stated_axes(file, first), channels_of(file, first), geo_reference_of(first.keyframe)
    palette = palette_of(file, first)
    if len(parts) > 1:
        # Places on the ground that differ are nobody's.
        is_one_place = all(geo_reference_of(series.keyframe) == geo for series in chosen[1:])
        data: LazyArray = np.stack([np.asarray(part) for part in parts]) if is_small else Stacked(parts)
        axes, geo = position_axis(axes) + axes, geo if is_one_place else None
    elif palette is not None:
        coloured = Coloured(parts[0], palette)
        return RawImage(coloured[:] if is_small else coloured, axes="YXS", geo=geo, num_colours=3)
    else:
        data = parts[0]
    return RawImage(
        data=data,
        axes=axes,
        channels=channels,
        nodata=nodata_of(file, first),
        geo=geo,
        num_colours=_num_colours(first.keyframe, axes),
        is_alpha_certain=False,
    )


def _pixels(file: tifffile.TiffFile, series: Any, path: Path, is_small: bool) -> LazyArray:
    if is_small:
        loaded: np.ndarray[Any, Any] = series.asarray(maxworkers=1)
        return loaded
    if series.dataoffset is not None and series.dtype.kind in "uif":
        order = file.byteorder
        return np.memmap(path, series.dtype.newbyteorder(order), "r", series.dataoffset, series.shape)
    return Decoded(series)


def _check_whole(series: Any, path: Path) -> None:
    """Refuse a file that ends before its pixels do; libraries would give zeros for what is missing."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None or getattr(page, "parent", None) is not series.keyframe.parent:
            continue
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if ends and max(ends) > size:
            raise StackError(
                f"Expected a whole TIFF, got {path}, which is cut short: its pixels end at byte {max(ends)} of {size}."
            )


def _check_chain(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose list of pages leads out of it; libraries would take the pages before as all there are."""
    handle, tiff = file.filehandle, file.tiff
    handle.seek(4 if tiff.offsetsize == 4 else 8)
    seen: set[int] = set()
    while offset := struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))[0]:
        if offset in seen or offset + tiff.tagnosize > handle.size:
            break
        seen.add(offset)
        handle.seek(offset)
        (num_tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        end = offset + tiff.tagnosize + num_tags * tiff.tagsize
        if end + tiff.offsetsize > handle.size:
            break
        handle.seek(end)
    else:
        return
    raise StackError(f"Expected a whole TIFF, got {path}, which is cut short: its list of pages leads out of the file.")


def _num_colours(page: Any, axes: str) -> int:
    """3 or 1 where the file says it is a photograph, whose further samples are alpha; 0 where it does not.

    Writers call any four 8-bit planes colours with alpha, unasked: that is believed only of what is stated to be the
    samples of pixels.
    """
    if "S" not in axes or page.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return 0
    if page.planarconfig == _PLANAR and page.extrasamples:
        return 0
    samples = int(page.samplesperpixel)
    extra = tuple(int(kind) for kind in page.extrasamples)
    all_alpha = all(kind in _ALPHA for kind in extra)
    is_rgb = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
    if is_rgb and samples == 3 + len(extra) and all_alpha and len(extra) <= 1:
        return 3
    return 1 if samples == 2 and len(extra) == 1 and all_alpha else 0
