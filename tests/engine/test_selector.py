"""The channel selector."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from e2sam.errors import ChannelError
from e2sam.modeling.channel_selector import ChannelSelector, grouping_of, view_matrix


def draws(selector: ChannelSelector, count: int = 2000, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [selector.draw(rng, turn) for turn in range(count)]


def test_random_draws_ordered_triples_of_every_kind() -> None:
    drawn = draws(ChannelSelector("random", 4))
    assert {len(set(triple)) for triple in drawn} == {3}
    assert len(set(drawn)) == 24, "every order of every triple of four channels"


def test_diverse_prefers_information_and_shuns_copies() -> None:
    information = [1.0, 1.0, 1.0, 0.1, 1.0]
    correlation = np.eye(5)
    correlation[0, 1] = correlation[1, 0] = 0.99
    drawn = draws(ChannelSelector("diverse", 5, information, correlation))
    counts = Counter(index for selection in drawn for index in selection)
    assert counts[3] < 0.5 * counts[2] and counts[3] > 0
    together = sum({0, 1} <= set(selection) for selection in drawn)
    apart = sum({2, 4} <= set(selection) for selection in drawn)
    assert together < 0.15 * apart
    assert {len(selection) for selection in drawn} == {1, 2, 3}


def test_diverse_follows_the_canonical_order() -> None:
    order = [2, 0, 1, 3]
    drawn = draws(ChannelSelector("diverse", 4, order=order), 200)
    assert all([order[i] for i in selection] == sorted(order[i] for i in selection) for selection in drawn)


@pytest.mark.parametrize("count", [1, 2, 3, 156])
@pytest.mark.parametrize("kind", ["random", "diverse"])
def test_few_and_many_channels(kind: str, count: int) -> None:
    for selection in draws(ChannelSelector(kind, count), 50):
        assert 1 <= len(selection) <= min(3, count) and max(selection) < count


def test_fixed_goes_round() -> None:
    selector = ChannelSelector("fixed", 4, selections=[(0, 1, 2), (3,)])
    assert draws(selector, 3) == [(0, 1, 2), (3,), (0, 1, 2)]


def test_excluded_selections_are_never_drawn_in_any_order() -> None:
    for kind in ("random", "diverse"):
        drawn = draws(ChannelSelector(kind, 4, excluded=[(2, 1, 0)]), 500)
        assert all(set(selection) != {0, 1, 2} for selection in drawn)
    with pytest.raises(ChannelError, match="excluded"):
        draws(ChannelSelector("random", 3, excluded=[(0, 1, 2)]), 1)


def test_same_seed_same_draws() -> None:
    selector = ChannelSelector("diverse", 9)
    assert draws(selector, 20, seed=3) == draws(selector, 20, seed=3) != draws(selector, 20, seed=4)


def test_constant_channels_are_drawn_too() -> None:
    assert len(draws(ChannelSelector("diverse", 3, [0.0, 0.0, 0.0]), 10)) == 10


@pytest.mark.parametrize("arguments", [("best", 4), ("fixed", 4)])
def test_wrong_kinds_are_refused(arguments: tuple[str, int]) -> None:
    with pytest.raises(ChannelError, match="Expected"):
        ChannelSelector(*arguments)


def test_views_of_one_two_and_three_channels() -> None:
    assert view_matrix((2,), 3).tolist() == [[0, 0, 1]] * 3
    assert view_matrix((2, 0), 3).tolist() == [[0, 0, 1], [1, 0, 0], [0.5, 0, 0.5]]
    assert view_matrix((1, 0, 2), 3).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    with pytest.raises(ChannelError, match="at least 1"):
        view_matrix((), 4)


@pytest.mark.parametrize("count", [4, 5, 16, 156])
def test_views_of_more_channels_hold_every_one(count: int) -> None:
    matrix = view_matrix(range(count), count)
    assert matrix.sum(1) == pytest.approx([1, 1, 1]) and (matrix.sum(0) > 0).all()
    assert matrix[0].argmax() == 0 and matrix[2].argmax() == count - 1


def test_channels_that_show_the_same_share_a_plane() -> None:
    correlation = np.eye(5)
    correlation[0, 1] = correlation[1, 0] = 0.9
    correlation[3, 4] = correlation[4, 3] = -0.9
    grouping = grouping_of((4, 2, 0), [1.0, 0.5, 1.0, 1.0, 1.0], correlation, range(5))
    assert grouping.sum(1) == pytest.approx([1, 1, 1]) and (grouping.sum(0) > 0).all()
    assert grouping[0, :2] == pytest.approx([1 / 1.405, 0.405 / 1.405], rel=0.05)
    assert grouping[2, 4] > 0.9 and grouping[2, 3] == 0, "opposite channels would cancel each other"
    matrix = view_matrix((0, 1, 2, 4), 5, grouping)
    assert matrix[:, 3].tolist() == [0, 0, 0] and matrix.sum(1) == pytest.approx([1, 1, 1])
