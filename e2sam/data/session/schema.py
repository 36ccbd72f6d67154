"""Tables of the session file, its creation, and the check before it is trusted."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import tempfile
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from e2sam._version import __version__
from e2sam.errors import SessionError

__all__ = ["DOCUMENT", "FORMAT", "PARTS", "check_file", "connect", "create_file", "now", "remove_log"]

_logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the file format, SQLite's `user_version`."""

_APPLICATION = 0x65325341  # "e2SA", SQLite's `application_id`, by which `file` and we know a session

DOCUMENT: dict[str, tuple[str, ...]] = {
    "class": ("id", "name", "colour", "shortcut"),
    "object": (
        "id",
        "stack",
        "plane",
        "class",
        "score",
        "area",
        "x0",
        "y0",
        "x1",
        "y1",
        "mask",
        "prompts",
        "conditions",
        "origin",
        "reviewed",
        "created",
    ),
    "draft": ("id", "stack", "plane", "prompts", "candidates", "chosen", "conditions", "object"),
    "counter": ("id", "value"),
}
"""Tables that undo and redo move through, with their columns; the first is the key."""

PARTS: dict[str, tuple[str, ...]] = {"stack": ("id", "recipes")}
"""Columns that undo and redo move through in tables of which the rest only ever grows or is a setting."""

# Large values (masks, prompts, logits, conditions) lie in `blob` under the hash of their bytes and are never changed,
# so that a history entry holds keys only. `history` is a tree of actions, each knowing the one before it; `move` is
# the log of doing, undoing and redoing, and its last row says where we stand. Both only ever grow.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blob (key TEXT PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE stack (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, paths TEXT NOT NULL, content TEXT NOT NULL, height INTEGER NOT NULL,
    width INTEGER NOT NULL, planes TEXT NOT NULL, leading TEXT NOT NULL, channels TEXT NOT NULL, geo TEXT,
    selection TEXT, recipes TEXT, alignment TEXT NOT NULL, reading TEXT NOT NULL, done INTEGER NOT NULL
);
CREATE TABLE training_run (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, config TEXT NOT NULL, metrics TEXT NOT NULL,
    checkpoint TEXT, parent TEXT NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL
);
CREATE TABLE class (id INTEGER PRIMARY KEY, name TEXT NOT NULL, colour TEXT NOT NULL, shortcut TEXT NOT NULL);
CREATE TABLE object (
    id INTEGER PRIMARY KEY, stack INTEGER NOT NULL, plane TEXT NOT NULL, class INTEGER NOT NULL, score REAL,
    area INTEGER NOT NULL, x0 INTEGER NOT NULL, y0 INTEGER NOT NULL, x1 INTEGER NOT NULL, y1 INTEGER NOT NULL,
    mask TEXT NOT NULL, prompts TEXT NOT NULL, conditions TEXT NOT NULL, origin TEXT NOT NULL,
    reviewed INTEGER NOT NULL, created TEXT NOT NULL
);
CREATE TABLE draft (
    id TEXT PRIMARY KEY, stack INTEGER NOT NULL, plane TEXT NOT NULL, prompts TEXT NOT NULL, candidates TEXT NOT NULL,
    chosen INTEGER NOT NULL, conditions TEXT NOT NULL, object INTEGER
) WITHOUT ROWID;
CREATE TABLE counter (id TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, step INTEGER NOT NULL, verb TEXT NOT NULL, label TEXT NOT NULL,
    time TEXT NOT NULL, deltas TEXT NOT NULL
);
CREATE INDEX history_parent ON history (parent);
CREATE TABLE move (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, action INTEGER NOT NULL, head INTEGER NOT NULL, time TEXT NOT NULL
);
CREATE TRIGGER history_grows BEFORE DELETE ON history BEGIN SELECT RAISE(ABORT, 'history only grows'); END;
CREATE TRIGGER history_stays BEFORE UPDATE ON history BEGIN SELECT RAISE(ABORT, 'history only grows'); END;
CREATE TRIGGER move_grows BEFORE DELETE ON move BEGIN SELECT RAISE(ABORT, 'history only grows'); END;
CREATE TRIGGER move_stays BEFORE UPDATE ON move BEGIN SELECT RAISE(ABORT, 'history only grows'); END;
INSERT INTO class VALUES (1, 'object', '#e6a000', '');
"""


def now() -> str:
    """The time, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open the file with the settings that durability rests on.

    Write-ahead log with `synchronous=FULL`: a commit has returned only when its bytes are on disk, also against a
    power cut.
    """
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw")
    if read_only and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
        # SQLite cannot keep its reader's marks there, and nobody can write either.
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-16000")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_file(path: Path) -> None:
    """Write a new, empty session: whole under another name first; what is there by then, another's, stays.

    Raises
    ------
    SessionError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".new", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise SessionError(f"Expected a folder to write {path} in, got: {error.strerror}.") from error
    temporary = Path(name)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript("BEGIN;" + _TABLES + "COMMIT;")
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            facts = {"id": uuid.uuid4().hex, "created": now(), "version": __version__}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
            connection.execute("INSERT INTO setting VALUES ('overlap', ?)", (json.dumps("newest"),))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _put(temporary, path)
    except (sqlite3.Error, OSError) as error:
        raise SessionError(f"Expected to write the new session {path}, got: {error}.") from error
    finally:
        for left in (temporary, Path(f"{name}-wal"), Path(f"{name}-shm")):
            left.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Give a whole file its name, unless another process was quicker."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without links: what is left is to look first.
        if not path.exists():
            temporary.replace(path)


