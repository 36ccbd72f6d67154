"""Selections, composites, ranking and suggestions."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2sam.data.channels import (
    ChannelSelection,
    channel_statistics,
    composites_for,
    composites_of,
    rank_channels,
    suggest_selections,
)
from e2sam.data.composites import best_triples, greedy_order
from e2sam.data.io import read_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError


def smooth(rng: np.random.Generator, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """A plane of soft blobs, in [0, 1]."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = sum(
        np.sin(rows * rng.uniform(0.02, 0.2) + columns * rng.uniform(0.02, 0.2) + rng.uniform(0, 6)) for _ in range(4)
    )
    return ((waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def rgbd(names: tuple[str, ...] = ("R", "G", "B", "depth")) -> ChannelStack:
    rng = np.random.default_rng(0)
    grey, depth = smooth(rng), smooth(rng)
    colours = [grey + 0.1 * smooth(rng) for _ in range(3)]
    return ChannelStack(np.stack([*colours, depth]), tuple(ChannelSpec(name) for name in names))


def test_statistics_agree_with_numpy() -> None:
    stack = rgbd()
    statistics = channel_statistics(stack)
    planes = stack.read().reshape(4, -1)
    np.testing.assert_allclose(statistics.correlation, np.corrcoef(planes), atol=0.03)
    noisy = stack.read() + np.random.default_rng(1).normal(0, 0.1, stack.data.shape).astype(np.float32)
    found = channel_statistics(ChannelStack(noisy, stack.channels))
    spread = np.ptp(np.percentile(noisy, [1, 99.8], axis=(1, 2)), axis=0)
    np.testing.assert_allclose(found.noise * spread, 0.1, rtol=0.1)
    assert (found.information < statistics.information).all()


def test_correlation_uses_pixels_valid_in_both() -> None:
    rng = np.random.default_rng(2)
    plane = smooth(rng)
    data = np.stack([plane, plane.copy(), 1 - plane])
    data[0, :20] = np.nan
    data[1, :, :30] = np.nan
    stack = ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b"), ChannelSpec("c")))
    correlation = channel_statistics(stack).correlation
    np.testing.assert_allclose(np.abs(correlation), 1, atol=0.02)
    assert correlation[0, 2] < 0


def test_ranking_puts_repeats_and_noise_behind() -> None:
    rng = np.random.default_rng(3)
    first, second = smooth(rng), smooth(rng)
    data = np.stack([first, first * 2 + 0.01 * second, rng.random(first.shape, np.float32), second])
    ranking = rank_channels(ChannelStack(data, tuple(ChannelSpec(name) for name in ("a", "copy", "noise", "b"))))
    assert {score.name for score in ranking[:2]} in ({"a", "b"}, {"copy", "b"})
    assert ranking[2].score < 0.1 * ranking[1].score
    scores = [score.score for score in ranking]
    assert scores == sorted(scores, reverse=True)


def test_invalid_and_constant_channels_are_reported_and_not_suggested() -> None:
    stack = rgbd()
    data = np.concatenate([stack.read(), np.full((1, 64, 80), np.nan, np.float32), np.ones((1, 64, 80), np.float32)])
    stack = ChannelStack(data, (*stack.channels, ChannelSpec("dead"), ChannelSpec("flat")))
    ranking = rank_channels(stack)
    assert ranking[-1].name == "dead"
    assert ranking[-1].valid_share == 0
    assert all({"dead", "flat"}.isdisjoint(suggestion.names) for suggestion in suggest_selections(stack, 10))


def test_suggestions_for_colour_and_depth() -> None:
    first, second, *others = suggest_selections(rgbd(), 4)
    assert (first.names, first.reason) == (("R", "G", "B"), "true colour")
    assert second.names == ("R", "G", "depth")
    assert len({frozenset(suggestion.names) for suggestion in (first, second, *others)}) == 4
    swapped = suggest_selections(rgbd(("B", "G", "R", "depth")), 1)
    assert swapped[0].names == ("R", "G", "B")


@pytest.mark.parametrize("count", [1, 2])
def test_few_channels(count: int) -> None:
    stack = rgbd()
    few = ChannelStack(stack.read()[:count], stack.channels[:count])
    (only,) = suggest_selections(few)
    assert only.names == few.names


@pytest.mark.parametrize(
    ("name", "is_left_out"), [("Brightfield", True), ("ch5_BF", True), ("DIC", True), ("phaseolin", False)]
)
def test_transmitted_light_is_not_suggested_beside_three_stains(name: str, is_left_out: bool) -> None:
    rng = np.random.default_rng(3)
    data = np.stack([smooth(rng) for _ in range(4)])
    # As in a microscope: little entropy in the stains, much in what is looked through.
    data[:3] = np.where(data[:3] > 0.7, data[:3], 0)
    stack = ChannelStack(data, tuple(ChannelSpec(each) for each in ("DNA", "ER", "AGP", name)))
    suggested = [set(suggestion.names) for suggestion in suggest_selections(stack, 4)]
    assert all(name not in names for names in suggested) is is_left_out
    few = ChannelStack(data[1:], stack.channels[1:])
    assert set(suggest_selections(few)[0].names) == {"ER", "AGP", name}


def test_nothing_valid() -> None:
    stack = ChannelStack(np.full((2, 8, 8), np.nan), (ChannelSpec("a"), ChannelSpec("b")))
    assert suggest_selections(stack) == []
    with pytest.raises(ChannelError, match="valid pixels"):
        ChannelSelection.of(stack)


@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_best_triple_is_the_best_of_all(count: int) -> None:
    rng = np.random.default_rng(count)
    correlation = np.corrcoef(rng.random((count, 9)))
    information = rng.random(count)
    (found,) = best_triples(correlation, information, range(count), 1)

    def oif(triple: tuple[int, ...]) -> float:
        pairs = sum(abs(correlation[pair]) for pair in combinations(triple, 2))
        return sum(information[list(triple)]) / (1 + pairs)

    assert oif(found) == pytest.approx(max(oif(triple) for triple in combinations(range(count), 3)))


@given(st.integers(1, 30), st.integers(0, 1000))
def test_greedy_order_is_a_permutation_with_falling_scores(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    correlation = np.atleast_2d(np.corrcoef(rng.random((count, 9))))
    ordered = greedy_order(correlation, rng.random(count), range(count))
    assert sorted(index for index, _ in ordered) == list(range(count))
    scores = [score for _, score in ordered]
    assert scores == sorted(scores, reverse=True)


@given(st.integers(1, 40), st.integers(0, 1000), st.data())
def test_every_selected_channel_has_weight(count: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    correlation = np.atleast_2d(np.corrcoef(rng.random((count, 9))))
    selection = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    composites = composites_of(selection, correlation, rng.random(count))
    for composite in composites:
        assert composite.matrix.shape == (3, count)
        assert composite.matrix.dtype == np.float32
        np.testing.assert_allclose(composite.matrix.sum(axis=1), 1, rtol=1e-5)
        assert set(composite.indices) <= set(selection)
        assert len(composite.names) == len(composite.indices)
    assert set(composites[0].indices) == set(selection)
    assert len(composites) == (1 if len(selection) <= 3 else min(3, 1 + 4))


def test_one_two_and_three_channels() -> None:
    eye, ones = np.eye(5), np.ones(5)
    (one,) = composites_of([3], eye, ones)
    assert one.matrix.tolist() == [[0, 0, 0, 1, 0]] * 3
    (two,) = composites_of([3, 1], eye, ones)
    assert two.matrix.tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0.5, 0, 0.5, 0]]
    (three,) = composites_of([4, 0, 2], eye, ones, names="abcde")
    assert three.matrix.argmax(axis=1).tolist() == [4, 0, 2]
    assert three.description == "e, a, c"
    planes = np.random.default_rng(0).random((5, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(three.apply(planes), planes[[4, 0, 2]] * 255, rtol=1e-6)
    np.testing.assert_allclose(two.apply(planes)[2], (planes[3] + planes[1]) / 2 * 255, rtol=1e-5)


def test_more_than_three_group_what_is_correlated() -> None:
    stack = rgbd()
    statistics = channel_statistics(stack)
    everything, *triples = composites_for(stack, ChannelSelection.of(stack, (0, 1, 2, 3)), statistics)
    assert everything.description.startswith("all 4: ")
    depth_row = everything.matrix[everything.matrix[:, 3] > 0]
    assert depth_row.tolist() == [[0, 0, 0, 1]]
    assert len(triples) == 2
    assert all("depth" in triple.names for triple in triples)


@pytest.mark.parametrize("selection", [[], [0, 0], [5], [-1]])
def test_wrong_selections(selection: list[int]) -> None:
    with pytest.raises(ChannelError, match="Expected"):
        composites_of(selection, np.eye(5), np.ones(5))


def test_selection_of_a_stack() -> None:
    stack = rgbd()
    assert ChannelSelection.of(stack, ("depth", 0)) == ChannelSelection((3, 0), ("depth", "R"))
    assert ChannelSelection.of(stack, "G, depth").indices == (1, 3)
    assert ChannelSelection.of(stack).names == ("R", "G", "B")
    for wrong in ((), ("R", "R"), ("R", 0), ("infrared",), (9,)):
        with pytest.raises(ChannelError):
            ChannelSelection.of(stack, wrong)


def test_wavelengths_give_true_colour_and_infrared() -> None:
    rng = np.random.default_rng(8)
    lengths = (450.0, 480.0, 555.0, 655.0, 850.0, 1610.0, 1375.0)
    specs = tuple(ChannelSpec(f"{length:g}", "", length, "reflectance") for length in lengths)
    stack = ChannelStack(np.stack([smooth(rng) for _ in lengths]), specs)
    suggested = suggest_selections(stack, 6)
    assert suggested[0].names == ("655", "555", "480")
    assert suggested[1].names == ("850", "655", "555")
    for suggestion in suggested:
        values = [float(name) for name in suggestion.names]
        assert values == sorted(values, reverse=True)
        assert 1375 not in values


def test_hundreds_of_channels_in_seconds(shared_data: Path) -> None:
    for name in ("samson_hsi_156band", "corn_kernel_hsi_580band"):
        stack = read_stack(shared_data / f"{name}.tif")
        start = time.process_time()
        suggested = suggest_selections(stack)
        assert len(suggested) == 5
        assert len(rank_channels(stack)) == stack.num_channels
        assert time.process_time() - start < 4
