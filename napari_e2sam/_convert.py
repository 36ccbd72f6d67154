"""Between napari's layers and the engine's types: the only place where (row, column) meets (x, y).

napari puts the centre of a pixel at integer (row, column), the engine at integer + 0.5 (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from numpy.typing import ArrayLike, NDArray

from e2sam.data.combine import Placed, combine
from e2sam.data.io.axes import resolve_axes
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import AxisError, StackError

__all__ = [
    "SERIES",
    "AxisChoice",
    "LayerAxes",
    "Place",
    "Scene",
    "UnclearFile",
    "axis_choices",
    "axis_labels",
    "box_of_corners",
    "channels_first",
    "corners_of_box",
    "describe_stack",
    "forget_file",
    "is_series",
    "move_along",
    "place_of",
    "points_of_xy",
    "same_grid",
    "scene_of",
    "series_choices",
    "show_channels_first",
    "split_with",
    "xy_of_points",
]

# Key under which our reader leaves the stack it read in a layer's metadata.
STACK_KEY = "e2sam_stack"
AXIS_KEY = "e2sam_channel_axis"
# And an `UnclearFile`, where nobody could tell which axis of the file holds the channels.
UNCLEAR_KEY = "e2sam_unclear"
# A `LayerAxes`, where one axis of a layer without a file was taken for the channels.
AXES_KEY = "e2sam_axes"
SERIES = -1
"""In place of a channel axis: the layer is one channel of a series or a volume."""
# (row, column) size and offset of a pixel in the viewer.
Place = tuple[tuple[float, float], tuple[float, float]]
_CHANNEL_LABELS = ("c", "channel", "channels", "band", "bands")
_SENT_BYTES = 1 << 29


@dataclass(frozen=True)
class AxisChoice:
    """One reading of a layer's axes; `axis` is None where the layer is a single channel, or `SERIES`."""

    axis: int | None
    text: str


@dataclass(frozen=True)
class LayerAxes:
    """How the axes of a layer were read. They keep the numbers that they had when the layer was given.

    Attributes
    ----------
    order
        Axis as it was given, behind each that the layer has now.
    axis
        Channel axis as it was given, or `SERIES`; None where nobody has said which it is.
    """

    order: tuple[int, ...]
    axis: int | None = None


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


@dataclass(eq=False)
class Scene:
    """A stack as the window uses it: with the place of its pixel grid in the viewer.

    All is fixed but the place: the user may move the layer that the stack was made of.

    Attributes
    ----------
    stack
        The stack; leading axes T and Z may stand in front of its channels.
    scale, translate
        (row, column) size and offset of a pixel in the viewer.
    channel_axis
        As given to `read_stack`, as in `LayerAxes`, or None.
    warning
        One line about a poor fit of the layers, else empty.
    is_guess
        Whether nobody has said which axis that is.
    """

    stack: ChannelStack
    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    channel_axis: int | None = None
    warning: str = ""
    is_guess: bool = False

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
    is_file, shape = UNCLEAR_KEY in layer.metadata, _given_shape(layer)
    axes = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    named = _labelled_axis(layer)
    if named is not None:
        axes = [named, *(axis for axis in axes if axis != named)]
    choices = [AxisChoice(axis, f"axis {axis}: {shape[axis]} channels") for axis in axes if shape[axis] <= 1024]
    if not is_file and len(shape) <= 4:
        choices.append(AxisChoice(SERIES, f"no axis: 1 channel, {_num_planes(shape)}"))
    return tuple(choices)


def series_choices(layers: Sequence[Image]) -> tuple[AxisChoice, ...]:
    """The ways to find channels in several layers, most likely first; none where there is only one way."""
    if not is_series(layers):
        return ()
    shape = _given_shape(layers[0])
    each = [AxisChoice(axis, f"axis {axis}: {shape[axis]} channels of each layer") for axis in range(len(shape) - 2)]
    return (AxisChoice(SERIES, f"each layer is a channel, {_num_planes(shape)}"), *each)


def is_series(layers: Sequence[Image]) -> bool:
    """Whether several layers can be the channels of one series or volume, as napari splits one."""
    unread = all(not layer.rgb and not {STACK_KEY, UNCLEAR_KEY} & set(layer.metadata) for layer in layers)
    shapes = {_given_shape(layer) for layer in layers} if unread else set()
    return len(layers) > 1 and len(shapes) == 1 and len(shapes.pop()) in (3, 4)


def same_grid(one: Image, other: Image) -> bool:
    """Whether two layers have the same rows and columns in the same place."""
    return (
        one.data.shape[-2:] == other.data.shape[-2:]
        and np.allclose(one.scale[-2:], other.scale[-2:])
        and np.allclose(one.translate[-2:], other.translate[-2:])
    )


