"""Leaves out of a viewer's frames what nobody can see: without a graphics card each layer costs milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer
from numpy.typing import NDArray

__all__ = ["Undrawn", "canvas_of"]

_OPAQUE = ("opaque", "translucent", "translucent_no_depth")
# What decides whether a layer hides those below it.
_DECISIVE = ("visible", "opacity", "blending", "scale", "translate", "rotate", "shear", "affine")


class Undrawn:
    """Has napari not draw images under an opaque cover, nor an empty layer; the layers themselves stay as they are.

    napari has no public switch for this; where a version lacks what is asked for here, everything is drawn.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._cover: Image | None = None
        self._left_out: tuple[Layer, ...] = ()
        self._empty: Layer | None = None
        for emitter, callback in self._connections():
            emitter.connect(callback)

    def close(self) -> None:
        """Let go of the viewer; everything is drawn again."""
        for emitter, callback in self._connections():
            emitter.disconnect(callback)
        self.cover_with(None)
        self.leave_out_empty(None)

    def _connections(self) -> Iterator[tuple[Any, Callable[[], None]]]:
        viewer = self._viewer
        yield from (
            (getattr(viewer.layers.events, name), self._on_listed) for name in ("inserted", "removed", "reordered")
        )
        yield viewer.dims.events.ndisplay, self._update
        yield self._grid.events.enabled, self._update

    @property
    def _grid(self) -> Any:
        # napari 0.9 moved the grid into the canvas; older ones have it on the viewer.
        return self._viewer.canvas.grid if hasattr(self._viewer, "canvas") else self._viewer.grid

    def cover_with(self, layer: Image | None) -> None:
        """Leave out images that lie wholly under a layer, as long as it hides them; None draws them again."""
        for one, change in ((self._cover, "disconnect"), (layer, "connect")):
            if one is not None:
                for name in _DECISIVE:
                    getattr(one.events[name], change)(self._update)
        self._cover = layer
        self._update()

    def uncover(self, layer: Layer) -> None:
        """Draw all images again, where this layer is the cover."""
        if layer is self._cover:
            self.cover_with(None)

    def leave_out_empty(self, layer: Layer | None) -> None:
        """Leave out a layer that is empty until another is, None is, or the list of layers changes."""
        if self._empty is not None and layer is not self._empty:
            self._draw(self._empty, True)
        self._empty = layer
        if layer is not None:
            self._draw(layer, False)

    def _on_listed(self) -> None:
        # napari has crashed where layers went or changed places while one of labels was left out.
        self.leave_out_empty(None)
        self._update()

    def _update(self) -> None:
        left_out = self._hidden()
        for layer in self._left_out:
            if layer not in left_out:
                self._draw(layer, True)
        for layer in left_out:
            self._draw(layer, False)
        self._left_out = left_out

    def _hidden(self) -> tuple[Layer, ...]:
        """Images wholly under the cover."""
        cover, viewer = self._cover, self._viewer
        if cover is None or cover not in viewer.layers or viewer.dims.ndisplay != 2 or self._grid.enabled:
            return ()
        if not (cover.visible and cover.opacity == 1 and cover.blending in _OPAQUE and _is_upright(cover)):
            return ()
        low, high = _edges(cover)
        # Rounding is no hole.
        slack = 1e-3 * np.abs(cover.scale[-2:])
        inside = []
        for layer in viewer.layers[: viewer.layers.index(cover)]:
            if isinstance(layer, Image):
                first, last = _edges(layer)
                if (first >= low - slack).all() and (last <= high + slack).all():
                    inside.append(layer)
        return tuple(inside)

    def _draw(self, layer: Layer, is_drawn: bool) -> None:
        """Draw a layer if it is visible, or leave it out."""
        # A window that is being closed has no canvas any more.
        with suppress(RuntimeError):
            visual = getattr(canvas_of(self._viewer), "layer_to_visual", {}).get(layer)
            node = getattr(visual, "node", None)
            wanted = is_drawn and layer.visible
            if node is not None and node.visible != wanted:
                node.visible = wanted


def canvas_of(viewer: ViewerModel) -> Any:
    """napari's canvas of a viewer, or None of a viewer without a window."""
    return getattr(getattr(getattr(viewer, "window", None), "_qt_viewer", None), "canvas", None)


def _edges(layer: Layer) -> NDArray[np.float64]:
    """(2, 2): first and last (row, column) in the world; napari's extent ends at the middle of the outer pixels."""
    half = np.abs(layer.scale[-2:]) / 2
    return np.asarray(layer.extent.world[:, -2:] + np.stack((-half, half)), np.float64)


def _is_upright(layer: Layer) -> bool:
    """Whether a layer lies along the axes, so that its extent is what it covers."""
    matrix = layer.affine.affine_matrix
    return bool(
        np.allclose(layer.rotate, np.eye(layer.ndim))
        and np.allclose(layer.shear, 0)
        and np.allclose(matrix, np.eye(len(matrix)))
    )
