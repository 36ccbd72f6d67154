"""Reads every format of `e2sam.read_stack` into napari: the stack as one layer, and a composite on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_e2sam._convert import AXIS_KEY, STACK_KEY, UNCLEAR_KEY, UnclearFile, axis_labels
from napari_e2sam._pyramid import levels_of

__all__ = ["get_reader", "layer_of", "read"]

LayerData = tuple[Any, dict[str, Any], str]
SUFFIXES = (".tif", ".tiff", ".npy", ".npz", ".png", ".jpg", ".jpeg")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The reader of a path or of a list of single-channel files, or None where it is none of ours."""
    paths = [Path(path)] if isinstance(path, str) else [Path(entry) for entry in path]
    if all(entry.suffix.lower() in SUFFIXES or entry.is_dir() for entry in paths):
        return read
    return None


def read(
    path: str | Sequence[str],
    channel_axis: int | str | None = None,
    channel_names: Sequence[str] | None = None,
    nodata: float | None = None,
) -> list[LayerData]:
    """Layers of one stack; the arguments are those of `e2sam.read_stack`.

    Where it is not clear which axis holds the channels, the array as it is: the Stack panel asks.
    """
    from e2sam import read_stack
    from e2sam.errors import AxisError

    paths = path if isinstance(path, str) else [str(entry) for entry in path]
    name = Path(path if isinstance(path, str) else path[0]).stem
    try:
        stack = read_stack(paths, channel_axis, channel_names, nodata=nodata)
    except AxisError:
        # The third axis from the end as channels leaves the axes in the file's order.
        data = read_stack(paths, -3).data
        source = paths if isinstance(paths, str) else tuple(paths)
        names = None if channel_names is None else tuple(channel_names)
        unclear = UnclearFile(source, tuple(int(length) for length in data.shape), names, nodata)
        return [(data, {"name": name, "rgb": False, "metadata": {UNCLEAR_KEY: unclear}}, "image")]
    metadata = {STACK_KEY: stack, AXIS_KEY: channel_axis}
    is_photograph = stack.num_channels == 3 and np.dtype(stack.data.dtype) == np.uint8 and not stack.leading
    if is_photograph and isinstance(stack.data, np.ndarray):
        return [layer_of(np.moveaxis(stack.data, 0, -1), {"name": name, "metadata": metadata, "rgb": True})]
    settings = {"name": name, "metadata": metadata, "rgb": False, "axis_labels": axis_labels(stack)}
    return [layer_of(stack.data, settings)]


def layer_of(data: Any, settings: dict[str, Any]) -> LayerData:
    """An image layer of `data`, at several resolutions where it is large."""
    levels = levels_of(data, settings["rgb"])
    if levels is None:
        return data, settings, "image"
    return levels, {**settings, "multiscale": True}, "image"
