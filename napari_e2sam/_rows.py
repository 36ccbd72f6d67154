"""What panels show: plain frozen data, no Qt, no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CandidateRow",
    "ChannelRow",
    "LayerRow",
    "ModelRow",
    "ObjectRow",
    "ShareRow",
    "area_text",
    "listed",
    "model_text",
]


@dataclass(frozen=True)
class LayerRow:
    """One layer that a stack can be made of; `key` is an identity that outlives renaming."""

    key: int
    name: str
    is_chosen: bool


@dataclass(frozen=True)
class ChannelRow:
    """One channel.

    Attributes
    ----------
    index
        Position in the stack.
    name, role, unit
        As in `ChannelSpec`; role is its kind.
    recipe
        Kind of its normalization.
    low, high
        Range of its valid pixels, in its unit.
    histogram
        Counts over [low, high], scaled to a largest of 1.
    invalid
        Share of pixels that were not measured, 0..1.
    wavelength_nm
        Centre wavelength or None.
    used
        Range of values that the model sees as 0 to 1: that of the recipe, in the channel's unit.
    """

    index: int
    name: str
    role: str = ""
    unit: str = ""
    recipe: str = ""
    low: float = 0.0
    high: float = 0.0
    histogram: tuple[float, ...] = ()
    invalid: float = 0.0
    wavelength_nm: float | None = None
    used: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class ModelRow:
    """One model that can be chosen; `state` says whether it is here or must be fetched."""

    name: str
    text: str
    state: str = ""


@dataclass(frozen=True)
class CandidateRow:
    """One candidate mask of the current prompts."""

    score: float
    area: int


@dataclass(frozen=True)
class ShareRow:
    """A channel's share in the current mask, 0..1."""

    name: str
    share: float


@dataclass(frozen=True)
class ObjectRow:
    """One accepted object; `area` in pixels, `score` None where no model gave one."""

    id: int
    class_name: str
    score: float | None
    area: int
    is_reviewed: bool
    channels: tuple[str, ...] = ()


def area_text(pixels: int) -> str:
    """An area as a person reads it, never wider than its column: "312 px", "41.2 kpx", "110 kpx", "3.10 Mpx"."""
    if pixels < 10_000:
        return f"{pixels} px"
    count, unit = (pixels / 1e3, "kpx") if pixels < 999_500 else (pixels / 1e6, "Mpx")
    return f"{count:.{2 if count < 10 else 1 if count < 99.95 else 0}f} {unit}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def model_text(model: Mapping[str, Any]) -> str:
    """What a loaded model is, as the engine told it: name, channels, size, frame, device; "" for none."""
    if not model:
        return ""
    size = f"{model['parameters'] / 1e6:.1f} M parameters, " if model["parameters"] else ""
    kind = f"student of {listed(model['channels'])}, " if model["channels"] else ""
    return f"{Path(model['name']).name}, {kind}{size}frame of {model['image_size']} px, on {model['device']}"
