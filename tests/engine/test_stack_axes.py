"""Which axis holds the channels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2sam.data.io.axes import resolve_axes
from e2sam.errors import StackError


@pytest.mark.parametrize(
    ("shape", "leading", "order"),
    [
        ((20, 30), "", (None, 0, 1)),
        ((1, 20, 30), "", (0, 1, 2)),
        ((20, 30, 1), "", (2, 0, 1)),
        ((4, 20, 30), "", (0, 1, 2)),
        ((20, 30, 4), "", (2, 0, 1)),
        ((16, 40, 64), "", (0, 1, 2)),
        ((580, 2000, 1000), "", (0, 1, 2)),
        ((1, 16, 40, 64), "", (1, 2, 3)),
        ((7, 20, 30, 4), "T", (0, 3, 1, 2)),
        ((3, 64, 64, 3), "T", (0, 3, 1, 2)),
        ((1, 1, 20, 30), "", (1, 2, 3)),
    ],
)
def test_rule(shape: tuple[int, ...], leading: str, order: tuple[int | None, ...]) -> None:
    found = resolve_axes(shape)
    assert (found.leading, found.order) == (leading, order)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((5, 5, 5), "0 or 2"),
        ((95, 95, 156), "0 or 2"),
        ((30, 4, 40), "0 or 2"),
        ((4, 10, 64, 64), "0 or 1 or 3"),
        ((2, 3, 4, 64, 64), "0 or 1 or 2 or 3 or 4"),
    ],
)
def test_ambiguous_shapes_are_refused_with_the_choices(shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(StackError, match=named):
        resolve_axes(shape)


@pytest.mark.parametrize(
    ("shape", "axes", "leading", "order"),
    [
        ((580, 31, 43), "CYX", "", (0, 1, 2)),
        ((5, 6, 7, 8, 9), "TZCYX", "TZ", (0, 1, 2, 3, 4)),
        ((5, 6, 7, 8, 9), "ZTCYX", "TZ", (1, 0, 2, 3, 4)),
        ((5, 40, 50), "ZYX", "Z", (0, None, 1, 2)),
        ((16, 40, 50), "PYX", "", (0, 1, 2)),
        ((5, 40, 50, 3), "PYXS", "T", (0, 3, 1, 2)),
        ((5, 1, 40, 50), "TCYX", "T", (0, 1, 2, 3)),
        ((1, 4, 40, 50, 1), "TCYXS", "", (1, 2, 3)),
        ((50, 40, 4), "XYC", "", (2, 1, 0)),
    ],
)
def test_metadata_comes_before_the_rule(
    shape: tuple[int, ...], axes: str, leading: str, order: tuple[int | None, ...]
) -> None:
    found = resolve_axes(shape, axes)
    assert (found.leading, found.order) == (leading, order)


def test_two_channel_axes_of_a_file_are_refused() -> None:
    with pytest.raises(StackError, match="0 or 3"):
        resolve_axes((4, 40, 50, 3), "CYXS")


@pytest.mark.parametrize(
    ("given_axis", "leading", "order"),
    [
        (0, "", (0, 1, 2)),
        (2, "", (2, 0, 1)),
        (-1, "", (2, 0, 1)),
        ("1", "", (1, 0, 2)),
        ("ZYX", "Z", (0, None, 1, 2)),
        ("yxc", "", (2, 0, 1)),
    ],
)
def test_the_user_comes_first(given_axis: int | str, leading: str, order: tuple[int | None, ...]) -> None:
    found = resolve_axes((5, 5, 5), "CYX", given_axis)
    assert (found.leading, found.order) == (leading, order)


@pytest.mark.parametrize("channel_axis", [3, -4, "CY", "ABC", "YYX"])
def test_wrong_channel_axes(channel_axis: int | str) -> None:
    with pytest.raises(StackError, match="Expected"):
        resolve_axes((5, 6, 7), "", channel_axis)


@pytest.mark.parametrize("shape", [(), (5,), (0, 4, 4), (4, 0, 4)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(StackError, match="rows and columns"):
        resolve_axes(shape)


@given(
    channels=st.integers(1, 24),
    rows=st.integers(36, 90),
    columns=st.integers(36, 90),
    place=st.sampled_from([0, 2]),
)
def test_a_small_end_axis_is_the_channels(channels: int, rows: int, columns: int, place: int) -> None:
    shape = (channels, rows, columns) if place == 0 else (rows, columns, channels)
    found = resolve_axes(shape)
    assert tuple(shape[axis] for axis in found.order if axis is not None) == (channels, rows, columns)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_every_shape_is_resolved_or_refused(shape: list[int]) -> None:
    try:
        found = resolve_axes(tuple(shape))
    except StackError:
        return
    axes = [axis for axis in found.order if axis is not None]
    assert len(set(axes)) == len(axes)
    assert len(found.order) == 3 + len(found.leading)
    assert all(length == 1 for axis, length in enumerate(shape) if axis not in axes)
