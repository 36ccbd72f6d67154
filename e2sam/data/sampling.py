"""A bounded sample of a stack's pixels, for statistics of stacks of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import ChannelStack

__all__ = ["sample_blocks", "sample_pixels", "scene_of"]

_MAX_STRIDED_PIXELS = 1 << 24
_BLOCK = 128


def scene_of(stack: ChannelStack) -> ChannelStack:
    """The (C, H, W) scene that stands for a series or volume in statistics: the middle of each leading axis."""
    return stack.plane(*(length // 2 for length in stack.num_planes))


def sample_pixels(
    stack: ChannelStack, rows: slice | None = None, columns: slice | None = None, max_values: int = 1 << 22
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Regularly spaced pixels of a stack or of a window of it.

    Every k-th row and column where reading the whole window is cheap, else a grid of blocks, so that a compressed
    stack larger than memory is decoded in a few places only. Values next to each other need not be neighbours in the
    image; `sample_blocks` keeps neighbours.

    Returns
    -------
    values, valid
        (C, h, w) in the stored type, and (C, h, w) bool, which of them were measured.
    """
    scene = scene_of(stack)
    top, bottom, _ = (rows or slice(None)).indices(scene.size[0])
    left, right, _ = (columns or slice(None)).indices(scene.size[1])
    height, width = max(bottom - top, 0), max(right - left, 0)
    if height * width * scene.num_channels > _MAX_STRIDED_PIXELS and not isinstance(scene.data, np.ndarray):
        return sample_blocks(scene, slice(top, bottom), slice(left, right), max_values)
    step = max(1, int(np.ceil(np.sqrt(height * width * scene.num_channels / max_values))))
    values = scene.read(slice(top, bottom), slice(left, right), step=step)
    return values, scene.valid_of(values)


def sample_blocks(
    stack: ChannelStack, rows: slice | None = None, columns: slice | None = None, max_values: int = 1 << 22
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Square blocks of neighbouring pixels from a regular grid over a stack or a window of it.

    Returns
    -------
    values, valid
        The window itself, (C, h, w), where it is small; else (C, 128, 128 n), n blocks side by side; and
        which values were measured, bool of the same shape.
    """
    scene = scene_of(stack)
    top, bottom, _ = (rows or slice(None)).indices(scene.size[0])
    left, right, _ = (columns or slice(None)).indices(scene.size[1])
    per_channel = max_values // scene.num_channels
    height, width = bottom - top, right - left
    if height * width <= max(per_channel, _BLOCK * _BLOCK) or min(height, width) < _BLOCK:
        step = max(1, int(np.ceil(height * width / max(8 * per_channel, 1))))
        values = scene.read(slice(top, bottom), slice(left, right), step=step)
        return values, scene.valid_of(values)
    num_blocks = max(4, per_channel // (_BLOCK * _BLOCK))
    down = max(1, round(np.sqrt(num_blocks * height / width)))
    down = min(down, height // _BLOCK, num_blocks)
    across = min(max(1, num_blocks // down), width // _BLOCK)
    blocks = [
        scene.read(slice(y, y + _BLOCK), slice(x, x + _BLOCK))
        for y in _starts(top, height, down)
        for x in _starts(left, width, across)
    ]
    values = np.concatenate(blocks, axis=2)
    return values, scene.valid_of(values)


def _starts(start: int, length: int, count: int) -> list[int]:
    centres = start + (np.arange(count) + 0.5) * length / count
    return [int(np.clip(centre - _BLOCK / 2, start, start + length - _BLOCK)) for centre in centres]
