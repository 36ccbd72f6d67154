"""What the Channels panel shows of each channel, from a sample of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from e2sam.data.normalize import ChannelRecipe, fit_recipes
from e2sam.data.session import StackRecord
from e2sam.data.stack import ChannelStack
from napari_e2sam._rows import ChannelRow, listed

__all__ = ["channel_rows", "described", "display_range", "presets_of", "wavelength_presets"]

_SAMPLE_SIDE = 384
_BINS = 24
# Centre wavelengths, nm, of false-colour presets as satellite images are commonly shown.
_BANDS = {"red": 660.0, "green": 560.0, "blue": 480.0, "near infrared": 840.0, "short-wave infrared": 1610.0}
_PRESETS = {
    "True colour": ("red", "green", "blue"),
    "Colour infrared": ("near infrared", "red", "green"),
    "Short-wave infrared": ("short-wave infrared", "near infrared", "red"),
}
_TOLERANCE_NM = 60.0


def described(stack: ChannelStack, record: StackRecord) -> tuple[tuple[ChannelRow, ...], tuple[ChannelRecipe, ...]]:
    """Rows and recipes of a stack, measured on its middle plane; recipes are the session's, where it has some."""
    middle = stack.plane(*(count // 2 for count in stack.num_planes))
    recipes = record.recipes if record.recipes is not None else fit_recipes(middle)
    return channel_rows(middle, recipes), tuple(recipes)


def channel_rows(stack: ChannelStack, recipes: Sequence[ChannelRecipe]) -> tuple[ChannelRow, ...]:
    """Range, histogram and invalid share of each channel of a single scene, with its recipe's kind and range."""
    step = max(1, int(np.ceil(max(stack.size) / _SAMPLE_SIDE)))
    rows = []
    for index, channel in enumerate(stack.channels):
        block = stack.read(channels=[index], step=step)
        valid = stack.valid_of(block, [index])
        values = block[valid]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        rows.append(
            ChannelRow(
                index,
                channel.name,
                channel.kind,
                channel.unit,
                recipes[index].kind,
                low,
                high,
                _histogram(values),
                1.0 - float(valid.mean()),
                channel.wavelength_nm,
                recipes[index].value_range,
            )
        )
    return tuple(rows)


def display_range(row: ChannelRow) -> tuple[float, float]:
    """Limits for showing a channel; never empty."""
    return (row.low, row.high) if row.high > row.low else (row.low, row.low + 1.0)


def wavelength_presets(stack: ChannelStack) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """False-colour selections of a stack whose channels have wavelengths."""
    known = [(index, channel.wavelength_nm) for index, channel in enumerate(stack.channels) if channel.wavelength_nm]
    presets = []
    for name, bands in _PRESETS.items():
        found = [_nearest(known, _BANDS[band]) for band in bands]
        near = [
            entry is not None and abs(entry[1] - _BANDS[band]) <= _TOLERANCE_NM
            for entry, band in zip(found, bands, strict=True)
        ]
        chosen = tuple(entry[0] for entry in found if entry is not None)
        if all(near) and len(set(chosen)) == 3:
            presets.append((name, chosen))
    return tuple(presets)


def presets_of(
    stack: ChannelStack, kept: Sequence[tuple[str, ...]], suggested: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Selections that a stack offers, each once; false colour and those `kept` come first, so that their keys stay."""
    presets = {chosen: name for name, chosen in wavelength_presets(stack)}
    for prefix, selections in (("", kept), ("Suggested: ", suggested)):
        for names in selections:
            if set(names) <= set(stack.names):
                presets.setdefault(stack.indices(names), prefix + listed(names))
    return tuple((name, chosen) for chosen, name in presets.items())


def _nearest(known: Sequence[tuple[int, float]], wanted: float) -> tuple[int, float] | None:
    return min(known, key=lambda entry: abs(entry[1] - wanted), default=None)


def _histogram(values: np.ndarray) -> tuple[float, ...]:
    if values.size == 0:
        return ()
    if values.dtype == np.bool_:
        # Percentiles are differences, which masks do not have.
        values = values.astype(np.uint8)
    low, high = np.percentile(values, (0.5, 99.5)).astype(float)
    counts, _ = np.histogram(values, bins=_BINS, range=(low, high if high > low else low + 1.0))
    # A square root keeps small bars visible beside one large peak.
    heights = np.sqrt(counts / max(int(counts.max()), 1))
    return tuple(float(height) for height in heights)
