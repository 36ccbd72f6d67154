"""The session as the window sees it: evented, with the stack and plane in front of the user."""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import platformdirs
from psygnal import Signal

from e2sam.data.prompts import Prompts
from e2sam.data.session import Change, Draft, HistoryStep, ObjectRecord, Plane, Session, StackRecord
from e2sam.errors import E2SamError, SessionError

__all__ = ["SessionModel", "new_session_path"]


def new_session_path() -> Path:
    """A name for a new session in the user's data directory, or in `E2SAM_SESSION_DIR`: nobody has to choose one."""
    folder = os.environ.get("E2SAM_SESSION_DIR") or str(Path(platformdirs.user_data_dir("e2sam")) / "sessions")
    Path(folder).mkdir(parents=True, exist_ok=True)
    stem = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
    path, count = Path(folder) / f"{stem}.e2sam", 2
    while path.exists():
        path, count = Path(folder) / f"{stem} {count}.e2sam", count + 1
    return path


class SessionModel:
    """A thin evented layer over `e2sam.Session`: what is in front of the user, and one signal for every change.

    Parameters
    ----------
    path
        A session file; None begins a new one in the user's data directory.

    Attributes
    ----------
    trouble
        Why the last setting could not be kept, in a line for the user; empty as soon as the file can be written again.
    """

    changed = Signal(Change)
    refused = Signal(str)  # why a setting could not be kept

    def __init__(self, path: Path | None = None) -> None:
        self._is_new = path is None
        self.file = Session.open(new_session_path() if path is None else path)
        self._thread = threading.get_ident()
        self._unsubscribe = self.file.subscribe(self._on_change)
        self._elsewhere: deque[Change] = deque()
        self.stack_id: int | None = None
        self.plane: Plane = ()
        self.trouble = ""
        self._touched: dict[int, frozenset[int]] = {}
        objects = self.file.objects()
        self.class_id = objects[-1].class_id if objects else self.file.classes()[0].id

    @property
    def path(self) -> Path:
        """Where the session lies."""
        return self.file.path

    @property
    def has_stack(self) -> bool:
        """Whether a stack is in front of the user."""
        return self.stack_id is not None

    @property
    def place(self) -> tuple[int, Plane]:
        """Stack and plane in front of the user.

        Raises
        ------
        SessionError
            If there is none.
        """
        if self.stack_id is None:
            raise SessionError("Expected a stack, got none: open an image, or take the sample in Stack.")
        return self.stack_id, self.plane

    @property
    def record(self) -> StackRecord:
        """The stack in front of the user."""
        return self.file.stack(self.place[0])

    @property
    def draft(self) -> Draft:
        """The object under way."""
        return self.file.draft(*self.place) if self.has_stack else Draft()

    @property
    def objects(self) -> tuple[ObjectRecord, ...]:
        """Accepted objects on the plane in front of the user."""
        return tuple(self.file.objects(*self.place)) if self.has_stack else ()

    def go_to(self, stack_id: int, plane: Plane) -> None:
        """Bring a stack and plane in front of the user."""
        self.stack_id, self.plane = stack_id, plane
        self.keep(lambda file: file.set_active(stack_id, plane))
        self.changed.emit(Change("refresh", "place"))

    def leave(self) -> None:
        """Have nothing in front of the user; the session keeps what was made there."""
        self.stack_id, self.plane = None, ()
        self.changed.emit(Change("refresh", "place"))

    def keep(self, write: Callable[[Session], object]) -> None:
        """Write a setting, which is a convenience: the window goes on, and says so, where it cannot be written."""
        if not self.file.is_open or self.file.is_read_only:
            return
        try:
            write(self.file)
        except E2SamError as error:
            self.trouble = str(error)
            self.refused.emit(self.trouble)

    def set_prompts(self, prompts: Prompts) -> None:
        """Store the prompts of the object under way."""
        self.file.set_prompts(*self.place, prompts)

    def reason_against(self, step: HistoryStep) -> str:
        """Why a step is not to be undone, or done again, before another image is open; "" where nothing is."""
        touched = self._stacks_of(step)
        # The list of classes is on view with every image.
        if not touched or self.stack_id in touched or step.verb == "classes":
            return ""
        name, label = self.file.stack(min(touched)).name, step.label[:1].lower() + step.label[1:]
        which, what = ("last", "undo it") if step.stands else ("next", "do it again")
        return f"The {which} step, '{label}', was made on {name}: open {name} to {what}."

    def _stacks_of(self, step: HistoryStep) -> frozenset[int]:
        if step.id not in self._touched:
            self._touched[step.id] = self.file.stacks_of(step)
        return self._touched[step.id]

    def close(self) -> None:
        """Close the file; one that was begun here and never used is taken away."""
        self._unsubscribe()
        is_unused = False
        try:
            is_unused = self._is_new and self.file.is_open and not self._is_used
        finally:
            self.file.close()
        if is_unused:
            for path in self.path.parent.glob(f"{self.path.name}*"):
                path.unlink(missing_ok=True)
            # Pixels of layers without a file, which were kept to reopen it.
            shutil.rmtree(self.path.with_suffix(".stacks"), ignore_errors=True)

    @property
    def _is_used(self) -> bool:
        """Whether the session holds anything that the user would miss."""
        file = self.file
        made = (file.objects(), file.history(1), file.presets, file.training_runs())
        return any(made) or any(stack.is_done or stack.alignment for stack in file.stacks())

    def tell(self) -> None:
        """Tell the window, on its own thread, what was done on others since."""
        while self._elsewhere:
            self.changed.emit(self._elsewhere.popleft())

    def _on_change(self, change: Change) -> None:
        if threading.get_ident() == self._thread:
            # Something was written, or read anew.
            self.trouble = ""
            self.changed.emit(change)
        elif change.objects:
            # Stacks are added from a worker thread too; the window is told of those by the worker's result.
            self._elsewhere.append(change)
