"""Joins the Prompts panel, the canvas, the session's draft and the engine: from clicks to a mask, at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from e2sam.data.likely import likely_candidate
from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.data.session import Candidate, Change, Conditions, Draft
from e2sam.errors import E2SamError
from napari_e2sam._candidates import candidates_of, next_click, request_of, same_prompts, usable_prompts
from napari_e2sam._frames import FrameHold
from napari_e2sam._jobs import Request
from napari_e2sam._rows import CandidateRow
from napari_e2sam._share_control import ShareControl
from napari_e2sam._state import Workplace
from napari_e2sam._wire import Message
from napari_e2sam.widgets.prompts import PromptsPanel

__all__ = ["PromptControl"]

_SCRIBBLE_POINTS = 8
_HINTS = {
    "points": "left click inside, right click outside",
    "box": "drag a box around the object",
    "scribble": "click along the object, double-click to end",
    "move": "drag points, or select and press Delete",
    "": "another layer is active, click Points here to go on",
    "hidden": "the layer of the prompts is hidden, click Points here to show it",
}
# Of the objects accepted before, how many say what the next click means.
_COUNTED = 20
# A mask that takes longer than this is drawn after its point, and not with it.
_MOST_HELD_MS = 150
# As an encoder pass does that is not quick.
_SLOW_AFTER_MS = 500


@dataclass(frozen=True, eq=False)
class _Answered:
    """Which draft the logits in memory belong to."""

    points: NDArray[np.float32]
    logits: NDArray[np.float32]


class PromptControl:
    """Predicts from the draft's prompts whenever they change; the newest request wins."""

    def __init__(self, panel: PromptsPanel, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        self._answered: _Answered | None = None
        self._hovers = False
        self._refines = False
        self._is_preview = False
        self._shows_doubt = False
        self._predicts_after_encoding = False
        self._then: Callable[[], None] | None = None
        self._says_slow = False
        self._slow = QTimer(panel, singleShot=True, interval=_SLOW_AFTER_MS, timeout=self._on_slow)
        self._frames = FrameHold(panel)
        self._shares = ShareControl(panel, work)
        panel.tool_chosen.connect(self.take_tool)
        panel.candidate_chosen.connect(self.choose_candidate)
        panel.clear_asked.connect(self.clear)
        panel.hover_toggled.connect(self.set_hover)
        panel.window_toggled.connect(self._on_window_toggled)
        panel.next_click_toggled.connect(self._on_next_click)
        canvas = work.canvas
        canvas.points_changed.connect(self._on_points)
        canvas.points_made.connect(self._on_points_made)
        canvas.box_drawn.connect(self._on_box)
        canvas.line_drawn.connect(self._on_line)
        canvas.refused.connect(self._on_refused)
        canvas.tool_changed.connect(self._on_tool)
        work.session.changed.connect(self._on_change)
        work.state.encoded.connect(self._on_encoded)
        work.state.scene_changed.connect(self._on_scene)

    # -- tools ---------------------------------------------------------------------------------------------------------

    def take_tool(self, name: str) -> None:
        """Arm a tool."""
        self._work.canvas.take_tool(name)

    def _on_tool(self, name: str) -> None:
        self._panel.set_tool(name)
        self._panel.set_hint(_HINTS[name])

    def set_hover(self, on: bool) -> None:
        """Switch the preview under the pointer."""
        self._hovers = on
        self._panel.set_hover(on)
        if on:
            self._work.canvas.pointed_at.connect(self._on_pointed)
        else:
            self._work.canvas.pointed_at.disconnect(self._on_pointed)
            self._end_preview()

    def toggle_hover(self) -> None:
        """Switch the preview under the pointer on or off."""
        self.set_hover(not self._hovers)

    def toggle_next_click(self) -> None:
        """Show or hide where the next click tells most."""
        if not self._work.session.has_stack:
            self._try(lambda: self._work.session.place)
            return
        self._panel.next_click.toggle()

    def _on_window_toggled(self, on: bool) -> None:
        self._refines = on
        self.predict()

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _on_points(self, points: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        self._is_preview = False
        self._work.engine.forget("hover")
        before = self._work.session.draft.prompts
        self._store(replace(before, points=points, labels=labels, mask=self._mask_for(points)))

    def _on_box(self, box: tuple[float, float, float, float]) -> None:
        before = self._work.session.draft.prompts
        self._store(replace(before, box=np.asarray(box, np.float32), mask=None))
        self._work.canvas.take_tool("points")

    def _on_line(self, line: NDArray[np.float32]) -> None:
        # napari is still at drawing the line when it tells of it, and the line is to go.
        QTimer.singleShot(0, lambda: self._take_line(line))

    def _take_line(self, line: NDArray[np.float32]) -> None:
        """A scribble becomes points spread evenly along it."""
        if not self._work.session.file.is_open:
            return
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        length = np.concatenate(([0.0], np.cumsum(steps)))
        at = np.linspace(0, length[-1], _SCRIBBLE_POINTS)
        points = np.stack([np.interp(at, length, line[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)
        width_height = self._work.session.record.size[::-1]
        points = np.clip(points, 0, width_height).astype(np.float32)
        before = self._work.session.draft.prompts
        self._store(
            replace(
                before,
                points=np.concatenate((before.points, points)),
                labels=np.concatenate((before.labels, np.ones(len(points), np.int32))),
                mask=None,
            )
        )

    def _on_refused(self, text: str) -> None:
        """Take off the canvas what is no prompt."""
        self._work.fail(text)
        self._show()

    def _mask_for(self, points: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Logits of the shown candidate, where one more point improves on it."""
        answered, draft = self._answered, self._work.session.draft
        if answered is None or not draft.candidates or len(points) != len(answered.points) + 1:
            return None
        if len(answered.points) and not np.allclose(points[:-1], answered.points, atol=1e-3):
            return None
        logits: NDArray[np.float32] = answered.logits[min(draft.chosen, len(answered.logits) - 1)]
        return logits

    def begin(self, prompts: Prompts) -> None:
        """Make these the prompts of the object under way, and predict from them."""
        self._answered = None
        self._store(prompts)

    def _store(self, prompts: Prompts) -> None:
        self._then = None
        try:
            self._work.session.set_prompts(prompts)
        except E2SamError as error:
            self._work.fail(str(error))
            self._show()
            return
        self.predict()

    def clear(self) -> None:
        """Take away the object under way."""
        if self._work.session.has_stack and not self._work.session.draft.is_empty:
            self._try(lambda: self._work.session.file.clear_draft(*self._work.session.place))

    def _try(self, action: Any) -> None:
        self._work.forget_error()
        try:
            action()
        except E2SamError as error:
            self._work.fail(str(error))

    # -- prediction ----------------------------------------------------------------------------------------------------

    def predict(self, waits: bool = False) -> None:
        """Ask for masks of the current prompts; `waits` for a slow look at what is on the screen."""
        work = self._work
        draft = work.session.draft
        if draft.prompts.is_empty:
            work.engine.forget("predict")
            return
        if not work.state.is_encoded:
            self._predicts_after_encoding = True
            if work.state.is_deselected:
                self._try(work.state.check_encoded)
            else:
                work.say("The mask comes when the image is encoded", "busy")
            return
        state = work.state
        conditions = Conditions(state.names, state.recipes_in_use, state.model.get("fingerprint", ""))
        place, prompts = work.session.place, usable_prompts(draft, conditions)
        body, arrays = request_of(prompts)
        body |= {"view": work.canvas.view, "waits": waits}
        around = self._shown if self._refines else None
        if around is not None:
            body["around"] = list(around.box)
            arrays = {}
        else:
            self._frames.hold(_MOST_HELD_MS)
        self._slow.start()
        work.engine.request(
            Request(
                "predict",
                body,
                arrays,
                done=lambda message: self._on_predicted(message, place, prompts, conditions, around),
                failed=self._on_failed,
                lane="predict",
            )
        )

    @property
    def _shown(self) -> MaskCrop | None:
        """The mask of the draft that is shown."""
        draft = self._work.session.draft
        return draft.candidates[draft.chosen].mask if draft.candidates else None

    def when_answered(self, action: Callable[[], None]) -> bool:
        """Do something as soon as the mask of these prompts is there; False where none is to come.

        Other prompts, or no answer, and it is not done.
        """
        draft = self._work.session.draft
        if draft.prompts.is_empty or draft.candidates or self._work.state.is_deselected:
            return False
        self._then = action
        return True

    def _on_slow(self) -> None:
        if self._then is None:
            self._says_slow = True
            self._work.say("The model looks at this part of the image", "busy")

    def _end_slow(self) -> None:
        """Wait for no mask any more."""
        self._slow.stop()
        if self._says_slow:
            self._says_slow = False
            self._work.say("", "info")

    def _on_failed(self, text: str) -> None:
        self._then = None
        self._end_slow()
        self._show(keeps_mask=False)
        self._frames.release()
        self._work.fail(text)

    def _on_predicted(
        self,
        message: Message,
        place: tuple[int, tuple[int, ...]],
        prompts: Prompts,
        conditions: Conditions,
        around: MaskCrop | None,
    ) -> None:
        session = self._work.session
        if session.place != place or not same_prompts(session.draft.prompts, prompts):
            return
        shown = self._shown
        if around is not None and shown is not None and shown.box != around.box:
            # Meanwhile the user has chosen another candidate: that one is looked at closer.
            self.predict()
            return
        self._end_slow()
        candidates = candidates_of(message)
        best = self._likely(candidates)
        self._answered = _Answered(prompts.points, message.arrays["logits"])
        self._work.say("", "info")
        before = self._shown
        self._try(lambda: session.file.set_prediction(*place, candidates, best, conditions, prompts))
        self._frames.release()
        if self._refines and before is None and self._shown is not None:
            # Now it is known what to look at closer.
            self.predict()
            return
        if message.body["looks_closer"]:
            # This mask is of the whole image, seen from afar.
            self.predict(waits=True)
            return
        then, self._then = self._then, None
        if then is not None:
            then()

    def _likely(self, candidates: Sequence[Candidate]) -> int:
        """The candidate to show: the best, or the one of the size of the objects of this class clicked before."""
        session = self._work.session
        accepted = [
            record.area
            for record in session.file.objects()
            if record.class_id == session.class_id and record.origin == "prompt"
        ]
        areas = [0 if candidate.mask is None else candidate.mask.area for candidate in candidates]
        return likely_candidate([candidate.score for candidate in candidates], areas, accepted[-_COUNTED:])

    def close(self) -> None:
        """Hold nothing of the window back any more."""
        self._shares.stop()
        self._slow.stop()
        self._frames.release()

    def choose_candidate(self, position: int) -> None:
        """Show another candidate, counted from 0."""
        session = self._work.session
        if session.has_stack and position < len(session.draft.candidates):
            self._try(lambda: session.file.choose_candidate(*session.place, position))

    def _on_encoded(self) -> None:
        self._panel.reserve_shares(len(self._work.state.names))
        # Logits of another selection say nothing to this one, nor does its preview.
        self._answered = None
        self._end_preview()
        if self._predicts_after_encoding or not self._work.session.draft.prompts.is_empty:
            self._predicts_after_encoding = False
            self.predict()

    # -- preview under the pointer -------------------------------------------------------------------------------------

    def _on_pointed(self, at: tuple[float, float] | None) -> None:
        work = self._work
        if not self._hovers or not work.state.is_encoded or not work.session.draft.prompts.is_empty:
            return
        if at is None:
            self._end_preview()
            return
        work.engine.request(
            Request(
                "predict",
                {"points": [list(at)], "labels": [1], "box": None, "view": work.canvas.view, "is_preview": True},
                done=self._on_preview,
                lane="hover",
            )
        )

    def _on_preview(self, message: Message) -> None:
        if self._hovers and self._work.session.draft.is_empty:
            self._is_preview = True
            candidates = candidates_of(message)
            best = max(candidates, key=lambda candidate: candidate.score)
            self._work.canvas.show_mask(best.mask)

    def _end_preview(self) -> None:
        self._work.engine.forget("hover")
        if self._is_preview:
            self._is_preview = False
            self._show()

    # -- where to click next -------------------------------------------------------------------------------------------

    def _on_next_click(self, on: bool) -> None:
        self._shows_doubt = on
        self._show_doubt(self._work.session.draft)

    def _show_doubt(self, draft: Draft) -> None:
        """Show where the candidate masks disagree most."""
        masks = [one.mask for one in draft.candidates if one.mask is not None]
        if not self._shows_doubt or len(masks) < 2:
            self._work.canvas.show_doubt(None)
            if self._shows_doubt and self._work.session.has_stack:
                self._work.say("One click first: then its candidate masks show where they disagree.", "info")
            return
        box, doubt, (x, y) = next_click(masks)
        self._work.canvas.show_doubt(doubt, box)
        self._work.say(f"The candidates disagree most around ({x:.0f}, {y:.0f}): click there.", "info")

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _on_points_made(self) -> None:
        """Draw the prompts under way: the user may have taken their layer away."""
        if self._work.session.has_stack:
            self._work.canvas.show_prompts(self._work.session.draft.prompts)

    def _on_scene(self) -> None:
        self._answered = self._then = None
        self._work.engine.forget("hover")
        self._panel.forget_shares()
        self._show()
        self.take_tool("points")

    def _on_change(self, change: Change) -> None:
        session = self._work.session
        if not session.has_stack:
            return
        if change.kind == "refresh" or (session.stack_id, session.plane) in change.drafts:
            if change.kind == "do":
                self._show()
                return
            self._answered = self._then = None
            self._show(keeps_mask=False)
            if change.kind in ("undo", "redo") and not session.draft.candidates:
                # Its answer was not waited for, or there is nothing left to predict from.
                self.predict()

    def _show(self, keeps_mask: bool = True) -> None:
        """Draw the draft; the last mask stays until the next one is there, unless there is none to wait for."""
        draft = self._work.session.draft
        canvas = self._work.canvas
        canvas.show_prompts(draft.prompts)
        candidate = draft.candidates[draft.chosen] if draft.candidates else None
        # No flicker between click and answer.
        if candidate is not None or draft.prompts.is_empty or not keeps_mask or not self._work.state.is_encoded:
            canvas.show_mask(None if candidate is None else candidate.mask)
        self._panel.set_candidates(
            [CandidateRow(one.score, 0 if one.mask is None else one.mask.area) for one in draft.candidates],
            draft.chosen,
        )
        self._panel.set_can_clear(not draft.is_empty)
        if self._shows_doubt:
            self._show_doubt(draft)
        self._shares.stop()
        if draft.is_empty:
            self._end_slow()
            self._panel.set_shares((), "")
        elif candidate is not None and self._answered is not None:
            self._shares.show_soon()
