"""What the model sees, as a picture for the viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.normalize import ChannelRecipe, apply_recipes
from e2sam.data.stack import ChannelStack

__all__ = ["composite_of", "step_of"]

# What the model sees is shown at about the resolution at which it sees it.
_SHOWN_SIDE = 1024


def composite_of(
    stack: ChannelStack,
    selection: Sequence[int],
    recipes: Sequence[ChannelRecipe] | Mapping[int, ChannelRecipe],
    matrix: NDArray[Any] | None,
) -> NDArray[np.uint8]:
    """What the encoder is given, (h, w, 3) uint8, at about its own resolution; a student's channels in three groups."""
    block = stack.read(channels=list(selection), step=step_of(stack))
    planes = apply_recipes(block, stack.valid_of(block, list(selection)), [recipes[index] for index in selection])
    if matrix is None:
        count = len(selection)
        thirds = [list(part) for part in np.array_split(np.arange(count), 3)]
        groups = thirds if count >= 3 else [[0], [count - 1], [0]]
        matrix = np.zeros((3, len(selection)), np.float32)
        for row, group in enumerate(groups):
            matrix[row, group] = 1 / len(group)
    shown = np.tensordot(matrix, planes, axes=1).transpose(1, 2, 0)
    return np.ascontiguousarray(np.clip(255 * shown + 0.5, 0, 255).astype(np.uint8))


def step_of(stack: ChannelStack) -> int:
    """Every how many pixels a stack is read for a picture."""
    return max(1, int(np.ceil(max(stack.size) / (2 * _SHOWN_SIDE))))
