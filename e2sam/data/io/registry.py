"""Which reader opens which file, and how what it finds becomes a stack."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from e2sam.data.checks import is_number, is_whole, shown
from e2sam.data.io.axes import AxisOrder, resolve_axes
from e2sam.data.io.folder import common_place, join_channels, names_of_files, sorted_naturally
from e2sam.data.io.labels import is_labels_name
from e2sam.data.io.naming import described, unique_names
from e2sam.data.io.numpy_files import read_npy, read_npz
from e2sam.data.io.pictures import read_jpeg, read_png
from e2sam.data.io.source import LazyView, RawImage, suffix_of
from e2sam.data.io.tiff import read_tiff
from e2sam.data.io.zarr_store import is_zarr, read_zarr
from e2sam.data.stack import ChannelSpec, ChannelStack, LazyArray
from e2sam.errors import AxisError, ChannelError, StackError

__all__ = ["STACK_SUFFIXES", "is_part_of", "read_stack", "read_with_notes", "stem_of"]

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
_ALPHA_SHARE = 0.8
# So many planes may as well be rows, slices or frames, where a file names none of its axes.
_MANY_CHANNELS = 16

_READERS: dict[str, Callable[[Path], RawImage]] = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".btf": read_tiff,
    ".tf8": read_tiff,
    ".npy": read_npy,
    ".npz": read_npz,
    ".png": read_png,
    ".jpg": read_jpeg,
    ".jpeg": read_jpeg,
}
STACK_SUFFIXES = tuple(_READERS)
"""Suffixes of files that `read_stack` opens, lower case; besides them folders and zarr."""


def read_stack(
    path: PathLike | Sequence[PathLike],
    channel_axis: int | str | None = None,
    channel_names: Sequence[str] | None = None,
    *,
    nodata: float | None = None,
) -> ChannelStack:
    """Open an image file, a zarr store, or several aligned files as one stack.

    Pixels of large files stay on disk until they are used.

    Parameters
    ----------
    path
        TIFF (plain, ImageJ, OME, GeoTIFF, BigTIFF, pyramids: full size), .npy, .npz, PNG, JPEG or zarr; a folder or a
        list of single-channel files (colour pictures may be among them), named by what differs in their file names.
        Several images of one shape in one TIFF become planes of a series.
    channel_axis
        Position of the channel axis, or a letter for each axis ("TCYX"); found where None.
    channel_names
        Names of all channels, in order; the file's own where None.
    nodata
        Stored value that means "not measured", in channels for which the file states none.

    Raises
    ------
    StackError
        If there is no such file, it cannot be read, it is not clear which axis holds the channels, or several files are
        not of one size and place on the ground.
    ChannelError
        If the names do not fit, or `nodata` is no number.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "cube.npy")
    >>> np.save(path, np.zeros((4, 32, 48), np.uint16))
    >>> read_stack(path, channel_names=["R", "G", "B", "depth"]).size
    (32, 48)
    """
    stack, notes = read_with_notes(path, channel_axis, channel_names, nodata=nodata)
    for note in notes:
        _log.info(note)
    return stack


def read_with_notes(
    path: PathLike | Sequence[PathLike],
    channel_axis: int | str | None = None,
    channel_names: Sequence[str] | None = None,
    *,
    nodata: float | None = None,
) -> tuple[ChannelStack, list[str]]:
    """As `read_stack`, and a line for each thing in the files that the stack does not hold."""
    notes: list[str] = []
    names = _checked_names(channel_names)
    _check_numbers(channel_axis, nodata)
    named = 0 if names is None else len(names)
    files: list[Path] = []
    if isinstance(path, str | os.PathLike):
        source = Path(path)
        read = _read_folder if _is_folder(source) else _read_file
        stack = read(source, channel_axis, notes, named)
    else:
        files = _listed(path)
        if not files:
            raise StackError("Expected at least one file, got an empty list.")
        source = files[0] if len(files) == 1 else files[0].parent
        is_one = len(files) == 1
        stack = _read_file(files[0], channel_axis, notes, named) if is_one else _joined(files, channel_axis, notes)
    stack = replace(stack, source=source, files=tuple(files) if len(files) > 1 else ())
    return _with_user_facts(stack, names, nodata), notes


def _checked_names(names: Any) -> list[str] | None:
    if names is None:
        return None
    # A name alone would be taken letter by letter.
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise ChannelError(f"Expected channel_names as a list of names, got {shown(names)}: give one for each channel.")
    return [str(name).strip() for name in names]


def _check_numbers(channel_axis: Any, nodata: Any) -> None:
    if not (channel_axis is None or isinstance(channel_axis, str) or is_whole(channel_axis)):
        raise AxisError(
            f"Expected channel_axis as a whole number or a letter for each axis, got {shown(channel_axis)}: "
            "give its position, such as 0, or letters, such as 'TCYX'."
        )
    if not (nodata is None or isinstance(nodata, float | np.floating) or is_number(nodata)):
        raise ChannelError(f"Expected nodata as a number, got {shown(nodata)}: give the stored value, or leave it out.")


def _listed(paths: Any) -> list[Path]:
    expected = "Expected an image file, a folder or a list of files"
    if hasattr(paths, "shape"):
        raise StackError(f"{expected}, got pixels ({type(paths).__name__}): make a ChannelStack of them.")
    if not isinstance(paths, Iterable) or isinstance(paths, bytes | bytearray):
        raise StackError(f"{expected}, got {paths!r}.")
    entries = list(paths)
    wrong = [entry for entry in entries if not isinstance(entry, str | os.PathLike)]
    if wrong:
        raise StackError(f"{expected}, got {type(wrong[0]).__name__} in the list.")
    return [Path(entry) for entry in entries]


def stem_of(path: Path) -> str:
    """What the labels of a stack are called by: a file or a store without its suffix, a folder with the dots it has."""
    return path.absolute().name if _is_folder(path) else path.stem


def is_part_of(target: Path, source: Path) -> bool:
    """Whether a file written to `target` would be read with the stack, or any other file, at `source`.

    That is the file itself, an image in a folder of channels (which would become one more channel), or anything in a
    zarr store.
    """
    if target.exists() and source.exists() and target.samefile(source):
        return True
    if not source.is_dir():
        return False
    if is_zarr(source):
        return source.resolve() in target.resolve().parents
    is_image = suffix_of(target) in _READERS and not is_labels_name(target.name)
    return is_image and source.resolve() == target.resolve().parent


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr(path)


def _read_file(path: Path, channel_axis: int | str | None, notes: list[str], num_named: int = 0) -> ChannelStack:
    """One file as a stack; `num_named` is how many channels the user says it has, or 0."""
    if not path.exists():
        raise StackError(f"Expected an image file, but there is no {path}.")
    if is_zarr(path):
        raw = read_zarr(path)
    elif suffix_of(path) in _READERS:
        if path.stat().st_size == 0:
            raise StackError(f"Expected an image file, got {path}, which is empty (0 bytes).")
        raw = _READERS[suffix_of(path)](path)
    else:
        raise StackError(f"Expected an image file ({', '.join(STACK_SUFFIXES)}, .zarr or a folder), got {path}.")
    if np.dtype(raw.data.dtype).kind not in "buif":
        raise StackError(f"Expected pixels of integer or floating type, got {raw.data.dtype} in {path}.")
    try:
        order = resolve_axes(tuple(int(length) for length in raw.data.shape), raw.axes, channel_axis)
    except StackError as error:
        raise type(error)(f"{path.name}: {error}") from None
    channel = order.order[-3]
    if channel_axis is None and channel is not None and (raw.axes[channel : channel + 1] or "P") not in "CS":
        count = int(raw.data.shape[channel])
        if count > _MANY_CHANNELS and not num_named:
            notes.append(
                f"{path.name} does not say what its axes are: axis {channel} of {tuple(raw.data.shape)} was taken for "
                f"{count} channels. Give channel_axis (--channel-axis) if it is another."
            )
    return _stack_of(raw, order, path, notes, num_named)


def _stack_of(raw: RawImage, order: AxisOrder, path: Path, notes: list[str], num_named: int) -> ChannelStack:
    data: LazyArray = LazyView(raw.data, order.order, path)
    if isinstance(raw.data, np.ndarray) and not isinstance(raw.data, np.memmap):
        pixels = np.asarray(data[...])
        data = pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels
    num_channels = int(data.shape[-3])
    is_named = num_channels in (num_named, len(raw.channels))
    if 0 < raw.num_colours < num_channels and not is_named and (raw.is_alpha_certain or _looks_like_alpha(data)):
        # Alpha is not a band of a photograph; four names say that there are four bands.
        notes.append(
            f"The last of {num_channels} planes of {path.name} was read as alpha and left out: open it with "
            f"{num_channels} channel names (--channel-names) to keep it as a channel."
        )
        num_channels = raw.num_colours
        data = data[..., :num_channels, :, :] if isinstance(data, np.ndarray) else _FirstChannels(data, num_channels)
    channels = _named(raw, num_channels, path)
    channels = described(channels, np.dtype(data.dtype))
    channels = tuple(replace(spec, nodata=raw.nodata) if spec.nodata is None else spec for spec in channels)
    geo = raw.geo
    if geo is not None and _is_turned(raw, order):
        notes.append(
            f"The geo-reference of {path.name} was left out: it holds for rows and columns as they are stored, and the "
            "stack has others."
        )
        geo = None
    return ChannelStack(data, channels, path, geo, order.leading)


def _is_turned(raw: RawImage, order: AxisOrder) -> bool:
    """Whether rows and columns of the stack are not those of the file."""
    rows, columns = [axis for axis in order.order if axis is not None][-2:]
    return rows > columns or (raw.axes != "" and raw.axes[rows] + raw.axes[columns] != "YX")


def _named(raw: RawImage, num_channels: int, path: Path) -> tuple[ChannelSpec, ...]:
    if len(raw.channels) == num_channels:
        names = [spec.name.strip() or f"ch{index}" for index, spec in enumerate(raw.channels)]
        return tuple(replace(spec, name=name) for spec, name in zip(raw.channels, unique_names(names), strict=True))
    if raw.num_colours == 3 and num_channels in (3, 4):
        return tuple(ChannelSpec(name) for name in ("R", "G", "B", "ch3")[:num_channels])
    if num_channels == 1:
        return (ChannelSpec(path.stem.removesuffix(".ome") or "ch0"),)
    return tuple(ChannelSpec(f"ch{index}") for index in range(num_channels))


def _looks_like_alpha(data: LazyArray) -> bool:
    """Whether the last channel is opaque or clear nearly everywhere, as alpha is and depth or infrared are not."""
    step = max(1, min(data.shape[-2:]) // 256)
    leading = (0,) * (len(data.shape) - 3)
    plane = np.asarray(data[(*leading, data.shape[-3] - 1, slice(None, None, step), slice(None, None, step))])
    full = np.iinfo(plane.dtype).max if plane.dtype.kind in "ui" else 1
    return bool(((plane == 0) | (plane == full)).mean() > _ALPHA_SHARE)


def _read_folder(folder: Path, channel_axis: int | str | None, notes: list[str], num_named: int) -> ChannelStack:
    images = [file for file in folder.iterdir() if suffix_of(file) in _READERS and not file.name.startswith(".")]
    files = sorted_naturally(file for file in images if not is_labels_name(file.name))
    if len(files) < len(images):
        notes.append(f"Left out as labels: {len(images) - len(files)} of {len(images)} images in {folder.name}.")
    if not files:
        raise StackError(f"Expected a folder of image files, one for each channel, got none in {folder}.")
    if len(files) == 1:
        return _read_file(files[0], channel_axis, notes, num_named)
    return _joined(files, channel_axis, notes)


def _joined(files: Sequence[Path], channel_axis: int | str | None, notes: list[str]) -> ChannelStack:
    """One stack of several files: single channels, named by their files, and colour pictures."""
    stacks = [_read_file(file, channel_axis, notes) for file in files]
    for file, stack in zip(files, stacks, strict=True):
        if stack.leading:
            raise StackError(f"Expected files of one scene each, got axes {stack.leading}CYX in {file}.")
        if stack.num_channels > 1 and stack.names != ("R", "G", "B"):
            raise StackError(
                f"Expected files of one channel each, got {stack.num_channels} channels in {file}: open it alone."
            )
        if stack.size != stacks[0].size:
            (height, width), (first_height, first_width) = stack.size, stacks[0].size
            raise StackError(
                f"Expected aligned files of one size, got {first_width} x {first_height} in {files[0].name} and "
                f"{width} x {height} in {file.name}: resample one of them."
            )
    data = join_channels([stack.data for stack in stacks])
    names: list[str] = []
    specs: list[ChannelSpec] = []
    for name, stack in zip(names_of_files(files), stacks, strict=True):
        colour = stack.num_channels > 1
        names += [f"{name} {part}" if part in names else part for part in stack.names] if colour else [name]
        specs += stack.channels
    # Kind and unit follow the new name; what a file stated of its one channel stays.
    renamed = [replace(spec, name=name) for spec, name in zip(specs, unique_names(names), strict=True)]
    return ChannelStack(data, described(renamed, np.dtype(data.dtype)), geo=common_place(files, stacks))


def _with_user_facts(stack: ChannelStack, names: list[str] | None, nodata: float | None) -> ChannelStack:
    channels = stack.channels
    if names is not None:
        if len(names) != len(channels):
            raise ChannelError(f"Expected {len(channels)} channel names, got {len(names)}: {', '.join(names[:16])}.")
        renamed = [
            # A kind read from the old name goes with it.
            spec if name == spec.name else ChannelSpec(name, spec.unit, spec.wavelength_nm, "", spec.nodata)
            for spec, name in zip(channels, names, strict=True)
        ]
        channels = described(renamed, np.dtype(stack.data.dtype))
    if nodata is not None:
        channels = tuple(replace(spec, nodata=float(nodata)) if spec.nodata is None else spec for spec in channels)
    return replace(stack, channels=channels)


class _FirstChannels:
    """The first channels of an unread (..., C, H, W) array."""

    def __init__(self, data: LazyArray, count: int) -> None:
        self._data = data
        self.shape = (*data.shape[:-3], count, *data.shape[-2:])
        self.dtype = data.dtype

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        keys += [slice(None)] * (len(self.shape) - len(keys))
        place, count = len(self.shape) - 3, self.shape[-3]
        entry = keys[place]
        if isinstance(entry, slice):
            keys[place] = slice(*entry.indices(count))
        else:
            keys[place] = np.arange(count)[entry] if not isinstance(entry, int) else range(count)[entry]
        return self._data[tuple(keys)]
