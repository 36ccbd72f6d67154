"""How far the channels of a stack lie off each other: estimated, shown in turns, and corrected at the user's word."""

from __future__ import annotations

from dataclasses import replace

from qtpy.QtCore import QTimer

from e2sam.data.alignment import ChannelShift, estimate_shifts, shifted
from e2sam.data.normalize import ChannelRecipe
from e2sam.errors import E2SamError
from napari_e2sam._composite import Composite
from napari_e2sam._convert import Scene
from napari_e2sam._rows import ChannelRow
from napari_e2sam._state import Workplace
from napari_e2sam._statistics import described
from napari_e2sam.widgets.stack import StackPanel

__all__ = ["AlignmentControl"]

_BLINK_MS = 600
_MOST_COMPARED = 24


class AlignmentControl:
    """Joins the Stack panel's line about alignment with the stack in use."""

    def __init__(self, panel: StackPanel, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        self._shifts: tuple[ChannelShift, ...] = ()
        self._blinking = QTimer(panel)
        self._blinking.setInterval(_BLINK_MS)
        self._blinking.timeout.connect(self._on_blink)
        self._blink_turn = 0
        panel.alignment_asked.connect(self.check)
        panel.correction_asked.connect(self.correct)
        panel.blink_asked.connect(self._on_blink_asked)

    def forget(self) -> None:
        """Know nothing, as before the first comparison, and show nothing in turns."""
        self._shifts = ()
        self._panel.blink.setChecked(False)
        self._panel.set_alignment("", False)

    def close(self) -> None:
        """Show nothing in turns any more."""
        self._blinking.stop()

    def check(self) -> None:
        """Estimate how far the selected channels lie off the first of them."""
        work, state = self._work, self._work.state
        if state.scene is None or len(state.selection) < 1 or len(state.rows) < 2:
            work.fail("Expected at least 2 channels to compare, got fewer: open a stack of more.")
            return
        scene, stack = state.scene, state.plane_of(work.session.plane)
        reference = state.selection[0]
        others = [index for index in state.selection if index != reference] or [
            index for index in range(len(state.rows)) if index != reference
        ]
        work.say("Comparing edges of the channels", "busy")
        work.tasks.run(
            lambda: estimate_shifts(stack, reference, others[:_MOST_COMPARED]),
            lambda shifts: self._on_shifts(scene, shifts),
            work.fail,
            lane="align",
        )

    def _on_shifts(self, scene: Scene, shifts: tuple[ChannelShift, ...]) -> None:
        if self._work.state.scene is not scene:
            # Another image was opened meanwhile.
            return
        self._work.say("", "info")
        self._shifts = shifts
        off = [shift for shift in shifts if shift.is_warning]
        unsure = [shift.name for shift in shifts if not shift.is_reliable]
        lines = [f"{shift.name} lies {shift.distance:.1f} px off {shift.reference}." for shift in off]
        if not off:
            lines.append(
                f"No channel lies more than 2 px off {shifts[0].reference}." if shifts else "Nothing to compare."
            )
        if unsure:
            lines.append(f"Too unlike to tell: {', '.join(unsure[:5])}.")
        self._panel.set_alignment(" ".join(lines), bool(off))

    def correct(self) -> None:
        """Shift the channels that lie off back onto the first one; the session remembers it."""
        work, state = self._work, self._work.state
        if state.scene is None:
            return
        session, seen = work.session, state.scene
        before = dict(session.record.alignment)
        added = {shift.name: (shift.dx, shift.dy) for shift in self._shifts if shift.is_warning}
        none = (0.0, 0.0)
        shifts = {
            name: (
                before.get(name, none)[0] + added.get(name, none)[0],
                before.get(name, none)[1] + added.get(name, none)[1],
            )
            for name in {*before, *added}
        }
        scene = replace(seen, stack=shifted(seen.stack, added))

        def done(described: tuple[tuple[ChannelRow, ...], tuple[ChannelRecipe, ...]]) -> None:
            if state.scene is not seen:
                return
            state.scene, (state.rows, state.recipes) = scene, described
            state.is_encoded = False
            self._panel.set_alignment(f"Corrected: {', '.join(added)}.", False)
            state.scene_changed.emit()

        try:
            record = session.file.set_alignment(session.place[0], shifts)
        except E2SamError as error:
            work.fail(str(error))
            return
        # A second click would shift them twice.
        self._panel.set_alignment(f"Correcting: {', '.join(added)}.", False)
        work.tasks.run(lambda: described(scene.stack, record), done, work.fail)

    def _on_blink_asked(self, on: bool) -> None:
        if on and self._shifts:
            self._blinking.start()
        else:
            self._blinking.stop()
            self._work.canvas.show_blink(None)

    def _on_blink(self) -> None:
        """Show the reference channel and the one furthest off in turns."""
        work, state = self._work, self._work.state
        if state.scene is None:
            return
        worst = max(self._shifts, key=lambda shift: (shift.is_reliable, shift.distance))
        self._blink_turn ^= 1
        name = worst.name if self._blink_turn else worst.reference
        (index,) = state.scene.stack.indices([name])
        stack, recipes, view = state.plane_of(work.session.plane), state.recipes, work.canvas.view
        work.tasks.run(
            lambda: Composite(stack, [index], recipes, None, view), self._show_blink, work.fail, lane="blink"
        )

    def _show_blink(self, picture: Composite) -> None:
        work = self._work
        if self._panel.blink.isChecked() and work.state.layer in work.viewer.layers:
            work.canvas.show_blink(picture)
