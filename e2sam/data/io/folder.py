"""Several aligned files as the channels of one stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import ChannelStack, GeoReference, LazyArray
from e2sam.errors import StackError

__all__ = ["common_place", "join_channels", "names_of_files", "sorted_naturally"]

_SEPARATORS = " _-."
# Pixels: writers round the places that they state.
_MAX_APART = 0.01


def sorted_naturally(files: Iterable[Path]) -> list[Path]:
    """Files by name, numbers by value: band2 before band10."""

    def key(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", file.name)]

    return sorted(files, key=key)


def names_of_files(files: Sequence[Path]) -> list[str]:
    """What tells the files apart: their names without suffix, and without the words that all begin with.

    Examples
    --------
    >>> names_of_files([Path("scene_B02.tif"), Path("scene_B03.tif")])
    ['B02', 'B03']
    """
    stems = [file.stem for file in files]
    shared = 0
    shortest = min(len(stem) for stem in stems)
    for place in range(shortest - 1):
        if len({stem[: place + 1] for stem in stems}) > 1:
            break
        if stems[0][place] in _SEPARATORS:
            shared = place + 1
    names = [stem[shared:] for stem in stems]
    return names if all(names) else stems


def common_place(files: Sequence[Path], stacks: Sequence[ChannelStack]) -> GeoReference | None:
    """The geo-reference of files of one size: the first that there is; files without any take that of the others.

    Raises
    ------
    StackError
        If two differ in their coordinate system, or by more than rounding in where they place the pixels.
    """
    known = [(file, stack.geo) for file, stack in zip(files, stacks, strict=True) if stack.geo is not None]
    placed = [(file, geo) for file, geo in known if geo.pixel_to_world is not None]
    named = [(file, geo) for file, geo in known if geo.epsg is not None]
    for group in (placed, named):
        for file, geo in group[1:]:
            first, place = group[0]
            if (geo.epsg != place.epsg) if group is named else _is_apart(geo, place, stacks[0].size):
                raise StackError(
                    f"Expected aligned files of one place on the ground, got {first} and {file}, whose geo-references "
                    "differ: bring them onto one grid first."
                )
    return next((geo for _, geo in placed or known), None)


def _is_apart(geo: GeoReference, other: GeoReference, size: tuple[int, int]) -> bool:
    """Whether a corner of the image lies elsewhere by more than rounding."""
    height, width = size
    corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)]).T
    affine = np.asarray(geo.pixel_to_world)
    apart = np.linalg.norm((affine - np.asarray(other.pixel_to_world)) @ corners, axis=0).max()
    return not apart <= _MAX_APART * np.linalg.norm(affine[:, :2], axis=0).min()


def join_channels(parts: Sequence[LazyArray]) -> LazyArray:
    """(C, H, W) arrays of one size as one; in memory if all are, else read where used. Types are widened to fit all."""
    if all(isinstance(part, np.ndarray) and not isinstance(part, np.memmap) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts])
    return _Joined(parts)


class _Joined:
    def __init__(self, parts: Sequence[LazyArray]) -> None:
        self._places = [(part, index) for part in parts for index in range(int(part.shape[0]))]
        self.shape = (len(self._places), *(int(length) for length in parts[0].shape[1:]))
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        channels, *window = key if isinstance(key, tuple) else (key,)
        if isinstance(channels, int | np.integer):
            return self._read(int(channels), tuple(window))
        wanted = np.arange(self.shape[0])[channels]
        return np.stack([self._read(int(index), tuple(window)) for index in wanted])

    def _read(self, channel: int, window: tuple[Any, ...]) -> NDArray[Any]:
        part, index = self._places[channel]
        return np.asarray(part[(index, *window)]).astype(self.dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)