def split_with(picked: Image, images: Sequence[Image]) -> tuple[Image, ...]:
    """The layers that a series was split into, where `picked` is one of them; else that alone."""
    alike = [layer for layer in images if layer.ndim == picked.ndim and same_grid(layer, picked)]
    return tuple(alike) if is_series(alike) and _were_split(alike) else (picked,)


def _were_split(layers: Sequence[Image]) -> bool:
    """Whether layers look as `add_image(channel_axis=...)` makes them: each in a colour of its own, added up."""
    added = sum(str(layer.blending) == "additive" for layer in layers)
    return len(layers) > 1 and added >= len(layers) - 1 and len({layer.colormap.name for layer in layers}) > 1


def channels_first(layer: Image, axis: int, is_guess: bool = False) -> None:
    """Move a layer's channel axis in front of its rows and columns, so that the viewer shows the scene.

    Only the view of the pixels changes, nothing is copied. `axis` is as in `LayerAxes`.
    """
    if layer.rgb:
        return
    before = _order_of(layer)
    after = before if layer.multiscale else _order_with(len(before), axis)
    layer.metadata[AXES_KEY] = LayerAxes(after, None if is_guess else axis)
    if after == before:
        return
    order = [before.index(one) for one in after]
    scale, translate, labels = layer.scale[order], layer.translate[order], layer.axis_labels
    layer.data = layer.data.transpose(order)
    layer.scale, layer.translate = scale, translate
    if _labelled_axis(layer) is not None:
        layer.axis_labels = tuple(labels[one] for one in order)


def show_channels_first(layers: Sequence[Image], scene: Scene) -> None:
    """Have the layers of a scene show its channels in front of rows and columns."""
    for layer in layers:
        if scene.channel_axis is None or STACK_KEY in layer.metadata or layer.ndim < 3:
            continue
        if UNCLEAR_KEY not in layer.metadata:
            channels_first(layer, scene.channel_axis, scene.is_guess)
        elif len(layers) == 1:
            layer.data = scene.stack.data


def forget_file(layer: Image) -> int | None:
    """Take a layer as it is, after its pixels were replaced: it shows no more what it was read from.

    Names and units of the channels stay where the new pixels are as many channels. The channel axis to read it with,
    or None where that is open.
    """
    metadata, shape = layer.metadata, _pixels(layer).shape
    stack = metadata.pop(STACK_KEY, None)
    metadata.pop(AXIS_KEY, None)
    is_read = UNCLEAR_KEY in metadata or AXES_KEY in metadata
    axes = metadata.pop(AXES_KEY, None)
    metadata.pop(UNCLEAR_KEY, None)
    if stack is not None:
        data = np.moveaxis(_pixels(layer), -1, 0) if layer.rgb else _pixels(layer)
        if data.shape[:-2] == stack.data.shape[:-2]:
            geo = stack.geo if data.shape == stack.data.shape else None
            metadata[STACK_KEY] = replace(stack, data=data, source=None, geo=geo)
        return None
    if axes is not None and axes.axis == SERIES:
        return SERIES
    return len(shape) - 3 if is_read and len(shape) > 2 else None


def place_of(layer: Image) -> Place:
    """Size and offset of a pixel in the viewer, whichever of a layer's transforms they come from.

    Raises
    ------
    StackError
        If it lies turned.
    """
    origin = np.array(layer.data_to_world(np.zeros(layer.ndim)))
    steps = np.array([layer.data_to_world(axis) for axis in np.eye(layer.ndim)]) - origin
    scale = np.diag(steps)
    if not np.allclose(steps, np.diag(scale), atol=1e-6 * float(np.abs(scale).max())):
        raise StackError(
            f"Expected an image layer without rotation or shear, got {layer.name} with one: reset its transform."
        )
    return _pair(scale), _pair(origin)


def move_along(layer: Layer, before: Place, after: Place) -> None:
    """Move a layer that lies somewhere in a scene, when that is moved."""
    ratio = np.divide(after[0], before[0])
    scale = np.multiply(layer.scale[-2:], ratio)
    translate = after[1] + (layer.translate[-2:] - np.array(before[1])) * ratio
    layer.scale, layer.translate = (*layer.scale[:-2], *scale), (*layer.translate[:-2], *translate)


