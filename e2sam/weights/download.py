"""A download that goes on where it was cut short, is checked by its hash, and appears whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from e2sam.data.lock import WriterLock

__all__ = ["DownloadError", "Progress", "download", "part_of", "sha256_of"]

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0 where the server does not say)."""

_CHUNK = 2**20
_TIMEOUT_S = 30.0
_WAIT_S = 0.2
_log = logging.getLogger(__name__)


class DownloadError(Exception):
    """The file could not be had; the message says why."""


def part_of(path: Path) -> Path:
    """Where the bytes of an unfinished download of `path` lie."""
    return path.with_name(path.name + ".part")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(address: str, path: Path, sha256: str, progress: Progress | None = None) -> None:
    """Download a file to `path`.

    What has come stays beside `path` until it is whole, so that the next call asks for the rest only. While another
    process downloads the same file, this one waits for it.

    Raises
    ------
    DownloadError
        If the server cannot be reached, the connection breaks, or the hash is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not path.is_file():
            _download(address, path, sha256, progress)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process downloads `path`."""
    lock = WriterLock(path)
    waits = False
    while not lock.acquire():
        if not waits:
            _log.info("Waiting for %s, which %s downloads", path.name, lock.holder)
        waits = True
        time.sleep(_WAIT_S)
    try:
        yield
    finally:
        lock.release()


def _download(address: str, path: Path, sha256: str, progress: Progress | None) -> None:
    part = part_of(path)
    try:
        _receive(address, part, progress)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{reason}") from error
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise DownloadError(f"a file with SHA-256 {found[:12]}... instead of {sha256[:12]}..., which was removed")
    part.replace(path)


def _receive(address: str, part: Path, progress: Progress | None) -> None:
    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "e2sam"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S) as response:
            _append(response, part, start, progress)
    except urllib.error.HTTPError as error:
        # 416: nothing is left to send, the earlier download ended just before its hash was checked.
        if error.code != 416:
            raise


def _append(response: HTTPResponse, part: Path, start: int, progress: Progress | None) -> None:
    resumed = response.status == 206
    done = start if resumed else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else 0
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total and done < total:
        raise ConnectionError(f"connection closed after {done} of {total} bytes")
