"""Planes of a series or a volume, and the channel of a stack that the slider is at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from napari.layers import Image

from e2sam.errors import E2SamError, PromptError
from napari_e2sam._state import Workplace
from napari_e2sam._statistics import display_range
from napari_e2sam.widgets.stack import StackPanel

__all__ = ["PlaneControl"]


class PlaneControl:
    """Keeps session and panel at the plane that the viewer shows.

    Parameters
    ----------
    panel, work
        As of the Stack panel.
    layers
        Those of the stack in use; none where it is shown no more.
    """

    def __init__(self, panel: StackPanel, work: Workplace, layers: Callable[[], tuple[Image, ...]]) -> None:
        self._panel = panel
        self._work = work
        self._layers = layers
        panel.plane_asked.connect(self._on_asked)
        panel.done_changed.connect(self._on_done_changed)
        work.canvas.plane_changed.connect(self._on_changed)

    def here(self) -> tuple[int, ...]:
        """The plane that is shown, an index for each leading axis."""
        state = self._work.state
        if state.scene is None or state.layer is None or not state.scene.stack.leading:
            return ()
        return self._work.canvas.plane(state.layer, state.scene.stack.leading)

    def _on_changed(self) -> None:
        state, session = self._work.state, self._work.session
        # With the last layer that has an axis its slider goes, or jumps.
        if state.scene is None or not session.has_stack or not self._layers():
            return
        self.show_channel()
        plane = self.here()
        if plane != session.plane and session.stack_id is not None:
            session.go_to(session.stack_id, plane)
            self.count()
            state.is_encoded = False
            state.scene_changed.emit()

    def show_channel(self) -> None:
        """Show the channel under the slider in its own range: channels of one stack rarely share one."""
        state = self._work.state
        layer = state.layer
        if layer is None or state.scene is None or layer.rgb or layer.ndim < 3 or not state.rows:
            return
        if len(self._layers()) != 1 or layer not in self._work.viewer.layers:
            return
        axis = self._work.viewer.dims.ndim - layer.ndim + len(state.scene.stack.leading)
        index = int(np.clip(self._work.viewer.dims.current_step[axis], 0, len(state.rows) - 1))
        low, high = display_range(state.rows[index])
        layer.contrast_limits_range = (low, high)
        layer.contrast_limits = (low, high)

    def count(self) -> None:
        """Tell the panel which plane it is, of how many, and how many have no objects yet."""
        session, state = self._work.session, self._work.state
        assert state.scene is not None
        counts = state.scene.stack.num_planes
        total = int(np.prod(counts, dtype=int)) if counts else 1
        position = int(np.ravel_multi_index(session.plane, counts)) if counts else 0
        done = {plane for stack_id, plane in session.file.planes() if stack_id == session.stack_id}
        self._panel.set_worklist(position, total, total - len(done), session.record.is_done)

    def _on_asked(self, direction: int) -> None:
        state, session = self._work.state, self._work.session
        if state.scene is None or state.layer is None or not state.scene.stack.leading:
            return
        counts = state.scene.stack.num_planes
        position = int(np.ravel_multi_index(session.plane, counts)) + direction
        if 0 <= position < int(np.prod(counts, dtype=int)):
            first = self._work.viewer.dims.ndim - state.layer.ndim
            for axis, value in enumerate(np.unravel_index(position, counts)):
                self._work.viewer.dims.set_current_step(first + axis, int(value))

    def go_on(self) -> None:
        """Go one plane on along the last axis: to the next slice of a volume, or the next time of a series.

        Raises
        ------
        PromptError
            If there is no next plane.
        """
        state, session, dims = self._work.state, self._work.session, self._work.viewer.dims
        if state.scene is None or state.layer is None or not state.scene.stack.leading:
            raise PromptError("Expected a series or a volume, got one plane: there is no next one.")
        stack, here = state.scene.stack, session.plane
        if here[-1] + 1 >= stack.num_planes[-1]:
            raise PromptError(f"Expected a next plane along {stack.leading[-1]}, got the last: there is none.")
        dims.set_current_step(dims.ndim - state.layer.ndim + len(here) - 1, here[-1] + 1)
        if session.plane == here:
            raise PromptError(f"Expected a slider for {stack.leading[-1]}, got none: show the stack in 2D.")

    def _on_done_changed(self, is_done: bool) -> None:
        session = self._work.session
        try:
            session.file.set_done(session.place[0], is_done)
        except E2SamError as error:
            self._work.fail(str(error))
