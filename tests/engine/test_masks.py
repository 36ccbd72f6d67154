"""Masks held as pixels or as bits are the same masks."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2sam.data import masks
from e2sam.data.masks import MaskCrop


def both(shape: tuple[int, int], seed: int) -> tuple[MaskCrop, MaskCrop]:
    """A random mask as pixels, and the same one as bits."""
    rng = np.random.default_rng(seed)
    whole = rng.random(shape) < rng.uniform(0.1, 1)
    whole[rng.integers(shape[0]), rng.integers(shape[1])] = True
    plain = MaskCrop.of(whole, 7, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_MOST_UNPACKED", 0)
        return plain, plain.compact()


@settings(deadline=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 9999), step=st.integers(1, 9))
def test_a_mask_held_as_bits_is_the_mask(shape: tuple[int, int], seed: int, step: int) -> None:
    plain, packed = both(shape, seed)
    assert packed.nbytes == -(-plain.pixels.size // 8)
    assert (packed.box, packed.shape, packed.area) == (plain.box, plain.pixels.shape, plain.area)
    assert np.array_equal(packed.pixels, plain.pixels) and packed.pixels.dtype == bool
    assert packed.to_bytes() == plain.to_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_MOST_UNPACKED", 0)
        # What was stored is unpacked when somebody looks at it, and not to be stored or moved again.
        patch.setattr(masks.zlib, "decompress", lambda *_, **__: pytest.fail("nobody has looked"))
        stored = MaskCrop.from_bytes(plain.to_bytes(), plain.area)
        assert (stored.box, stored.area, stored.nbytes) == (plain.box, plain.area, packed.nbytes)
        assert stored.to_bytes() == plain.to_bytes()
        assert stored.moved(3, 4).to_bytes() == plain.moved(3, 4).to_bytes()
    assert np.array_equal(stored.pixels, plain.pixels) and np.array_equal(stored.thinned(step), plain.thinned(step))
    assert MaskCrop.from_bytes(plain.to_bytes()).area == plain.area
    rng = np.random.default_rng(seed)
    x0, y0 = (int(value) for value in rng.integers(0, 40, 2))
    box = (x0, y0, x0 + int(rng.integers(1, 40)), y0 + int(rng.integers(1, 40)))
    assert np.array_equal(packed.window(box), plain.window(box))
    assert np.array_equal(packed.thinned(step), plain.thinned(step))
    height, width = plain.shape
    assert plain.thinned(step).shape == (-(-height // step), -(-width // step))


def test_bits_are_counted_with_and_without_numpys_help(monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = both((50, 70), 3)
    area = packed.area
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert packed.area == area == int(packed.pixels.sum())


def test_large_masks_are_held_as_bits_that_nobody_changes() -> None:
    large = MaskCrop.of(np.ones((1100, 1000), bool))
    assert large.compact().nbytes == 1100 * 1000 // 8
    assert large.compact().is_fixed and large.compact().compact().area == large.area
    small = MaskCrop.of(np.ones((11, 10), bool))
    assert small.compact() is small
    bits = np.packbits(np.ones((1100, 1000), bool))
    mask = MaskCrop.of_bits(bits, (1100, 1000), 0, 0)
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[0] = 0


def test_a_damaged_head_asks_for_no_memory() -> None:
    data = MaskCrop.of(np.ones((3, 3), bool)).to_bytes()
    huge = MaskCrop.from_bytes(data[:10] + struct.pack("<II", 2**32 - 1, 2**32 - 1) + data[18:])
    assert huge.bits.size == 2
