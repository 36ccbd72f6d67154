"""Which images of a TIFF are meant, several of them as one array, and the colours of a palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import LazyArray
from e2sam.errors import StackError

__all__ = ["Coloured", "Stacked", "chosen_series", "palette_of", "position_axis"]

# One image with at least this share of all pixels is the file; thumbnails and pictures of the label are beside it.
_MAIN_SHARE = 0.9
_MAX_SHOWN = 8
_PALETTE = 3


def chosen_series(file: Any, path: Path) -> list[Any]:
    """The series of a file that are meant, at full size: one, or several of one shape, type and axes.

    Small copies, masks of transparency, and what is tiny beside one image are left out.

    Raises
    ------
    StackError
        If there is none, or it is not clear which is meant; they are listed.
    """
    every = [series.levels[0] for series in file.series if series.size]
    if not every:
        raise StackError(f"Expected an image in {path}, got a TIFF without any.")
    full = [one for one in every if not (one.keyframe.is_reduced or one.keyframe.is_mask)] or every
    largest = max(full, key=lambda series: int(series.size))
    alike = [one for one in full if _kind(one) == _kind(largest)]
    rest = sum(int(one.size) for one in full) - len(alike) * int(largest.size)
    if int(largest.size) >= _MAIN_SHARE * (int(largest.size) + rest):
        return alike
    shown = ", ".join(f"{' '.join(str(one.name).split())} {one.shape} {one.dtype}" for one in full[:_MAX_SHOWN])
    raise StackError(
        f"Expected one image, or several of one shape, in {path}, got {len(full)}: {shown}"
        f"{', ...' if len(full) > _MAX_SHOWN else ''}: save the one that is meant as a file of its own."
    )


def _kind(series: Any) -> tuple[Any, ...]:
    return tuple(series.shape), np.dtype(series.dtype), str(series.axes)


def position_axis(axes: str) -> str:
    """The letter of the axis along which several series lie, one that `axes` leaves free; "" where it says nothing."""
    return next((letter for letter in "TZ" if letter not in axes), "T") if axes else ""


def palette_of(file: Any, series: Any) -> NDArray[np.uint8] | None:
    """(N, 3) colours of a picture whose pixels are numbers of colours, else None.

    ImageJ's files and those of several pages hold measured values, and their colours are for display.
    """
    page = series.keyframe
    if int(page.photometric) != _PALETTE or file.is_imagej or series.ndim != 2 or page.colormap is None:
        return None
    colours = np.asarray(page.colormap)
    # 16 bits by the standard; some writers fill in 8.
    narrow: NDArray[np.uint8] = (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8).T
    return np.ascontiguousarray(narrow)


class Stacked:
    """Arrays of one shape along a new first axis, still unread."""

    def __init__(self, parts: Sequence[LazyArray]) -> None:
        self._parts = parts
        self.shape = (len(parts), *(int(length) for length in parts[0].shape))
        self.dtype = parts[0].dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice):
            return np.asarray(self._parts[int(first)][tuple(rest)])
        read = [np.asarray(part[tuple(rest)]) for part in self._parts[first]]
        return np.stack(read) if read else np.zeros((0, *np.shape(self._parts[0][tuple(rest)])), self.dtype)


class Coloured:
    """A picture (H, W) of numbers of colours as (H, W, 3) R, G, B, still unread."""

    def __init__(self, numbers: LazyArray, colours: NDArray[np.uint8]) -> None:
        self._numbers = numbers
        self._colours = colours
        self.shape = (*(int(length) for length in numbers.shape), 3)
        self.dtype = colours.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns, parts = key if isinstance(key, tuple) else (key, slice(None), slice(None))
        numbers = np.asarray(self._numbers[rows, columns])
        coloured: NDArray[Any] = self._colours[numbers][..., parts]
        return coloured