def check_file(path: Path) -> None:
    """Look at an existing file without changing it.

    Raises
    ------
    SessionError
        If it is not a session, is damaged or cut short, or was written by a newer version.
    """
    _check_header(path)
    log = Path(f"{path}-wal")
    had_log = log.exists()
    try:
        _check_content(path)
    except SessionError:
        # Looking at a file leaves an empty log beside it; a refused one is left as it was found.
        if not had_log and log.exists() and log.stat().st_size == 0:
            log.unlink(missing_ok=True)
            Path(f"{path}-shm").unlink(missing_ok=True)
        raise


def remove_log(path: Path) -> None:
    """After reading only: let SQLite remove the empty log, unless somebody else has the session open."""
    try:
        with closing(connect(path, read_only=False)) as connection:
            connection.execute("SELECT count(*) FROM meta").fetchone()
    except sqlite3.Error as error:
        _logger.debug("%s-wal stays: %s", path, error)


def _check_content(path: Path) -> None:
    try:
        with closing(connect(path, read_only=True)) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION:
                raise SessionError(f"Expected an e2sam session, got another SQLite file: {path}.")
            if version > FORMAT:
                raise SessionError(
                    f"Expected a session of format {FORMAT} or older, got {version}: update e2sam to open {path}."
                )
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise SessionError(_damaged(path, found))
    except sqlite3.Error as error:
        if Path(f"{path}-wal").exists() and not os.access(path.parent, os.W_OK):
            raise SessionError(
                f"Expected a folder that can be written, got {path.parent}: the last writer of {path.name} did not end "
                f"well, so copy it together with {path.name}-wal to another folder and open it there."
            ) from error
        raise SessionError(_damaged(path, str(error))) from error


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(100)
            length = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise SessionError(f"Expected a session file, got {error.strerror}: {path}.") from error
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise SessionError(f"Expected an e2sam session, got a file of another kind: {path}.")
    page = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    expected = pages * (65536 if page == 1 else page)
    log = Path(f"{path}-wal")
    # While a write-ahead log stands beside it, the main file may rightly be shorter than its header says.
    if length < expected and not (log.exists() and log.stat().st_size > 0):
        raise SessionError(_damaged(path, f"{length} of {expected} bytes are there"))


def _damaged(path: Path, detail: str) -> str:
    detail = " ".join(detail.replace("*", "").split())
    return f"Expected a whole session, got a damaged one ({detail}): {path} was left as it is."
