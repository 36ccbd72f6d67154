"""Transactions over the session file, with an append-only history that undo and redo walk."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2sam.data.session.records import HistoryStep
from e2sam.data.session.schema import DOCUMENT, PARTS, now
from e2sam.errors import SessionError

__all__ = ["AMENDS", "Delta", "Edit", "Journal", "translated"]

AMENDS = "amend"
"""Verb of an action that amends the one before it."""

Row = list[Any]

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Delta:
    """One row of one document table, or the part of one in `PARTS`, before and after; None where it is not there."""

    table: str
    key: Any
    before: Row | None
    after: Row | None

    def reversed(self) -> Delta:
        """The delta that takes this one back."""
        return Delta(self.table, self.key, self.after, self.before)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `SessionError` of one line."""
    try:
        yield
    except sqlite3.Error as error:
        cause = str(error)
        if "closed database" in cause:
            message = f"Expected an open session, got a closed one: open {path.name} again."
        elif "full" in cause:
            message = f"The disk of {path} is full: nothing accepted was lost; free some space and do it again."
        elif "readonly" in cause:
            message = f"Expected a session that can be written, got a read-only file: {path}."
        elif "locked" in cause or "busy" in cause:
            message = f"Another program is writing to {path}: close it and do it again."
        else:
            message = f"The session {path} did not take the action ({cause}): nothing accepted was lost."
        raise SessionError(message) from error


@dataclass
class Edit:
    """What one action does: rows put into and taken out of document tables, and the blobs they name."""

    _connection: sqlite3.Connection
    deltas: list[Delta] = field(default_factory=list)

    def row(self, table: str, key: Any) -> Row | None:
        """A row as it stands now, in the order of `DOCUMENT[table]` or `PARTS[table]`."""
        columns = ", ".join(map(_quoted, PARTS.get(table) or DOCUMENT[table]))
        found = self._connection.execute(f'SELECT {columns} FROM "{table}" WHERE id = ?', (key,)).fetchone()
        return None if found is None else list(found)

    def put(self, table: str, row: Sequence[Any]) -> None:
        """Write a row, whose first value is its key."""
        self._change(Delta(table, row[0], self.row(table, row[0]), list(row)))

    def drop(self, table: str, key: Any) -> None:
        """Take a row out; nothing happens where there is none."""
        self._change(Delta(table, key, self.row(table, key), None))

    def next_id(self, what: str) -> int:
        """The next number of a counter. Numbers of deleted things are not used again."""
        row = self.row("counter", what)
        value = 1 if row is None else int(row[1]) + 1
        self.put("counter", (what, value))
        return value

    def blob(self, kind: str, data: bytes) -> str:
        """Keep bytes under the hash of their content; returns the key."""
        key = hashlib.blake2b(data, digest_size=16, person=kind.encode()).hexdigest()
        self._connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?, ?)", (key, kind, data))
        return key

    def _change(self, delta: Delta) -> None:
        if delta.before != delta.after:
            apply(self._connection, delta)
            self.deltas.append(delta)


def apply(connection: sqlite3.Connection, delta: Delta) -> None:
    """Bring one row to its state after `delta`."""
    if delta.table in PARTS:
        assert delta.after is not None, "a part of a row never goes alone"
        columns = ", ".join(f"{_quoted(column)} = ?" for column in PARTS[delta.table])
        connection.execute(f'UPDATE "{delta.table}" SET {columns} WHERE id = ?', (*delta.after, delta.key))
    elif delta.after is None:
        connection.execute(f'DELETE FROM "{delta.table}" WHERE id = ?', (delta.key,))
    else:
        marks = ", ".join("?" * len(delta.after))
        connection.execute(f'INSERT OR REPLACE INTO "{delta.table}" VALUES ({marks})', delta.after)


