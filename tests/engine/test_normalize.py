"""Recipes: ranges from valid pixels, no NaN out, the same numbers after a round trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from e2sam.data.normalize import RECIPE_KINDS, ChannelRecipe, apply_recipes, auto_kinds, fit_recipes
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError


def stack_of(data: np.ndarray, *specs: ChannelSpec | str) -> ChannelStack:
    channels = tuple(ChannelSpec(spec) if isinstance(spec, str) else spec for spec in specs)
    return ChannelStack(data, channels)


def normalized(stack: ChannelStack, **options: object) -> np.ndarray:
    return apply_recipes(stack.read(), stack.valid, fit_recipes(stack, **options))


def test_percentiles_of_valid_pixels() -> None:
    data = np.arange(10_001, dtype=np.float32).reshape(1, 73, 137)
    data[0, 0, 0] = np.nan
    (recipe,) = fit_recipes(stack_of(data, "a"))
    assert recipe.kind == "percentile"
    assert recipe.low == pytest.approx(np.percentile(np.arange(1, 10_001), 1), abs=1)
    assert recipe.high == pytest.approx(np.percentile(np.arange(1, 10_001), 99.8), abs=1)
    assert recipe.fill == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("size", [(3, 3), (10, 10), (100, 100)])
@pytest.mark.parametrize("hot", [65535, 0])
def test_one_hot_or_dead_pixel_does_not_flatten_a_channel(size: tuple[int, int], hot: int) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(1000, 1100, (1, *size)).astype(np.uint16)
    data[0, 1, 1] = hot
    planes = normalized(stack_of(data, "a"))
    others = np.ones(size, bool)
    others[1, 1] = False
    assert planes[0][others].std() > 0.2


@pytest.mark.parametrize("kind", RECIPE_KINDS)
def test_a_range_given_by_hand(kind: str) -> None:
    data = np.linspace(1, 9, 400, dtype=np.float32).reshape(1, 20, 20)
    (fitted,) = fit_recipes(stack_of(data, "a"), kind)
    recipe = fitted.with_range(2, 6)
    assert recipe.value_range == pytest.approx((2, 6))
    ends = recipe.apply(np.array([1, 2, 6, 7], np.float32), np.ones(4, bool))
    expected = [1, 1, 0, 0] if kind == "inverse_depth" else [0, 0, 1, 1]
    np.testing.assert_allclose(ends, expected, atol=1e-6)
    # What is not measured becomes the median, as before.
    middle = recipe.apply(np.array([5.0], np.float32), np.ones(1, bool))[0]
    assert recipe.fill == pytest.approx(middle, abs=0.02) or fitted.fill in (0, 1)
    assert ChannelRecipe.from_json(recipe.to_json()) == recipe
    for low, high in ((6, 2), (3, 3), (0, np.inf), (np.nan, 1), (1, np.nan), (1e300, 1e308)):
        with pytest.raises(ChannelError, match="the lower one first"):
            fitted.with_range(low, high)


def test_a_range_that_the_recipe_cannot_have_is_refused() -> None:
    assert ChannelRecipe("log_depth").with_range(0, 5).value_range == pytest.approx((0, 5))
    for kind, low in (("db", 0), ("inverse_depth", 0), ("log_depth", -1)):
        with pytest.raises(ChannelError, match=f"0.* for the recipe {kind}"):
            ChannelRecipe(kind).with_range(low, 5)
    assert ChannelRecipe("none").with_range(-5, 5) == ChannelRecipe("range", -5, 5, 0.55)


def test_invalid_pixels_take_the_median_and_nothing_is_nan() -> None:
    data = np.random.default_rng(1).random((4, 20, 24)).astype(np.float32)
    data[0, 3] = np.nan
    data[1, 4] = np.inf
    data[2, 5] = -9
    data[3] = np.nan
    stack = stack_of(data, "a", "b", ChannelSpec("c", nodata=-9.0), "d")
    planes = normalized(stack)
    assert np.isfinite(planes).all()
    assert planes.min() >= 0
    assert planes.max() <= 1
    for channel, row in ((0, 3), (1, 4), (2, 5)):
        valid = stack.valid[channel]
        median = np.median(planes[channel][valid])
        np.testing.assert_allclose(planes[channel, row], median, atol=0.01)


def test_nan_never_comes_out_even_if_called_valid() -> None:
    data = np.full((1, 4, 4), np.nan, np.float32)
    planes = apply_recipes(data, np.ones((1, 4, 4), bool), (ChannelRecipe("percentile", 0, 1, 0.25),))
    assert (planes == 0.25).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_photograph_reaches_the_model_unchanged(dtype: type) -> None:
    data = np.random.default_rng(2).integers(0, 256, (4, 20, 24)).astype(dtype)
    data[:, 0, 0] = 255
    planes = normalized(stack_of(data, "R", "G", "B", "x"))
    np.testing.assert_allclose(planes[:3] * 255, data[:3].astype(np.float32), atol=1e-4)
    assert np.abs(planes[3] * 255 - data[3]).max() > 0.5


def test_three_bytes_are_a_photograph() -> None:
    data = np.zeros((3, 4, 4), np.uint8)
    assert auto_kinds(stack_of(data, "DAPI", "GFP", "RFP")) == ("none",) * 3


def test_unit_range_colour_is_left_alone_and_raw_colour_is_not() -> None:
    data = np.random.default_rng(3).random((3, 20, 24)).astype(np.float32) * 0.5
    np.testing.assert_allclose(normalized(stack_of(data, "r", "g", "b")), data, atol=1e-6)
    raw = stack_of((data * 8000).astype(np.uint16), "R", "G", "B")
    assert auto_kinds(raw) == ("percentile",) * 3
    assert auto_kinds(stack_of(data * 3, "R", "G", "B")) == ("percentile",) * 3


def test_a_letter_alone_is_no_colour() -> None:
    data = np.random.default_rng(3).integers(0, 100, (4, 20, 24)).astype(np.uint16)
    assert auto_kinds(stack_of(data, "a", "b", "c", "d")) == ("percentile",) * 4
    assert auto_kinds(stack_of(data, "R", "B", "c", "d")) == ("range", "range", "percentile", "percentile")


def test_auto_follows_kind_and_unit() -> None:
    data = np.random.default_rng(4).random((4, 20, 24)).astype(np.float32)
    specs = (ChannelSpec("d", kind="depth"), ChannelSpec("s", unit="dB"), ChannelSpec("t", kind="thermal"), "x")
    assert auto_kinds(stack_of(data, *specs)) == ("log_depth", "range", "percentile", "percentile")
    assert auto_kinds(stack_of((data * 255).astype(np.uint8), *specs))[0] == "percentile"


def test_depth_recipes() -> None:
    metres = np.geomspace(0.5, 100, 4000).reshape(1, 50, 80)
    stack = stack_of(metres, ChannelSpec("depth", "m", kind="depth"))
    log = normalized(stack)
    low, high = np.log1p(np.percentile(metres, [1, 99.8]))
    np.testing.assert_allclose(log[0], np.clip((np.log1p(metres[0]) - low) / (high - low), 0, 1), atol=2e-3)
    near_is_bright = normalized(stack, kinds="inverse_depth")
    assert (np.diff(near_is_bright[0].ravel()) <= 0).all()
    saturated = (metres * 100).astype(np.uint16)
    saturated[0, :5] = 65535
    (recipe,) = fit_recipes(stack_of(saturated, "depth"), "log_depth")
    assert recipe.high < np.log1p(11_000)


def test_db_is_ten_log() -> None:
    power = 10 ** np.linspace(-3, 1, 4000).reshape(1, 50, 80)
    power[0, 0, 0] = 0
    (recipe,) = fit_recipes(stack_of(power, "vv"), "db")
    assert recipe.low == pytest.approx(-29.6, abs=0.1)
    assert recipe.high == pytest.approx(10, abs=0.1)


def test_reflectance_keeps_the_shape_of_a_spectrum() -> None:
    rng = np.random.default_rng(5)
    data = np.stack([rng.random((30, 40)) * 0.1, rng.random((30, 40)) * 0.4]).astype(np.float32)
    first, second = fit_recipes(stack_of(data, "a", "b"), "reflectance")
    assert (first.low, first.high) == (second.low, second.high)
    planes = normalized(stack_of(data, "a", "b"), kinds="reflectance")
    inside = (planes > 0).all(axis=0) & (planes < 1).all(axis=0)
    np.testing.assert_allclose((planes[0] / planes[1])[inside], (data[0] / data[1])[inside], rtol=1e-4)


def test_kinds_by_name_and_ready_recipes() -> None:
    data = np.random.default_rng(6).integers(0, 4000, (3, 20, 24)).astype(np.uint16)
    stack = stack_of(data, "a", "b", "c")
    fixed = ChannelRecipe("range", 100, 2000)
    assert [recipe.kind for recipe in fit_recipes(stack, {"b": "none", "c": fixed})] == ["percentile", "none", "range"]
    assert fit_recipes(stack, {"c": fixed})[2] == fixed
    assert fit_recipes(stack, "none")[0] == ChannelRecipe("none", 0, 65535, fit_recipes(stack, "none")[0].fill)
    for wrong in ("sharpest", {"a": "sharpest"}, {"z": "none"}):
        with pytest.raises(ChannelError, match="Expected"):
            fit_recipes(stack, wrong)


def test_constant_and_sparse_channels() -> None:
    data = np.zeros((2, 40, 50), np.float32)
    data[0] = 7
    data[1, 4, 5:7] = (50, 100)
    planes = normalized(stack_of(data, "constant", "sparse"))
    assert (planes[0] == 0.5).all()
    assert planes[1, 4, 5:7].tolist() == [0.5, 1.0]


def test_window_statistics() -> None:
    data = np.zeros((1, 40, 50), np.float32)
    data[:, :20] = 1000
    data[:, 20:] = np.random.default_rng(7).random((20, 50))
    (recipe,) = fit_recipes(stack_of(data, "a"), rows=slice(20, 40))
    assert recipe.high <= 1


def test_large_lazy_stack_is_sampled() -> None:
    class Counted:
        shape, dtype, read = (4, 9000, 11000), np.dtype(np.uint16), 0

        def __getitem__(self, key: tuple[object, ...]) -> np.ndarray:
            rows, columns = (np.arange(length)[entry] for length, entry in zip(self.shape[1:], key[1:], strict=True))
            block = np.broadcast_to(rows[:, None] + columns, (4, len(rows), len(columns))).astype(np.uint16)
            self.read += block.size
            return block

    data = Counted()
    recipes = fit_recipes(stack_of(data, "a", "b", "c", "d"))
    assert data.read < 2 << 22
    assert recipes[0].high == pytest.approx(18_000, rel=0.1)
    assert recipes[0].low == pytest.approx(1_500, rel=0.5)


@settings(max_examples=60, deadline=None)
@given(
    data=st_numpy.arrays(
        st.sampled_from([np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32), np.dtype(np.float64)]),
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    ),
    kind=st.sampled_from(["auto", *RECIPE_KINDS]),
)
@example(data=np.array([[[4.92370333e-225, -8.85130768e083, -8.85130768e083]]]), kind="reflectance")
@example(data=np.array([[[4.92370333e-225, -8.85130768e083]]]), kind="reflectance")
def test_anything_in_finite_unit_range_out(data: np.ndarray, kind: str) -> None:
    stack = stack_of(data, *(f"c{index}" for index in range(len(data))))
    recipes = fit_recipes(stack, kind)
    planes = apply_recipes(data, stack.valid, recipes)
    assert planes.dtype == np.float32
    assert np.isfinite(planes).all()
    assert ((planes >= 0) & (planes <= 1)).all()
    again = tuple(ChannelRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) for recipe in recipes)
    assert again == recipes


@pytest.mark.parametrize("kind", RECIPE_KINDS)
@pytest.mark.parametrize("largest", [3.4e38, 1e308, np.finfo(np.float64).max])
def test_values_at_the_end_of_their_type_have_a_place_in_the_range(kind: str, largest: float) -> None:
    data = np.linspace(-1, 1, 1681).reshape(1, 41, 41) * largest
    data = data.astype(np.float32) if largest < 1e39 else data
    for block in (data, np.full_like(data, data.max())):
        stack = stack_of(block, "a")
        (recipe,) = fit_recipes(stack, kind)
        plane = apply_recipes(block, stack.valid, (recipe,))[0]
        assert ((plane >= 0) & (plane <= 1)).all()
        assert recipe.value_range[0] <= recipe.value_range[1]
    if kind in ("percentile", "range"):
        plane = apply_recipes(data, np.ones(data.shape, bool), fit_recipes(stack_of(data, "a"), kind))[0]
        np.testing.assert_allclose(plane, np.linspace(0, 1, 1681).reshape(41, 41), atol=0.011)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-60, 2e-60, [0, 0, 1, 1]),
        (-1e300, 1e300, [0.5] * 4),
        (-1.7e308, 1.7e308, [0.5] * 4),
        (-3.4e38, 3.4e38, [0, 0.5, 0.5, 1]),
    ],
)
def test_a_range_that_float32_cannot_tell(low: float, high: float, expected: list[float]) -> None:
    values = np.array([-3.4e38, 0, 1, 3.4e38], np.float32)
    plane = ChannelRecipe("range", low, high).apply(values, np.ones(4, bool))
    np.testing.assert_allclose(plane, expected, atol=1e-6)


def test_ordinary_values_become_what_they_always_did() -> None:
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        values = (np.random.default_rng(0).random(500) * 200 - 20).clip(0).astype(dtype)
        exact = values.astype(np.float32 if values.dtype != np.float64 else np.float64)
        recipe = ChannelRecipe("range", 3.7, 91.3)
        expected = np.clip((exact - exact.dtype.type(3.7)) / exact.dtype.type(91.3 - 3.7), 0, 1).astype(np.float32)
        assert recipe.apply(values, np.ones(500, bool)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "range", "low": 10**400, "high": 1, "fill": 0},
        {"kind": "range", "low": 0, "high": 1, "fill": 2},
        {"kind": "range", "low": 0, "high": 1, "fill": float("nan")},
        {"kind": "range"},
        {"kind": "range", "low": "x", "high": 1, "fill": 0},
        {"kind": "?", "low": 0, "high": 1, "fill": 0},
        {"kind": "range", "low": 2, "high": 1, "fill": 0},
    ],
)
def test_damaged_json(values: dict[str, object]) -> None:
    with pytest.raises(ChannelError):
        ChannelRecipe.from_json(values)


def test_wrong_number_of_recipes() -> None:
    with pytest.raises(ChannelError, match="one recipe for each of 2"):
        apply_recipes(np.zeros((2, 3, 3)), np.ones((2, 3, 3), bool), (ChannelRecipe("none"),))
