"""What a reader of one format hands on: pixels with all that the file says about them, axes not yet in order."""

from __future__ import annotations

import logging
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import ChannelSpec, GeoReference, LazyArray
from e2sam.errors import StackError

__all__ = ["LazyView", "RawImage", "reading", "suffix_of"]

# What format libraries raise on a damaged file, Pillow a SyntaxError. OSError without a number is theirs too; with one,
# it is the system's.
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    EOFError,
    OSError,
    SyntaxError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, eq=False)
class RawImage:
    """Pixels and metadata of one file.

    Attributes
    ----------
    data
        Array of any number of axes.
    axes
        One letter for each axis where the file says so: "T", "Z", "C", "Y", "X", "S" (interleaved samples), "P" (pages
        of unstated meaning); empty where nothing is known.
    channels
        What the file says of its channels, in order; empty, or shorter than the channel axis, where it says nothing.
    nodata
        Value that means "not measured" in every channel that states none of its own, or None.
    geo
        Geo-reference, or None.
    num_colours
        3 for a colour photograph, 1 for a grey one, whose further samples are alpha; 0 where it is not known to be one.
    is_alpha_certain
        Whether the further samples are alpha for certain. TIFF writers call the fourth of any four 8-bit planes alpha.
    """

    data: LazyArray
    axes: str = ""
    channels: tuple[ChannelSpec, ...] = ()
    nodata: float | None = None
    geo: GeoReference | None = None
    num_colours: int = 0
    is_alpha_certain: bool = True


class LazyView:
    """Axes of an array in another order, some fixed or new, still unread.

    Parameters
    ----------
    source
        The array.
    order
        For each axis of the view the axis of the source, or None for a new one of length 1. Axes of the source that do
        not appear are fixed at position 0.
    path
        The file of the array, named where its pixels turn out damaged.
    """

    def __init__(self, source: LazyArray, order: tuple[int | None, ...], path: Path | None = None) -> None:
        self._source = source
        self._order = order
        self._path = path
        self.shape = tuple(1 if axis is None else int(source.shape[axis]) for axis in order)
        self.dtype = np.dtype(source.dtype).newbyteorder("=")
        self.ndim = len(order)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [entry for entry in keys if entry is Ellipsis]:
            place = next(index for index, entry in enumerate(keys) if entry is Ellipsis)
            keys[place : place + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        read: list[Any] = [0] * len(self._source.shape)
        for axis, entry in zip(self._order, keys, strict=True):
            if axis is not None:
                read[axis] = _plain(entry, int(self._source.shape[axis]))
        with nullcontext() if self._path is None else _in_one_line(self._path, "image"):
            block = np.asarray(self._source[tuple(read)])
        kept = sorted(axis for axis in self._order if axis is not None and isinstance(read[axis], slice))
        wanted = [axis for axis in self._order if axis is not None and axis in kept]
        block = block.transpose([kept.index(axis) for axis in wanted]).astype(self.dtype, copy=False)
        for place, axis in enumerate(self._order):
            if axis is None:
                block = np.expand_dims(block, sum(other is None or other in kept for other in self._order[:place]))
        result: NDArray[Any] = block[self._after(keys)]
        return result

    def _after(self, keys: list[Any]) -> tuple[Any, ...]:
        """What is left of an index after the source was read: integers on new axes, and lists."""
        after: list[Any] = []
        for axis, entry in zip(self._order, keys, strict=True):
            if axis is None or not isinstance(entry, slice | int | np.integer):
                after.append(entry)
            elif isinstance(entry, slice):
                after.append(slice(None))
        return tuple(after)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)


def _plain(entry: Any, length: int) -> int | slice:
    if isinstance(entry, int | np.integer):
        position = int(entry)
        if not -length <= position < length:
            raise IndexError(f"index {position} is out of bounds for an axis of length {length}")
        return position % length
    if isinstance(entry, slice):
        start, stop, step = entry.indices(length)
        if step < 0:
            raise IndexError("a stack on disk is read forwards: expected a step of at least 1")
        return slice(start, max(start, stop), step)
    return slice(0, length, 1)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Answer whatever a format library makes of a damaged file with one line.

    Raises
    ------
    StackError
        In place of the library's own exceptions.
    """
    log = logging.getLogger("tifffile")
    was_disabled, log.disabled = log.disabled, True
    try:
        with _in_one_line(path, what):
            yield
    finally:
        log.disabled = was_disabled


@contextmanager
def _in_one_line(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except StackError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StackError(f"Expected to read {path}, but: {error.strerror}.") from error
        detail = " ".join(str(error).split())[:160]
        raise StackError(
            f"Expected a readable {what}, got {path}, which is damaged, cut short or of another format ({detail})."
        ) from error


def suffix_of(path: Path) -> str:
    """Lower-case suffix, ".ome.tif" and the like as their last part."""
    return path.suffix.lower()
