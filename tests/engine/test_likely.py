"""The candidate shown is the best one, or the one of the size of the objects before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2sam.data.likely import likely_candidate

SCORES, AREAS = (0.9, 0.8, 0.5), (100, 400, 3000)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        # Nothing, or too little, is known.
        ((), 0),
        ((400, 410), 0),
        ((400, 410, 390), 1),
        ((100, 110, 90), 0),
        # Objects of every size say nothing.
        ((20, 400, 9000), 0),
        # None of the candidates is like them: the nearest, unless it is far worse.
        ((900, 900, 900), 1),
        ((30_000, 30_000, 30_000), 2),
    ],
)
def test_sizes_that_agree_decide(accepted: tuple[int, ...], chosen: int) -> None:
    assert likely_candidate(SCORES, AREAS, accepted) == chosen


def test_an_empty_candidate_is_not_likely() -> None:
    assert likely_candidate((0.9, 0.5), (0, 300), (300, 300, 300)) == 1
    assert likely_candidate((0.9,), (0,), (300, 300, 300)) == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.integers(3, 10), st.integers(1, 10**9))
def test_candidates_of_one_size_are_told_apart_by_their_quality(scores: list[int], count: int, area: int) -> None:
    assert likely_candidate([score / 1000 for score in scores], [area] * len(scores), [50] * count) == scores.index(
        max(scores)
    )
