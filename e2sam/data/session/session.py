"""The session as a whole: objects, classes, history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from e2sam.data.checks import shown
from e2sam.data.session.journal import Delta, Edit
from e2sam.data.session.objects import ObjectActions
from e2sam.data.session.records import ClassRecord, HistoryStep, NewObject, ObjectRecord, Plane
from e2sam.data.session.schema import DOCUMENT
from e2sam.errors import SessionError

__all__ = ["Session"]

# Colours that stay apart for colour-blind eyes (Okabe and Ito, 2008), on light and on dark.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")


class Session(ObjectActions):
    """One `.e2sam` file: stacks, prompts, objects, history, training runs. See the module `e2sam.data.session`."""

    def add_class(self, name: str, colour: str = "", key: str = "") -> ClassRecord:
        """Begin a class; its colour is the next of eight where none is given."""
        _check_class(name, colour or "#000000", key)
        if any(known.name == name for known in self.classes()):
            raise SessionError(f"Expected a new class name, got {name!r} again.")
        with self._action("classes", f"Add class {name}") as edit:
            return self._put_class(edit, name, colour, key)

    def update_class(
        self, class_id: int, name: str | None = None, colour: str | None = None, key: str | None = None
    ) -> ClassRecord:
        """Change a class's name, colour or key; what is None stays."""
        known = {record.id: record for record in self.classes()}
        if class_id not in known:
            raise SessionError(f"Expected a class of the session, got {class_id}.")
        before = known[class_id]
        record = ClassRecord(
            class_id,
            before.name if name is None else name,
            before.colour if colour is None else colour,
            before.key if key is None else key,
        )
        _check_class(record.name, record.colour, record.key)
        if any(other.name == record.name and other.id != class_id for other in known.values()):
            raise SessionError(f"Expected a new class name, got {record.name!r} again.")
        label = (
            f"Change class {before.name}" if name in (None, before.name) else f"Rename class {before.name} to {name}"
        )
        with self._action("classes", label) as edit:
            edit.put("class", (record.id, record.name, record.colour, record.key))
        return record

    def remove_class(self, class_id: int, to: int | None = None) -> None:
        """Remove a class; its objects, on every image, go to the class `to`, in the same step.

        Raises
        ------
        SessionError
            If it has objects and `to` does not say where they go, if it is the only class, or there is none of the id.
        """
        name = self._check_class(class_id)
        records = [record for record in self.objects() if record.class_id == class_id]
        if len(self.classes()) == 1:
            raise SessionError("Expected at least 1 class to stay: add another first.")
        if to is not None:
            self._check_class(to)
        if to == class_id:
            raise SessionError(f"Expected another class for the objects of {name}, got {name} itself.")
        if records and to is None:
            raise SessionError(
                f"Expected a class without objects, got one of {len(records)}: change their class first."
            )
        with self._action("classes", f"Remove class {name}") as edit:
            for record in records:
                row = dict(zip(DOCUMENT["object"], edit.row("object", record.id) or (), strict=True))
                edit.put("object", list({**row, "class": to}.values()))
            edit.drop("class", class_id)

    def import_objects(self, objects: Sequence[tuple[tuple[int, Plane], str, NewObject]]) -> tuple[ObjectRecord, ...]:
        """Add objects of any planes as one step: ((stack id, plane), class name, object); new classes are added."""
        for (stack_id, plane), name, new in objects:
            _check_class(name, "#000000")
            self._check_new(stack_id, plane, replace(new, class_id=self.classes()[0].id))
        with self._action("import", f"Import {len(objects)} objects") as edit:
            numbers = {known.name: known.id for known in self.classes()}
            ids = []
            for place, name, new in objects:
                if name not in numbers:
                    numbers[name] = self._put_class(edit, name, "", "").id
                ids.append(edit.next_id("object"))
                self._put_object(edit, ids[-1], place, replace(new, class_id=numbers[name]))
        return tuple(self.object(object_id) for object_id in ids)

    def undo(self) -> HistoryStep:
        """Take the last step back, as far as the beginning of the session; returns what was undone.

        Raises
        ------
        SessionError
            If there is nothing to undo.
        """
        return self._walk("undo")

    def redo(self) -> HistoryStep:
        """Do the step again that was undone last.

        Raises
        ------
        SessionError
            If nothing was undone since the last action.
        """
        return self._walk("redo")

    def next_undo(self) -> HistoryStep | None:
        """What `undo` would take back, or None."""
        return self._journal.next_undo()

    def next_redo(self) -> HistoryStep | None:
        """What `redo` would do again, or None."""
        return self._journal.next_redo()

    def history(self, newest: int = 200) -> tuple[HistoryStep, ...]:
        """The newest steps that were ever done, oldest first, those that were undone among them."""
        return self._journal.steps(newest)

    def stacks_of(self, step: HistoryStep) -> frozenset[int]:
        """Numbers of the stacks whose objects, prompts or normalization a step has changed."""
        return self._journal.stacks_of(step.id)

    def state(self) -> bytes:
        """Everything that undo moves through, in one canonical form: equal states give equal bytes."""
        return self._journal.document()

    def _put_class(self, edit: Edit, name: str, colour: str, key: str) -> ClassRecord:
        highest = max((known.id for known in self.classes()), default=0)
        row = edit.row("counter", "class")
        class_id = 1 + max(highest, 0 if row is None else row[1])
        edit.put("counter", ("class", class_id))
        record = ClassRecord(class_id, name, colour or _COLOURS[(class_id - 1) % len(_COLOURS)], key)
        edit.put("class", (record.id, record.name, record.colour, record.key))
        return record

    def _walk(self, kind: str) -> HistoryStep:
        with self._guard:
            self._check_writable()
            step = self._journal.next_undo() if kind == "undo" else self._journal.next_redo()
            deltas: Sequence[Delta]
            verb, deltas = self._journal.undo() if kind == "undo" else self._journal.redo()
            change = self._applied(kind, verb, deltas)
        self._publish(change)
        assert step is not None
        return replace(step, stands=kind == "redo")


def _check_class(name: str, colour: str, key: str = "") -> None:
    for text in (name, key):
        if not isinstance(text, str):
            raise SessionError(f"Expected the name and the key of a class as text, got {shown(text)}.")
    if not name.strip():
        raise SessionError("Expected a class name, got an empty one.")
    if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise SessionError(f"Expected a colour like #e69f00, got {shown(colour)}.")
