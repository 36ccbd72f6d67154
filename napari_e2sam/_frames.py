"""One frame for a click and its mask."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QApplication, QMainWindow, QWidget

__all__ = ["FrameHold"]


class FrameHold(QObject):
    """Holds the drawing of a window back for a moment.

    The mask is there a moment after the click. Drawing the new point first would keep the window, and without a
    graphics card also the processor that the engine works on, for longer than that moment.

    Parameters
    ----------
    inside
        Any widget of the window, docked or floating.
    """

    def __init__(self, inside: QWidget) -> None:
        super().__init__(inside)
        self._inside = inside
        self._window: QMainWindow | None = None
        self._is_asked = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.release)

    def hold(self, most_ms: int) -> None:
        """Draw nothing until `release`, or until `most_ms` have passed."""
        if self._window is None:
            self._window = self._main_window()
            if self._window is None:
                return
            self._is_asked = False
            self._window.installEventFilter(self)
        self._timer.start(most_ms)

    def release(self) -> None:
        """Draw what was held back."""
        window, self._window = self._window, None
        if window is None:
            return
        self._timer.stop()
        window.removeEventFilter(self)
        if self._is_asked:
            QApplication.postEvent(window, QEvent(QEvent.Type.UpdateRequest))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep the request to draw for later."""
        if event.type() == QEvent.Type.UpdateRequest:
            self._is_asked = True
            return True
        return False

    def _main_window(self) -> QMainWindow | None:
        widget: QWidget | None = self._inside
        while widget is not None and not isinstance(widget, QMainWindow):
            widget = widget.parentWidget()
        return widget
