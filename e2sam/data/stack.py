"""A stack: aligned channels of one scene, with what is known about each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_number, is_whole, shown
from e2sam.errors import ChannelError, StackError

__all__ = ["ChannelSpec", "ChannelStack", "GeoReference", "LazyArray", "split_names"]


# Names of the axes in front of the channels.
_LEADING = ("", "T", "Z", "TZ")


class LazyArray(Protocol):
    """What a stack needs of its pixels: NumPy arrays, memory maps, zarr and dask arrays all fit."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, key: Any) -> Any: ...


def split_names(text: str) -> tuple[str, ...]:
    """Names with commas between, as a user types them; quotes hold a name that has a comma itself.

    Examples
    --------
    >>> split_names('R, G, "CD4, membrane"')
    ('R', 'G', 'CD4, membrane')
    """
    (names,) = csv.reader([text], skipinitialspace=True) if text.strip() else ([],)
    return tuple(name.strip() for name in names if name.strip())


@dataclass(frozen=True)
class ChannelSpec:
    """One channel of a stack.

    Attributes
    ----------
    name
        Unique within its stack.
    unit
        As written by the source ("m", "dB", "nm"...), empty where unknown.
    wavelength_nm
        Centre wavelength, nm, or None.
    kind
        "colour", "depth", "disparity", "thermal", "sar", "reflectance", "stain" or empty where unknown.
    nodata
        The stored value that means "not measured", or None. NaN and inf always mean it.
    """

    name: str
    unit: str = ""
    wavelength_nm: float | None = None
    kind: str = ""
    nodata: float | None = None

    def __post_init__(self) -> None:
        for key in ("name", "unit", "kind"):
            if not isinstance(getattr(self, key), str):
                raise ChannelError(f"Expected the {key} of a channel as text, got {shown(getattr(self, key))}.")
        for key in ("wavelength_nm", "nodata"):
            value = getattr(self, key)
            if not (value is None or isinstance(value, float) or is_number(value)):
                raise ChannelError(f"Expected the {key} of a channel as a number or None, got {shown(value)}.")
            if isinstance(value, np.generic):
                object.__setattr__(self, key, value.item())


@dataclass(frozen=True)
class GeoReference:
    """Where the pixels lie on the ground: raw GeoTIFF tags, kept to be written again unchanged.

    Attributes
    ----------
    tags
        (code, TIFF data type, count, value) of each GeoTIFF tag.
    pixel_to_world
        (2, 3) affine from pixel (x, y, 1) to world (x, y), or None where the tags have none.
    epsg
        EPSG code of the coordinate system, or None.
    """

    tags: tuple[tuple[int, int, int, Any], ...] = ()
    pixel_to_world: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    epsg: int | None = None


