"""Accepting and changing objects: every action undoable, durable before it returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import check_kind, is_number, is_whole, shown
from e2sam.data.masks import Box, MaskCrop, unite
from e2sam.data.prompts import Prompts
from e2sam.data.session.drafts import DraftActions, draft_id
from e2sam.data.session.encoding import conditions_to_bytes, plane_text, store_prompts
from e2sam.data.session.journal import Edit
from e2sam.data.session.records import Conditions, NewObject, ObjectRecord, Plane
from e2sam.data.session.schema import DOCUMENT, now
from e2sam.errors import SessionError

__all__ = ["ObjectActions"]

_ORIGINS = ("prompt", "paint", "automatic", "import")


class ObjectActions(DraftActions):
    """Accept, replace, delete, merge, split, paint, review."""

    def accept(self, stack_id: int, plane: Plane, new: NewObject) -> ObjectRecord:
        """Accept an object and end the plane's draft, in one step. It is durable when this returns.

        Raises
        ------
        SessionError
            If its class, plane or place does not exist, or the file cannot take it.
        """
        self._check_new(stack_id, plane, new)
        with self._action("accept", "Accept object") as edit:
            object_id = edit.next_id("object")
            self._put_object(edit, object_id, (stack_id, plane), new)
            edit.drop("draft", draft_id(stack_id, plane))
        return self.object(object_id)

    def accept_draft(self, stack_id: int, plane: Plane = (), class_id: int = 1) -> ObjectRecord:
        """Accept the draft's chosen candidate; puts it in place of the object where one was edited again, in its class.

        Raises
        ------
        SessionError
            If the draft has no mask.
        """
        draft = self.draft(stack_id, plane)
        candidate = draft.candidates[draft.chosen] if draft.candidates else None
        if candidate is None or candidate.mask is None:
            raise SessionError("Expected a mask to accept, got none: click on the object first.")
        new = NewObject(candidate.mask, class_id, candidate.score, draft.prompts, draft.conditions)
        if draft.object_id is None or draft.object_id not in self._objects:
            return self.accept(stack_id, plane, new)
        edited = self._objects[draft.object_id]
        return self.replace(edited.id, replace(new, class_id=edited.class_id))

    def accept_many(
        self, stack_id: int, plane: Plane, new: Iterable[NewObject], verb: str = "accept"
    ) -> tuple[ObjectRecord, ...]:
        """Accept many objects as one step, as after "segment everything" or an import."""
        objects = list(new)
        for one in objects:
            self._check_new(stack_id, plane, one)
        with self._action(verb, f"Add {len(objects)} objects") as edit:
            ids = [edit.next_id("object") for _ in objects]
            for object_id, one in zip(ids, objects, strict=True):
                self._put_object(edit, object_id, (stack_id, plane), one)
        return tuple(self.object(object_id) for object_id in ids)

    def replace(self, object_id: int, new: NewObject) -> ObjectRecord:
        """Put a new mask, with its prompts and conditions, in place of an object's; its id stays."""
        record = self.object(object_id)
        self._check_new(record.stack_id, record.plane, new)
        with self._action("replace", f"Change object {object_id}") as edit:
            self._put_object(edit, object_id, (record.stack_id, record.plane), new)
            edit.drop("draft", draft_id(record.stack_id, record.plane))
        return self.object(object_id)

    def delete(self, object_ids: Iterable[int]) -> None:
        """Delete objects, in one step."""
        records = self._records_of(object_ids)
        label = f"Delete object {records[0].id}" if len(records) == 1 else f"Delete {len(records)} objects"
        with self._action("delete", label) as edit:
            for record in records:
                edit.drop("object", record.id)

    def merge(self, object_ids: Sequence[int]) -> ObjectRecord:
        """Join objects of one plane into the first of them, whose class and conditions stay."""
        records = self._records_of(object_ids)
        if len(records) < 2 or len({(record.stack_id, record.plane) for record in records}) > 1:
            raise SessionError("Expected at least 2 objects of one plane to merge: select them in the table.")
        first = records[0]
        box = first.box
        for record in records[1:]:
            box = unite(box, record.box)
        pixels = np.logical_or.reduce([self.mask(record.id).window(box) for record in records])
        prompts = [self.prompts_of(record.id) for record in records]
        joined = Prompts(
            np.concatenate([one.points for one in prompts]), np.concatenate([one.labels for one in prompts])
        )
        new = self._as_new(first, MaskCrop.of(pixels, box[0], box[1]), joined, score=None)
        with self._action("merge", f"Merge {len(records)} objects") as edit:
            self._put_object(edit, first.id, (first.stack_id, first.plane), new)
            for record in records[1:]:
                edit.drop("object", record.id)
        return self.object(first.id)

    def split(self, object_id: int, parts: Sequence[MaskCrop] | None = None) -> tuple[ObjectRecord, ...]:
        """Split an object into given parts, or into its connected parts; the largest keeps the id.

        Raises
        ------
        SessionError
            If there are fewer than two parts.
        """
        record = self.object(object_id)
        given = list(parts or _connected(self.mask(object_id)))
        for part in given:
            self._check_new(record.stack_id, record.plane, NewObject(part))
        pieces = sorted(given, key=lambda part: -part.area)
        if len(pieces) < 2:
            raise SessionError(f"Expected object {object_id} in at least 2 separate parts, got 1: paint a gap first.")
        prompts = self.prompts_of(object_id)
        with self._action("split", f"Split object {object_id}") as edit:
            ids = [object_id] + [edit.next_id("object") for _ in pieces[1:]]
            for one, piece in zip(ids, pieces, strict=True):
                new = self._as_new(record, piece, _prompts_within(prompts, piece), score=None)
                self._put_object(edit, one, (record.stack_id, record.plane), new)
        return tuple(self.object(one) for one in ids)

    def set_class(self, object_ids: Iterable[int], class_id: int) -> None:
        """Give objects a class, in one step."""
        name = self._check_class(class_id)
        self._set_columns("class", f"Class {name}", object_ids, {"class": class_id})

    def set_reviewed(self, object_ids: Iterable[int], is_reviewed: bool = True) -> None:
        """Mark objects as looked at by a person, or not."""
        label = "Mark as reviewed" if is_reviewed else "Mark as not reviewed"
        self._set_columns("review", label, object_ids, {"reviewed": int(is_reviewed)})

    def paint(
        self,
        stack_id: int,
        plane: Plane,
        box: Box,
        before: NDArray[np.integer[Any]],
        after: NDArray[np.integer[Any]],
        class_id: int = 1,
    ) -> frozenset[int]:
        """Take over a brush stroke in the label image.

        Parameters
        ----------
        stack_id, plane
            Where it was painted.
        box
            x0, y0, x1, y1 of the part that was touched.
        before, after
            (y1 - y0, x1 - x0) integer labels of that part, as they were and as they are.
        class_id
            Class of an object that begins here: a label that no object of the session has yet.

        Returns
        -------
        frozenset of int
            Objects that came, went or changed. One whose last pixel was painted over is deleted.
        """
        before, after = np.asarray(before), np.asarray(after)
        if before.shape != after.shape or before.shape != (box[3] - box[1], box[2] - box[0]):
            raise SessionError(f"Expected labels of box {box} before and after, got {before.shape} and {after.shape}.")
        changed = before != after
        touched = sorted(int(label) for label in np.union1d(before[changed], after[changed]) if label > 0)
        self._check_painted(stack_id, plane, touched, box)
        self._check_class(class_id)
        with self._action("paint", "Paint") as edit:
            for label in touched:
                added, removed = changed & (after == label), changed & (before == label)
                self._paint_one(edit, label, (stack_id, plane), box, (added, removed), class_id)
        return frozenset(touched)

    def _paint_one(
        self,
        edit: Edit,
        label: int,
        place: tuple[int, Plane],
        box: Box,
        pixels: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        class_id: int,
    ) -> None:
        added, removed = pixels
        record = self._objects.get(label)
        around = box if record is None else unite(box, record.box)
        mask = np.zeros((around[3] - around[1], around[2] - around[0]), bool)
        if record is not None:
            mask |= self.mask(label).window(around)
        inner = mask[box[1] - around[1] : box[3] - around[1], box[0] - around[0] : box[2] - around[0]]
        inner &= ~removed
        inner |= added
        if not mask.any():
            edit.drop("object", label)
            return
        crop = MaskCrop.of(mask, around[0], around[1])
        if record is not None:
            new = self._as_new(record, crop, self.prompts_of(label), record.score)
        else:
            new = NewObject(crop, class_id, origin="paint")
            highest = edit.row("counter", "object")
            if highest is None or highest[1] < label:
                edit.put("counter", ("object", label))
        self._put_object(edit, label, place, replace(new, is_reviewed=True))

    def _check_painted(self, stack_id: int, plane: Plane, labels: Sequence[int], box: Box) -> None:
        self._check_plane(stack_id, plane)
        height, width = self.stack(stack_id).size
        if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
            raise SessionError(f"Expected a box within {width} x {height} pixels, got {box}.")
        for label in labels:
            record = self._objects.get(label)
            if record is not None and (record.stack_id, record.plane) != (stack_id, plane):
                raise SessionError(
                    f"Expected a label of this plane, got {label}, an object of another: choose another."
                )

    def _as_new(self, record: ObjectRecord, mask: MaskCrop, prompts: Prompts, score: float | None) -> NewObject:
        return NewObject(mask, record.class_id, score, prompts, record.conditions, record.origin, record.is_reviewed)

    def _put_object(self, edit: Edit, object_id: int, place: tuple[int, Plane], new: NewObject) -> None:
        known = self._objects.get(object_id)
        values = {
            "id": object_id,
            "stack": place[0],
            "plane": plane_text(place[1]),
            "class": new.class_id,
            "score": None if new.score is None else float(new.score),
            "area": new.mask.area,
            **dict(zip(("x0", "y0", "x1", "y1"), new.mask.box, strict=True)),
            "mask": edit.blob("mask", new.mask.to_bytes()),
            "prompts": store_prompts(edit, new.prompts),
            "conditions": edit.blob("conditions", conditions_to_bytes(new.conditions)),
            "origin": new.origin,
            "reviewed": int(new.is_reviewed),
            "created": now() if known is None else known.created,
        }
        edit.put("object", [values[column] for column in DOCUMENT["object"]])

    def _records_of(self, object_ids: Iterable[int]) -> list[ObjectRecord]:
        """Objects by their ids, each once."""
        check_kind(object_ids, Iterable, "a list of objects' ids", SessionError)
        return list({record.id: record for record in map(self.object, object_ids)}.values())

    def _set_columns(self, verb: str, label: str, object_ids: Iterable[int], values: dict[str, Any]) -> None:
        records = self._records_of(object_ids)
        with self._action(verb, label) as edit:
            for record in records:
                row = dict(zip(DOCUMENT["object"], edit.row("object", record.id) or (), strict=True))
                edit.put("object", list({**row, **values}.values()))

    def _check_new(self, stack_id: int, plane: Plane, new: NewObject) -> None:
        self._check_plane(stack_id, plane)
        check_kind(new, NewObject, "a NewObject, made of a mask with MaskCrop.of", SessionError)
        check_kind(new.mask, MaskCrop, "the mask of a new object as MaskCrop.of makes it", SessionError)
        check_kind(new.prompts, Prompts, "the prompts of a new object as Prompts", SessionError)
        check_kind(new.conditions, Conditions, "the conditions of a new object as Conditions", SessionError)
        if not (new.score is None or is_number(new.score)):
            raise SessionError(f"Expected a score as a finite number, got {shown(new.score)}: pass None for unknown.")
        self._check_class(new.class_id)
        size = self.stack(stack_id).size
        if not new.mask.fits(size):
            raise SessionError(f"Expected a mask within {size[1]} x {size[0]} pixels, got one of box {new.mask.box}.")
        if new.origin not in _ORIGINS:
            raise SessionError(f"Expected an origin of {', '.join(_ORIGINS)}, got {new.origin!r}.")

    def _check_class(self, class_id: int) -> str:
        names = {record.id: record.name for record in self.classes()}
        if not is_whole(class_id) or class_id not in names:
            known = ", ".join(f"{i} {name}" for i, name in names.items())
            raise SessionError(f"Expected a class of {known}, got {shown(class_id)}.")
        return names[class_id]


def _connected(mask: MaskCrop) -> list[MaskCrop]:
    from scipy import ndimage

    # Parts that touch at a corner count as one.
    labels, _ = ndimage.label(mask.pixels, structure=np.ones((3, 3), bool))
    return [
        MaskCrop.of(labels[where] == label, mask.x0 + where[1].start, mask.y0 + where[0].start)
        for label, where in enumerate(ndimage.find_objects(labels), start=1)
    ]


def _prompts_within(prompts: Prompts, mask: MaskCrop) -> Prompts:
    """Points that say something about a part: the outside ones, and the inside ones that lie on it."""
    if not len(prompts.points):
        return Prompts()
    height, width = mask.shape
    columns, rows = np.floor(prompts.points).astype(int).T - np.array([[mask.x0], [mask.y0]])
    on_crop = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    on_mask = np.zeros(len(columns), bool)
    on_mask[on_crop] = mask.pixels[rows[on_crop], columns[on_crop]]
    kept = on_mask | (prompts.labels == 0)
    return Prompts(prompts.points[kept], prompts.labels[kept])
