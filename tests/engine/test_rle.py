"""COCO's run-length code: the worked cases of its documentation, and every mask there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from e2sam.data.masks import MaskCrop
from e2sam.data.rle import (
    compress_counts,
    counts_from_crop,
    crop_from_counts,
    decode_rle,
    encode_rle,
    expand_counts,
)
from e2sam.errors import E2SamError

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@pytest.mark.parametrize(
    ("column", "counts"),
    # The two examples in the head of cocoapi's maskApi.h.
    [([0, 0, 1, 1, 1, 0, 1], [2, 3, 1, 1]), ([1, 1, 1, 1, 1, 1, 0], [0, 6, 1])],
)
def test_documented_examples(column: list[int], counts: list[int]) -> None:
    mask = np.array(column, bool)[:, None]
    assert counts_from_crop(MaskCrop.of(mask), mask.shape) == counts
    found = crop_from_counts(counts, mask.shape)
    assert found is not None
    np.testing.assert_array_equal(found.full(mask.shape), mask)


def test_compression_by_hand() -> None:
    """The counts 6, 1, 40, 4, 5, 4, 5, 4, 21, coded on paper.

    6 -> '6'; 1 -> '1'; 40 = 8 + 32 * 1 -> 48 + 8 + 32 = 'X', '1'; 4 - 1 = 3 -> '3'; 5 - 40 = -35, whose low five bits
    are 29, and then -2, which is 30: 48 + 29 + 32 = 'm', 48 + 30 = 'N'; three differences of 0 -> '000'; 21 - 5 = 16
    has the sign bit, so another group follows: 48 + 16 + 32 = '`', '0'.
    """
    counts = [6, 1, 40, 4, 5, 4, 5, 4, 21]
    assert compress_counts(counts) == "61X13mN000`0"
    assert expand_counts("61X13mN000`0") == counts
    assert expand_counts(b"61X13mN000`0") == counts


@given(MASKS, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_every_mask_comes_back(mask: np.ndarray, x0: int, y0: int, is_compressed: bool) -> None:
    size = (mask.shape[0] + y0 + 1, mask.shape[1] + x0 + 2)
    whole = np.zeros(size, bool)
    whole[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
    if not mask.any():
        return
    code = encode_rle(MaskCrop.of(whole), size, is_compressed)
    found = decode_rle(code)
    assert found is not None
    np.testing.assert_array_equal(found.full(size), whole)
    # Against the definition: runs of the column-major mask, zeros first.
    flat = np.concatenate(([0], whole.T.ravel(), [2]))
    bounds = np.flatnonzero(np.diff(flat))
    expected = np.diff(np.concatenate(([0], bounds))).tolist()
    assert counts_from_crop(MaskCrop.of(whole), size) == expected


@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_counts_of_any_size_come_back(counts: list[int]) -> None:
    assert expand_counts(compress_counts(counts)) == counts


@pytest.mark.parametrize(
    "code",
    [
        {},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": "\x01"},
        {"size": [2, 2], "counts": "X"},
        {"size": [2], "counts": "4"},
    ],
)
def test_wrong_codes_are_refused(code: dict[str, object]) -> None:
    with pytest.raises(E2SamError, match="run-length code"):
        decode_rle(code)


def test_an_empty_code_is_no_mask() -> None:
    assert decode_rle({"size": [2, 3], "counts": [6]}) is None
