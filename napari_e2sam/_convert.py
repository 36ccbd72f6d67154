"""Between napari's layers and the engine's types: the only place where (row, column) meets (x, y).

napari puts the centre of a pixel at integer (row, column), the engine at integer + 0.5 (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import ArrayLike, NDArray

from e2sam.data.combine import Placed, combine
from e2sam.data.io.axes import resolve_axes
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import AxisError, StackError

__all__ = [
    "AxisChoice",
    "Scene",
    "UnclearFile",
    "axis_choices",
    "axis_labels",
    "box_of_corners",
    "channels_first",
    "corners_of_box",
    "describe_stack",
    "points_of_xy",
    "scene_of",
    "xy_of_points",
]

# Key under which our reader leaves the stack it read in a layer's metadata.
STACK_KEY = "e2sam_stack"
AXIS_KEY = "e2sam_channel_axis"
# And an `UnclearFile`, where nobody could tell which axis of the file holds the channels.
UNCLEAR_KEY = "e2sam_unclear"
_CHANNEL_LABELS = ("c", "channel", "channels", "band", "bands")
_SENT_BYTES = 1 << 29


@dataclass(frozen=True)
class AxisChoice:
    """One reading of a layer's axes; `axis` is None where the layer is a single channel."""

    axis: int | None
    text: str


@dataclass(frozen=True)
class UnclearFile:
    """A file whose channel axis is not clear: what is needed to read it when somebody has said which it is.

    Attributes
    ----------
    source
        Path, or paths, as given to `read_stack`.
    shape
        Lengths of the file's axes, in the file's order.
    channel_names, nodata
        As given to `read_stack`.
    axis
        What is known to be the channel axis, or None.
    """

    source: str | tuple[str, ...]
    shape: tuple[int, ...]
    channel_names: tuple[str, ...] | None = None
    nodata: float | None = None
    axis: int | None = None

    def read(self, channel_axis: int) -> ChannelStack:
        """The stack with its channels on an axis of the file."""
        from e2sam.data.io import read_stack

        paths = self.source if isinstance(self.source, str) else list(self.source)
        names = None if self.channel_names is None else list(self.channel_names)
        return read_stack(paths, channel_axis, names, nodata=self.nodata)


@dataclass(frozen=True, eq=False)
class Scene:
    """A stack as the window uses it: with the place of its pixel grid in the viewer.

    Attributes
    ----------
    stack
        The stack; leading axes T and Z may stand in front of its channels.
    scale, translate
        (row, column) size and offset of a pixel in the viewer.
    channel_axis
        As given to `read_stack`, or None.
    warning
        One line about a poor fit of the layers, else empty.
    """

    stack: ChannelStack
    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    channel_axis: int | None = None
    warning: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.stack.size


def xy_of_points(points: ArrayLike) -> NDArray[np.float32]:
    """(P, 2) float32 pixel (x, y) of layer coordinates (P, D), of which the last two are (row, column)."""
    array = np.asarray(points, np.float64)
    if array.size == 0:
        return np.zeros((0, 2), np.float32)
    return np.asarray(array.reshape(len(array), -1)[:, [-1, -2]] + 0.5, np.float32)


def points_of_xy(points: ArrayLike) -> NDArray[np.float64]:
    """(P, 2) layer coordinates (row, column) of pixel (x, y)."""
    array = np.asarray(points, np.float64).reshape(-1, 2)
    return array[:, ::-1] - 0.5


