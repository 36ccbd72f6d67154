"""Label images out and in: instance ids, classes or one mask, as TIFF (geo-reference kept) or PNG."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from e2sam.data.checks import check_kind, checked_path
from e2sam.data.io.source import reading, suffix_of
from e2sam.data.io.tiff_metadata import tags_to_write
from e2sam.data.io.tiff_series import chosen_series
from e2sam.data.stack import GeoReference
from e2sam.errors import StackError

__all__ = ["is_labels_name", "read_labels", "replace_file", "write_labels"]

_TIFF = (".tif", ".tiff")
_MAX_PNG_LABEL = 65535
# What this and other commands write, scenes of a series included, and what `finetune` reads as labels.
_LABELS_NAME = re.compile(r"_(labels|percent)(_\d{4,})*\.tiff?$|_labels\.png$", re.IGNORECASE)
# Place of the colour type in a PNG's header (PNG specification, 11.2.2), and its value for indexed colours.
_COLOUR_TYPE_AT, _INDEXED = 25, 3


def is_labels_name(name: str) -> bool:
    """Whether a file is called as labels are, NAME_labels.tif: where images are looked for, it is none.

    Examples
    --------
    >>> [is_labels_name(name) for name in ("a_labels.tif", "a_labels_0002.tif", "a.tif")]
    [True, True, False]
    """
    return _LABELS_NAME.search(name) is not None


def write_labels(path: str | os.PathLike[str], labels: NDArray[Any], geo: GeoReference | None = None) -> Path:
    """Write a label image; the file appears whole or not at all.

    Parameters
    ----------
    path
        Ends in .tif or .tiff (zlib-compressed, with the tags of `geo` unchanged) or .png (labels up to 65535).
    labels
        (H, W) bool or integer, at least 0; stored in the smallest unsigned type that holds them.
    geo
        Reference of the stack that the labels were made on.

    Raises
    ------
    StackError
        If the array is no label image, the suffix is unknown, or the path or `geo` is of another type.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = write_labels(pathlib.Path(tempfile.mkdtemp(), "cells.tif"), np.eye(5, dtype=int))
    >>> read_labels(path).dtype, int(read_labels(path).sum())
    (dtype('uint8'), 5)
    """
    target = checked_path(path, "a label image", StackError)
    if geo is not None:
        check_kind(geo, GeoReference, "a GeoReference or None as geo", StackError)
    array = _checked(labels)
    if suffix_of(target) in _TIFF:
        extra = tags_to_write(geo)
        replace_file(
            target,
            lambda part: tifffile.imwrite(
                part, array, compression="zlib", photometric="minisblack", extratags=extra, metadata={"axes": "YX"}
            ),
        )
    elif suffix_of(target) == ".png":
        if array.size and int(array.max()) > _MAX_PNG_LABEL:
            raise StackError(f"Expected labels up to {_MAX_PNG_LABEL} for a PNG, got {int(array.max())}: write a TIFF.")
        replace_file(target, lambda part: part.write_bytes(imagecodecs.png_encode(array)))
    else:
        raise StackError(f"Expected a file name ending in .tif or .png, got {target.name!r}.")
    return target


def read_labels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a label image that `write_labels` or another tool wrote.

    Of indexed colours the indices are the labels (PASCAL VOC); other colours are read where all their planes are equal.

    Returns
    -------
    NDArray
        (H, W) of an integer type.

    Raises
    ------
    StackError
        If the file is missing, damaged, or no label image.
    """
    if not isinstance(path, str | os.PathLike):
        raise StackError(f"Expected the path of a label image, got {type(path).__name__}.")
    source = Path(path)
    if not source.exists():
        raise StackError(f"Expected a label image, but there is no {source}.")
    with reading(source, "label image"):
        if suffix_of(source) in _TIFF:
            array = _read_tiff(source)
        elif suffix_of(source) == ".png":
            array = _read_png(source)
        elif suffix_of(source) == ".npy":
            array = np.load(source, allow_pickle=False)
        else:
            raise StackError(f"Expected a label image in .tif, .png or .npy, got {source.name!r}.")
    array = np.squeeze(_one_plane(array, source)) if array.ndim > 2 else array
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise StackError(f"Expected labels (H, W) of an integer type, got {array.shape} {array.dtype} in {source}.")
    labels: NDArray[Any] = array.astype(np.uint8) if array.dtype.kind == "b" else array
    return labels


def _read_tiff(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        found = chosen_series(file, path)
        if len(found) > 1:
            raise StackError(f"Expected one label image in {path}, got {len(found)}: save the one that is meant alone.")
        return np.asarray(found[0].asarray(maxworkers=1))


def _read_png(path: Path) -> NDArray[Any]:
    encoded = path.read_bytes()
    if encoded[_COLOUR_TYPE_AT : _COLOUR_TYPE_AT + 1] != bytes([_INDEXED]):
        decoded: NDArray[Any] = imagecodecs.png_decode(encoded)
        return decoded
    from PIL.PngImagePlugin import PngImageFile

    # Not Image.open, which refuses what is large.
    with PngImageFile(io.BytesIO(encoded)) as picture:
        return np.asarray(picture)


def _one_plane(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """(H, W) of interleaved samples (H, W, 2..4), whose last may be alpha; other arrays as they are."""
    if array.ndim != 3 or array.shape[2] not in (2, 3, 4):
        return array
    colours = array[..., : 1 if array.shape[2] == 2 else 3]
    if (colours != colours[..., :1]).any():
        raise StackError(
            f"Expected labels in one plane, got a colour picture in {path}: save them as a grey image or with indexed "
            "colours."
        )
    return colours[..., 0]


def _checked(labels: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "bui" or 0 in array.shape:
        raise StackError(f"Expected labels (H, W) of an integer type, got {array.shape} {array.dtype}.")
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0:
        raise StackError(f"Expected labels of at least 0, got {smallest}.")
    if largest > np.iinfo(np.uint32).max:
        raise StackError(f"Expected labels up to {np.iinfo(np.uint32).max}, got {largest}.")
    return array.astype(np.min_scalar_type(largest))


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside the target, then put it in its place; on failure the target stays as it was.

    Raises
    ------
    StackError
        If the folder does not exist, or the file cannot be written.
    """
    part = target.with_name(f".{target.stem}.{uuid4().hex[:8]}{target.suffix}")
    try:
        write(part)
        part.replace(target)
    except OSError as error:
        if not target.parent.is_dir():
            raise StackError(
                f"Expected a folder {target.parent} to write {target.name} to, but there is none."
            ) from error
        raise StackError(f"Expected to write {target}, got: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
