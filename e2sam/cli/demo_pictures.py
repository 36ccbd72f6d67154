"""The demo's pictures: channels side by side, and objects with their masks and clicks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from e2sam.cli.demo_clicks import ClickedObject
from e2sam.data.io.labels import replace_file
from e2sam.data.normalize import apply_recipes, fit_recipes
from e2sam.data.stack import ChannelStack
from e2sam.evaluation.pictures import draw_masks, draw_points

__all__ = ["channel_sheet", "object_sheet", "save_picture", "selection_picture"]

Picture = NDArray[np.uint8]

_GAP, _CAPTION = 6, 18


def channel_sheet(stack: ChannelStack) -> Picture:
    """Every channel of a stack, normalized, side by side with its name; unknown pixels in blue."""
    block = stack.read()
    valid = stack.valid_of(block)
    planes = apply_recipes(block, valid, fit_recipes(stack))
    pictures = []
    for plane, known in zip(planes, valid, strict=True):
        picture = np.repeat((plane * 255).astype(np.uint8)[..., None], 3, axis=-1)
        picture[~known] = (40, 60, 160)
        pictures.append(picture)
    return _sheet(pictures, stack.names, columns=4 if stack.num_channels in (4, 7, 8) else 3)


def selection_picture(stack: ChannelStack, channels: Sequence[str]) -> Picture:
    """(H, W, 3) uint8: three channels as red, green and blue, or one as grey."""
    indices = stack.indices(channels)
    block = stack.read(channels=indices)
    recipes = fit_recipes(stack)
    planes = apply_recipes(block, stack.valid_of(block, indices), [recipes[index] for index in indices])
    return (np.moveaxis(planes[[0, min(1, len(planes) - 1), -1]], 0, -1) * 255).astype(np.uint8)


def object_sheet(pictures: Sequence[tuple[str, Picture, Sequence[ClickedObject]]], side: int = 640) -> Picture:
    """Side by side: each picture with the masks (orange), outlines of the truth (white) and clicks of its objects."""
    drawn = []
    for _, picture, objects in pictures:
        factor = max(1, round(side / picture.shape[1]))
        large = picture.repeat(factor, 0).repeat(factor, 1)
        for one in objects:
            mask, truth = (plane.repeat(factor, 0).repeat(factor, 1) for plane in (one.mask, one.truth))
            large = draw_masks(large, mask, truth)
        for one in objects:
            large = draw_points(large, one.prompts.points * factor, one.prompts.labels.tolist())
        drawn.append(large)
    return _sheet(drawn, [name for name, _, _ in pictures], columns=min(3, len(drawn)))


def save_picture(path: Path, picture: Picture) -> Path:
    """Write a picture as PNG, whole or not at all."""
    replace_file(path, lambda part: Image.fromarray(np.ascontiguousarray(picture)).save(part, "PNG"))
    return path


def _sheet(pictures: Sequence[Picture], captions: Sequence[str], columns: int) -> Picture:
    rows = []
    for start in range(0, len(pictures), columns):
        cells = [
            _captioned(picture, caption)
            for picture, caption in zip(
                pictures[start : start + columns], captions[start : start + columns], strict=True
            )
        ]
        height = max(cell.shape[0] for cell in cells)
        padded = [np.pad(cell, ((0, height - len(cell)), (0, _GAP), (0, 0)), constant_values=255) for cell in cells]
        rows.append(np.concatenate(padded, axis=1))
    return _stacked(rows)


def _stacked(pictures: Sequence[Picture]) -> Picture:
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [
            np.pad(picture, ((0, _GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
            for picture in pictures
        ]
    )


def _captioned(picture: Picture, caption: str) -> Picture:
    image = Image.new("RGB", (picture.shape[1], picture.shape[0] + _CAPTION), "white")
    ImageDraw.Draw(image).text((2, 3), caption, fill="black")
    image.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, _CAPTION))
    return np.asarray(image)
