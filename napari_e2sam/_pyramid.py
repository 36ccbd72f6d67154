"""Large images at several resolutions, so that the viewer draws what fits the screen and never the whole plane.

Every level is a view of the same pixels, read when it is shown: nothing is computed and nothing copied beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decimated", "levels_of"]

# Up to this side a plane is one texture, which is the faster way to move it about.
_WHOLE_SIDE = 4096
_COARSEST_SIDE = 1024


def levels_of(data: Any, is_rgb: bool = False, whole_side: int | None = None) -> list[Any] | None:
    """Resolutions of an array (..., H, W), or (..., H, W, 3) of colours, finest first.

    None where one is enough: no side is longer than `whole_side`, or than what is quick to draw as one texture.
    """
    height, width = data.shape[-3:-1] if is_rgb else data.shape[-2:]
    if max(height, width) <= (whole_side or _WHOLE_SIDE) or min(height, width) < 2:
        return None
    # napari asks more of a level than of an image: an array that is still on disk is wrapped.
    levels, step = [data if isinstance(data, np.ndarray) else Decimated(data, 1, is_rgb)], 2
    while max(height, width) / (step / 2) > _COARSEST_SIDE and min(height, width) >= step:
        levels.append(Decimated(data, step, is_rgb))
        step *= 2
    return levels


class Decimated:
    """Every `step`-th row and column of an array whose pixels may stay on disk.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(36).reshape(6, 6)
    >>> Decimated(image, 2)[1:, 0].tolist()
    [12, 24]
    """

    def __init__(self, data: Any, step: int, is_rgb: bool = False) -> None:
        self._data = data
        self._step = step
        self.dtype = np.dtype(data.dtype)
        self._first = len(data.shape) - (3 if is_rgb else 2)
        self.shape = tuple(
            -(-int(length) // step) if self._first <= axis < self._first + 2 else int(length)
            for axis, length in enumerate(data.shape)
        )
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = list(key) if isinstance(key, tuple) else [key]
        for at in [position for position, one in enumerate(keys) if one is Ellipsis]:
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        for axis in (self._first, self._first + 1):
            keys[axis] = self._finer(keys[axis], self.shape[axis])
        return np.asarray(self._data[tuple(keys)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def _finer(self, key: Any, length: int) -> Any:
        """What a key of this level is on the finest one."""
        if not isinstance(key, slice):
            return int(range(length)[int(key)]) * self._step
        start, stop, step = key.indices(length)
        if step < 1:
            raise IndexError(f"Expected a step of at least 1, got {step}.")
        first = start * self._step
        return slice(first, (stop - 1) * self._step + 1 if stop > start else first, step * self._step)
