"""Layers of unlike resolution as one stack: exact where they agree, interpolated where not, read by windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from e2sam.data.combine import Grid, Placed, combine, placed_by_geo
from e2sam.data.stack import ChannelSpec, ChannelStack, GeoReference
from e2sam.errors import StackError


def stack_of(data: np.ndarray, *names: str, **facts: Any) -> ChannelStack:
    return ChannelStack(data, tuple(ChannelSpec(name, **facts) for name in names))


class Watched:
    """An array that notes how many pixels were asked of it."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype, self.read = data, data.shape, data.dtype, 0

    def __getitem__(self, key: Any) -> Any:
        part = self.data[key]
        self.read += part.size
        return part


def test_layers_on_one_grid_keep_type_and_values() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (3, 6, 7), dtype=np.uint8)
    thermal = np.random.default_rng(1).integers(0, 255, (1, 6, 7), dtype=np.uint8)
    stack, grid = combine([Placed(stack_of(colour, "R", "G", "B")), Placed(stack_of(thermal, "thermal", nodata=3))])
    assert stack.names == ("R", "G", "B", "thermal")
    assert stack.data.dtype == np.uint8
    assert stack.channels[3].nodata == 3
    assert grid == Grid((6, 7), (1.0, 1.0), (0.0, 0.0))
    np.testing.assert_array_equal(stack.read(), np.concatenate((colour, thermal)))


def test_half_resolution_by_hand() -> None:
    """Pixels of twice the size that share the outer edge: their centres fall between those of the fine grid."""
    fine = np.zeros((1, 4, 4), np.uint8)
    coarse = np.array([[[0, 8], [16, 24]]], np.uint16)
    stack, grid = combine(
        [Placed(stack_of(coarse, "depth"), scale=(2, 2), translate=(0.5, 0.5)), Placed(stack_of(fine, "grey"))]
    )
    assert grid.size == (4, 4)
    assert stack.data.dtype == np.float32
    expected = np.array([[0, 2, 6, 8], [4, 6, 10, 12], [12, 14, 18, 20], [16, 18, 22, 24]])
    np.testing.assert_allclose(stack.read()[0], expected, atol=1e-6)


def test_interpolation_agrees_with_scipy() -> None:
    generator = np.random.default_rng(2)
    coarse = generator.random((1, 9, 11)).astype(np.float32)
    fine = generator.random((1, 20, 30)).astype(np.float32)
    scale, translate = (2.7, 2.2), (1.3, -0.6)
    stack, _ = combine([Placed(stack_of(fine, "a")), Placed(stack_of(coarse, "b"), scale, translate)])
    ys, xs = np.mgrid[:20, :30]
    ys, xs = (ys - translate[1]) / scale[1], (xs - translate[0]) / scale[0]
    expected = ndimage.map_coordinates(coarse[0], (ys, xs), order=1, mode="nearest")
    outside = (ys < -0.5) | (ys > 8.5) | (xs < -0.5) | (xs > 10.5)
    assert outside.any()
    result = stack.read()[1]
    np.testing.assert_array_equal(np.isnan(result), outside)
    np.testing.assert_allclose(result[~outside], expected[~outside], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.tuples(st.floats(1, 4), st.floats(1, 4)),
    translate=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    rows=st.tuples(st.integers(0, 6), st.integers(7, 12)),
    columns=st.tuples(st.integers(0, 6), st.integers(7, 14)),
    step=st.integers(1, 3),
    extent=st.sampled_from(["finest", "union"]),
)
def test_windows_equal_the_whole(
    scale: tuple[float, float],
    translate: tuple[float, float],
    rows: tuple[int, int],
    columns: tuple[int, int],
    step: int,
    extent: str,
) -> None:
    generator = np.random.default_rng(0)
    fine = stack_of(generator.random((2, 12, 14)).astype(np.float32), "a", "b")
    coarse = stack_of(generator.integers(0, 9, (1, 5, 6), dtype=np.int16), "c")
    stack, grid = combine([Placed(fine), Placed(coarse, scale, translate)], extent)
    assert stack.size == grid.size
    whole = stack.read()
    part = stack.read(slice(*rows), slice(*columns), [2, 0], step)
    np.testing.assert_array_equal(part, whole[[2, 0], rows[0] : rows[1] : step, columns[0] : columns[1] : step])


def test_unmeasured_pixels_never_mix_in() -> None:
    coarse = np.array([[[10, -1, 30]]], np.int16)
    fine = np.zeros((1, 2, 6), np.float32)
    stack, _ = combine(
        [Placed(stack_of(fine, "a")), Placed(stack_of(coarse, "b", nodata=-1), scale=(2, 2), translate=(0.5, 0.5))]
    )
    row = stack.read()[1, 0]
    np.testing.assert_array_equal(row, [10, 10, np.nan, np.nan, 30, 30])
    assert stack.valid[1, 0].tolist() == [True, True, False, False, True, True]


