"""What drawing needs once in a process, done while the window opens and not when the first image does."""

from __future__ import annotations

from napari.components import ViewerModel
from qtpy.QtCore import QTimer

from napari_e2sam._jobs import Tasks

__all__ = ["WarmUp"]

# By then the first frame of the window is drawn.
_DRAWN_MS = 500


class WarmUp:
    """Has letters and dashes of napari's canvas prepared; what is on the screen stays as it is.

    With the first layer napari draws the letters that it measures texts by, and with the first label layer vispy
    computes dash patterns pixel by pixel: a quarter of a second each, kept for all that follow.

    Parameters
    ----------
    viewer
        The viewer whose canvas will draw.
    tasks
        Threads for what needs no canvas.
    """

    def __init__(self, viewer: ViewerModel, tasks: Tasks) -> None:
        # napari 0.9 moved the overlays into the canvas; older ones have them on the viewer.
        self._tasks = tasks
        self._overlay = viewer.canvas.overlays.text if hasattr(viewer, "scene") else viewer.text_overlay
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DRAWN_MS)
        self._timer.timeout.connect(self._on_drawn)
        self._timer.start()
        # A text of the user's own is drawn anyway, and is not ours to change.
        if not self._overlay.visible and not self._overlay.text:
            self._overlay.text = " "
            self._overlay.visible = True

    def close(self) -> None:
        """Change nothing of the viewer any more."""
        self._timer.stop()

    def _on_drawn(self) -> None:
        # Not earlier: the window is made by the same interpreter.
        self._tasks.run(_make_dashes, lambda _: None, lambda _: None)
        if self._overlay.text == " ":
            self._overlay.visible = False
            self._overlay.text = ""


def _make_dashes() -> None:
    from vispy.visuals.line.dash_atlas import DashAtlas

    DashAtlas()
