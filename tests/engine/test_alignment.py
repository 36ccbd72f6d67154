"""The alignment check: shifts of known size are found across unlike modalities and taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from e2sam.data.alignment import WARNING_SHIFT, estimate_shift, estimate_shifts, shifted
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError


def scene(size: int = 160, seed: int = 0) -> np.ndarray:
    """Blobs on a gradient, (H, W) float32 in 0..1."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=(size, size)), 4)
    return ((noise > 0.02) * 0.6 + np.linspace(0, 0.3, size)[None]).astype(np.float32)


def other_modality(plane: np.ndarray) -> np.ndarray:
    """The same outlines with inverted, non-linear values and noise, as a thermal camera beside a colour one."""
    noise = np.random.default_rng(5).normal(0, 0.02, plane.shape)
    return (20.0 - 7 * plane**2 + noise).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, -3.0), (-12.0, 7.0), (2.5, 1.5)])
def test_a_known_shift_is_found_between_unlike_modalities(shift: tuple[float, float]) -> None:
    reference = scene()
    moving = ndimage.shift(other_modality(reference), (-shift[1], -shift[0]), order=1, mode="nearest")
    assert estimate_shift(reference, moving) == pytest.approx(shift, abs=0.25)


def test_a_stack_is_warned_about_above_two_pixels() -> None:
    reference = scene()
    moved = np.roll(other_modality(reference), (4, -3), axis=(0, 1))
    stack = ChannelStack(
        np.stack((reference, other_modality(reference), moved)),
        (ChannelSpec("grey"), ChannelSpec("thermal"), ChannelSpec("far")),
    )
    thermal, far = estimate_shifts(stack, "grey")
    assert (thermal.name, thermal.reference, thermal.is_warning) == ("thermal", "grey", False)
    assert (far.dx, far.dy) == pytest.approx((3, -4), abs=0.2)
    assert far.is_warning
    assert far.distance == pytest.approx(5, abs=0.2) and far.distance > WARNING_SHIFT
    corrected = shifted(stack, {"far": (far.dx, far.dy)})
    assert estimate_shifts(corrected, "grey", ["far"])[0].distance < 0.3


def test_channels_without_common_edges_give_no_warning() -> None:
    noise = np.random.default_rng(3).normal(size=(160, 160)).astype(np.float32)
    flat = np.ones((160, 160), np.float32)
    stack = ChannelStack(np.stack((scene(), noise, flat)), tuple(ChannelSpec(name) for name in "abc"))
    assert [one.is_reliable for one in estimate_shifts(stack)] == [False, False]


def test_holes_do_not_count_as_edges() -> None:
    reference = scene()
    moving = ndimage.shift(other_modality(reference), (0, -6), order=0, mode="nearest")
    holed = reference.copy()
    holed[40:60, 30:90] = np.nan
    moving[100:130, 20:50] = np.nan
    stack = ChannelStack(np.stack((holed, moving)), (ChannelSpec("a"), ChannelSpec("b")))
    (found,) = estimate_shifts(stack)
    assert (found.dx, found.dy) == pytest.approx((6, 0), abs=0.3)


@settings(max_examples=40, deadline=None)
@given(
    dx=st.integers(-9, 9),
    dy=st.integers(-9, 9),
    rows=st.tuples(st.integers(0, 7), st.integers(8, 12)),
    columns=st.tuples(st.integers(0, 5), st.integers(6, 10)),
    step=st.integers(1, 3),
)
def test_windows_of_a_shifted_stack_equal_the_whole(
    dx: int, dy: int, rows: tuple[int, int], columns: tuple[int, int], step: int
) -> None:
    data = np.arange(2 * 12 * 10, dtype=np.float32).reshape(2, 12, 10)
    stack = shifted(ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b"))), {"b": (dx, dy)})
    whole = stack.read()
    np.testing.assert_array_equal(whole[0], data[0])
    np.testing.assert_array_equal(whole[1], ndimage.shift(data[1], (dy, dx), order=0, cval=np.nan, prefilter=False))
    part = stack.read(slice(*rows), slice(*columns), [1, 0], step)
    np.testing.assert_array_equal(part, whole[[1, 0], rows[0] : rows[1] : step, columns[0] : columns[1] : step])


def test_fractions_are_interpolated_and_never_mix_in_nodata() -> None:
    data = np.array([[[0, 10, 20, 255, 40, 50]]], np.uint8)
    plain = shifted(ChannelStack(data, (ChannelSpec("a"),)), {"a": (0.5, 0)})
    assert plain.read().tolist() == [[[0, 5, 15, 138, 148, 45]]]  # repeats its edge; halves are rounded to even
    marked = shifted(ChannelStack(data, (ChannelSpec("a", nodata=255),)), {"a": (0.5, 0)})
    assert marked.read().tolist() == [[[255, 5, 15, 255, 255, 45]]]
    assert marked.valid[0, 0].tolist() == [False, True, True, False, False, True]


def test_series_are_shifted_plane_by_plane() -> None:
    data = np.random.default_rng(0).random((3, 2, 5, 6)).astype(np.float32)
    stack = shifted(ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b")), leading="T"), {"a": (1, 0)})
    np.testing.assert_array_equal(stack.plane(2).read()[0, :, 1:], data[2, 0, :, :-1])
    np.testing.assert_array_equal(np.asarray(stack.data)[1, 0, :, 1:], data[1, 0, :, :-1])


def test_unknown_channels_are_refused() -> None:
    stack = ChannelStack(np.zeros((1, 4, 4), np.uint8), (ChannelSpec("a"),))
    with pytest.raises(ChannelError, match="got 'b'"):
        shifted(stack, {"b": (1, 1)})


def test_real_aligned_modalities_are_left_alone(shared_data: Path) -> None:
    from e2sam.data.io import read_stack

    stack = read_stack(shared_data / "sentinel2_slovenia_13band.tif")
    warned = {one.name: one.distance for one in estimate_shifts(stack, "B04") if one.is_warning}
    # The band of 60 m lies half of its own pixel off, which is a fault of the source.
    assert set(warned) <= {"B01"}
    assert all(distance < 3 for distance in warned.values())
    moved = shifted(stack, {"B11": (4.0, -2.0)})
    found = {one.name: one for one in estimate_shifts(moved, "B04", ["B11", "B12"])}
    assert (found["B11"].dx, found["B11"].dy) == pytest.approx((-4, 2), abs=0.6)
    assert found["B11"].is_warning
    assert not found["B12"].is_warning
