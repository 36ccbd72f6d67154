"""Draws twelve real cases, one and three clicks each: `python -m benchmarks.tiny_pictures --out FILE.jpg`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.real_sets import SETS, RealImage, load_set
from benchmarks.tiny_quality import SHARED, picture_of
from e2sam.data.clicks import Click, next_click
from e2sam.evaluation.metrics import mask_iou
from e2sam.inference.predictor import Predictor
from e2sam.weights.zoo import load_model

# Sets whose licence lets pictures be shown, and how many cases of each image.
_SHOWN = {"cellpaint_nuclei": 2, "cellpaint_cells": 2, "nf1_nuclei": 1, "imc_cells": 1, "sentinel2": 3}
_TILE = 176


def _outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return mask ^ ndimage.binary_erosion(mask, iterations=width, border_value=1)


def _tile(
    picture: NDArray[np.float32], mask: NDArray[np.bool_], clicks: list[Click], target: NDArray[np.bool_]
) -> Image.Image:
    """The surroundings of the target with a mask, its outline and the clicks so far."""
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    middle = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
    half = int(np.clip(1.1 * max(len(rows), len(columns)), 16, max(target.shape) // 2))
    top = int(np.clip(middle[0] - half, 0, max(target.shape[0] - 2 * half, 0)))
    left = int(np.clip(middle[1] - half, 0, max(target.shape[1] - 2 * half, 0)))
    window = (slice(top, top + 2 * half), slice(left, left + 2 * half))
    scale = _TILE / (2 * half)
    size = (round(mask[window].shape[1] * scale), round(mask[window].shape[0] * scale))
    image = Image.fromarray((picture[window] * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    large = np.asarray(Image.fromarray(mask[window]).resize(size, Image.Resampling.NEAREST))
    pixels = np.array(image)
    pixels[large] = (0.7 * pixels[large] + 0.3 * np.array([255, 200, 0])).astype(np.uint8)
    pixels[_outline(large, 1)] = (255, 200, 0)
    tile = Image.new("RGB", (_TILE, _TILE))
    tile.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(tile)
    for click in clicks:
        x, y = (click.x - left) * scale, (click.y - top) * scale
        draw.ellipse(
            (x - 4, y - 4, x + 4, y + 4), fill=(0, 220, 0) if click.is_positive else (230, 0, 0), outline=(255,) * 3
        )
    return tile


def _case(predictor: Predictor, image: RealImage, name: str) -> Image.Image:
    """One row: the target, the mask after one click, after three clicks, with their IoU."""
    target, picture = image.targets[name], picture_of(image)
    tiles = [_tile(picture, target, [], target)]
    clicks: list[Click] = []
    predicted, logits = np.zeros_like(target), None
    for count in (1, 2, 3):
        click = next_click(target, predicted)
        if click is not None:
            clicks.append(click)
            answer = predictor.predict(
                [(c.x, c.y) for c in clicks], [c.label for c in clicks], mask=logits, multimask=count == 1
            )
            best = int(np.argmax(answer.scores))
            predicted, logits = np.asarray(answer.masks[best]), answer.logits[best]
        if count != 2:
            tile = _tile(picture, predicted, clicks, target)
            ImageDraw.Draw(tile).text((4, 4), f"{count}: {mask_iou(predicted, target):.2f}", fill=(255, 255, 255))
            tiles.append(tile)
    row = Image.new("RGB", (3 * _TILE + 8, _TILE), (255, 255, 255))
    for index, tile in enumerate(tiles):
        row.paste(tile, (index * (_TILE + 2), 0))
    return row


def draw(out: Path, model: str) -> None:
    """Draw all cases into one picture, two in a line."""
    predictor = Predictor(load_model(model, device="cpu"), cache=False)
    rows = []
    for found in SETS:
        for image in load_set(found, SHARED, 12) if found.name in _SHOWN else ():
            predictor.set_stack(image.stack, image.channels)
            names = list(image.targets)
            picked = np.linspace(0, len(names) - 1, _SHOWN[found.name] + 2)[1:-1].astype(int)
            rows += [_case(predictor, image, names[index]) for index in picked]
    lines = (len(rows) + 1) // 2
    sheet = Image.new("RGB", (2 * (3 * _TILE + 16), lines * (_TILE + 4)), (255, 255, 255))
    for index, row in enumerate(rows):
        sheet.paste(row, ((index % 2) * (3 * _TILE + 16), (index // 2) * (_TILE + 4)))
    sheet.save(out, quality=82)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    draw(options.out, options.model)


if __name__ == "__main__":
    main()
