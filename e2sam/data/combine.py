"""Layers of unlike size or resolution as one stack on the finest grid, resampled only where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import ChannelSpec, ChannelStack, GeoReference
from e2sam.data.windowed import WindowedArray
from e2sam.errors import StackError

__all__ = ["Grid", "Placed", "combine", "placed_by_geo"]

_MAXIMUM_SIDE = 1 << 20
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Placed:
    """A stack with its place in the world that it shares with others.

    Attributes
    ----------
    stack
        (C, H, W); series and volumes too, if all have the same leading axes.
    scale
        (sx, sy): world units per pixel, positive.
    translate
        (tx, ty): world coordinates of the CENTRE of the first pixel, as napari has it.
    name
        Prefix of channel names where two stacks share one; by default "1", "2" and so on.
    """

    stack: ChannelStack
    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    name: str = ""


@dataclass(frozen=True)
class Grid:
    """The pixels of a combined stack: size (H, W), and scale and translate as in `Placed`."""

    size: tuple[int, int]
    scale: tuple[float, float]
    translate: tuple[float, float]


def combine(layers: Sequence[Placed], extent: str = "finest") -> tuple[ChannelStack, Grid]:
    """One stack of all channels on the grid of the finest layer.

    Parameters
    ----------
    layers
        At least one. The finest is the one with the smallest pixel area; of equals, the first.
    extent
        "finest": the area of the finest layer. "union": the area of all, on the finest layer's grid. Where a layer does
        not reach, its channels are not measured.

    Returns
    -------
    stack, grid
        The stack, lazy (a window reads only what it needs of each layer), and its pixels, on which masks are written.
        Layers on the grid itself keep their values exactly; others are interpolated linearly, at their borders and
        beside unmeasured pixels by the nearest measured one. The type is that of the layers where they agree and
        nothing is interpolated or unmeasured, else the smallest floating type that
        holds all values.

    Raises
    ------
    StackError
        If there is no layer, a scale is not positive, leading axes differ, or the result would be absurdly large.
    """
    _check(layers, extent)
    finest = min(layers, key=lambda layer: layer.scale[0] * layer.scale[1])
    grid = _grid(layers, finest, extent)
    sources = tuple(_Source.of(layer, grid) for layer in layers)
    channels = _channels(layers, sources)
    dtypes = {np.dtype(layer.stack.data.dtype) for layer in layers}
    is_kept = len(dtypes) == 1 and (all(source.is_exact for source in sources) or next(iter(dtypes)).kind == "f")
    dtype = dtypes.pop() if is_kept else _floating(dtypes)
    leading = finest.stack.leading
    data = _Combined(sources, (*finest.stack.num_planes, len(channels), *grid.size), dtype)
    geo = finest.stack.geo if (grid.size, grid.translate) == (finest.stack.size, finest.translate) else None
    return ChannelStack(data, channels, finest.stack.source, geo, leading), grid


def placed_by_geo(stack: ChannelStack, name: str = "") -> Placed:
    """Place a stack by its geo-reference, y downward.

    Raises
    ------
    StackError
        If it has none, or is turned against the axes of the map.
    """
    geo: GeoReference | None = stack.geo
    if geo is None or geo.pixel_to_world is None:
        raise StackError(
            f"Expected a geo-reference, got none in {stack.source or 'a stack'}: give scale and translate."
        )
    (a, b, c), (d, e, f) = geo.pixel_to_world
    if abs(b) > _TOLERANCE * abs(a) or abs(d) > _TOLERANCE * abs(e) or a <= 0 or e >= 0:
        raise StackError(f"Expected a north-up geo-reference, got a turned one in {stack.source or 'a stack'}.")
    # The affine gives corners of pixels; `Placed` has centres.
    return Placed(stack, (a, -e), (c + a / 2, -(f + e / 2)), name)


@dataclass(frozen=True, eq=False)
class _Source:
    """One layer, and where the grid's pixels fall in it: position = start + step * index."""

    data: Any
    channels: tuple[ChannelSpec, ...]
    size: tuple[int, int]
    start: tuple[float, float]
    step: tuple[float, float]
    is_exact: bool

    @classmethod
    def of(cls, layer: Placed, grid: Grid) -> _Source:
        # (y, x) throughout.
        step = tuple(grid.scale[axis] / layer.scale[axis] for axis in (1, 0))
        start = tuple((grid.translate[axis] - layer.translate[axis]) / layer.scale[axis] for axis in (1, 0))
        start = tuple(float(round(value)) if abs(value - round(value)) < 1e-4 else value for value in start)
        step = tuple(1.0 if abs(value - 1) < 1e-9 else value for value in step)
        inside = all(
            start[axis] >= 0 and start[axis] + step[axis] * (grid.size[axis] - 1) <= layer.stack.size[axis] - 1
            for axis in (0, 1)
        )
        on_grid = step == (1.0, 1.0) and all(value.is_integer() for value in start)
        return cls(
            layer.stack.data,
            layer.stack.channels,
            layer.stack.size,
            (start[0], start[1]),
            (step[0], step[1]),
            on_grid and inside,
        )

    def read(
        self, leading: tuple[Any, ...], channel: int, rows: range, columns: range, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """One channel at the given positions of the grid."""
        ys = self.start[0] + self.step[0] * np.array(rows, np.float64)
        xs = self.start[1] + self.step[1] * np.array(columns, np.float64)
        nodata = self.channels[channel].nodata
        if self.is_exact:
            window = slice(int(ys[0]), int(ys[-1]) + 1, rows.step), slice(int(xs[0]), int(xs[-1]) + 1, columns.step)
            return np.asarray(self.data[(*leading, channel, *window)]).astype(dtype, copy=False)
        lines, line_weights, has_lines = _neighbours(ys, self.size[0])
        places, place_weights, has_places = _neighbours(xs, self.size[1])
        # Only the window of the layer that the grid's window falls on is read.
        top, left = int(lines.min()), int(places.min())
        window = slice(top, int(lines.max()) + 1), slice(left, int(places.max()) + 1)
        block = np.asarray(self.data[(*leading, channel, *window)]).astype(dtype)
        result = _linear(block, nodata, (lines - top, line_weights), (places - left, place_weights))
        result[..., ~has_lines, :] = np.nan
        result[..., ~has_places] = np.nan
        return result


class _Combined(WindowedArray):
    """An array over several layers."""

    def __init__(self, sources: Sequence[_Source], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(shape, dtype)
        self._planes = [(source, index) for source in sources for index in range(len(source.channels))]

    def plane(self, leading: tuple[Any, ...], channel: int, rows: range, columns: range) -> NDArray[Any]:
        source, index = self._planes[channel]
        return source.read(leading, index, rows, columns, self.dtype)


def _neighbours(
    positions: NDArray[np.float64], length: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """(2, n) neighbours and weights of positions along an axis, and which lie on the layer (to its pixels' edges)."""
    inside = (positions >= -0.5 - _TOLERANCE) & (positions <= length - 0.5 + _TOLERANCE)
    near = np.clip(positions, 0, length - 1)
    low = np.minimum(np.floor(near), max(length - 2, 0)).astype(np.intp)
    high = np.minimum(low + 1, length - 1)
    fraction = near - low
    return np.stack((low, high)), np.stack((1 - fraction, fraction)), inside


def _linear(
    block: NDArray[Any],
    nodata: float | None,
    lines: tuple[NDArray[np.intp], NDArray[np.float64]],
    places: tuple[NDArray[np.intp], NDArray[np.float64]],
) -> NDArray[Any]:
    """Values of a block (..., h, w) between its pixels; unmeasured neighbours carry no weight."""
    measured = np.isfinite(block) & (True if nodata is None else block != nodata)
    filled = np.where(measured, block, 0)
    total = weight = 0.0
    nearest = np.zeros((), bool)
    for row in (0, 1):
        for column in (0, 1):
            at = (..., lines[0][row][:, None], places[0][column])
            share = lines[1][row][:, None] * places[1][column] * measured[at]
            total = total + share * filled[at]
            weight = weight + share
            # A value is taken as measured if the pixel that it falls in was.
            is_nearest = (lines[1][row][:, None] >= 0.5) & (places[1][column] >= 0.5)
            nearest = nearest | (is_nearest & measured[at])
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[Any] = np.where(nearest, total / weight, np.nan).astype(block.dtype)
    return result


def _grid(layers: Sequence[Placed], finest: Placed, extent: str) -> Grid:
    if extent == "finest":
        return Grid(finest.stack.size, finest.scale, finest.translate)
    first, size = [], []
    for axis in (0, 1):
        scale, translate = finest.scale[axis], finest.translate[axis]
        # Edges of all layers in pixels of the finest grid; x is axis 1 of an array.
        starts = [(layer.translate[axis] - layer.scale[axis] / 2 - translate) / scale + 0.5 for layer in layers]
        lengths = [layer.stack.size[1 - axis] * layer.scale[axis] / scale for layer in layers]
        low = int(np.floor(min(starts) + _TOLERANCE))
        high = int(np.ceil(max(start + length for start, length in zip(starts, lengths, strict=True)) - _TOLERANCE))
        first.append(translate + low * scale)
        size.append(high - low)
    if max(size) > _MAXIMUM_SIDE:
        raise StackError(f"Expected layers near each other, got {size[0]} x {size[1]} pixels for all: check translate.")
    return Grid((size[1], size[0]), finest.scale, (first[0], first[1]))


def _channels(layers: Sequence[Placed], sources: Sequence[_Source]) -> tuple[ChannelSpec, ...]:
    names = [name for layer in layers for name in layer.stack.names]
    channels: list[ChannelSpec] = []
    for number, (layer, source) in enumerate(zip(layers, sources, strict=True), start=1):
        for channel in layer.stack.channels:
            prefix = layer.name or _stem(layer.stack.source) or str(number)
            name = f"{prefix}: {channel.name}" if names.count(channel.name) > 1 else channel.name
            taken = {one.name for one in channels}
            if name in taken:
                name = f"{number}: {name}"
            # Interpolated channels mark what was not measured by NaN.
            channels.append(replace(channel, name=name, nodata=channel.nodata if source.is_exact else None))
    return tuple(channels)


def _stem(source: Path | None) -> str:
    return "" if source is None else source.stem


def _floating(dtypes: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
    """The smallest floating type that holds all values of the given types."""
    is_wide = any(dtype.itemsize > (4 if dtype.kind == "f" else 2) for dtype in dtypes)
    return np.dtype(np.float64 if is_wide else np.float32)


def _check(layers: Sequence[Placed], extent: str) -> None:
    if not layers:
        raise StackError("Expected at least 1 layer to combine, got 0.")
    if extent not in ("finest", "union"):
        raise StackError(f"Expected extent 'finest' or 'union', got {extent!r}.")
    axes = (layers[0].stack.leading, layers[0].stack.num_planes)
    for layer in layers:
        if not all(np.isfinite(value) and value > 0 for value in layer.scale) or not np.isfinite(layer.translate).all():
            raise StackError(f"Expected a positive scale and a finite translate, got {layer.scale}, {layer.translate}.")
        if (layer.stack.leading, layer.stack.num_planes) != axes:
            raise StackError("Expected layers with the same T and Z axes: combine one plane of each, or match them.")
