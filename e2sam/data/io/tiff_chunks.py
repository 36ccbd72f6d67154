"""Compressed pixels of a TIFF, decoded where they are read."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import WrapperStore

__all__ = ["Decoded"]

# What one read could not decode: zarr reads in a thread of its own, which sees the context of the caller.
_failures: ContextVar[list[Exception]] = ContextVar("_failures")


class Decoded:
    """The pixels of a series, still unread.

    Parameters
    ----------
    series
        Of an open file, which must stay open as long as this is read.
    """

    def __init__(self, series: Any) -> None:
        self._array = zarr.open(_Chunks(series.aszarr()), mode="r")
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype = np.dtype(self._array.dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        failures: list[Exception] = []
        token = _failures.set(failures)
        try:
            block = np.asarray(self._array[key])
        finally:
            _failures.reset(token)
        if failures:
            raise failures[0]
        return block


class _Chunks(WrapperStore[Any]):  # type: ignore[misc]
    """Chunks of a TIFF, of which a damaged one is noted and passed over.

    Raised at once, its error would leave the reads of the other chunks behind without anybody who waits for them.
    """

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().get(*args, **kwargs)
        except Exception as error:
            failures = _failures.get(None)
            if failures is None:
                raise
            failures.append(error)
            return None
