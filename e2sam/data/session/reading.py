"""What a session tells about its objects: records, masks, label images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_whole, shown
from e2sam.data.masks import Box, MaskCrop, intersect
from e2sam.data.prompts import Prompts
from e2sam.data.session.encoding import read_prompts
from e2sam.data.session.records import ClassRecord, ObjectRecord, Plane
from e2sam.data.session.stacks import SettingActions, StackActions
from e2sam.errors import SessionError

__all__ = ["ObjectReading"]


class ObjectReading(StackActions, SettingActions):
    """Objects, classes and labels as they stand."""

    def objects(self, stack_id: int | None = None, plane: Plane | None = None) -> tuple[ObjectRecord, ...]:
        """Accepted objects by id: all, those of a stack, or those of one plane. Answered from memory."""
        if stack_id is not None and plane is not None:
            return self._listed.get((stack_id, plane), ())
        found = [
            listed
            for (stack, at), listed in tuple(self._listed.items())
            if listed and (stack_id is None or stack == stack_id) and (plane is None or at == plane)
        ]
        if len(found) == 1:
            return found[0]
        return tuple(sorted((record for listed in found for record in listed), key=lambda record: record.id))

    def object(self, object_id: int) -> ObjectRecord:
        """One accepted object.

        Raises
        ------
        SessionError
            If there is none of this id.
        """
        if not is_whole(object_id) or object_id not in self._objects:
            known = len(self._objects)
            raise SessionError(f"Expected one of the session's {known} objects, got id {shown(object_id)}.")
        return self._objects[object_id]

    def mask(self, one: int | ObjectRecord) -> MaskCrop:
        """Mask of an object, by its id; by its record, as it was when that was read."""
        record = one if isinstance(one, ObjectRecord) else self.object(one)
        return self._mask_of(record.mask_key)

    def prompts_of(self, object_id: int) -> Prompts:
        """Prompts that led to an object; empty where it was imported or painted."""
        return read_prompts(self._journal, self.object(object_id).prompts_key)

    def planes(self) -> tuple[tuple[int, Plane], ...]:
        """(stack id, plane) of all planes that hold objects, sorted."""
        return tuple(sorted(place for place, objects in self._planes.items() if objects))

    def labels(self, stack_id: int, plane: Plane = (), overlap: str | None = None) -> NDArray[np.int32]:
        """Label image of a plane, (H, W) int32: object ids, 0 where there is none.

        Parameters
        ----------
        stack_id, plane
            Which plane.
        overlap
            Which object shows where several lie: "newest" (highest id), "oldest", or None for the session's policy.
        """
        height, width = self.stack(stack_id).size
        return self.labels_in(stack_id, plane, (0, 0, width, height), overlap)

    def labels_in(self, stack_id: int, plane: Plane, box: Box, overlap: str | None = None) -> NDArray[np.int32]:
        """Labels of `box` (x0, y0, x1, y1) of a plane, (y1 - y0, x1 - x0) int32; costs no more than the box.

        This is what a window writes after a `Change`: only its regions.
        """
        policy = self.overlap if overlap is None else overlap
        if policy not in ("newest", "oldest"):
            raise SessionError(f"Expected overlap 'newest' or 'oldest', got {policy!r}.")
        x0, y0, x1, y1 = box
        labels = np.zeros((y1 - y0, x1 - x0), np.int32)
        boxes = ((record, record.box) for record in self.objects(stack_id, plane))
        # Among thousands of objects most lie elsewhere, and this is asked at every stroke.
        near = [
            one for one, (left, top, right, bottom) in boxes if left < x1 and x0 < right and top < y1 and y0 < bottom
        ]
        # What is drawn last shows.
        for record in near if policy == "newest" else reversed(near):
            shared = intersect(record.box, box)
            if shared is not None:
                left, top, right, bottom = shared
                window = labels[top - y0 : bottom - y0, left - x0 : right - x0]
                window[self._mask_of(record.mask_key).part(shared)] = record.id
        return labels

    def object_at(self, stack_id: int, plane: Plane, x: float, y: float) -> int | None:
        """Id of the object that shows at pixel (x, y), or None."""
        column, row = int(np.floor(x)), int(np.floor(y))
        height, width = self.stack(stack_id).size
        if not (0 <= column < width and 0 <= row < height):
            return None
        label = int(self.labels_in(stack_id, plane, (column, row, column + 1, row + 1))[0, 0])
        return label or None

    def next_unreviewed(self, after: int = 0) -> ObjectRecord | None:
        """The first object not reviewed whose id is above `after`, else the first of all, or None."""
        waiting = [record for record in self.objects() if not record.is_reviewed]
        return next((record for record in waiting if record.id > after), waiting[0] if waiting else None)

    def masks(self, stack_id: int, plane: Plane = ()) -> Iterator[tuple[ObjectRecord, MaskCrop]]:
        """Objects of a plane with their masks, whole where they overlap."""
        for record in self.objects(stack_id, plane):
            yield record, self._mask_of(record.mask_key)

    def classes(self) -> tuple[ClassRecord, ...]:
        """All classes by id."""
        rows = self._journal.rows("SELECT id, name, colour, shortcut FROM class ORDER BY id")
        return tuple(ClassRecord(*row) for row in rows)

    def _check_plane(self, stack_id: int, plane: Plane) -> None:
        lengths = self.stack(stack_id).num_planes
        is_plane = isinstance(plane, tuple | list) and len(plane) == len(lengths) and all(map(is_whole, plane))
        if not is_plane or not all(0 <= at < length for at, length in zip(plane, lengths, strict=True)):
            raise SessionError(f"Expected a plane within {lengths} of stack {stack_id}, got {shown(plane)}.")
