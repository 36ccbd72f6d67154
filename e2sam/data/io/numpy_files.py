"""NumPy's own files, without pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.io.source import RawImage, reading
from e2sam.data.stack import ChannelSpec
from e2sam.errors import StackError

__all__ = ["read_npy", "read_npz"]

_MAX_LOADED_BYTES = 64 << 20
_NAME_KEYS = ("channels", "channel_names", "names", "bands")


def read_npy(path: Path) -> RawImage:
    """Open a .npy file; mapped where it is large.

    Raises
    ------
    StackError
        If it is damaged or holds Python objects.
    """
    with reading(path, ".npy array of numbers"):
        large = path.stat().st_size > _MAX_LOADED_BYTES
        data = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    if not isinstance(data, np.ndarray):
        raise StackError(f"Expected a .npy array, got another kind of file in {path}.")
    return RawImage(data)


def read_npz(path: Path) -> RawImage:
    """Open a .npz file: its one image, or its several planes of one size as channels, by their keys.

    An array of texts under "channels" or "names" gives the channels' names.

    Raises
    ------
    StackError
        If it is damaged, holds Python objects, or more than one image.
    """
    with reading(path, ".npz archive of arrays of numbers"), np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    names = next((arrays[key] for key in _NAME_KEYS if key in arrays and arrays[key].dtype.kind == "U"), None)
    channels = () if names is None else tuple(ChannelSpec(str(name)) for name in names.ravel())
    images = {key: value for key, value in arrays.items() if value.ndim >= 2 and value.dtype.kind in "buif"}
    planes = {key: value for key, value in images.items() if value.ndim == 2}
    if len(images) == 1:
        return RawImage(next(iter(images.values())), channels=channels)
    if len(planes) > 1 and len(planes) == len(images) and len({value.shape for value in planes.values()}) == 1:
        return _joined(planes)
    shown = ", ".join(f"{key} {value.shape}" for key, value in arrays.items()) or "nothing"
    raise StackError(f"Expected one image, or planes of one size, in {path}, got {shown}: save the one that is meant.")


def _joined(planes: dict[str, NDArray[Any]]) -> RawImage:
    channels = tuple(ChannelSpec(key) for key in planes)
    return RawImage(np.stack(list(planes.values())), axes="CYX", channels=channels)
