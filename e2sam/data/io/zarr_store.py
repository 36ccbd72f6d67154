"""Zarr arrays and OME-Zarr images (level 0), read where used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from e2sam.data.io.folder import sorted_naturally
from e2sam.data.io.source import RawImage, reading
from e2sam.data.stack import ChannelSpec
from e2sam.errors import StackError

__all__ = ["is_zarr", "read_zarr"]

_MARKERS = ("zarr.json", ".zarray", ".zgroup")
# Attribute of a group that holds each image in a group of its own (OME-Zarr 0.5, section 2.2).
_LAYOUT = "bioformats2raw.layout"
_MAX_SHOWN = 8


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return path.is_dir() and any((path / marker).is_file() for marker in _MARKERS)


def read_zarr(path: Path) -> RawImage:
    """Open a zarr array, or the full-size image of an OME-Zarr group.

    Raises
    ------
    StackError
        If the store is damaged, or a group without an image.
    """
    with reading(path, "zarr store"):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return RawImage(node, axes=_named_axes(node))
        return _ome_image(node, path)


def _ome_image(group: Any, path: Path) -> RawImage:
    attributes = _attributes(group)
    if "multiscales" in attributes:
        image = attributes["multiscales"][0]
        array = group[image["datasets"][0]["path"]]
        # 0.4 and newer write {"name": "c", "type": "channel"}; 0.3 wrote "c".
        written = [axis["name"] if isinstance(axis, Mapping) else axis for axis in image.get("axes") or []]
        return RawImage(array, axes=_letters(written, array.ndim), channels=_omero_channels(attributes))
    members = dict(group.members())
    images = sorted_naturally(path / name for name, node in members.items() if "multiscales" in _attributes(node))
    if _LAYOUT in attributes and len(images) == 1:
        return _ome_image(members[images[0].name], path)
    arrays = [node for node in members.values() if isinstance(node, zarr.Array)]
    if len(arrays) == 1:
        return RawImage(arrays[0], axes=_named_axes(arrays[0]))
    if images:
        shown = ", ".join(image.name for image in images[:_MAX_SHOWN]) + (", ..." if len(images) > _MAX_SHOWN else "")
        raise StackError(
            f"Expected one image, got the images {shown} in the groups of {path}: open one, such as {images[0]}."
        )
    raise StackError(f"Expected a zarr array or an OME-Zarr image, got a group of {len(arrays)} arrays in {path}.")


def _attributes(node: Any) -> dict[str, Any]:
    attributes = dict(node.attrs)
    # OME-Zarr 0.5 keeps its metadata under "ome", 0.4 and older at the top.
    newer = attributes.get("ome")
    return newer if isinstance(newer, dict) else attributes


def _named_axes(array: Any) -> str:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return _letters([str(name) for name in names], array.ndim)


def _letters(names: list[str], ndim: int) -> str:
    long = {"time": "T", "channel": "C", "band": "C", "wavelength": "C"}
    letters = "".join(long.get(name.lower(), name.upper()[:1]) for name in names)
    known = len(letters) == ndim and set(letters) <= set("TZCYX") and {"Y", "X"} <= set(letters)
    return letters if known else ""


def _omero_channels(attributes: Mapping[str, Any]) -> tuple[ChannelSpec, ...]:
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list):
        return ()
    labels = [channel.get("label") if isinstance(channel, Mapping) else None for channel in channels]
    return tuple(ChannelSpec("" if label is None else str(label)) for label in labels)
