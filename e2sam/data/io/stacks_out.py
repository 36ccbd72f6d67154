"""Stacks out: one TIFF that `read_stack` reads back as it was."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tifffile

from e2sam.data.checks import check_kind, checked_path
from e2sam.data.io.labels import replace_file
from e2sam.data.io.source import suffix_of
from e2sam.data.io.tiff_metadata import tags_to_write
from e2sam.data.stack import ChannelStack
from e2sam.errors import StackError

__all__ = ["write_stack"]


def write_stack(path: str | os.PathLike[str], stack: ChannelStack) -> Path:
    """Write a single scene as TIFF, axes CYX, zlib-compressed, channels in its JSON description; whole or not at all.

    Parameters
    ----------
    path
        Ends in .tif or .tiff.
    stack
        (C, H, W) of a type that TIFF holds; read whole.

    Raises
    ------
    StackError
        If it is a series or volume, or the suffix is another.
    """
    target = checked_path(path, "a TIFF to write", StackError)
    check_kind(stack, ChannelStack, "a ChannelStack, as read_stack opens one", StackError)
    if suffix_of(target) not in (".tif", ".tiff"):
        raise StackError(f"Expected a file name ending in .tif or .tiff, got {target.name!r}.")
    data = stack.read()
    facts = {"axes": "CYX", "channels": [asdict(spec) for spec in stack.channels]}
    replace_file(
        target,
        lambda part: tifffile.imwrite(
            part,
            np.ascontiguousarray(data),
            compression="zlib",
            photometric="minisblack",
            metadata=facts,
            extratags=tags_to_write(stack.geo),
        ),
    )
    return target