def box_of_corners(corners: ArrayLike, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Box x0, y0, x1, y1 of a rectangle's corners (K, D), cut to an image of `size`; None where nothing is left."""
    xy = xy_of_points(corners)
    low = np.maximum(xy.min(axis=0), 0.0)
    high = np.minimum(xy.max(axis=0), (size[1], size[0]))
    if (high - low < 1.0).any():
        return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def corners_of_box(box: Sequence[float]) -> NDArray[np.float64]:
    """(4, 2) corners (row, column) of a box x0, y0, x1, y1, for a Shapes layer."""
    x0, y0, x1, y1 = box
    return points_of_xy([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def axis_labels(stack: ChannelStack) -> tuple[str, ...]:
    """Names of a stack's axes for the sliders of the viewer."""
    names = {"T": "time", "Z": "depth"}
    return (*(names[axis] for axis in stack.leading), "channel", "row", "column")


def axis_choices(layer: Image) -> tuple[AxisChoice, ...]:
    """The ways to find channels in a layer, most likely first."""
    data = _pixels(layer)
    if layer.rgb:
        return (AxisChoice(len(data.shape) - 1, f"colour: {data.shape[-1]} channels"),)
    if STACK_KEY in layer.metadata:
        stack = layer.metadata[STACK_KEY]
        return (AxisChoice(len(stack.leading), f"channels: {stack.num_channels}"),)
    if len(data.shape) == 2:
        return (AxisChoice(None, "one channel"),)
    # The layer shows a file with its axes in our order; one chooses among those of the file.
    shape = layer.metadata[UNCLEAR_KEY].shape if UNCLEAR_KEY in layer.metadata else tuple(map(int, data.shape))
    axes = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    named = _labelled_axis(layer)
    if named is not None:
        axes = [named, *(axis for axis in axes if axis != named)]
    return tuple(AxisChoice(axis, f"axis {axis}: {shape[axis]} channels") for axis in axes if shape[axis] <= 1024)


def channels_first(layer: Image, axis: int) -> None:
    """Move a layer's channel axis in front of its rows and columns, so that the viewer shows the scene.

    Only the view of the pixels changes, nothing is copied.
    """
    data = _pixels(layer)
    target = len(data.shape) - 3
    if layer.rgb or axis == target or layer.multiscale:
        return
    order = [other for other in range(len(data.shape)) if other != axis]
    order.insert(target, axis)
    scale, translate = layer.scale[order], layer.translate[order]
    layer.data = (
        np.moveaxis(layer.data, axis, target) if isinstance(layer.data, np.ndarray) else layer.data.transpose(order)
    )
    layer.scale, layer.translate = scale, translate


def scene_of(layers: Sequence[Image], channel_axis: int | None = None) -> Scene:
    """The stack of one or more layers.

    Parameters
    ----------
    layers
        Image layers; several are joined into one stack on the finest of their pixel grids.
    channel_axis
        Channel axis of a single layer; None takes the most likely one.

    Raises
    ------
    StackError
        If there is no layer, or the layers cannot be joined.
    """
    if not layers:
        raise StackError("Expected an image layer, got none: open an image, or take the sample in Stack.")
    scenes = [_scene_of_one(layer, channel_axis if len(layers) == 1 else None) for layer in layers]
    return scenes[0] if len(scenes) == 1 else _joined(scenes, [layer.name for layer in layers])


def describe_stack(
    scene: Scene, plane: tuple[int, ...], alignment: Mapping[str, tuple[float, float]] | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the engine process needs to have the same stack: a path where it can read it itself, else the pixels.

    `alignment` is what the scene's stack was shifted by.
    """
    stack = scene.stack
    described: dict[str, Any] = {"channels": [asdict(channel) for channel in stack.channels], "plane": list(plane)}
    num_bytes = int(np.prod(stack.data.shape[-3:], dtype=np.int64)) * np.dtype(stack.data.dtype).itemsize
    if stack.source is not None and num_bytes > _SENT_BYTES:
        described |= {
            "source": str(stack.source),
            "channel_axis": scene.channel_axis,
            "alignment": dict(alignment or {}),
        }
        return described, {}
    return described, {"data": stack.plane(*plane).read()}


def _pixels(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _scene_of_one(layer: Image, channel_axis: int | None) -> Scene:
    place = _place_of(layer)
    if STACK_KEY in layer.metadata:
        return Scene(layer.metadata[STACK_KEY], channel_axis=layer.metadata.get(AXIS_KEY), **place)
    data = _pixels(layer)
    if layer.rgb:
        if len(data.shape) != 3:
            raise StackError(f"Expected one colour image, got axes of shape {tuple(data.shape)}: take one frame.")
        names = ("R", "G", "B", "A")[: data.shape[-1]]
        channels = tuple(ChannelSpec(name, kind="colour" if name != "A" else "") for name in names)
        return Scene(ChannelStack(np.moveaxis(np.asarray(data), -1, 0), channels), **place)
    if len(data.shape) == 2:
        return Scene(ChannelStack(data[np.newaxis], (ChannelSpec(layer.name),)), **place)
    unclear = layer.metadata.get(UNCLEAR_KEY)
    known = unclear.axis if channel_axis is None and unclear is not None else channel_axis
    axis = axis_choices(layer)[0].axis if known is None else known
    warning = "Which axis holds the channels is a guess: choose above." if known is None and _is_unclear(layer) else ""
    if unclear is not None and axis is not None:
        return Scene(unclear.read(axis), channel_axis=axis, warning=warning, **place)
    target = len(data.shape) - 3
    if axis is None or target > 2:
        raise StackError(f"Expected at most T, Z, channel, row and column axes, got shape {tuple(data.shape)}.")
    if axis != target:
        data = np.moveaxis(np.asarray(data), axis, target)
    channels = tuple(ChannelSpec(f"{index}") for index in range(data.shape[target]))
    stack = ChannelStack(data, channels, leading=("", "T", "TZ")[target])
    return Scene(stack, channel_axis=axis, warning=warning, **place)


def _is_unclear(layer: Image) -> bool:
    """Whether neither the labels of a layer's axes nor their lengths say which one holds the channels."""
    if UNCLEAR_KEY in layer.metadata:
        return True
    try:
        resolve_axes(tuple(int(length) for length in _pixels(layer).shape))
    except AxisError:
        return _labelled_axis(layer) is None
    return False


def _labelled_axis(layer: Image) -> int | None:
    labels = [label.strip().lower() for label in layer.axis_labels]
    return next((at for at, label in enumerate(labels) if label in _CHANNEL_LABELS), None)


def _place_of(layer: Image) -> dict[str, Any]:
    """Size and offset of a pixel in the viewer, whichever of a layer's transforms they come from."""
    origin = np.array(layer.data_to_world(np.zeros(layer.ndim)))
    steps = np.array([layer.data_to_world(axis) for axis in np.eye(layer.ndim)]) - origin
    scale = np.diag(steps)
    if not np.allclose(steps, np.diag(scale), atol=1e-6 * float(np.abs(scale).max())):
        raise StackError(
            f"Expected an image layer without rotation or shear, got {layer.name} with one: reset its transform."
        )
    return {"scale": _pair(scale), "translate": _pair(origin)}


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[-2]), float(values[-1])


def _joined(scenes: Sequence[Scene], names: Sequence[str]) -> Scene:
    """One stack on the finest grid among `scenes`; others are resampled to it where they are read."""
    placed = [
        Placed(_named(scene.stack, name), scene.scale[::-1], scene.translate[::-1], name)
        for scene, name in zip(scenes, names, strict=True)
    ]
    stack, grid = combine(placed)
    moved = [
        name
        for scene, name in zip(scenes, names, strict=True)
        if (scene.size, scene.scale[::-1], scene.translate[::-1]) != (grid.size, grid.scale, grid.translate)
    ]
    warning = f"Resampled to {grid.size[1]} x {grid.size[0]} pixels: {', '.join(moved)}." if moved else ""
    # No one file holds the joined stack.
    stack = replace(stack, source=None)
    return Scene(stack, grid.scale[::-1], grid.translate[::-1], warning=warning)


def _named(stack: ChannelStack, name: str) -> ChannelStack:
    """A single channel is called what its layer is called."""
    if stack.num_channels > 1:
        return stack
    return replace(stack, channels=(replace(stack.channels[0], name=name),))
