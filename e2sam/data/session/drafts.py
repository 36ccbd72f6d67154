"""The object under way on each plane: prompts and what was predicted from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from e2sam.data.checks import check_kind
from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.data.session.encoding import (
    conditions_to_bytes,
    dump,
    parse_plane,
    plane_text,
    read_prompts,
    store_prompts,
)
from e2sam.data.session.journal import AMENDS, Edit
from e2sam.data.session.reading import ObjectReading
from e2sam.data.session.records import Candidate, Conditions, Draft, Plane
from e2sam.errors import SessionError

__all__ = ["DraftActions", "draft_id"]


class DraftActions(ObjectReading):
    """Prompts and predictions, each a step that can be undone."""

    def draft(self, stack_id: int, plane: Plane = ()) -> Draft:
        """The draft of one plane; an empty one where there is none."""
        key = draft_id(stack_id, plane)
        # A window asks at every move of the mouse.
        head, known, draft = self._newest_draft
        if (head, known) != (self._journal.head, key):
            draft = self._read_draft(key)
            self._newest_draft = (self._journal.head, key, draft)
        return draft

    def _read_draft(self, key: str) -> Draft:
        rows = self._journal.rows("SELECT * FROM draft WHERE id = ?", (key,))
        if not rows:
            return Draft()
        _, _, _, prompts, candidates, chosen, conditions, object_id = rows[0]
        return Draft(
            read_prompts(self._journal, prompts),
            tuple(
                Candidate(None if key is None else self._mask_of(key), score) for key, score in json.loads(candidates)
            ),
            chosen,
            self._conditions_of(conditions),
            object_id,
        )

    def drafts(self) -> tuple[tuple[int, Plane], ...]:
        """(stack id, plane) of all drafts."""
        rows = self._journal.rows("SELECT stack, plane FROM draft ORDER BY id")
        return tuple((stack_id, parse_plane(plane)) for stack_id, plane in rows)

    def set_prompts(self, stack_id: int, plane: Plane, prompts: Prompts) -> None:
        """Store the prompts of the object under way; older candidates are dropped, and empty prompts clear it.

        A mask prompt is taken for one of the last prediction, whose conditions stay.
        """
        check_kind(prompts, Prompts, "Prompts, Prompts() for none", SessionError)
        before = self.draft(stack_id, plane)
        conditions = Conditions() if prompts.mask is None else before.conditions
        draft = Draft(prompts, conditions=conditions, object_id=before.object_id)
        with self._action("prompt", _prompt_label(before.prompts, prompts), is_draft=True) as edit:
            self._write_draft(edit, stack_id, plane, draft)

    def set_prediction(
        self,
        stack_id: int,
        plane: Plane,
        candidates: Sequence[Candidate],
        chosen: int = 0,
        conditions: Conditions | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        """Store what was predicted from the draft's prompts, or from `prompts` where it was not from all of them.

        One step with the prompt that asked for it: one undo takes back both the click and its mask. After an undo it
        becomes a part of the step that stands, so that what was undone can still be redone.
        """
        draft = self.draft(stack_id, plane)
        if candidates and not 0 <= chosen < len(candidates):
            raise SessionError(f"Expected a candidate of 0..{len(candidates) - 1}, got {chosen}.")
        joins = self._journal.last_verb() in ("prompt", "predict", AMENDS)
        answers = not draft.prompts.is_empty and (joins or not draft.candidates)
        amends = answers and self._journal.next_redo() is not None
        draft = replace(
            draft,
            prompts=prompts or draft.prompts,
            candidates=tuple(candidates),
            chosen=chosen,
            conditions=conditions or draft.conditions,
        )
        verb = AMENDS if amends else "predict"
        with self._action(verb, "Predict", joins=joins or amends, is_draft=True) as edit:
            self._write_draft(edit, stack_id, plane, draft)

    def choose_candidate(self, stack_id: int, plane: Plane, chosen: int) -> None:
        """Show another candidate of the draft's prediction."""
        draft = self.draft(stack_id, plane)
        if not 0 <= chosen < len(draft.candidates):
            raise SessionError(f"Expected a candidate of 0..{len(draft.candidates) - 1}, got {chosen}.")
        with self._action("candidate", f"Candidate {chosen + 1}", is_draft=True) as edit:
            self._write_draft(edit, stack_id, plane, replace(draft, chosen=chosen))

    def clear_draft(self, stack_id: int, plane: Plane = ()) -> None:
        """Drop the object under way. One that was accepted before stays as it was."""
        with self._action("clear", "Clear prompts", is_draft=True) as edit:
            edit.drop("draft", draft_id(stack_id, plane))

    def reedit(self, object_id: int) -> Draft:
        """Begin a draft from an accepted object: its prompts, and its mask as the only candidate.

        The object stays until `accept_draft` or `replace` puts the new mask in its place.
        """
        record = self.object(object_id)
        draft = Draft(
            self.prompts_of(object_id),
            (Candidate(self.mask(object_id), 0.0 if record.score is None else record.score),),
            0,
            record.conditions,
            object_id,
        )
        with self._action("reedit", f"Edit object {object_id}", is_draft=True) as edit:
            self._write_draft(edit, record.stack_id, record.plane, draft)
        return draft

    def _write_draft(self, edit: Edit, stack_id: int, plane: Plane, draft: Draft) -> None:
        self._check_plane(stack_id, plane)
        key = draft_id(stack_id, plane)
        if draft.is_empty:
            edit.drop("draft", key)
            return
        masks = [None if one.mask is None else self._store_mask(edit, one.mask) for one in draft.candidates]
        scores = [float(candidate.score) for candidate in draft.candidates]
        edit.put(
            "draft",
            (
                key,
                stack_id,
                plane_text(plane),
                store_prompts(edit, draft.prompts),
                dump(list(zip(masks, scores, strict=True))),
                draft.chosen,
                edit.blob("conditions", conditions_to_bytes(draft.conditions)),
                draft.object_id,
            ),
        )

    def _store_mask(self, edit: Edit, mask: MaskCrop) -> str:
        mask = mask.compact()
        key = edit.blob("mask", mask.to_bytes())
        # Pixels that somebody may still change are read back from the file instead.
        if mask.is_fixed:
            self._keep_mask(key, mask)
        return key


def draft_id(stack_id: int, plane: Plane) -> str:
    """Key of a plane's draft."""
    return f"{stack_id}:{plane_text(plane)}"


def _prompt_label(before: Prompts, after: Prompts) -> str:
    added = len(after.points) - len(before.points)
    if added == 1:
        return "Add a point inside" if after.labels[-1] else "Add a point outside"
    if added < 0:
        return "Remove points"
    if after.box is not None and before.box is None:
        return "Draw a box"
    return "Change prompts"
