"""What the model sees, as a picture for the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.masks import Box
from e2sam.data.normalize import ChannelRecipe, apply_recipes
from e2sam.data.stack import ChannelStack
from napari_e2sam._pyramid import levels_of

__all__ = ["Composite", "step_of"]

# Longest side of what is read for a picture of a whole image, and of the part of it that the user looks at.
_SHOWN_SIDE = 2048
# How far the part reaches beyond the view on each side, so that a small move needs no other, as a share of the view.
_AROUND = 0.25


class Composite:
    """What the encoder is given, as (H, W, 3) uint8 pixels of the image; a student's channels in three groups.

    A large image is read at every n-th pixel, and again at more of them in the part that the user looks at.

    Parameters
    ----------
    stack
        A single scene.
    selection
        Indices of the channels.
    recipes
        Normalization of each channel of the stack.
    matrix
        (3, C) weights of the selected channels in each plane; None = groups of channels.
    view
        The part of the image on the screen, as (x0, y0, x1, y1).
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        stack: ChannelStack,
        selection: Sequence[int],
        recipes: Sequence[ChannelRecipe],
        matrix: NDArray[Any] | None,
        view: Box | None = None,
    ) -> None:
        height, width = stack.size
        self.shape = (height, width, 3)
        self._stack = stack
        self._selection = tuple(selection)
        self._recipes = [recipes[index] for index in selection]
        self._matrix = _groups(len(selection)) if matrix is None else np.asarray(matrix, np.float32)
        self._step = step_of(stack)
        self._whole = self._read((0, 0, width, height), self._step)
        self._part: tuple[Box, int, NDArray[np.uint8]] | None = None
        if view is not None and self.is_coarse_in(view):
            self.look_closer(view)

    @property
    def levels(self) -> list[Any] | NDArray[np.uint8]:
        """What napari is to draw: the pixels, or, of a large image, its resolutions, finest first."""
        return levels_of(self, is_rgb=True, whole_side=_SHOWN_SIDE) or self._whole

    def is_coarse_in(self, view: Box) -> bool:
        """Whether `look_closer` would show more of a view."""
        step = _step_in(view)
        if step >= self._step:
            return False
        if self._part is None:
            return True
        (x0, y0, x1, y1), finest, _ = self._part
        return finest > step or view[0] < x0 or view[1] < y0 or view[2] > x1 or view[3] > y1

    def look_closer(self, view: Box) -> None:
        """Read the part of the image around a view at the resolution that its screen shows."""
        height, width = self.shape[:2]
        step = _step_in(view)
        around = [round(_AROUND * (view[axis + 2] - view[axis])) for axis in (0, 1)]
        box = (
            max(view[0] - around[0], 0),
            max(view[1] - around[1], 0),
            min(view[2] + around[0], width),
            min(view[3] + around[1], height),
        )
        # One assignment: the viewer may draw meanwhile.
        self._part = box, step, self._read(box, step)

    def __getitem__(self, key: tuple[slice, slice, Any]) -> NDArray[np.uint8]:
        """Pixels of rows and columns, as `Decimated` asks for them; what was not read is like its neighbours."""
        y, x = (np.arange(length)[part] for length, part in zip(self.shape[:2], key[:2], strict=True))
        shown = self._whole[_places(y, self._step)][:, _places(x, self._step)]
        if self._part is not None:
            shown = shown.copy()
            (x0, y0, x1, y1), step, pixels = self._part
            rows, columns = slice(*np.searchsorted(y, (y0, y1))), slice(*np.searchsorted(x, (x0, x1)))
            shown[rows, columns] = pixels[((y[rows] - y0) // step)[:, None], (x[columns] - x0) // step]
        return shown[..., key[2]]

    def _read(self, box: Box, step: int) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = box
        shown = np.zeros((3, -(-(y1 - y0) // step), -(-(x1 - x0) // step)), np.float32)
        # Channel by channel: all of a hyperspectral cube at once may be larger than memory.
        for place, (index, recipe) in enumerate(zip(self._selection, self._recipes, strict=True)):
            block = self._stack.read(slice(y0, y1), slice(x0, x1), [index], step)
            plane = apply_recipes(block, self._stack.valid_of(block, [index]), [recipe])[0]
            for weight, sum_of_planes in zip(self._matrix[:, place], shown, strict=True):
                if weight:
                    sum_of_planes += weight * plane
        return np.ascontiguousarray(np.clip(255 * shown + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def step_of(stack: ChannelStack) -> int:
    """Every how many pixels a stack is read for a picture of all of it."""
    return _step_in((0, 0, stack.size[1], stack.size[0]))


def _places(at: NDArray[np.intp], step: int) -> NDArray[np.intp] | slice:
    """Where pixels lie among every `step`-th one; a slice, which copies nothing, where that is as regular."""
    found = at // step
    strides = np.unique(np.diff(found))
    if len(strides) == 1 and strides[0] > 0:
        return slice(int(found[0]), int(found[-1]) + 1, int(strides[0]))
    return found


def _step_in(view: Box) -> int:
    return max(1, -(-max(view[2] - view[0], view[3] - view[1]) // _SHOWN_SIDE))


def _groups(count: int) -> NDArray[np.float32]:
    thirds = [list(part) for part in np.array_split(np.arange(count), 3)]
    matrix = np.zeros((3, count), np.float32)
    for row, group in enumerate(thirds if count >= 3 else [[0], [count - 1], [0]]):
        matrix[row, group] = 1 / len(group)
    return matrix
