"""Shows what the model is given as a layer, finer where the user looks."""

from __future__ import annotations

from qtpy.QtCore import QTimer

from napari_e2sam._composite import Composite
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.channels import ChannelsPanel

__all__ = ["InputControl"]


class InputControl:
    """Joins the Channels panel's "Model input" with the canvas."""

    def __init__(self, channels: ChannelsPanel, work: Workplace) -> None:
        self._channels = channels
        self._work = work
        self._is_shown = True
        self._turn = 0
        self._picture: Composite | None = None
        channels.set_composite_shown(True)
        channels.composite_toggled.connect(self._on_toggled)
        work.state.scene_changed.connect(self._forget)
        work.state.encoded.connect(self._show)
        work.state.view_rested.connect(self._look_closer)
        work.canvas.composite_deleted.connect(self._on_deleted)

    def _on_toggled(self, shown: bool) -> None:
        self._is_shown = shown
        self._show()

    def _on_deleted(self) -> None:
        # By then it is known whether the image went with it.
        turn = self._turn
        QTimer.singleShot(0, lambda: self._untick(turn))

    def _untick(self, turn: int) -> None:
        work = self._work
        if turn == self._turn and work.state.layer in work.viewer.layers and work.canvas.composite_layer is None:
            self._channels.set_composite_shown(False)
            self._is_shown = False
            self._forget()

    def _forget(self) -> None:
        """What is being read is of a scene that is gone."""
        self._turn += 1
        self._picture = None

    def _show(self) -> None:
        work, state = self._work, self._work.state
        self._forget()
        if not self._is_shown or state.scene is None or not state.is_encoded:
            work.canvas.show_composite(None)
            return
        stack, view, turn = state.plane_of(work.session.plane), work.canvas.view, self._turn
        selection, recipes, matrix = state.selection, state.recipes, state.matrix

        def show(picture: Composite) -> None:
            # Not over an image that is gone.
            if turn == self._turn and state.layer in work.viewer.layers:
                self._picture = picture
                work.canvas.show_composite(picture)

        work.tasks.run(lambda: Composite(stack, selection, recipes, matrix, view), show, work.fail, lane="composite")

    def _look_closer(self) -> None:
        work, picture, view = self._work, self._picture, self._work.canvas.view
        if picture is None or view is None or not picture.is_coarse_in(view):
            return

        def show(_: None) -> None:
            if picture is self._picture:
                work.canvas.refresh_composite()

        work.tasks.run(lambda: picture.look_closer(view), show, work.fail, lane="composite")
