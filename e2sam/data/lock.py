"""One writer for each file: a lock of the operating system, which dies with its process."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["WriterLock"]


class WriterLock:
    """Exclusive lock on a file beside the one that is written (`NAME.lock`).

    `flock` on POSIX, `msvcrt.locking` on Windows: released by the system however the process ends, so nothing stale is
    ever left to clear, and held apart between two openings in one process too. The file names its holder for the
    message that the second opener gives.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        try:
            with self._path.open("rb") as file:
                file.seek(1)
                facts = json.loads(file.read())
            return f"process {facts['process']} on {facts['host']} since {facts['since'][:16].replace('T', ' ')} UTC"
        except (OSError, ValueError, KeyError):
            return "another window"

    def acquire(self) -> bool:
        """Take the lock; False if another holds it.

        Raises
        ------
        OSError
            If the lock file cannot be written.
        """
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            # The file may have been removed by its last holder between our opening and our locking it.
            if self._path.exists() and os.path.samestat(os.fstat(descriptor), self._path.stat()):
                break
            os.close(descriptor)
        facts = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        # Windows locks the first byte against reading, so the text begins after it.
        os.lseek(descriptor, 1, os.SEEK_SET)
        os.write(descriptor, json.dumps(facts).encode())
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is None:
            return
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