@dataclass(frozen=True, eq=False)
class ChannelStack:
    """Aligned channels of one scene; pixels may stay on disk until they are used.

    Attributes
    ----------
    data
        (C, H, W) array, any integer or floating type; for series and volumes (T, C, H, W), (Z, C, H, W) or
        (T, Z, C, H, W), of which `plane` gives one scene. What a NumPy array has masked is held as NaN.
    channels
        One `ChannelSpec` for each channel, names unique.
    source
        The file or folder it was read from, or None.
    geo
        Geo-reference, or None.
    leading
        Names of the axes in front of the channels: "", "T", "Z" or "TZ".
    files
        The files, in order, where it was read from a list of them; else, and without a `source`, empty.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((4, 32, 48), np.float32)
    >>> stack = ChannelStack(pixels, tuple(ChannelSpec(name) for name in ("R", "G", "B", "depth")))
    >>> stack.size, stack.num_channels, stack.read(channels=[3]).shape
    ((32, 48), 4, (1, 32, 48))
    """

    data: LazyArray
    channels: tuple[ChannelSpec, ...]
    source: Path | None = None
    geo: GeoReference | None = None
    leading: str = ""
    files: tuple[Path, ...] = ()
    _valid: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _checked_pixels(self.data))
        if self.source is None:
            object.__setattr__(self, "files", ())
        shape = tuple(self.data.shape)
        if self.leading not in _LEADING:
            raise StackError(f"Expected leading axes of {', '.join(map(repr, _LEADING))}, got {shown(self.leading)}.")
        if len(shape) != 3 + len(self.leading):
            raise StackError(f"Expected axes {self.leading}CYX, got an array of shape {shape}.")
        if min(shape) < 1:
            raise StackError(f"Expected at least 1 channel and 1 pixel, got an array of shape {shape}.")
        object.__setattr__(self, "channels", _checked_specs(self.channels))
        if len(self.channels) != shape[-3]:
            raise ChannelError(f"Expected {shape[-3]} channel names, got {len(self.channels)}.")
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ChannelError(f"Expected each channel name once, got {', '.join(twice)} twice: rename one.")

    @property
    def names(self) -> tuple[str, ...]:
        """Channel names, in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.data.shape[-2:]
        return int(height), int(width)

    @property
    def num_planes(self) -> tuple[int, ...]:
        """Length of each leading axis, in the order of `leading`."""
        return tuple(int(length) for length in self.data.shape[: len(self.leading)])

    def plane(self, *index: int) -> ChannelStack:
        """The (C, H, W) stack at one position of the leading axes."""
        if len(index) != len(self.leading):
            raise StackError(
                f"Expected one index for each of the axes {self.leading}, got {len(index)}."
                if self.leading
                else "Expected no index, got one: the stack is a single scene, without axes before its channels."
            )
        for axis, position, length in zip(self.leading, index, self.num_planes, strict=True):
            if not (is_whole(position) and 0 <= position < length):
                raise StackError(f"Expected {axis} in 0..{length - 1}, got {shown(position)}.")
        if not index:
            return self
        return replace(self, data=_Plane(self.data, index), leading="", _valid=None)

    def read(
        self,
        rows: slice | None = None,
        columns: slice | None = None,
        channels: Sequence[int] | None = None,
        step: int = 1,
    ) -> NDArray[Any]:
        """Pixels of a window as an array (C', h, w) in the stored type; only this part is read.

        `step` reads every step-th row and column.
        """
        if self.leading:
            raise StackError(f"Expected a single scene, got axes {self.leading}CYX: take one with plane().")
        window = (
            slice((rows or slice(None)).start, (rows or slice(None)).stop, step),
            slice((columns or slice(None)).start, (columns or slice(None)).stop, step),
        )
        if channels is None:
            return np.asarray(self.data[(slice(None), *window)])
        if isinstance(self.data, np.ndarray):
            return np.asarray(self.data[(list(channels), *window)])
        return np.stack([np.asarray(self.data[(index, *window)]) for index in channels])

    def valid_of(self, block: NDArray[Any], channels: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Which pixels of a block (C', h, w) of this stack were measured: not NaN, not inf, not nodata."""
        valid = np.isfinite(block) if block.dtype.kind == "f" else np.ones(block.shape, bool)
        for plane, index in enumerate(range(self.num_channels) if channels is None else channels):
            nodata = self.channels[index].nodata
            if nodata is not None and np.isfinite(nodata):
                valid[plane] &= block[plane] != nodata
        return valid

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(C, H, W) bool: which pixels were measured. Reads the whole stack; for a window use `valid_of`."""
        return self.valid_of(self.read()) if self._valid is None else self._valid

    def indices(self, names: Sequence[str | int]) -> tuple[int, ...]:
        """Positions of channels given by name or index.

        Raises
        ------
        ChannelError
            If there are none, one does not exist, or one stands twice.
        """
        try:
            names = list(names)
        except TypeError:
            raise ChannelError(f"Expected names or indices of channels, or 'auto', got {shown(names)}.") from None
        if len(names) == 0:
            raise ChannelError(
                "Expected at least 1 selected channel, got 0: tick one in Channels, or pass channels='auto'."
            )
        found = [self._index(name) for name in names]
        twice = sorted({self.names[index] for index in found if found.count(index) > 1})
        if twice:
            raise ChannelError(f"Expected each channel once, got {', '.join(twice)} twice.")
        return tuple(found)

    def _index(self, name: str | int) -> int:
        if isinstance(name, str) and name in self.names:
            return self.names.index(name)
        # A number typed in a command comes as text; a channel of that name has been found above.
        is_position = name.isdecimal() if isinstance(name, str) else is_whole(name)
        if is_position and 0 <= int(name) < self.num_channels:
            return int(name)
        known = ", ".join(self.names[:16]) + (", ..." if self.num_channels > 16 else "")
        raise ChannelError(
            f"Expected channels of {known} (or 0..{self.num_channels - 1}), got {shown(name)}: "
            "see `e2sam info` for the names."
        )


def _checked_pixels(data: Any) -> LazyArray:
    """An array of numbers that says so in NumPy's words; what is masked in it is not a number."""
    if not (hasattr(data, "shape") and hasattr(data, "dtype")):
        raise StackError(f"Expected an array of pixels (C, H, W), got {type(data).__name__}: pass numpy.asarray of it.")
    try:
        kind = np.dtype(data.dtype).kind
    except TypeError:
        kind = ""
    if kind not in tuple("buif"):
        raise StackError(f"Expected pixels of integer or floating type, got {data.dtype}: convert them.")
    if isinstance(data, np.ma.MaskedArray):
        if not np.ma.is_masked(data):
            return np.asarray(data)
        data = np.ma.filled(np.ma.asarray(data, np.result_type(data.dtype, np.float32)), np.nan)
    pixels: LazyArray = data if isinstance(data.dtype, np.dtype) else _Plane(data, ())
    return pixels


def _checked_specs(channels: Any) -> tuple[ChannelSpec, ...]:
    specs = tuple(channels) if isinstance(channels, Iterable) else (channels,)
    wrong = [spec for spec in specs if not isinstance(spec, ChannelSpec)]
    if wrong:
        raise ChannelError(f"Expected a ChannelSpec for each channel, got {shown(wrong[0])}: pass ChannelSpec(name).")
    return specs


class _Plane:
    """One position of the leading axes of an array, still unread."""

    def __init__(self, data: LazyArray, index: tuple[int, ...]) -> None:
        self._data = data
        self._index = index
        self.shape = tuple(data.shape[len(index) :])
        self.dtype = np.dtype(data.dtype)

    def __getitem__(self, key: Any) -> Any:
        rest = key if isinstance(key, tuple) else (key,)
        return self._data[(*self._index, *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._data[self._index], dtype=dtype)
