"""Pictures for reports: masks, clicks and classes drawn over what a person sees of a stack."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from e2sam.data.normalize import apply_recipes, fit_recipes
from e2sam.data.stack import ChannelSpec, ChannelStack

__all__ = [
    "class_colours",
    "colour_classes",
    "data_uri",
    "draw_masks",
    "draw_points",
    "fit_within",
    "picture_of",
    "rgb_channels",
]

Picture = NDArray[np.uint8]

_TRUTH = (255, 255, 255)
_MASK = (255, 140, 0)
_POSITIVE, _NEGATIVE = (40, 220, 90), (235, 50, 60)


def rgb_channels(channels: Sequence[ChannelSpec]) -> tuple[str, ...]:
    """Names of the three channels that a tool for colour images would see.

    Channels named R, G, B (or red, green, blue) or, with wavelengths, those nearest to 665, 560 and 490 nm (the red,
    green and blue bands of Sentinel-2), or the first three, which is what most tools cut a stack to.
    """
    names = tuple(channel.name for channel in channels)
    lower = {name.lower(): name for name in names}
    for wanted in (("r", "g", "b"), ("red", "green", "blue")):
        if all(name in lower for name in wanted):
            return tuple(lower[name] for name in wanted)
    waves = [channel.wavelength_nm for channel in channels if channel.wavelength_nm is not None]
    if len(waves) == len(names) >= 3:
        chosen = [int(np.abs(np.array(waves) - wanted).argmin()) for wanted in (665.0, 560.0, 490.0)]
        if len(set(chosen)) == 3:
            return tuple(names[index] for index in chosen)
    return names[:3]


def picture_of(stack: ChannelStack, longest: int = 1024) -> Picture:
    """What a person sees of a stack: (h, w, 3) uint8 of its `rgb_channels`, every n-th pixel where it is larger."""
    names = rgb_channels(stack.channels)
    step = max(1, -(-max(stack.size) // longest))
    indices = stack.indices(names)
    recipes = fit_recipes(stack)
    block = stack.read(channels=indices, step=step)
    planes = apply_recipes(block, stack.valid_of(block, indices), [recipes[index] for index in indices])
    shown = [planes[min(plane, len(planes) - 1)] for plane in range(3)]
    picture: Picture = (np.stack(shown, axis=-1) * 255).astype(np.uint8)
    return picture


def draw_masks(
    picture: Picture,
    mask: NDArray[np.bool_] | None = None,
    truth: NDArray[np.bool_] | None = None,
    opacity: float = 0.45,
) -> Picture:
    """Lay a mask over a picture, and draw the outline of the truth.

    Parameters
    ----------
    picture
        (H, W, 3) uint8.
    mask
        (H, W) bool, tinted orange, or None.
    truth
        (H, W) bool, outlined in white, or None.
    opacity
        Of the tint, in [0, 1].
    """
    drawn = picture.copy()
    if mask is not None:
        tint = np.array(_MASK, np.float32)
        drawn[mask] = (drawn[mask] * (1 - opacity) + tint * opacity).astype(np.uint8)
    if truth is not None:
        drawn[_outline(truth)] = _TRUTH
    return drawn


def draw_points(picture: Picture, points: ArrayLike, labels: Sequence[int]) -> Picture:
    """Draw clicks: positive ones green, negative ones red.

    Parameters
    ----------
    picture
        (H, W, 3) uint8.
    points
        (P, 2) pixel (x, y).
    labels
        1 = inside the object, 0 = outside.
    """
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    radius = max(2.0, max(picture.shape[:2]) / 120)
    for (x, y), label in zip(np.asarray(points, float).reshape(-1, 2).tolist(), labels, strict=True):
        corners = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(corners, fill=_POSITIVE if label == 1 else _NEGATIVE, outline=(255, 255, 255))
    return np.asarray(image)


def class_colours(count: int) -> Picture:
    """(count, 3) uint8 colours that differ from neighbour to neighbour, the same on every run."""
    # Hues a golden ratio apart, with alternating lightness.
    hue = (np.arange(count) * 0.61803399) % 1.0
    value = np.where(np.arange(count) % 2 == 0, 0.95, 0.7)
    ramps = np.abs((hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    colours = 255 * value[:, None] * (1 - 0.75 * (1 - np.clip(ramps, 0, 1)))
    return np.asarray(colours, np.uint8)


def colour_classes(labels: NDArray[np.integer], values: Sequence[int]) -> Picture:
    """(H, W, 3) picture of class values (H, W); a value that is no class is black."""
    picture = np.zeros((*labels.shape, 3), np.uint8)
    for colour, value in zip(class_colours(len(values)), values, strict=True):
        picture[labels == value] = colour
    return picture


def fit_within(picture: Picture, side: int) -> Picture:
    """The picture reduced so that its long side is at most `side`; small ones are enlarged by a whole factor."""
    height, width = picture.shape[:2]
    longest = max(height, width)
    if longest <= side:
        return picture.repeat(side // longest, 0).repeat(side // longest, 1)
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def data_uri(picture: Picture) -> str:
    """The picture as a PNG inside a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask that touch what is outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
