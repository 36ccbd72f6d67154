"""Masks held as pixels or as runs are the same masks."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2sam.data import masks
from e2sam.data.masks import MaskCrop
from e2sam.errors import PromptError


@pytest.fixture
def held_as_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask is a large one, and read in small parts."""
    monkeypatch.setattr(masks, "_MOST_PIXELS", 0)
    monkeypatch.setattr(masks, "_PART", 16)


def random_mask(shape: tuple[int, int], seed: int) -> MaskCrop:
    """A random mask, as pixels."""
    rng = np.random.default_rng(seed)
    whole = rng.random(shape) < rng.uniform(0.1, 1)
    whole[rng.integers(shape[0]), rng.integers(shape[1])] = True
    return MaskCrop.of(whole, 7, 5)


@pytest.mark.usefixtures("held_as_runs")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 9999), step=st.integers(1, 9))
def test_a_mask_held_as_runs_is_the_mask(shape: tuple[int, int], seed: int, step: int) -> None:
    plain = random_mask(shape, seed)
    held = plain.compact()
    flat = np.concatenate(([False], plain.pixels.reshape(-1), [False]))
    assert np.array_equal(held.runs, np.flatnonzero(flat[1:] != flat[:-1])) and np.array_equal(plain.runs, held.runs)
    assert (held.box, held.shape, held.area) == (plain.box, plain.pixels.shape, plain.area)
    assert np.array_equal(held.pixels, plain.pixels) and held.pixels.dtype == bool
    assert held.to_bytes() == plain.to_bytes()
    with pytest.MonkeyPatch.context() as patch:
        # What was stored is read when somebody looks at it, and not to be stored or moved again.
        patch.setattr(masks.zlib, "decompressobj", lambda *_, **__: pytest.fail("nobody has looked"))
        stored = MaskCrop.from_bytes(plain.to_bytes(), plain.area)
        assert (stored.box, stored.area, stored.nbytes) == (plain.box, plain.area, held.nbytes)
        assert stored.to_bytes() == plain.to_bytes()
        assert stored.moved(3, 4).to_bytes() == plain.moved(3, 4).to_bytes()
    assert np.array_equal(stored.pixels, plain.pixels) and np.array_equal(stored.thinned(step), plain.thinned(step))
    assert MaskCrop.from_bytes(plain.to_bytes()).area == plain.area
    rng = np.random.default_rng(seed)
    x0, y0 = (int(value) for value in rng.integers(0, 40, 2))
    box = (x0, y0, x0 + int(rng.integers(1, 40)), y0 + int(rng.integers(1, 40)))
    assert np.array_equal(held.window(box), plain.window(box))
    height, width = plain.shape
    assert plain.thinned(step).shape == (-(-height // step), -(-width // step))


@settings(deadline=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 9999))
def test_masks_that_were_stored_as_pixels_are_read_whatever_their_size(shape: tuple[int, int], seed: int) -> None:
    plain = random_mask(shape, seed)
    small = plain.to_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_MOST_PIXELS", 0)
        patch.setattr(masks, "_PART", 16)
        large = MaskCrop.from_bytes(small)
        assert large.to_bytes() == plain.to_bytes() != small
    assert MaskCrop.from_bytes(small).to_bytes() == small
    assert np.array_equal(large.pixels, plain.pixels)


def test_large_masks_are_held_as_runs_that_nobody_changes() -> None:
    large = MaskCrop.of(np.ones((1100, 1000), bool))
    assert large.nbytes == 1100 * 1000
    assert large.compact().nbytes == 16
    assert large.compact().is_fixed and large.compact().compact().area == large.area
    small = MaskCrop.of(np.ones((11, 10), bool))
    assert small.compact() is small
    mask = MaskCrop.of_runs(np.array([0, 1100 * 1000]), (1100, 1000), 0, 0)
    for one in (mask, MaskCrop.from_bytes(mask.to_bytes())):
        with pytest.raises(ValueError, match="read-only"):
            one.runs[0] = 0


def test_a_damaged_head_asks_for_no_memory() -> None:
    for side in (3, 1100):
        data = MaskCrop.of(np.ones((side, side), bool)).to_bytes()
        for at, value in ((10, struct.pack("<II", 2**32 - 1, 2**32 - 1)), (18, b"\xff" * 8), (0, b"??")):
            with pytest.raises(PromptError, match="Expected a stored mask"):
                _ = MaskCrop.from_bytes(data[:at] + value + data[at + len(value) :]).runs


@pytest.mark.parametrize("runs", [[0, 1100 * 1000 + 1], [0, 5], [5, 5], [-2, 1100 * 1000], [3, 5, 5, 1100 * 1000]])
def test_runs_that_are_none_are_told(runs: list[int]) -> None:
    head = MaskCrop.of(np.ones((1100, 1000), bool)).to_bytes()[:18]
    lengths = np.diff(runs, prepend=0).astype("<i8").view(np.uint8).reshape(-1, 8).T
    body = struct.pack("<Q", len(runs) // 2) + zlib.compress(np.ascontiguousarray(lengths))
    with pytest.raises(PromptError, match="the mask is damaged"):
        _ = MaskCrop.from_bytes(head + body).area
    with pytest.raises(PromptError, match="the mask is damaged"):
        _ = MaskCrop.from_bytes(head + struct.pack("<Q", 7) + body[8:]).area
    with pytest.raises(PromptError, match="the mask is damaged"):
        _ = MaskCrop.from_bytes(head + body[:-6]).area
    with pytest.raises(PromptError, match="cannot be inflated"):
        _ = MaskCrop.from_bytes(head + body[:8] + bytes(20)).area


def test_a_mask_that_inflates_to_more_than_it_may_is_refused() -> None:
    data = MaskCrop.of(np.ones((3, 3), bool)).to_bytes()
    with pytest.raises(PromptError, match="of 2 bytes, got 3"):
        MaskCrop.from_bytes(data[:18] + zlib.compress(bytes(100_000_000)))
