"""The open session: its lock, its listeners, and what it keeps in memory."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2sam.data.checks import checked_path, shown
from e2sam.data.lock import WriterLock
from e2sam.data.masks import MaskCrop
from e2sam.data.session.encoding import conditions_from_bytes, decode_object, parse_plane
from e2sam.data.session.journal import Delta, Edit, Journal, translated
from e2sam.data.session.records import Change, Conditions, Draft, ObjectRecord, Plane, Region, StackRecord
from e2sam.data.session.schema import DOCUMENT, check_file, connect, create_file, remove_log
from e2sam.errors import SessionError

__all__ = ["SessionCore"]

_KEPT_ACTIONS = 1000
_MASK_BYTES = 64 << 20

_MASK = DOCUMENT["object"].index("mask")
_CONDITIONS = DOCUMENT["object"].index("conditions")


class SessionCore:
    """Opening, closing, transactions and the objects in memory; `Session` adds the actions."""

    def __init__(self, path: Path, journal: Journal, lock: WriterLock | None, message: str) -> None:
        self.path = path
        self.message = message
        self._journal = journal
        self._lock = lock
        self._guard = threading.RLock()
        self._listeners: list[Callable[[Change], None]] = []
        self._conditions: dict[str, Conditions] = {}
        self._masks: OrderedDict[str, MaskCrop] = OrderedDict()
        self._mask_bytes = 0
        self._newest_draft: tuple[int, str, Draft] = (-1, "", Draft())
        self._is_open = True
        self._stacks: dict[int, StackRecord] | None = None
        self._objects: dict[int, ObjectRecord] = {}
        self._planes: dict[tuple[int, Plane], dict[int, ObjectRecord]] = {}
        # The same by id: a window asks for them several times at every action, from any thread.
        self._listed: dict[tuple[int, Plane], tuple[ObjectRecord, ...]] = {}
        self.id = str(journal.rows("SELECT value FROM meta WHERE key = 'id'")[0][0])
        self._load_objects()
        if not self.is_read_only:
            journal.forget_old_logits(_KEPT_ACTIONS)

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True, read_only: bool = False) -> Self:
        """Open a session file, or begin one where there is none.

        Parameters
        ----------
        path
            The `.e2sam` file.
        create
            Whether to begin a new session where the file does not exist.
        read_only
            Open without the writer's lock. A session that another window has open, or that lies where it cannot be
            written, is opened so in any case, and `message` says why.

        Raises
        ------
        SessionError
            If the file is missing, is no session, is damaged, or was written by a newer version.
        """
        path = checked_path(path, "a session file", SessionError).absolute()
        if not path.exists():
            if read_only or not create:
                raise SessionError(f"Expected a session file, got none at {path}: check the name.")
            create_file(path)
        check_file(path)
        lock, message = (None, "") if read_only else _take_lock(path)
        try:
            with translated(path):
                connection = connect(path, read_only=lock is None)
            try:
                return cls(path, Journal(path, connection), lock, message)
            except (SessionError, sqlite3.Error, ValueError, KeyError):
                connection.close()
                raise
        except (sqlite3.Error, ValueError, KeyError) as error:
            _release(lock)
            raise SessionError(f"Expected a whole session, got a damaged one ({error}): {path}.") from error
        except SessionError:
            _release(lock)
            raise

    @property
    def is_read_only(self) -> bool:
        """Whether actions are refused; `message` says why where that was not asked for."""
        return self._lock is None

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called."""
        return self._is_open

    def close(self) -> None:
        """Close the file and give the lock back. Nothing needs to be saved: every action already was."""
        with self._guard:
            if self._is_open:
                self._is_open = False
                self._journal.close()
                if self.is_read_only and os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
                    remove_log(self.path)
                _release(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` after every change, on the thread that made it; returns what ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def refresh(self) -> bool:
        """For a read-only session: follow what the writing window has done since; whether there was anything."""
        with self._guard:
            if not self._journal.reread():
                return False
            self._stacks = None
            self._load_objects()
        self._publish(Change("refresh", "refresh"))
        return True

    @contextmanager
    def _action(self, verb: str, label: str, *, joins: bool = False, is_draft: bool = False) -> Iterator[Edit]:
        """One undoable action: durable, then in memory, then told to the listeners."""
        with self._guard:
            self._check_writable()
            with self._journal.action(verb, label, joins=joins, is_draft=is_draft) as edit:
                yield edit
            change = self._applied("do", verb, edit.deltas)
        if edit.deltas:
            self._publish(change)

    @contextmanager
    def _setting(self, is_draft: bool = False) -> Iterator[sqlite3.Connection]:
        """One durable change outside of undo; whoever makes it tells the listeners."""
        with self._guard:
            self._check_writable()
            with self._journal.transaction(is_draft) as connection:
                yield connection

    def _check_writable(self) -> None:
        if not self._is_open:
            raise SessionError(f"Expected an open session, got a closed one: open {self.path.name} again.")
        if self.is_read_only:
            raise SessionError(
                self.message or f"Expected a session opened for writing, got {self.path.name} read-only."
            )

    def _setting_value(self, key: str, default: Any) -> Any:
        found = self._journal.rows("SELECT value FROM setting WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else default

    def _set_value(self, verb: str, key: str, value: Any, is_draft: bool = False) -> None:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise SessionError(f"Expected a {key} that JSON can hold, got {shown(value)} ({error}).") from error
        with self._setting(is_draft) as connection:
            connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, text))
        self._publish(Change("setting", verb))

    def _publish(self, change: Change) -> None:
        for listener in tuple(self._listeners):
            listener(change)

    def _applied(self, kind: str, verb: str, deltas: Sequence[Delta]) -> Change:
        """Bring the objects in memory to the state after `deltas`, and say what changed."""
        objects: set[int] = set()
        drafts: set[tuple[int, Plane]] = set()
        regions: dict[Region, None] = {}
        places: Counter[tuple[int, Plane]] = Counter()
        for delta in deltas:
            if delta.table == "object":
                objects.add(delta.key)
                regions.update(dict.fromkeys(self._apply_object(delta, places)))
            elif delta.table == "draft":
                row = delta.after or delta.before
                assert row is not None
                drafts.add((row[1], parse_plane(row[2])))
            elif delta.table == "stack":
                self._stacks = None
        for place, count in places.items():
            self._list(place, count)
        has_classes = any(delta.table == "class" for delta in deltas)
        return Change(kind, verb, frozenset(objects), tuple(regions), frozenset(drafts), has_classes)

    def _apply_object(self, delta: Delta, places: Counter[tuple[int, Plane]]) -> list[Region]:
        before = self._objects.pop(delta.key, None)
        if before is not None:
            del self._planes[before.stack_id, before.plane][before.id]
            places[before.stack_id, before.plane] += 1
        after = None if delta.after is None else self._decode(delta.after)
        if after is not None:
            self._objects[after.id] = after
            self._planes.setdefault((after.stack_id, after.plane), {})[after.id] = after
            places[after.stack_id, after.plane] += 1
        if before is not None and after is not None and before.mask_key == after.mask_key:
            return []
        return [Region(record.stack_id, record.plane, record.box) for record in (before, after) if record is not None]

    def _list(self, place: tuple[int, Plane], num_changes: int) -> None:
        """List a plane's objects by id after some changes; one that has come stands last."""
        records, listed = self._planes[place], self._listed.get(place, ())
        newest = max(records, default=0)
        if num_changes == 1 and len(records) > len(listed) and next(reversed(records)) == newest:
            self._listed[place] = (*listed, records[newest])
        else:
            self._listed[place] = tuple(records[object_id] for object_id in sorted(records))

    def _load_objects(self) -> None:
        columns = ", ".join(f'"{column}"' for column in DOCUMENT["object"])
        self._objects.clear()
        self._planes.clear()
        for row in self._journal.rows(f"SELECT {columns} FROM object ORDER BY id"):
            record = self._decode(row)
            self._objects[record.id] = record
            self._planes.setdefault((record.stack_id, record.plane), {})[record.id] = record
        self._listed = {place: tuple(records.values()) for place, records in self._planes.items()}

    def _decode(self, row: Sequence[Any]) -> ObjectRecord:
        return decode_object(row, self._conditions_of(row[_CONDITIONS]))

    def _conditions_of(self, key: str) -> Conditions:
        if key not in self._conditions:
            data = self._journal.blob(key)
            if data is None:
                raise SessionError(f"Expected conditions {key} in {self.path}, got none: the session is damaged.")
            self._conditions[key] = conditions_from_bytes(data)
        return self._conditions[key]

    def _mask_of(self, key: str) -> MaskCrop:
        """A mask by its key; the ones used last stay in memory."""
        with self._guard:
            mask = self._masks.pop(key, None)
            if mask is None:
                data = self._journal.blob(key)
                if data is None:
                    raise SessionError(f"Expected mask {key} in {self.path}, got none: the session is damaged.")
                mask = MaskCrop.from_bytes(data)
                self._mask_bytes += mask.nbytes
            self._masks[key] = mask
            self._forget_masks()
            return mask

    def _keep_mask(self, key: str, mask: MaskCrop) -> None:
        """Remember a mask that was just stored: the window asks for it next, and reading it back takes as long."""
        with self._guard:
            if key not in self._masks:
                self._masks[key] = mask
                self._mask_bytes += mask.nbytes
                self._forget_masks()

    def _forget_masks(self) -> None:
        while self._mask_bytes > _MASK_BYTES and len(self._masks) > 1:
            self._mask_bytes -= self._masks.popitem(last=False)[1].nbytes


def _take_lock(path: Path) -> tuple[WriterLock | None, str]:
    """The writer's lock, or None and why the session is opened read-only."""
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return (
            None,
            f"{path.name} cannot be written here: opened read-only. Copy it to a folder of yours to work on it.",
        )
    lock = WriterLock(path)
    try:
        if lock.acquire():
            return lock, ""
    except OSError as error:
        return None, f"{path.name} cannot be locked ({error.strerror}): opened read-only."
    return None, f"{path.name} is open in {lock.holder}: opened read-only. Close it there to work on it here."


def _release(lock: WriterLock | None) -> None:
    if lock is not None:
        lock.release()