def test_union_covers_all_and_says_what_was_not_measured() -> None:
    left = stack_of(np.ones((1, 4, 4), np.uint8), "a")
    right = stack_of(np.full((1, 4, 4), 2, np.uint8), "b")
    stack, grid = combine([Placed(left), Placed(right, translate=(3, -1))], "union")
    assert grid == Grid((5, 7), (1.0, 1.0), (0.0, -1.0))
    pixels = stack.read()
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[0], np.pad(np.ones((4, 4)), ((1, 0), (0, 3)), constant_values=np.nan))
    np.testing.assert_array_equal(pixels[1], np.pad(np.full((4, 4), 2.0), ((0, 1), (3, 0)), constant_values=np.nan))


def test_a_window_reads_only_its_part_of_each_layer() -> None:
    fine, coarse = Watched(np.zeros((1, 4000, 4000), np.uint8)), Watched(np.zeros((1, 1000, 1000), np.uint8))
    stack, _ = combine(
        [
            Placed(ChannelStack(fine, (ChannelSpec("a"),))),
            Placed(ChannelStack(coarse, (ChannelSpec("b"),)), scale=(4, 4), translate=(1.5, 1.5)),
        ]
    )
    assert (fine.read, coarse.read) == (0, 0)
    stack.read(slice(1000, 1100), slice(2000, 2100))
    assert fine.read == 100 * 100
    assert coarse.read <= 27 * 27


def test_channels_of_one_name_are_told_apart() -> None:
    one = ChannelStack(np.zeros((2, 2, 2), np.uint8), (ChannelSpec("B1"), ChannelSpec("B2")), Path("summer.tif"))
    two = ChannelStack(np.zeros((2, 2, 2), np.uint8), (ChannelSpec("B1"), ChannelSpec("dem")), Path("winter.tif"))
    assert combine([Placed(one), Placed(two)])[0].names == ("summer: B1", "B2", "winter: B1", "dem")
    assert combine([Placed(one), Placed(one)])[0].names == (
        "summer: B1",
        "summer: B2",
        "2: summer: B1",
        "2: summer: B2",
    )


def test_geo_references_place_layers() -> None:
    """A 10 m and a 20 m raster with the same corner."""

    def geo(metres: float) -> GeoReference:
        return GeoReference(pixel_to_world=((metres, 0, 500000.0), (0, -metres, 5100000.0)), epsg=32633)

    fine = ChannelStack(np.arange(16, dtype=np.float32).reshape(1, 4, 4), (ChannelSpec("a"),), geo=geo(10))
    coarse = ChannelStack(np.array([[[0, 8], [16, 24]]], np.float32), (ChannelSpec("b"),), geo=geo(20))
    stack, _ = combine([placed_by_geo(fine), placed_by_geo(coarse)])
    assert stack.geo == fine.geo
    np.testing.assert_array_equal(stack.read()[0], fine.read()[0])
    np.testing.assert_allclose(stack.read()[1, 0], [0, 2, 6, 8], atol=1e-6)
    with pytest.raises(StackError, match="geo-reference"):
        placed_by_geo(stack_of(np.zeros((1, 2, 2)), "a"))


def test_series_combine_plane_by_plane() -> None:
    data = np.random.default_rng(0).random((2, 1, 4, 4)).astype(np.float32)
    one = ChannelStack(data, (ChannelSpec("a"),), leading="T")
    two = ChannelStack(data[:, :, ::2, ::2], (ChannelSpec("b"),), leading="T")
    stack, _ = combine([Placed(one), Placed(two, (2, 2), (0.5, 0.5))])
    assert stack.data.shape == (2, 2, 4, 4)
    np.testing.assert_array_equal(stack.plane(1).read()[0], data[1, 0])
    np.testing.assert_array_equal(np.asarray(stack.data)[1], stack.plane(1).read())


@pytest.mark.parametrize(
    ("layers", "extent", "message"),
    [
        ([], "finest", "at least 1 layer"),
        ([Placed(stack_of(np.zeros((1, 2, 2)), "a"), scale=(0, 1))], "finest", "positive scale"),
        ([Placed(stack_of(np.zeros((1, 2, 2)), "a"))], "all", "extent"),
        (
            [
                Placed(stack_of(np.zeros((1, 2, 2)), "a")),
                Placed(stack_of(np.zeros((1, 2, 2)), "b"), translate=(1e9, 0)),
            ],
            "union",
            "near each other",
        ),
    ],
)
def test_wrong_layers_are_refused(layers: list[Placed], extent: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        combine(layers, extent)