class Journal:
    """The open file: transactions, blobs, and the walk through history.

    History is a tree. Each action knows its parent, the action before it; the head is the action that stands last. Undo
    moves the head to the parent, redo to the newest child, and a new action after an undo begins a new branch: nothing
    is ever erased. Actions that share a step are undone together. One that amends another belongs to its step and
    begins no branch: redo takes it back and goes on from the one it amends; undone with that one, it is redone with it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._head = self._read_head()

    @property
    def head(self) -> int:
        """Id of the action that stands last, 0 before the first."""
        return self._head

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        self._connection.close()

    @contextmanager
    def transaction(self, is_draft: bool = False) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when left.

        A draft is handed to the system but not forced to the disk: it survives a killed process, and a power cut may
        cost the last clicks of an object that was not accepted yet, in exchange for no disk wait between clicks.
        The next durable commit forces it too, for the log is one file written in order.
        """
        with translated(self._path):
            self._connection.execute(f"PRAGMA synchronous={'NORMAL' if is_draft else 'FULL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def action(self, verb: str, label: str, *, joins: bool = False, is_draft: bool = False) -> Iterator[Edit]:
        """Record what the body does as one action of the history; `joins` makes it one step with the last."""
        with self.transaction(is_draft) as connection:
            edit = Edit(connection)
            yield edit
            if edit.deltas:
                head = self._append(connection, verb, label, edit.deltas, joins)
        if edit.deltas:
            self._head = head

    def _append(
        self, connection: sqlite3.Connection, verb: str, label: str, deltas: Sequence[Delta], joins: bool
    ) -> int:
        action = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM history").fetchone()[0]
        step = self._step(self._head) if joins and self._head else action
        text = json.dumps([[d.table, d.key, d.before, d.after] for d in deltas], separators=(",", ":"))
        connection.execute(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", (action, self._head, step, verb, label, now(), text)
        )
        self._move(connection, "do", action, action)
        return int(action)

    def undo(self) -> tuple[str, list[Delta]]:
        """Take the last step back; its verb and what changed.

        Raises
        ------
        SessionError
            If there is nothing to undo.
        """
        if not self._head:
            raise SessionError("Expected an action to undo, got none: nothing was done yet.")
        with self.transaction() as connection:
            head, step = self._head, self._step(self._head)
            done: list[Delta] = []
            verb = ""
            while head and self._step(head) == step:
                verb, deltas, parent = self._load(head)
                for delta in reversed(deltas):
                    apply(connection, delta.reversed())
                    done.append(delta.reversed())
                self._move(connection, "undo", head, parent)
                head = parent
        self._head = head
        return verb, done

    def redo(self) -> tuple[str, list[Delta]]:
        """Do the step again that was undone last; its verb and what changed.

        Raises
        ------
        SessionError
            If there is nothing to redo.
        """
        amended, child = self._ahead()
        if child is None:
            raise SessionError("Expected an action to redo, got none: nothing was undone since the last action.")
        with self.transaction() as connection:
            step = self._step(child)
            head = self._head
            done: list[Delta] = []
            verb = ""
            for action in amended:
                _, deltas, head = self._load(action)
                for delta in reversed(deltas):
                    apply(connection, delta.reversed())
                    done.append(delta.reversed())
                self._move(connection, "undo", action, head)
            while child is not None and self._step(child) == step:
                name, deltas, _ = self._load(child)
                verb = verb or name
                for delta in deltas:
                    apply(connection, delta)
                    done.append(delta)
                self._move(connection, "redo", child, child)
                head = child
                child = self._child(head)
                if child is None or self._step(child) != step:
                    child = self._amended_by(head)
        self._head = head
        return verb, done

    def next_undo(self) -> HistoryStep | None:
        """The step that `undo` would take back."""
        return self._describe(self._step(self._head), True) if self._head else None

    def next_redo(self) -> HistoryStep | None:
        """The step that `redo` would do again."""
        _, child = self._ahead()
        return None if child is None else self._describe(self._step(child), False)

    def last_verb(self) -> str:
        """Verb of the action that stands last, "" before the first."""
        return self._verb(self._head)

    def steps(self, newest: int) -> tuple[HistoryStep, ...]:
        """The newest steps that were ever done, oldest first, with which of them stand."""
        standing = set()
        head, fewest = self._head, self._one("SELECT coalesce(max(id), 0) FROM history")[0]
        query = "SELECT id, verb, label, time FROM history WHERE id = step ORDER BY id DESC LIMIT ?"
        rows = self.rows(query, (newest,))
        fewest = rows[-1][0] if rows else fewest
        while head >= fewest and head:
            standing.add(self._step(head))
            head = self._parent(head)
        return tuple(HistoryStep(id_, verb, label, time, id_ in standing) for id_, verb, label, time in reversed(rows))

    def stacks_of(self, step: int) -> frozenset[int]:
        """Numbers of the stacks that the actions of a step are about."""
        found = set()
        for (text,) in self.rows("SELECT deltas FROM history WHERE step = ?", (step,)):
            for table, key, before, after in json.loads(text):
                if table in ("object", "draft"):
                    found.add(int((after or before)[1]))
                elif table == "stack":
                    found.add(int(key))
        return frozenset(found)

    def blob(self, key: str) -> bytes | None:
        """Bytes kept by `Edit.blob`, or None where they are gone."""
        found = self._one("SELECT data FROM blob WHERE key = ?", key)
        return None if found is None else bytes(found[0])

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with translated(self._path):
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: Any) -> Any:
        """The first row of a query, or None."""
        with translated(self._path):
            return self._connection.execute(query, values).fetchone()

    def document(self) -> bytes:
        """Everything that undo moves through, in one canonical form: equal states give equal bytes."""
        tables = {
            table: self.rows(f'SELECT {", ".join(map(_quoted, columns))} FROM "{table}" ORDER BY id')
            for table, columns in (DOCUMENT | PARTS).items()
        }
        return json.dumps(tables, sort_keys=True, separators=(",", ":")).encode()

    def reread(self) -> bool:
        """Follow what another process wrote; whether the head has moved."""
        before = self._head
        self._head = self._read_head()
        return self._head != before

    def forget_old_logits(self, keep: int) -> None:
        """Drop low-resolution logits that neither a standing row nor one of the last `keep` actions names.

        They are by far the largest thing in a session and serve only as the mask prompt of drafts long past; without
        them those drafts still come back with their points, boxes and masks.
        """
        texts = self.rows("SELECT deltas FROM history ORDER BY id DESC LIMIT ?", (keep,))
        texts += self.rows("SELECT prompts FROM object") + self.rows("SELECT prompts FROM draft")
        named = {key for (text,) in texts for key in _KEY.findall(text)}
        # A row names its prompts, and the prompts name the logits.
        for key, data in self.rows("SELECT key, data FROM blob WHERE kind = 'prompts'"):
            if key in named:
                named.update(_KEY.findall(bytes(data).decode()))
        gone = [(key,) for (key,) in self.rows("SELECT key FROM blob WHERE kind = 'logits'") if key not in named]
        if gone:
            with self.transaction(is_draft=True) as connection:
                connection.executemany("DELETE FROM blob WHERE key = ?", gone)

    def _read_head(self) -> int:
        found = self._one("SELECT head FROM move ORDER BY id DESC LIMIT 1")
        return 0 if found is None else int(found[0])

    def _move(self, connection: sqlite3.Connection, kind: str, action: int, head: int) -> None:
        connection.execute(
            "INSERT INTO move (kind, action, head, time) VALUES (?, ?, ?, ?)", (kind, action, head, now())
        )

    def _load(self, action: int) -> tuple[str, list[Delta], int]:
        verb, text, parent = self._one("SELECT verb, deltas, parent FROM history WHERE id = ?", action)
        return verb, [Delta(*entry) for entry in json.loads(text)], int(parent)

    def _describe(self, step: int, stands: bool) -> HistoryStep:
        verb, label, time = self._one("SELECT verb, label, time FROM history WHERE id = ?", step)
        return HistoryStep(step, verb, label, time, stands)

    def _step(self, action: int) -> int:
        return int(self._one("SELECT step FROM history WHERE id = ?", action)[0])

    def _parent(self, action: int) -> int:
        return int(self._one("SELECT parent FROM history WHERE id = ?", action)[0])

    def _verb(self, action: int) -> str:
        found = self._one("SELECT verb FROM history WHERE id = ?", action)
        return "" if found is None else str(found[0])

    def _child(self, action: int) -> int | None:
        found = self._one("SELECT max(id) FROM history WHERE parent = ? AND verb != ?", action, AMENDS)[0]
        return None if found is None else int(found)

    def _amended_by(self, action: int) -> int | None:
        """What amended an action when it was last taken back: the amendment went right before it."""
        found = self._one(
            "SELECT history.id FROM move JOIN history ON history.id = move.action WHERE move.kind = 'undo' "
            "AND history.verb = ? AND history.parent = ? "
            "AND move.id = (SELECT max(id) - 1 FROM move WHERE kind = 'undo' AND action = ?)",
            AMENDS,
            action,
            action,
        )
        return None if found is None else int(found[0])

    def _ahead(self) -> tuple[list[int], int | None]:
        """The action that a redo would do, or None, and those to take back before it: they amend what it follows."""
        amended, head = [], self._head
        while (child := self._child(head)) is None and self._verb(head) == AMENDS:
            amended.append(head)
            head = self._parent(head)
        return amended, child


def _quoted(column: str) -> str:
    return f'"{column}"'
