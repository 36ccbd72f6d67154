"""Arrays (..., C, H, W) whose pixels are worked out window by window, when they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WindowedArray"]


class WindowedArray(ABC):
    """A lazy array for `ChannelStack.data`: a subclass gives windows of single channels, this the indexing.

    Rows and columns are read by slices of positive step, channels by index, slice or list.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def plane(self, leading: tuple[Any, ...], channel: int, rows: range, columns: range) -> NDArray[Any]:
        """Pixels (..., h, w) of one channel at the given rows and columns, of which there is at least one each."""

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts = (*parts[:at], *(slice(None),) * (len(self.shape) - len(parts) + 1), *parts[at + 1 :])
        parts = (*parts, *(slice(None),) * (len(self.shape) - len(parts)))
        if not all(isinstance(part, slice) and (part.step is None or part.step > 0) for part in parts[-2:]):
            raise IndexError("Expected rows and columns as slices of positive step.")
        leading, channels = parts[:-3], parts[-3]
        rows = range(*parts[-2].indices(self.shape[-2]))
        columns = range(*parts[-1].indices(self.shape[-1]))
        if isinstance(channels, int | np.integer):
            return self._window(leading, int(channels), rows, columns)
        wanted = range(self.shape[-3])[channels] if isinstance(channels, slice) else list(channels)
        return np.stack([self._window(leading, int(index), rows, columns) for index in wanted], axis=-3)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def _window(self, leading: tuple[Any, ...], channel: int, rows: range, columns: range) -> NDArray[Any]:
        if not rows or not columns:
            return np.zeros((len(rows), len(columns)), self.dtype)
        return self.plane(leading, channel, rows, columns)
