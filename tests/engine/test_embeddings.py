"""The embedding cache: bounded, whole files only, never in the way."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from e2sam.errors import E2SamError
from e2sam.inference.embeddings import EmbeddingCache, FeatureMemory, cache_directory, embedding_key


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, 4, 4)).astype(np.float32)


def test_what_was_put_comes_back_as_half_precision(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put("a", features())
    found = EmbeddingCache(tmp_path).get("a")
    assert found is not None
    np.testing.assert_array_equal(found, features().astype(np.float16))
    assert cache.get("b") is None


def test_values_beyond_half_precision_stay_finite(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put("a", np.array([[[1e6, -1e6]]], np.float32))
    found = cache.get("a")
    assert found is not None and np.isfinite(found).all()


def test_keys_differ_by_pixels_model_and_precision() -> None:
    planes = features()
    changed = planes.copy()
    changed[0, 0, 0] += 1e-6
    keys = {
        embedding_key(planes, "model", "float32"),
        embedding_key(changed, "model", "float32"),
        embedding_key(planes, "other", "float32"),
        embedding_key(planes, "model", "bfloat16"),
        embedding_key(planes.reshape(8, 2, 8), "model", "float32"),
    }
    assert len(keys) == 5
    assert embedding_key(planes.copy(), "model", "float32") in keys
    assert embedding_key(np.asfortranarray(planes), "model", "float32") in keys


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_a_miss_and_goes(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put("a", features())
    (path,) = tmp_path.iterdir()
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[-3] ^= 1
    path.write_bytes({"cut": raw[:-20], "flipped": raw, "empty": b""}[damage])
    assert cache.get("a") is None
    assert not path.exists()
    cache.put("a", features())
    assert cache.get("a") is not None


def test_the_oldest_use_goes_first(tmp_path: Path) -> None:
    size = _size_of_one(tmp_path / "one")
    cache = EmbeddingCache(tmp_path / "cache", max_bytes=4 * size)
    for number, name in enumerate("abcd"):
        cache.put(name, features(number))
        os.utime(tmp_path / "cache" / f"{name}.embedding", ns=(number * 10**9, number * 10**9))
    assert cache.get("a") is not None
    cache.put("e", features(5))
    assert cache.size_bytes() <= 4 * size
    assert [name for name in "abcde" if cache.get(name) is not None] == ["a", "d", "e"]


def test_a_cap_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=0)
    cache.put("a", features())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = EmbeddingCache(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(logging.getLogger("e2sam"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        cache.put("a", features())
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert cache.get("a") is None


def test_place_and_size_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2SAM_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("E2SAM_CACHE_SIZE_GB", "0.5")
    cache = EmbeddingCache()
    assert cache.directory == tmp_path / "here" / "embeddings"
    assert cache.max_bytes == 500_000_000
    monkeypatch.delenv("E2SAM_CACHE_DIR")
    assert cache_directory().name == "e2sam"
    for wrong in ("much", "-1", "inf"):
        monkeypatch.setenv("E2SAM_CACHE_SIZE_GB", wrong)
        with pytest.raises(E2SamError, match=wrong):
            EmbeddingCache()


def test_memory_is_bounded_by_bytes() -> None:
    memory = FeatureMemory(max_bytes=3 * 400)
    for name in "abcd":
        memory.put(name, torch.zeros(100))
        memory.get("a")
    assert [name for name in "abcd" if memory.get(name) is not None] == ["a", "c", "d"]
    memory.put("large", torch.zeros(10_000))
    assert memory.get("large") is not None
    memory.clear()
    assert memory.get("large") is None


def _size_of_one(directory: Path) -> int:
    cache = EmbeddingCache(directory)
    cache.put("a", features())
    return cache.size_bytes()
