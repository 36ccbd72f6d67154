"""What the user sees of the image: kept in the session, and told to the engine, when it comes to rest."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer

from napari_e2sam._jobs import Request
from napari_e2sam._state import Workplace

__all__ = ["ViewControl"]

_KEPT_AFTER_MS = 1000
_TOLD_AFTER_MS = 200


class ViewControl:
    """Follows the camera, which tells of every step of a drag."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._keeping = QTimer(singleShot=True, interval=_KEPT_AFTER_MS, timeout=self._keep)
        self._telling = QTimer(singleShot=True, interval=_TOLD_AFTER_MS, timeout=self._tell)
        self._camera_events = (work.canvas.camera.events.center, work.canvas.camera.events.zoom)
        for event in self._camera_events:
            event.connect(self._on_camera)
        work.state.encoded.connect(lambda: self._telling.start())

    def close(self) -> None:
        """Keep the view, and let go of the viewer."""
        for event in self._camera_events:
            event.disconnect(self._on_camera)
        self._telling.stop()
        if self._keeping.isActive():
            self._keeping.stop()
            self._keep()

    def _on_camera(self, event: Any) -> None:
        if self._work.session.has_stack:
            self._keeping.start()
            self._telling.start()

    def _keep(self) -> None:
        session, camera = self._work.session, self._work.canvas.camera
        if session.has_stack:
            view = {"centre": [float(value) for value in camera.center], "zoom": float(camera.zoom)}
            session.keep(lambda file: file.set_view(view))

    def _tell(self) -> None:
        """Let the engine make ready for a click in this part of the image, and others show more of it."""
        self._work.state.view_rested.emit()
        view = self._work.canvas.view
        if view is not None and self._work.state.is_encoded:
            self._work.engine.request(Request("look", {"view": view}, lane="look"))
