"""Writes a Labels layer as a label TIFF or PNG; the geo-reference of the stack is kept where the layer has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["write_labels"]


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write the labels of one layer; returns the paths that were written."""
    from e2sam import write_labels as write

    geo = meta.get("metadata", {}).get("e2sam_geo")
    write(Path(path), np.asarray(data), geo)
    return [path]
