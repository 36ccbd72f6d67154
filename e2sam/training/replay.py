"""What the old model said where nothing is labelled, remembered so that the new one goes on saying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.training.clicking import Points, box_prompts, first_click, pad_prompts
from e2sam.training.dataset import TrainingWindow
from e2sam.training.patches import Extent, Patch, cut

__all__ = ["Answers", "remember"]

_PROMPTS = 12


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a model to K prompts of one kind.

    Attributes
    ----------
    coords, labels
        (K, P, 2) and (K, P), as in `PromptTensors`, each in its patch.
    places
        (K, 4) int64, see `Patch.place`.
    multimask
        Whether candidates were asked for.
    logits, quality
        (K, M, h, w) float16 and (K, M) float32.
    weights
        (K,) in [0, 1], how sure the model was.
    """

    coords: Tensor
    labels: Tensor
    places: Tensor
    multimask: bool
    logits: Tensor
    quality: Tensor
    weights: Tensor

    def draw(self, generator: np.random.Generator, count: int) -> dict[str, Tensor | bool]:
        """Some of them, as a batch has them."""
        rows = torch.from_numpy(generator.integers(len(self.coords), size=count))
        return {name: value[rows] if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}


def remember(
    model: E2SAM,
    window: TrainingWindow,
    embedding: Tensor,
    patch_at: Callable[[Extent, np.random.Generator], Patch],
    generator: np.random.Generator,
) -> list[Answers]:
    """Answers to clicks outside of labelled objects, held-out ones too, and to boxes around those answers.

    Empty where all is labelled.

    Parameters
    ----------
    model
        As it is before training.
    window
        Where.
    embedding
        (256, h', w') of the window.
    patch_at
        What to decode around a place.
    generator
        Draws the places.
    """
    free = window.inside & ~window.labelled
    if not free.any():
        return []
    stride = model.config.logits_stride
    clicks, patches = [], []
    for _ in range(_PROMPTS):
        points, labels = first_click(free.astype(np.float32), generator, stride)
        column, row = (points[0] // stride).astype(int).tolist()
        patch = patch_at((row, column, row + 1, column + 1), generator)
        clicks.append(patch.of_points(points, labels))
        patches.append(patch)
    by_click = _answers(model, embedding, clicks, patches, True)
    best = by_click.logits[torch.arange(len(clicks)), by_click.quality.argmax(1)].float()
    boxes, places = [], []
    for mask, patch in zip((best > 0).cpu().numpy(), patches, strict=True):
        inside: NDArray[np.bool_] = mask & patch.of_grid(window.inside)
        if inside.any():
            boxes.append(box_prompts(inside.astype(np.float32), generator, stride))
            places.append(patch)
    return [by_click] + ([_answers(model, embedding, boxes, places, False)] if boxes else [])


def _answers(model: E2SAM, embedding: Tensor, prompts: list[Points], patches: list[Patch], multimask: bool) -> Answers:
    coords, labels = pad_prompts(prompts)
    places = torch.tensor([patch.place for patch in patches])
    with torch.no_grad():
        tensors = PromptTensors(coords.to(embedding.device), labels.to(embedding.device))
        logits, quality = model.decode(cut(embedding[None], places), tensors, multimask)
    quality = quality.float().cpu()
    # A mask that the model does not believe in itself is no behaviour to keep.
    weights = ((quality.amax(1) - 0.5) / 0.3).clamp(0, 1)
    return Answers(coords, labels, places, multimask, logits.float().clamp(-15, 15).half().cpu(), quality, weights)