def scene_of(layers: Sequence[Image], channel_axis: int | None = None) -> Scene:
    """The stack of one or more layers.

    Parameters
    ----------
    layers
        Image layers; several are joined into one stack on the finest of their pixel grids.
    channel_axis
        Channel axis of a single layer, or of each of several as `series_choices` has it; None takes the most likely.

    Raises
    ------
    StackError
        If there is no layer, or the layers cannot be joined.
    """
    if not layers:
        raise StackError("Expected an image layer, got none: open an image, or take the sample in Stack.")
    if len(layers) == 1:
        return _scene_of_one(layers[0], channel_axis)
    axis = SERIES if channel_axis is None and is_series(layers) else channel_axis
    joined = _joined([_scene_of_one(layer, axis) for layer in layers], [layer.name for layer in layers])
    is_guess = axis is not None and channel_axis is None and not _were_split(layers)
    warning = "That each layer is one channel of a series is a guess: choose above." if is_guess else ""
    return replace(
        joined, channel_axis=axis, is_guess=is_guess, warning=" ".join(filter(None, (warning, joined.warning)))
    )


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
            "source": [str(path) for path in stack.files] or str(stack.source),
            "channel_axis": scene.channel_axis,
            "alignment": dict(alignment or {}),
        }
        return described, {}
    return described, {"data": stack.plane(*plane).read()}


def _pixels(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _scene_of_one(layer: Image, channel_axis: int | None) -> Scene:
    place: dict[str, Any] = dict(zip(("scale", "translate"), place_of(layer), strict=True))
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
    unclear, axes = layer.metadata.get(UNCLEAR_KEY), layer.metadata.get(AXES_KEY)
    known = channel_axis
    if known is None:
        known = unclear.axis if unclear is not None else axes.axis if axes is not None else None
    is_guess = known is None
    axis = axis_choices(layer)[0].axis if known is None else known
    warning = "Which axis holds the channels is a guess: choose above." if is_guess and _is_unclear(layer) else ""
    if unclear is not None and axis is not None:
        return Scene(unclear.read(axis), channel_axis=axis, warning=warning, **place)
    target = len(data.shape) - (2 if axis == SERIES else 3)
    if axis is None or target > 2:
        raise StackError(f"Expected at most T, Z, channel, row and column axes, got shape {tuple(data.shape)}.")
    before = _order_of(layer)
    order = [before.index(one) for one in _order_with(len(before), axis)]
    if order != list(range(len(order))):
        data = np.asarray(data).transpose(order)
    if axis == SERIES:
        data, channels = data[..., np.newaxis, :, :], (ChannelSpec(layer.name),)
    else:
        channels = tuple(ChannelSpec(f"{index}") for index in range(data.shape[target]))
    stack = ChannelStack(data, channels, leading=("", "T", "TZ")[target])
    return Scene(stack, channel_axis=axis, warning=warning, is_guess=is_guess, **place)


def _order_of(layer: Image) -> tuple[int, ...]:
    """Axis as it was given, behind each that a layer has now."""
    axes = layer.metadata.get(AXES_KEY)
    here = len(_pixels(layer).shape)
    return axes.order if axes is not None and len(axes.order) == here else tuple(range(here))


def _order_with(num_axes: int, axis: int) -> tuple[int, ...]:
    """The axes in the order in which we show them; rows and columns last, channels before them."""
    if axis == SERIES:
        return tuple(range(num_axes))
    others = [other for other in range(num_axes) if other != axis]
    return (*others[:-2], axis, *others[-2:])


def _given_shape(layer: Image) -> tuple[int, ...]:
    """Lengths of a layer's axes as it was given, or of those of its file: the layer shows that in our order."""
    if UNCLEAR_KEY in layer.metadata:
        shape: tuple[int, ...] = layer.metadata[UNCLEAR_KEY].shape
        return shape
    order, here = _order_of(layer), _pixels(layer).shape
    return tuple(int(here[order.index(axis)]) for axis in range(len(order)))


def _num_planes(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape[:-2]))} planes"


def _is_unclear(layer: Image) -> bool:
    """Whether neither the labels of a layer's axes nor their lengths say which one holds the channels."""
    if UNCLEAR_KEY in layer.metadata:
        return True
    if layer.colormap.name != "gray":
        # It was split from others, or coloured, as one channel is.
        return _labelled_axis(layer) is None
    try:
        resolve_axes(_given_shape(layer))
    except AxisError:
        return _labelled_axis(layer) is None
    return False


def _labelled_axis(layer: Image) -> int | None:
    """The axis that is called so, as it was given."""
    labels = [label.strip().lower() for label in layer.axis_labels]
    return next((_order_of(layer)[at] for at, label in enumerate(labels) if label in _CHANNEL_LABELS), None)


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
