"""A folder of images as a worklist: what is done, what is next. No Qt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psygnal import Signal

from e2sam.data.io import STACK_SUFFIXES
from e2sam.data.session import Session
from e2sam.errors import StackError

__all__ = ["WorkItem", "Worklist", "images_in"]

_RANKS = ("done", "begun", "new")


@dataclass(frozen=True)
class WorkItem:
    """One image of a worklist.

    Attributes
    ----------
    path
        Its file.
    state
        "done", "begun" (it has objects) or "new".
    doubt
        How far its candidate masks disagree, 0..1; None where that is not known.
    trouble
        Why it could not be read when it was tried last, or "".
    """

    path: Path
    state: str
    doubt: float | None = None
    trouble: str = ""


class Worklist:
    """Images to be worked through in one session.

    The list and what is done of it live in the session, so both come back on reopening.

    Parameters
    ----------
    session
        An open session.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = session.worklist or _images_of(session)
        self._position = 0 if self._paths else -1
        self._troubles: dict[Path, str] = {}

    def open(self, source: Path | Sequence[Path]) -> None:
        """Take the images of a folder, or the given ones, as the list; the first that is not done comes first.

        Raises
        ------
        StackError
            If there is no image.
        """
        paths = images_in(source) if isinstance(source, Path) else tuple(Path(path).absolute() for path in source)
        if not paths:
            raise StackError(f"Expected a folder with images, got none in {source}.")
        if not self._session.is_read_only:
            self._session.set_worklist(paths)
        self._paths, self._position, self._troubles = paths, 0, {}
        waiting = self._next_waiting(-1)
        self._position = 0 if waiting is None else waiting
        self.changed.emit()

    @property
    def items(self) -> tuple[WorkItem, ...]:
        """All images with their state."""
        states = self._states()
        troubles = self._troubles
        return tuple(WorkItem(path, states.get(path, "new"), trouble=troubles.get(path, "")) for path in self._paths)

    @property
    def position(self) -> int:
        """Position of the current image, -1 where the list is empty."""
        return self._position

    @property
    def current(self) -> Path | None:
        """The current image."""
        return self._paths[self._position] if self._paths else None

    @property
    def num_done(self) -> int:
        """Number of images that are done."""
        return sum(item.state == "done" for item in self.items)

    @property
    def remaining(self) -> int:
        """Number of images that are not done."""
        return len(self._paths) - self.num_done

    def step(self, direction: int) -> Path | None:
        """Go on by `direction` images, past those that could not be read; the new current one, or None at the end.

        Where no other is further on, one that could not be read is tried again.
        """
        first = position = self._position + direction
        while 0 <= position < len(self._paths) and self._paths[position] in self._troubles:
            position += direction
        return self.go_to(position) or self.go_to(first)

    def go_to(self, position: int) -> Path | None:
        """Make the image at a position the current one; None where there is none."""
        if not 0 <= position < len(self._paths):
            return None
        if position != self._position:
            self._position = position
            self.changed.emit()
        return self._paths[position]

    def next_to_do(self) -> Path | None:
        """Go to the next image that is not done and can be read, from the beginning again after the last, or None."""
        found = self._next_waiting(self._position)
        return None if found is None or found == self._position else self.go_to(found)

    def find(self, path: Path) -> bool:
        """Make an image that was opened otherwise the current one, if it is in the list."""
        absolute = path.absolute()
        return absolute in self._paths and self.go_to(self._paths.index(absolute)) is not None

    def set_trouble(self, path: Path, why: str) -> None:
        """Remember why an image could not be read, "" where it was."""
        if self._troubles.get(path, "") != why:
            self._troubles.pop(path, None)
            if why:
                self._troubles[path] = why
            self.changed.emit()

    def set_done(self, is_done: bool = True) -> None:
        """Tick the current image off, or put it back.

        Raises
        ------
        StackError
            If it has not been opened in this session yet.
        """
        # A file whose channel axis was first guessed and then chosen is there twice.
        records = [record for record in self._session.stacks() if self.current in record.paths]
        if not records:
            raise StackError("Expected an opened image, got one that is not open yet: wait until it is shown.")
        for record in records:
            self._session.set_done(record.id, is_done)
        self.changed.emit()

    @property
    def waiting(self) -> tuple[Path, ...]:
        """Images other than the current one that are not done, in the order in which they come next."""
        states = self._states()
        order = [*self._paths[self._position + 1 :], *self._paths[: max(self._position, 0)]]
        return tuple(path for path in order if states.get(path) != "done")

    def neighbours(self, reach: int = 1) -> tuple[Path, ...]:
        """Images that are likely to come next, likeliest first: forward, then backward."""
        steps = [sign * distance for distance in range(1, reach + 1) for sign in (1, -1)]
        positions = [self._position + step for step in steps]
        return tuple(self._paths[position] for position in positions if 0 <= position < len(self._paths))

    def _next_waiting(self, position: int) -> int | None:
        states = self._states()
        order = [*range(position + 1, len(self._paths)), *range(max(position + 1, 0))]
        left = (at for at in order if states.get(self._paths[at]) != "done")
        return next((at for at in left if self._paths[at] not in self._troubles), None)

    def _states(self) -> dict[Path, str]:
        begun = {stack_id for stack_id, _ in self._session.planes()}
        states: dict[Path, str] = {}
        for record in self._session.stacks():
            state = "done" if record.is_done else "begun" if record.id in begun else "new"
            for path in record.paths:
                states[path] = min(state, states.get(path, "new"), key=_RANKS.index)
        return states

    def axis_of(self, path: Path) -> int | None:
        """Channel axis that an image was worked on with; None where it was clear, or never more than a guess."""
        begun = {stack_id for stack_id, _ in self._session.planes()}
        used = [one for one in self._session.stacks() if path in one.paths and (one.is_done or one.id in begun)]
        axes = [record.reading.get("channel_axis") for record in sorted(used, key=lambda one: one.id in begun)]
        return axes[-1] if axes else None


def _images_of(session: Session) -> tuple[Path, ...]:
    """The image files that a session has been about, where they are several: the way back to each of them."""
    kept = session.path.with_suffix(".stacks")
    single = dict.fromkeys(record.paths[0] for record in session.stacks() if len(record.paths) == 1)
    files = tuple(path for path in single if path.parent != kept)
    return files if len(files) > 1 else ()


def images_in(folder: Path) -> tuple[Path, ...]:
    """Images directly in a folder, by name with numbers in their order; label images beside them are left out."""
    if not folder.is_dir():
        raise StackError(f"Expected a folder of images, got {'a file' if folder.exists() else 'nothing'} at {folder}.")
    suffixes = {suffix.lower() for suffix in STACK_SUFFIXES}
    found = [
        path.absolute()
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.stem.endswith("_labels") and not path.name.startswith(".")
    ]
    return tuple(sorted(found, key=_natural))


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key in which "b10" comes after "b9"."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]
