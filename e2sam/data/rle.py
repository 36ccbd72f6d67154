"""COCO's run-length code of masks, written from its published description: no compiled package is needed.

A mask is read column by column; `counts` are lengths of alternating runs, beginning with zeros. The compressed form
writes each count, from the fourth on its difference to the count two before, in groups of five bits, lowest first, each
as the character 48 + bits, with 32 added where another group follows (cocoapi, common/maskApi.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import shown
from e2sam.data.masks import MaskCrop
from e2sam.errors import E2SamError

__all__ = ["compress_counts", "counts_from_crop", "crop_from_counts", "decode_rle", "encode_rle", "expand_counts"]

_WRONG = "Expected a run-length code of COCO"


def encode_rle(mask: MaskCrop, size: tuple[int, int], is_compressed: bool = True) -> dict[str, Any]:
    """{"size": [H, W], "counts": text or list} of a mask in an image of `size` (height, width).

    Examples
    --------
    >>> import numpy as np
    >>> encode_rle(MaskCrop.of(np.array([[0, 0], [1, 1]])), (2, 2), is_compressed=False)
    {'size': [2, 2], 'counts': [1, 1, 1, 1]}
    """
    counts = counts_from_crop(mask, size)
    return {"size": [int(size[0]), int(size[1])], "counts": compress_counts(counts) if is_compressed else counts}


def decode_rle(code: dict[str, Any]) -> MaskCrop | None:
    """The mask of a COCO run-length code, compressed or not; None for an empty one.

    Raises
    ------
    E2SamError
        If it is not one.
    """
    try:
        height, width = (int(length) for length in code["size"])
        counts = code["counts"]
        runs = expand_counts(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise E2SamError(f"{_WRONG}, got {shown(code, 80)}.") from error
    return crop_from_counts(runs, (height, width))


def counts_from_crop(mask: MaskCrop, size: tuple[int, int]) -> list[int]:
    """Lengths of runs, zeros first, of a mask in an image of `size`; costs what the mask does, not the image."""
    height, width = size
    if not mask.fits(size):
        raise E2SamError(f"Expected a mask within {width} x {height} pixels, got one of box {mask.box}.")
    columns = np.zeros((mask.pixels.shape[1], mask.pixels.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.pixels.T
    steps = np.diff(columns, axis=1)
    first = (np.arange(len(steps)) + mask.x0) * height + mask.y0
    column, row = np.nonzero(steps == 1)
    starts = first[column] + row
    column, row = np.nonzero(steps == -1)
    ends = first[column] + row
    # Where a column ends at the image's last row and the next begins at its first, the run goes on.
    splits = np.flatnonzero(starts[1:] != ends[:-1])
    starts = np.concatenate((starts[:1], starts[1:][splits]))
    ends = np.concatenate((ends[:-1][splits], ends[-1:]))
    bounds = np.empty(2 * len(starts) + 1, np.int64)
    bounds[0], bounds[1::2], bounds[2::2] = 0, starts, ends
    counts = [int(count) for count in np.diff(bounds)]
    rest = height * width - int(ends[-1])
    return [*counts, rest] if rest else counts


def crop_from_counts(counts: Sequence[int], size: tuple[int, int]) -> MaskCrop | None:
    """The mask of runs in an image of `size`; only the columns that it covers are laid out.

    Raises
    ------
    E2SamError
        If the runs do not fill the image.
    """
    height, width = size
    total = sum(counts)
    if height <= 0 or width <= 0 or min(counts, default=0) < 0 or total != height * width:
        raise E2SamError(f"{_WRONG} that fills {width} x {height} pixels, got runs of {shown(total)}.")
    lengths = np.asarray(counts, np.int64)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    starts, ends = bounds[1:-1:2], bounds[2::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not len(starts):
        return None
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    edges = np.zeros((right - left) * height + 1, np.int32)
    np.add.at(edges, starts - left * height, 1)
    np.add.at(edges, ends - left * height, -1)
    strip: NDArray[np.bool_] = np.cumsum(edges[:-1]).astype(bool).reshape(right - left, height).T
    return MaskCrop.of(strip, left, 0)


def compress_counts(counts: Sequence[int]) -> str:
    """Runs as COCO's text."""
    text = bytearray()
    for position, count in enumerate(counts):
        value = count - counts[position - 2] if position > 2 else count
        while True:
            bits = value & 31
            value >>= 5
            # The last group's fifth bit is the sign.
            has_more = value != -1 if bits & 16 else value != 0
            text.append(48 + (bits | 32 if has_more else bits))
            if not has_more:
                break
    return text.decode("ascii")


def expand_counts(text: str | bytes) -> list[int]:
    """Runs of COCO's text."""
    codes = text.encode("ascii") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {code}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("cut short")
    return counts
