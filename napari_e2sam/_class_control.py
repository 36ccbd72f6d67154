"""Joins the classes of the session with the Objects panel: choose, add, rename, remove; every change is undoable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QInputDialog

from e2sam.data.session import Change, ClassRecord
from e2sam.errors import E2SamError, SessionError
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.objects import ObjectsPanel

__all__ = ["ClassControl"]

# Characters of a name: no list has room for more.
_LONGEST = 100


class ClassControl:
    """Shows the classes that there are, of which one is that of new objects."""

    def __init__(self, panel: ObjectsPanel, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        panel.class_chosen.connect(self.choose)
        panel.class_add_asked.connect(self._on_add_asked)
        panel.class_rename_asked.connect(self._on_rename_asked)
        panel.class_remove_asked.connect(self._on_remove_asked)
        work.session.changed.connect(self._on_change)
        self._show()

    @property
    def current(self) -> ClassRecord:
        """The class of new objects."""
        return next(one for one in self._classes if one.id == self._work.session.class_id)

    @property
    def _classes(self) -> tuple[ClassRecord, ...]:
        return self._work.session.file.classes()

    def choose(self, name: str) -> None:
        """Make a class the current one; chosen objects take it."""
        session = self._work.session
        record = self._named(name)
        if record is None:
            return
        session.class_id = record.id
        if chosen := self._panel.chosen_ids:
            self._try(lambda: session.file.set_class(chosen, record.id))
        self._show()

    def choose_at(self, position: int) -> None:
        """Make the class at a position the current one."""
        if position < len(self._classes):
            self.choose(self._classes[position].name)

    def add(self, name: str) -> None:
        """Add a class and make it the current one."""

        def add() -> None:
            self._work.session.class_id = self._work.session.file.add_class(_checked(name)).id
            self._show()

        self._try(add)

    def rename(self, name: str) -> None:
        """Give the current class another name; its objects keep it."""
        current = self.current
        if name != current.name:
            self._try(lambda: self._work.session.file.update_class(current.id, name=_checked(name)))

    def remove(self, to: str | None = None) -> None:
        """Remove the current class; its objects, on every image, go to the class `to`."""
        current = self.current
        target = None if to is None else self._named(to)

        def remove() -> None:
            self._work.session.file.remove_class(current.id, None if target is None else target.id)
            if target is not None:
                self._work.session.class_id = target.id
            self._show()

        self._try(remove)

    def _named(self, name: str) -> ClassRecord | None:
        return next((one for one in self._classes if one.name == name), None)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self._work.say("", "info")
        except E2SamError as error:
            self._work.fail(str(error))

    def _on_add_asked(self) -> None:
        name, is_given = QInputDialog.getText(self._panel, "New class", "Name of the class:")
        if is_given and name.strip():
            self.add(name.strip())

    def _on_rename_asked(self) -> None:
        before = self.current.name
        name, is_given = QInputDialog.getText(
            self._panel, "Rename class", f"New name of the class {before}:", text=before
        )
        if is_given and name.strip():
            self.rename(name.strip())

    def _on_remove_asked(self) -> None:
        """Remove at once what no object has; else ask where its objects go."""
        current = self.current
        count = sum(one.class_id == current.id for one in self._work.session.file.objects())
        others = [one.name for one in self._classes if one.id != current.id]
        if not count or not others:
            self.remove()
            return
        objects = "1 object is" if count == 1 else f"{count} objects are"
        name, is_given = QInputDialog.getItem(
            self._panel, "Remove class", f"{objects} of the class {current.name}. New class:", others, 0, False
        )
        if is_given:
            self.remove(name)

    def _on_change(self, change: Change) -> None:
        if change.has_classes or change.kind == "refresh":
            self._show()

    def _show(self) -> None:
        session = self._work.session
        classes = self._classes
        if all(record.id != session.class_id for record in classes):
            session.class_id = classes[0].id
        names = [record.name for record in classes]
        self._panel.set_classes(names, self.current.name, [record.colour for record in classes])


def _checked(name: str) -> str:
    if len(name) > _LONGEST or len(name.splitlines()) > 1:
        raise SessionError(
            f"Expected a class name of one line and at most {_LONGEST} characters, got {len(name)}: shorten it."
        )
    return name
