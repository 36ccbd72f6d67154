"""Content hashes: by which a session notices that an image has changed or has only moved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from e2sam.data.stack import ChannelStack
from e2sam.errors import StackError

__all__ = ["content_hash", "files_of", "hash_files", "hash_pixels"]

_BLOCK = 64 * 1024
_NUM_BLOCKS = 32


def files_of(path: Path) -> list[Path]:
    """The files behind a path: itself, or for a folder all files below it, sorted."""
    if path.is_dir():
        return sorted(found for found in path.rglob("*") if found.is_file())
    return [path]


def hash_files(paths: Sequence[Path], full: bool = False) -> str:
    """Hash of the content of files; names and dates have no part in it.

    "fast:..." covers each file's length and 32 blocks of 64 KiB, evenly spread with the first and the last among them:
    2 MiB of reading however large the image, and everything of files up to that size. It notices another image, a
    rewritten or re-compressed one, and any change in length; what it can miss is a change in place of a few
    pixels of an uncompressed file above 2 MiB. "full:..." covers every byte.

    Raises
    ------
    StackError
        If a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        for file in files_of(path):
            try:
                _hash_file(file, digest, full)
            except OSError as error:
                raise StackError(f"Expected an image that can be read, got {error.strerror}: {file}.") from error
    return ("full:" if full else "fast:") + digest.hexdigest()


def hash_pixels(stack: ChannelStack) -> str:
    """ "pixels:..." hash of a stack that has no file: its shape, type and pixels.

    All pixels of one in memory (about a second a gigabyte); of one that is read when it is needed, at most 64 rows and
    columns of each plane.
    """
    data = stack.data
    digest = hashlib.blake2b(f"{tuple(data.shape)} {data.dtype}".encode(), digest_size=16)
    if isinstance(data, np.ndarray) and not isinstance(data, np.memmap):
        for plane in data.reshape(-1, *stack.size):
            digest.update(np.ascontiguousarray(plane).view(np.uint8).data)
        return "pixels:" + digest.hexdigest()
    height, width = stack.size
    window = (..., slice(None, None, max(1, height // 64)), slice(None, None, max(1, width // 64)))
    digest.update(np.ascontiguousarray(data[window]).tobytes())
    return "pixels:" + digest.hexdigest()


def content_hash(stack: ChannelStack, paths: Sequence[Path], full: bool = False) -> str:
    """Hash of a stack by its files where it has any, else by its pixels."""
    return hash_files(paths, full) if paths else hash_pixels(stack)


def _hash_file(path: Path, digest: hashlib.blake2b, full: bool) -> None:
    length = path.stat().st_size
    digest.update(length.to_bytes(8, "little"))
    with path.open("rb") as file:
        if full or length <= _BLOCK * _NUM_BLOCKS:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        for start in np.linspace(0, length - _BLOCK, _NUM_BLOCKS).astype(np.int64):
            file.seek(int(start))
            digest.update(file.read(_BLOCK))
