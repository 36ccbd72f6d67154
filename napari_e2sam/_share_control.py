"""What each channel has to do with the mask: its share in it, and how much of the mask goes without it."""

from __future__ import annotations

from qtpy.QtCore import QTimer

from napari_e2sam._candidates import request_of
from napari_e2sam._jobs import Request
from napari_e2sam._rows import ShareRow
from napari_e2sam._state import Workplace
from napari_e2sam._wire import Message
from napari_e2sam.widgets.prompts import PromptsPanel

__all__ = ["ShareControl"]

# Shares are asked for when the mask is on the screen: until then the processor is wanted for drawing it.
_SHARES_AFTER_MS = 120
# Shares that differ by less are shown as equal.
_ALIKE = 0.005


class ShareControl:
    """Asks for the shares of the draft's mask soon after it is shown, and for leaving channels out when told to."""

    def __init__(self, panel: PromptsPanel, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        self._sharing = QTimer(panel)
        self._sharing.setSingleShot(True)
        self._sharing.setInterval(_SHARES_AFTER_MS)
        self._sharing.timeout.connect(self._ask)
        panel.leave_one_out_asked.connect(self.leave_one_out)

    def show_soon(self) -> None:
        """Ask for the shares when the mask has been drawn."""
        self._sharing.start()

    def stop(self) -> None:
        """Do not ask for shares that are still to be asked for."""
        self._sharing.stop()

    def _ask(self) -> None:
        names, draft = self._work.state.names, self._work.session.draft
        if not draft.candidates:
            return
        if len(names) < 2 or not self._work.state.is_encoded:
            self._panel.set_shares((), "")
            return
        self._work.engine.request(Request("shares", {"candidate": draft.chosen}, done=self._on_shares, lane="shares"))

    def _on_shares(self, message: Message) -> None:
        if not self._work.session.draft.candidates:
            return
        shares = message.body["shares"]
        if max(shares.values()) - min(shares.values()) < _ALIKE:
            # So it is with three channels that a teacher sees as red, green and blue: bars would tell nothing.
            self._panel.set_shares((), "All channels count alike: Leave out tells which matter")
            return
        self._panel.set_shares([ShareRow(name, share) for name, share in shares.items()], "Share in the mask")

    def leave_one_out(self) -> None:
        """Predict again without each channel."""
        draft = self._work.session.draft
        if draft.prompts.is_empty or not self._work.state.is_encoded:
            return
        body, _ = request_of(draft.prompts)
        # Shares that are still to come would be drawn over the answer.
        self._sharing.stop()
        self._work.engine.forget("shares")
        self._work.say("Leaving out one channel at a time", "busy")

        def done(message: Message) -> None:
            self._work.say("", "info")
            rows = [ShareRow(name, 1.0 - value) for name, value in message.body["agreement"].items()]
            self._panel.set_shares(rows, "Change of the mask without")

        self._work.engine.request(
            Request("leave_one_out", body, done=done, failed=self._work.fail, lane="leave_one_out")
        )
