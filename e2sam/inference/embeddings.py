"""Features of encoded pixels, kept in memory and on disk so that the same image is never encoded twice."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
import uuid
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray
from torch import Tensor

from e2sam.errors import E2SamError

__all__ = ["EmbeddingCache", "FeatureMemory", "cache_directory", "embedding_key"]

_LOG = logging.getLogger(__name__)
_SUFFIX = ".embedding"
_DIGEST_BYTES = 16
_DEFAULT_GB = 5.0
# What a full cache is emptied to, so that not every write empties it again.
_KEPT_SHARE = 0.9


def cache_directory() -> Path:
    """Where e2sam keeps what it can make again: E2SAM_CACHE_DIR, or the user's cache directory."""
    given = os.environ.get("E2SAM_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("e2sam", appauthor=False))


def embedding_key(planes: NDArray[np.float32], fingerprint: str, precision: str) -> str:
    """Name of the features of planes (P, h, w) as given to `E2SAM.prepare`.

    The pixels stand in the key themselves, so content, channels, normalization, view and window need no keys of their
    own.
    """
    digest = hashlib.blake2b(digest_size=24)
    digest.update(f"{fingerprint} {precision} {planes.shape}".encode())
    digest.update(np.ascontiguousarray(planes).data)
    return digest.hexdigest()


class EmbeddingCache:
    """Features on disk as float16, at most `max_bytes` of them; those used longest ago go first.

    Safe for several processes: files appear whole (written beside their name, then renamed), and each carries a digest,
    so a damaged one counts as missing. A full or read-only disk costs a warning, never a result.

    Parameters
    ----------
    directory
        Folder of the files; `cache_directory()` / "embeddings" if None.
    max_bytes
        Size cap in bytes; None takes E2SAM_CACHE_SIZE_GB (default 5). 0 keeps nothing.
    """

    def __init__(self, directory: Path | None = None, max_bytes: int | None = None) -> None:
        self.directory = cache_directory() / "embeddings" if directory is None else directory
        self.max_bytes = bytes_from_environment() if max_bytes is None else max_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def get(self, key: str) -> NDArray[np.float16] | None:
        """Features (D, h, w) float16 of a key, or None; marks them as used now."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            # In a cache that is shared and cannot be written the entry is of use all the same.
            os.utime(path)
        payload = raw[_DIGEST_BYTES:]
        if hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest() != raw[:_DIGEST_BYTES]:
            _LOG.warning("A damaged file in the embedding cache is encoded again: %s", path.name)
            _remove(path)
            return None
        features: NDArray[np.float16] = np.load(io.BytesIO(payload), allow_pickle=False)
        return features

    def put(self, key: str, features: NDArray[np.floating]) -> None:
        """Keep features (D, h, w), rounded to float16."""
        buffer = io.BytesIO()
        limit = float(np.finfo(np.float16).max)
        np.save(buffer, np.clip(features, -limit, limit).astype(np.float16), allow_pickle=False)
        payload = buffer.getvalue()
        if len(payload) + _DIGEST_BYTES > self.max_bytes:
            return
        path = self._path(key)
        partial = path.with_name(f".{key}.{uuid.uuid4().hex}.part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest() + payload)
            partial.replace(path)
        except OSError as error:
            _LOG.warning("The embedding could not be cached (%s); the work goes on without.", error.strerror or error)
            _remove(partial)
            return
        self._account(len(payload) + _DIGEST_BYTES)

    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> None:
        """Remove every file of the cache."""
        for _, _, path in self._files():
            _remove(path)
        with self._lock:
            self._bytes = None

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"

    def _account(self, added: int) -> None:
        """Count what was written and, past the cap, remove what was used longest ago."""
        with self._lock:
            self._bytes = self.size_bytes() if self._bytes is None else self._bytes + added
            if self._bytes <= self.max_bytes:
                return
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total <= _KEPT_SHARE * self.max_bytes:
                    break
                _remove(path)
                total -= size
            self._bytes = total

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path) of each file, abandoned parts of earlier crashes included."""
        found = []
        try:
            entries = list(os.scandir(self.directory))
        except OSError:
            return []
        for entry in entries:
            if entry.name.endswith((_SUFFIX, ".part")):
                try:
                    status = entry.stat()
                except OSError:
                    continue
                found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return found


class FeatureMemory:
    """Features in memory, at most `max_bytes`; those used longest ago go first."""

    def __init__(self, max_bytes: int = 384 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str) -> Tensor | None:
        """Features of a key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, features: Tensor) -> None:
        """Keep features; the newest stay even where they alone pass the cap."""
        with self._lock:
            self._kept[key] = features
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self.max_bytes:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()


def bytes_from_environment(usual_gb: float = _DEFAULT_GB) -> int:
    """Size cap of a cache: E2SAM_CACHE_SIZE_GB, or the usual one where that is not set."""
    given = os.environ.get("E2SAM_CACHE_SIZE_GB", "")
    try:
        gigabytes = float(given) if given else usual_gb
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise E2SamError(f"Expected E2SAM_CACHE_SIZE_GB as a number of gigabytes, 0 for no cache, got {given!r}.")
    return int(gigabytes * 1e9)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Held open or removed by another process: the next emptying tries again.
        return
