"""Classes of every pixel: overlapping tiles through a model with a semantic decoder, blended, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from e2sam.data.stack import ChannelStack
from e2sam.errors import CheckpointError
from e2sam.inference.frame import Frame
from e2sam.inference.plan import EncodingPlan, MissingPolicy, Recipes, Scene
from e2sam.inference.prediction import Box
from e2sam.inference.tiling import tiles_of
from e2sam.modeling.e2sam import E2SAM, ModelConfig, SemanticConfig

__all__ = ["SemanticPrediction", "frame_of_tile", "logits_on_grid", "segment_semantic", "semantic_config"]

Strip = tuple[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class SemanticPrediction:
    """Classes of one stack.

    Attributes
    ----------
    labels
        (H, W) int32, value of the likeliest class of each pixel.
    probabilities
        (K, H, W) float32, summing to 1 over the classes, or None where they were not asked for.
    classes, values
        Name and value of each class.
    """

    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32] | None
    classes: tuple[str, ...]
    values: tuple[int, ...]


def semantic_config(model: E2SAM) -> SemanticConfig:
    """The classes of a model.

    Raises
    ------
    CheckpointError
        If it has no semantic decoder.
    """
    if model.config.semantic is None:
        raise CheckpointError(
            "Expected a model with a semantic decoder, got one that segments by prompts only: make one with "
            "`e2sam finetune DATA --head semantic`."
        )
    return model.config.semantic


def frame_of_tile(size: tuple[int, int], config: ModelConfig, tile_size: int) -> Frame:
    """Frame of a tile of `size` (height, width) at the scale at which tiles of `tile_size` fill it.

    A tile at the border of an image, or an image smaller than a tile, is padded rather than enlarged.
    """
    scale = config.image_size / tile_size
    if max(size) >= tile_size:
        return Frame.of(size, config)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    multiple = config.pad_multiple
    padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    return Frame(size, (height, width), padded, config.embedding_stride, config.logits_stride)


def logits_on_grid(
    logits: Tensor, input_size: tuple[int, int], padded_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Logits (B, K, h, w) of a padded frame, bilinearly sampled on a grid (B, K, *size) over the image alone."""
    axes = []
    for count, inner, padded in zip(size, input_size, padded_size, strict=True):
        # From the centre of each output to [-1, 1] over the padded frame.
        position = (torch.arange(count, device=logits.device, dtype=torch.float32) + 0.5) * (inner / count)
        axes.append(2 * position / padded - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(len(logits), -1, -1, -1)
    return F.grid_sample(logits.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def segment_semantic(
    model: E2SAM,
    stack: ChannelStack,
    *,
    overlap: float = 0.25,
    with_probabilities: bool = False,
    mapping: Mapping[str, str] | None = None,
    missing: MissingPolicy = "refuse",
    recipes: Recipes = None,
) -> SemanticPrediction:
    """The class of every pixel of a stack.

    Parameters
    ----------
    model
        With a semantic decoder.
    stack
        A single scene (C, H, W); a window of it is read at a time.
    overlap
        Share of a tile that neighbouring tiles share; there they are blended, so that no seam shows.
    with_probabilities
        Also return the probability of each class; needs (K, H, W) float32 of memory.
    mapping, missing
        As in `Predictor.set_stack`.
    recipes
        Normalization of a teacher's input; a student uses its own.

    Raises
    ------
    CheckpointError
        If the model has no semantic decoder.
    ChannelError
        If the stack's channels are not those of the model.
    """
    semantic = semantic_config(model)
    plan = Scene.of(stack, recipes).plan(model.config, "auto", mapping, missing)
    values = np.array(semantic.values, np.int32)
    labels = np.empty(stack.size, np.int32)
    kept = np.empty((len(values), *stack.size), np.float32) if with_probabilities else None
    for top, strip in _strips(model, plan, semantic.tile_size, overlap):
        rows = slice(top, top + strip.shape[1])
        labels[rows] = values[strip.argmax(0)]
        if kept is not None:
            kept[:, rows] = strip
    return SemanticPrediction(labels, kept, semantic.classes, semantic.values)


def _strips(model: E2SAM, plan: EncodingPlan, tile_size: int, overlap: float) -> Iterator[Strip]:
    """Finished strips (K, rows, W) of probabilities from top to bottom, each with its first row."""
    height, width = plan.stack.size
    tiles = tiles_of((height, width), tile_size, int(tile_size * overlap))
    rows: dict[tuple[int, int], list[Box]] = {}
    for tile in tiles:
        rows.setdefault((tile[1], tile[3]), []).append(tile)
    ordered = sorted(rows)
    pending: Strip | None = None
    for number, (top, bottom) in enumerate(ordered):
        total, weight = _row_of_tiles(model, plan, rows[top, bottom], tile_size, width)
        if pending is not None:
            shared = pending[1].shape[1]
            total[:, :shared] += pending[1][:-1]
            weight[:shared] += pending[1][-1]
        following = ordered[number + 1][0] if number + 1 < len(ordered) else bottom
        done = following - top
        yield top, total[:, :done] / weight[None, :done]
        pending = following, np.concatenate((total[:, done:], weight[None, done:]))


def _row_of_tiles(
    model: E2SAM, plan: EncodingPlan, tiles: list[Box], tile_size: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted sum (K, h, W) of the probabilities of one row of tiles, and the weights (h, W)."""
    height = tiles[0][3] - tiles[0][1]
    weight = np.zeros((height, width), np.float32)
    total: NDArray[np.float32] | None = None
    for tile in tiles:
        probability = _tile(model, plan, tile, tile_size)
        if total is None:
            total = np.zeros((len(probability), height, width), np.float32)
        window = _ramp(height)[:, None] * _ramp(tile[2] - tile[0])[None]
        total[:, :, tile[0] : tile[2]] += probability * window
        weight[:, tile[0] : tile[2]] += window
    assert total is not None
    return total, weight


def _tile(model: E2SAM, plan: EncodingPlan, tile: Box, tile_size: int) -> NDArray[np.float32]:
    """Probabilities (K, h, w) of one tile; a teacher's views are averaged."""
    size = (tile[3] - tile[1], tile[2] - tile[0])
    frame = frame_of_tile(size, model.config, tile_size)
    with torch.inference_mode():
        pixels = model.prepare(torch.from_numpy(plan.planes(tile, frame)).to(model.device), frame.padded_size)
        embeddings = model.embed(model.encode(pixels), plan.positions)
        logits = model.classify(embeddings.float(), pixels)
        logits = logits_on_grid(logits, frame.input_size, frame.padded_size, size)
        probability: NDArray[np.float32] = torch.softmax(logits, dim=1).mean(0).cpu().numpy()
    return probability


def _ramp(length: int) -> NDArray[np.float32]:
    """Weights over a tile: 1 in the middle, falling to little at its ends, where it has seen least around."""
    distance = np.minimum(np.arange(length) + 1, np.arange(length)[::-1] + 1)
    return np.minimum(1.0, distance / max(1.0, length / 4)).astype(np.float32)
