"""Axes and coordinates between napari and the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image

from e2sam.data.io import read_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import StackError
from napari_e2sam import _convert
from napari_e2sam._convert import (
    STACK_KEY,
    axis_choices,
    box_of_corners,
    channels_first,
    corners_of_box,
    describe_stack,
    points_of_xy,
    scene_of,
    xy_of_points,
)
from napari_e2sam._worker import _stack_of

NUMBERS = st.floats(-1e4, 1e4)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6))
def test_points_go_there_and_back(points: list[tuple[float, float]]) -> None:
    expected = np.array(points, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(points_of_xy(xy_of_points(expected)), expected, atol=2e-3)


def test_the_centre_of_a_pixel_is_half_a_pixel_in() -> None:
    # Row 3, column 7 of napari is the pixel whose centre the engine calls x = 7.5, y = 3.5.
    assert xy_of_points([[3, 7]]).tolist() == [[7.5, 3.5]]
    assert xy_of_points([[9, 2, 3, 7]]).tolist() == [[7.5, 3.5]]


def test_a_box_is_cut_to_the_image_and_goes_back() -> None:
    corners = corners_of_box((2.0, 3.0, 10.0, 9.0))
    assert box_of_corners(corners, (20, 20)) == (2.0, 3.0, 10.0, 9.0)
    assert box_of_corners(corners, (6, 8)) == (2.0, 3.0, 8.0, 6.0)
    assert box_of_corners(corners, (3, 3)) is None


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 5, 13, 16])
@pytest.mark.parametrize("is_last", [False, True])
def test_the_channel_axis_is_found_wherever_it_is(num_channels: int, is_last: bool) -> None:
    data = np.random.default_rng(0).uniform(2, 9, (num_channels, 40, 50)).astype(np.float32)
    layer = Image(np.moveaxis(data, 0, -1) if is_last else data, rgb=False)
    scene = scene_of([layer])
    np.testing.assert_array_equal(scene.stack.read(), data)
    channels_first(layer, axis_choices(layer)[0].axis)
    np.testing.assert_array_equal(layer.data, data)


def test_a_colour_layer_has_its_channels() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    scene = scene_of([Image(pixels, rgb=True)])
    assert scene.stack.names == ("R", "G", "B")
    np.testing.assert_array_equal(scene.stack.read()[1], pixels[..., 1])


def test_series_keep_their_axes_in_front() -> None:
    layer = Image(np.zeros((6, 3, 40, 50)), rgb=False)
    scene = scene_of([layer], channel_axis=1)
    assert (scene.stack.leading, scene.stack.num_planes, scene.stack.num_channels) == ("T", (6,), 3)


def test_layers_of_unlike_resolution_are_joined_on_the_finest_grid() -> None:
    fine = Image(np.arange(80.0).reshape(8, 10), name="fine", scale=(0.5, 0.5))
    coarse = Image(np.full((4, 5), 7.0), name="coarse", scale=(1.0, 1.0))
    scene = scene_of([coarse, fine])
    assert scene.stack.names == ("coarse", "fine")
    assert scene.size == (8, 10)
    assert scene.scale == (0.5, 0.5)
    assert "coarse" in scene.warning
    np.testing.assert_array_equal(scene.stack.read()[1], fine.data)
    assert np.nanmax(scene.stack.read()[0]) == 7.0
    assert scene.stack.source is None


def test_nothing_is_no_stack() -> None:
    with pytest.raises(StackError, match="Expected an image layer"):
        scene_of([])


def test_the_engine_reads_the_files_of_a_large_stack_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_convert, "_SENT_BYTES", 0)
    names = ("b", "a")
    for value, name in enumerate((*names, "c")):
        np.save(tmp_path / f"{name}.npy", np.full((9, 8), value, np.float32))
    stack = read_stack([tmp_path / f"{name}.npy" for name in names])
    layer = Image(stack.data, metadata={STACK_KEY: stack}, rgb=False)
    described, arrays = describe_stack(scene_of([layer]), ())
    rebuilt = _stack_of(described, arrays)
    assert not arrays and rebuilt.names == names
    np.testing.assert_array_equal(rebuilt.read()[:, 0, 0], [0, 1])


@pytest.mark.parametrize("leading", ["", "T"])
def test_the_engine_gets_the_same_stack(leading: str) -> None:
    data = np.random.default_rng(0).uniform(0, 1, (*([4] if leading else []), 2, 9, 8)).astype(np.float32)
    channels = (ChannelSpec("a", unit="m", kind="depth", nodata=0.5), ChannelSpec("b"))
    stack = ChannelStack(data, channels, leading=leading)
    layer = Image(data, metadata={STACK_KEY: stack}, rgb=False)
    plane = (2,) if leading else ()
    described, arrays = describe_stack(scene_of([layer]), plane)
    rebuilt = _stack_of(described, arrays)
    assert rebuilt.channels == channels
    np.testing.assert_array_equal(rebuilt.read(), stack.plane(*plane).read())
