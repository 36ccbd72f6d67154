"""Reads every format of `e2sam.read_stack` into napari: the stack as one layer, and a composite on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_e2sam._convert import AXIS_KEY, STACK_KEY, axis_labels

__all__ = ["get_reader", "read"]

LayerData = tuple[Any, dict[str, Any], str]
SUFFIXES = (".tif", ".tiff", ".npy", ".npz", ".png", ".jpg", ".jpeg")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The reader of a path or of a list of single-channel files, or None where it is none of ours."""
    paths = [Path(path)] if isinstance(path, str) else [Path(entry) for entry in path]
    if all(entry.suffix.lower() in SUFFIXES or entry.is_dir() for entry in paths):
        return read
    return None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of one stack."""
    from e2sam import read_stack

    paths = path if isinstance(path, str) else [str(entry) for entry in path]
    stack = read_stack(paths)
    name = Path(path if isinstance(path, str) else path[0]).stem
    metadata = {STACK_KEY: stack, AXIS_KEY: None}
    is_photograph = stack.num_channels == 3 and np.dtype(stack.data.dtype) == np.uint8 and not stack.leading
    if is_photograph and isinstance(stack.data, np.ndarray):
        return [(np.moveaxis(stack.data, 0, -1), {"name": name, "metadata": metadata, "rgb": True}, "image")]
    return [
        (stack.data, {"name": name, "metadata": metadata, "rgb": False, "axis_labels": axis_labels(stack)}, "image")
    ]
