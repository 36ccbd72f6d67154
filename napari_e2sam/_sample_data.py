"""Sample stacks: a photograph with its disparity, and a synthetic scene of 16 channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._convert import STACK_KEY, axis_labels

__all__ = ["motorcycle", "motorcycle_stack", "synthetic"]

LayerData = tuple[Any, dict[str, Any], str]


def motorcycle_stack() -> ChannelStack:
    """The RGB-D photograph of scikit-image: R, G, B and disparity, (4, 500, 741) float32."""
    from skimage.data import stereo_motorcycle

    left, _, disparity = stereo_motorcycle()
    colour = np.moveaxis(np.asarray(left), -1, 0).astype(np.float32)
    data = np.concatenate([colour, np.asarray(disparity, np.float32)[None]])
    channels = (
        *(ChannelSpec(name, kind="colour") for name in ("R", "G", "B")),
        ChannelSpec("disparity", unit="px", kind="disparity"),
    )
    return ChannelStack(data, channels)


def motorcycle() -> list[LayerData]:
    """Layers of the RGB-D photograph."""
    return [_layer(motorcycle_stack(), "motorcycle (RGB-D)")]


def synthetic() -> list[LayerData]:
    """Layers of a synthetic scene of 16 channels."""
    from e2sam.data.synthetic.stack import synthetic_stack

    stack, _ = synthetic_stack(7, num_channels=16, size=(384, 512))
    return [_layer(stack, "synthetic (16 channels)")]


def _layer(stack: ChannelStack, name: str) -> LayerData:
    return (
        stack.data,
        {"name": name, "metadata": {STACK_KEY: stack}, "rgb": False, "axis_labels": axis_labels(stack)},
        "image",
    )
