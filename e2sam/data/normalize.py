"""Recipes that bring each channel to [0, 1]: fitted on valid pixels, saved with the model, independent of display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_number, shown
from e2sam.data.sampling import sample_pixels
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError

__all__ = ["RECIPE_KINDS", "ChannelRecipe", "apply_recipes", "auto_kinds", "fit_recipes"]

RECIPE_KINDS = ("percentile", "range", "log_depth", "inverse_depth", "db", "reflectance", "none")

# Percent of the valid pixels below and above the range. The upper tail is small because bright objects are what
# people click on; single hot pixels are left out by `_robust_range` however few pixels there are.
_PERCENTILES = (1.0, 99.8)
_RANGE_PERCENTILES = (0.1, 99.9)
_SMALLEST_POWER = 1e-10
# Kinds with a transform, and the value that theirs begins at.
_LEAST = {"log_depth": 0.0, "inverse_depth": 0.0, "db": 0.0}
_SMALLEST_DEPTH = 1e-6
# A photograph in 0..255 has at least one value above this; reflectance that passes 1 somewhere has not.
_DARKEST_PHOTOGRAPH = 16
_SINGLE = np.finfo(np.float32)
_LARGEST = float(np.finfo(np.float64).max)
_COLOUR_NAMES = (frozenset({"r", "g", "b"}), frozenset({"red", "green", "blue"}))


@dataclass(frozen=True)
class ChannelRecipe:
    """How stored values of one channel become [0, 1].

    A value is transformed, mapped linearly so that `low` becomes 0 and `high` becomes 1, and clipped.

    Attributes
    ----------
    kind
        Transform and, where the recipe was fitted, the rule for the range:

        - "percentile": the value itself; 1st to 99.8th percentile of the valid pixels;
        - "range": the value itself; a given range, or the 0.1th to 99.9th percentile;
        - "log_depth": log(1 + value), as the E2SAM paper's depth; percentiles;
        - "inverse_depth": 1 / value, near is bright; percentiles;
        - "db": 10 log10(value), linear power to decibel; percentiles;
        - "reflectance": the value itself; 0 to the largest 99.8th percentile among the stack's reflectance channels,
          one range for all of them, so that the spectrum of a pixel keeps its shape;
        - "none": the value itself; the range of the stored type (uint8: 0..255; floating: 0..1).
    low, high
        Range in the transformed domain, low < high.
    fill
        What invalid pixels become, in [0, 1]: the median of the valid ones.
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    fill: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in RECIPE_KINDS:
            raise ChannelError(f"Expected a recipe of {', '.join(RECIPE_KINDS)}, got {self.kind!r}.")
        if not (all(map(is_number, (self.low, self.high, self.fill))) and self.low < self.high):
            raise ChannelError(
                f"Expected a recipe with finite low < high, got {shown(self.low, 40)} and {shown(self.high, 40)}."
            )
        if not 0 <= self.fill <= 1:
            raise ChannelError(f"Expected a recipe with a fill in 0..1, got {self.fill:g}.")

    def apply(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Stored values of any shape to float32 in [0, 1]; where `valid` is False, `fill`."""
        single = (values.dtype.itemsize <= 2 or values.dtype == np.float32) and self._suits_single
        # What lies so far outside that the quotient has no number is clipped like the rest.
        with np.errstate(over="ignore"):
            exact: NDArray[Any] = values.astype(np.float32 if single else np.float64)
            exact = _transform(np.where(valid, exact, exact.dtype.type(self.low)), self.kind)
            low, high = float(self.low), float(self.high)
            if high - low > _LARGEST:
                exact, low, high = exact / 2, low / 2, high / 2
            scaled: NDArray[Any] = (exact - exact.dtype.type(low)) / exact.dtype.type(high - low)
        result: NDArray[np.float32] = np.clip(scaled, 0, 1).astype(np.float32)
        result[~valid] = self.fill
        return result

    @property
    def _suits_single(self) -> bool:
        """Whether the range can be told in float32, which is quicker."""
        low, high = float(self.low), float(self.high)
        return max(-low, high, high - low) <= float(_SINGLE.max) and high - low >= float(_SINGLE.tiny)

    @property
    def value_range(self) -> tuple[float, float]:
        """The stored values, lower one first, that become 0 and 1 (with "inverse_depth": 1 and 0)."""
        ends = sorted(_untransformed(end, self.kind) for end in (self.low, self.high))
        return ends[0], ends[1]

    @property
    def _median(self) -> float:
        """What `fill` stands for, in the transformed domain."""
        return 2 * (self.low / 2 + self.fill * (self.high / 2 - self.low / 2))

    def with_range(self, low: float, high: float) -> ChannelRecipe:
        """The recipe with a range given in stored values; invalid pixels become the same value as before.

        A kind that leaves values as they are becomes "range", which says that the range was given.

        Raises
        ------
        ChannelError
            If low < high does not hold, or the kind knows no such values.
        """
        given = f"{low:g} to {high:g}"
        # Pixels are normalized as float32.
        if not (max(abs(low), abs(high), high - low) <= float(np.finfo(np.float32).max) and low < high):
            raise ChannelError(f"Expected a range of two numbers, the lower one first, got {given}.")
        least = _LEAST.get(self.kind, -np.inf)
        if low < least or (low == least and self.kind != "log_depth"):
            bound = "of 0 or more" if self.kind == "log_depth" else "above 0"
            raise ChannelError(f"Expected a range {bound} for the recipe {self.kind}, got {given}.")
        kind = self.kind if self.kind in _LEAST else "range"
        ends = sorted(float(end) for end in _transform(np.array([low, high], np.float64), kind))
        return ChannelRecipe(kind, ends[0], ends[1], _share(self._median, ends[0], ends[1]))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` gives the same recipe back, bit for bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ChannelRecipe:
        """The recipe that `to_json` described.

        Raises
        ------
        ChannelError
            If it is not one.
        """
        try:
            return cls(str(values["kind"]), float(values["low"]), float(values["high"]), float(values["fill"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ChannelError(f"Expected a recipe with kind, low, high and fill, got {shown(values, 100)}.") from error


def fit_recipes(
    stack: ChannelStack,
    kinds: str | Mapping[str, str | ChannelRecipe] = "auto",
    rows: slice | None = None,
    columns: slice | None = None,
) -> tuple[ChannelRecipe, ...]:
    """Fit one recipe for each channel on the valid pixels of a stack, or of a window of it.

    Parameters
    ----------
    stack
        Any stack; large ones are sampled, series and volumes by their middle scene.
    kinds
        "auto", one kind for all channels, or {channel name: kind or ready recipe} (others are "auto").
    rows, columns
        Window that the statistics are taken from.

    Raises
    ------
    ChannelError
        If a kind or a channel does not exist.
    """
    values, valid = sample_pixels(stack, rows, columns)
    wanted: list[str | ChannelRecipe] = list(_automatic_kinds(stack.channels, values, valid))
    if isinstance(kinds, Mapping):
        for name, kind in kinds.items():
            (index,) = stack.indices([name])
            wanted[index] = wanted[index] if kind == "auto" else kind
    elif kinds != "auto":
        wanted = [kinds] * stack.num_channels
    fitted = [
        entry if isinstance(entry, ChannelRecipe) else _fit(values[index][valid[index]], entry)
        for index, entry in enumerate(wanted)
    ]
    bounded = (
        _as_colour(recipe, values, valid, stack.channels) if entry == "range" and is_colour else recipe
        for recipe, entry, is_colour in zip(fitted, wanted, _are_colours(stack.channels), strict=True)
    )
    return _with_shared_reflectance(list(bounded), wanted, values, valid)


def apply_recipes(
    block: NDArray[Any], valid: NDArray[np.bool_], recipes: Sequence[ChannelRecipe]
) -> NDArray[np.float32]:
    """Normalize a block (C, h, w) of stored values to float32 in [0, 1]; never NaN.

    Parameters
    ----------
    block
        (C, h, w), any integer or floating type.
    valid
        (C, h, w) bool, which pixels were measured; NaN and inf count as not measured in any case.
    recipes
        One for each of the C channels.
    """
    if len(recipes) != len(block):
        raise ChannelError(f"Expected one recipe for each of {len(block)} channels, got {len(recipes)}.")
    result = np.empty(block.shape, np.float32)
    for index, recipe in enumerate(recipes):
        measured = valid[index]
        if block.dtype.kind == "f":
            measured = measured & np.isfinite(block[index])
        result[index] = recipe.apply(block[index], measured)
    return result


def auto_kinds(stack: ChannelStack) -> tuple[str, ...]:
    """The kind that "auto" stands for, for each channel."""
    return _automatic_kinds(stack.channels, *sample_pixels(stack, max_values=1 << 18))


def _are_colours(channels: Sequence[ChannelSpec]) -> tuple[bool, ...]:
    """Which channels are the red, green or blue of a photograph: a name alone, as the "b" of a, b, c, says nothing."""
    names = {channel.name.lower() for channel in channels}
    known = {name for colours in _COLOUR_NAMES if len(colours & names) > 1 for name in colours}
    return tuple(channel.kind == "colour" or channel.name.lower() in known for channel in channels)


def _automatic_kinds(
    channels: Sequence[ChannelSpec], values: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[str, ...]:
    if values.dtype == np.uint8 and len(channels) == 3:
        return ("none",) * 3
    photograph = _colour_range(channels, values, valid) is not None
    return tuple(
        _automatic_kind(channel, is_colour, values.dtype, photograph)
        for channel, is_colour in zip(channels, _are_colours(channels), strict=True)
    )


def _automatic_kind(channel: ChannelSpec, is_colour: bool, dtype: np.dtype[Any], photograph: bool) -> str:
    if is_colour and dtype == np.uint8:
        return "none"
    if is_colour and photograph:
        return "range"
    if channel.kind == "depth" and dtype != np.uint8:
        return "log_depth"
    if channel.unit.lower() == "db":
        return "range"
    return "percentile"


def _colour_range(
    channels: Sequence[ChannelSpec], values: NDArray[Any], valid: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """0..255 or 0..1 where the colour channels, taken together, are an 8-bit or a unit-range photograph."""
    colour = np.flatnonzero(_are_colours(channels))
    measured = values[colour][valid[colour]]
    if measured.size == 0 or measured.min() < 0:
        return None
    largest = float(measured.max())
    if largest <= 1 and values.dtype.kind == "f":
        return 0.0, 1.0
    return (0.0, 255.0) if _DARKEST_PHOTOGRAPH < largest <= 255 else None


def _as_colour(
    recipe: ChannelRecipe, values: NDArray[Any], valid: NDArray[np.bool_], channels: Sequence[ChannelSpec]
) -> ChannelRecipe:
    """The fixed range of a photograph: stored as float or uint16, its 0..255 reach SAM unchanged too."""
    bounds = _colour_range(channels, values, valid)
    if bounds is None:
        return recipe
    low, high = bounds
    return replace(recipe, low=low, high=high, fill=_share(recipe._median, low, high))


def _fit(measured: NDArray[Any], kind: str) -> ChannelRecipe:
    """Recipe of one channel from its valid values, 1-D."""
    if kind not in RECIPE_KINDS:
        raise ChannelError(f"Expected a recipe of auto, {', '.join(RECIPE_KINDS)}, got {kind!r}.")
    if kind in ("inverse_depth", "db") and (measured > 0).any():
        measured = measured[measured > 0]
    if kind in ("log_depth", "inverse_depth") and measured.dtype.kind == "u":
        # The largest number of a range camera means "too far or too bright"; it is clipped, not counted.
        unsaturated = measured[measured < np.iinfo(measured.dtype).max]
        measured = unsaturated if unsaturated.size else measured
    transformed = np.sort(_transform(measured.astype(np.float64), kind))
    if kind == "none":
        low, high = _type_range(measured.dtype)
    elif kind == "reflectance":
        low, high = 0.0, _robust_range(transformed, _PERCENTILES)[1]
        high = high if high > 0 else 1.0
    else:
        low, high = _robust_range(transformed, _RANGE_PERCENTILES if kind == "range" else _PERCENTILES)
    median = float(np.clip(transformed[len(transformed) // 2], low, high)) if len(transformed) else (low + high) / 2
    return ChannelRecipe(kind, low, high, _share(median, low, high))


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, in [0, 1]; by halves, as the extent itself may have no number."""
    return min(max((value / 2 - low / 2) / (high / 2 - low / 2), 0.0), 1.0)


def _robust_range(ordered: NDArray[np.float64], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of sorted values, the extreme value on either side never among them."""
    if len(ordered) == 0:
        return 0.0, 1.0
    last = len(ordered) - 1
    # Rounded inwards: with few pixels an interpolated percentile would still follow a single hot one.
    low = float(ordered[int(np.ceil(last * percentiles[0] / 100))])
    high = float(ordered[int(np.floor(last * percentiles[1] / 100))])
    if not low < high:
        # Nearly all pixels are equal: what differs is the rare signal of a sparse channel.
        low, high = float(ordered[0]), float(ordered[-1])
    if not low < high:
        margin = max(0.5, abs(low) * 1e-3)
        low, high = max(low - margin, -_LARGEST), min(high + margin, _LARGEST)
    return low, high


def _with_shared_reflectance(
    recipes: list[ChannelRecipe],
    wanted: Sequence[str | ChannelRecipe],
    values: NDArray[Any],
    valid: NDArray[np.bool_],
) -> tuple[ChannelRecipe, ...]:
    together = [index for index, kind in enumerate(wanted) if kind == "reflectance" and valid[index].any()]
    high = max((recipes[index].high for index in together), default=1.0)
    for index in together:
        # The mean of the middle two may have no number.
        with np.errstate(over="ignore"):
            median = float(np.median(values[index][valid[index]]))
        recipes[index] = replace(recipes[index], high=high, fill=float(np.clip(median / high, 0, 1)))
    return tuple(recipes)


def _transform(values: NDArray[Any], kind: str) -> NDArray[Any]:
    result = values
    if kind == "log_depth":
        result = np.log1p(np.maximum(values, 0))
    elif kind == "inverse_depth":
        result = 1 / np.maximum(values, values.dtype.type(_SMALLEST_DEPTH))
    elif kind == "db":
        result = 10 * np.log10(np.maximum(values, values.dtype.type(_SMALLEST_POWER)))
    return result


def _untransformed(value: float, kind: str) -> float:
    """The stored value that `_transform` makes `value` of."""
    with np.errstate(over="ignore"):
        if kind == "log_depth":
            return float(np.expm1(value))
        if kind == "inverse_depth":
            return 1 / max(value, _SMALLEST_DEPTH)
        return float(np.power(10.0, value / 10)) if kind == "db" else value


def _type_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "fb":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)
