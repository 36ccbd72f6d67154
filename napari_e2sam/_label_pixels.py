"""Pixels of label layers: written so that only what changed is drawn again, and read from the user's strokes."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from e2sam.data.masks import Box

__all__ = ["make_room", "painted_box", "put_labels"]

# Past this many changed pixels, index arrays cost more than one full redraw.
_MOST_INDEXED = 600_000


def make_room(layer: Labels, labels: NDArray[Any]) -> None:
    """Have a layer hold numbers as large as those of `labels`."""
    if labels.max(initial=0) > np.iinfo(layer.data.dtype).max:
        layer.data = layer.data.astype(np.int32)


def put_labels(layer: Labels, box: Box, labels: NDArray[Any]) -> None:
    """Put labels (h, w) into a box of a layer, and have only what changed drawn again."""
    x0, y0, x1, y1 = box
    window = layer.data[y0:y1, x0:x1]
    changed = window != labels
    if not changed.any():
        return
    if not layer.visible:
        # napari keeps no picture of it that could be drawn again, or one of another view; it makes one to show it.
        np.copyto(window, labels, casting="unsafe")
        return
    if layer.data.dtype.itemsize <= 2:
        # Of such a layer napari draws the data themselves, and of them the box of the pixels that it is given.
        corners = _extremes(changed)
        before = window[corners]
        np.copyto(window, labels, casting="unsafe")
        window[corners] = before
        rows, columns = corners
    else:
        rows, columns = np.nonzero(changed)
    if rows.size > _MOST_INDEXED:
        window[...] = labels
        layer.refresh(extent=False)
        return
    values = np.asarray(labels[rows, columns], layer.data.dtype)
    layer.data_setitem((rows + y0, columns + x0), values)


def painted_box(event: Any) -> tuple[Box, NDArray[Any], NDArray[np.bool_]] | None:
    """Box that a layer's "paint" event painted in, new labels (h, w), and where in it they hold; None for no pixel."""
    strokes = [_stroke(atom, event.source.data.shape) for atom in event.value]
    rows = np.concatenate([stroke[0] for stroke in strokes])
    columns = np.concatenate([stroke[1] for stroke in strokes])
    if rows.size == 0:
        return None
    x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    labels, is_painted = np.zeros((y1 - y0, x1 - x0), np.int32), np.zeros((y1 - y0, x1 - x0), bool)
    for stroke_rows, stroke_columns, value in strokes:
        labels[stroke_rows - y0, stroke_columns - x0] = value
        is_painted[stroke_rows - y0, stroke_columns - x0] = True
    return (x0, y0, x1, y1), labels, is_painted


def _extremes(changed: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of four chosen pixels, or fewer, whose bounding box is that of all."""
    rows, columns = np.flatnonzero(changed.any(axis=1))[[0, -1]], np.flatnonzero(changed.any(axis=0))[[0, -1]]
    places = {(int(row), int(np.argmax(changed[row]))) for row in rows}
    places |= {(int(np.argmax(changed[:, column])), int(column)) for column in columns}
    found = np.array(sorted(places), np.intp)
    return found[:, 0], found[:, 1]


def _stroke(atom: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp], Any]:
    """Rows, columns and new label of one of napari's strokes: (index arrays, old, new), or a masked box.

    Since napari 0.9 the brush, fill and polygon give a box of slices, a mask in it or None for all of it, and what was
    there before.
    """
    place, value = atom[0], atom[-1]
    if not isinstance(place[-1], slice):
        return np.atleast_1d(place[-2]), np.atleast_1d(place[-1]), value
    (top, bottom, _), (left, right, _) = (part.indices(length) for part, length in zip(place, shape, strict=True))
    mask = np.ones((bottom - top, right - left), bool) if atom[1] is None else np.asarray(atom[1], bool)
    rows, columns = np.nonzero(mask.reshape(bottom - top, right - left))
    return rows + top, columns + left, value
