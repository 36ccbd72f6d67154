"""Simulated users on the grid of the decoder's logits: first prompts, corrections, and quick scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.clicks import Click, box_of, jittered_box, next_click, training_click
from e2sam.data.prompts import Prompts
from e2sam.inference.frame import Frame
from e2sam.modeling.e2sam import E2SAM, PromptTensors

__all__ = ["QuickScores", "box_prompts", "click_in_error", "first_click", "pad_prompts", "quick_clicks", "user_prompts"]

_PADDING = -1
_BATCH = 16

Points = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(P, 2) pixel (x, y) of the model's frame, and (P,) labels."""


def first_click(target: NDArray[np.floating], generator: np.random.Generator, stride: int) -> Points:
    """One click inside an object: anywhere in it, or, every second time, in its inner half."""
    inside = _hard(target)
    nothing = np.zeros_like(inside)
    anywhere = generator.random() < 0.5
    click = next_click(inside, nothing, rng=generator) if anywhere else training_click(inside, nothing, generator)
    return _point(click, stride)


def click_in_error(
    mask: NDArray[np.bool_], target: NDArray[np.bool_], generator: np.random.Generator | None, stride: int
) -> Points:
    """The next click where a mask is wrong; a padding point (label -1) where it is right everywhere.

    With a generator a point in the inner half of the larger error, as for training; without, its deepest point, as in
    evaluation.
    """
    click = next_click(target, mask) if generator is None else training_click(target, mask, generator)
    return _point(click, stride)


def box_prompts(target: NDArray[np.floating], generator: np.random.Generator | None, stride: int) -> Points:
    """The box around an object as two corners; with a generator each side moves by up to a tenth of the box."""
    inside = _hard(target)
    box = box_of(inside) if generator is None else jittered_box(inside, 0.1, generator)
    return np.array(box, np.float32).reshape(2, 2) * stride, np.array([2, 3], np.int64)


def user_prompts(prompts: Prompts, frame: Frame) -> Points:
    """What a user gave, as points of the model's frame; a box becomes its two corners."""
    points, labels = [frame.to_model(prompts.points)], [prompts.labels.astype(np.int64)]
    if prompts.box is not None:
        points.append(frame.to_model(prompts.box.reshape(2, 2)))
        labels.append(np.array([2, 3], np.int64))
    return np.concatenate(points).astype(np.float32), np.concatenate(labels)


def pad_prompts(prompts: list[Points]) -> tuple[Tensor, Tensor]:
    """(B, P, 2) and (B, P) tensors of prompts of unlike length; as in SAM, points without a box end on padding."""
    closed = [
        (points, labels)
        if (labels == 3).any()
        else (np.concatenate((points, np.zeros((1, 2), np.float32))), np.concatenate((labels, [_PADDING])))
        for points, labels in prompts
    ]
    longest = max(len(labels) for _, labels in closed)
    coords = np.zeros((len(closed), longest, 2), np.float32)
    marks = np.full((len(closed), longest), _PADDING, np.int64)
    for row, (points, labels) in enumerate(closed):
        coords[row, : len(labels)], marks[row, : len(labels)] = points, labels
    return torch.from_numpy(coords), torch.from_numpy(marks)


@dataclass(frozen=True)
class QuickScores:
    """IoU of K objects on the grid of the logits; NaN where a model gives no numbers.

    Attributes
    ----------
    clicks
        (K, n) float32 after 1..n clicks, each in the middle of the largest error.
    box
        (K,) float32 from the box around the object.
    """

    clicks: NDArray[np.float32]
    box: NDArray[np.float32]

    @property
    def score(self) -> float:
        """One figure to compare weights by: mean over clicks, with the box as one more."""
        return float(np.concatenate((self.clicks, self.box[:, None]), axis=1).mean())


def quick_clicks(
    model: E2SAM, embeddings: Tensor, targets: NDArray[np.uint8], inside: NDArray[np.bool_], clicks: int = 5
) -> QuickScores:
    """Click at K objects in batches on one window; where there are several views, the best by predicted quality counts.

    Parameters
    ----------
    embeddings
        (V, 256, h', w').
    targets
        (K, h, w) uint8, see `TrainingWindow`.
    inside
        (h, w) bool.
    clicks
        Number of clicks.
    """
    by_clicks, by_box = [], []
    for start in range(0, len(targets), _BATCH):
        truth = targets[start : start + _BATCH] >= 128
        soft = targets[start : start + _BATCH].astype(np.float32) / 255
        stride = model.config.logits_stride
        boxes = [box_prompts(target, None, stride) for target in soft]
        masks, _ = _decode(model, embeddings, boxes, None, False)
        by_box.append(_iou(masks, truth, inside))
        prompts: list[Points] = [(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)) for _ in truth]
        logits: NDArray[np.float32] | None = None
        column = []
        for number in range(clicks):
            masks_now = np.zeros_like(truth) if logits is None else (logits > 0) & inside
            for row, (points, labels) in enumerate(prompts):
                point, label = click_in_error(masks_now[row], truth[row], None, stride)
                prompts[row] = np.concatenate((points, point)), np.concatenate((labels, label))
            logits, _ = _decode(model, embeddings, prompts, logits, number == 0)
            column.append(_iou(logits, truth, inside))
        by_clicks.append(np.stack(column, axis=1))
    return QuickScores(np.concatenate(by_clicks), np.concatenate(by_box))


def _decode(
    model: E2SAM, embeddings: Tensor, prompts: list[Points], previous: NDArray[np.float32] | None, multimask: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(K, h, w) logits and (K,) quality of the best candidate of the best view."""
    device = embeddings.device
    coords, labels = (part.to(device) for part in pad_prompts(prompts))
    mask_input = None if previous is None else torch.from_numpy(previous)[:, None].to(device)
    best_logits: Tensor | None = None
    best_quality: Tensor | None = None
    with torch.no_grad():
        for view in range(len(embeddings)):
            logits, quality = model.decode(
                embeddings[view : view + 1], PromptTensors(coords, labels, mask_input), multimask
            )
            top, chosen = quality.float().max(dim=1)
            picked = logits.float()[torch.arange(len(logits), device=device), chosen]
            if best_logits is None or best_quality is None:
                best_logits, best_quality = picked, top
            else:
                wins = top > best_quality
                best_logits = torch.where(wins[:, None, None], picked, best_logits)
                best_quality = torch.where(wins, top, best_quality)
    assert best_logits is not None and best_quality is not None
    return best_logits.cpu().numpy(), best_quality.cpu().numpy()


def _iou(logits: NDArray[np.float32], truth: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(K,) IoU of masks; NaN where a model is broken: its logits are no numbers."""
    masks = logits > 0
    shared = (masks & truth & inside).sum((1, 2))
    union = ((masks | truth) & inside).sum((1, 2))
    iou = np.asarray(shared / np.maximum(union, 1), np.float32)
    return np.where(np.isfinite(logits).all((1, 2)), iou, np.float32(np.nan))


def _hard(target: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Positions that an object covers at least by half; of one that covers none so far, those it covers most."""
    return np.asarray(target >= min(0.5, float(target.max())), bool)


def _point(click: Click | None, stride: int) -> Points:
    if click is None:
        return np.zeros((1, 2), np.float32), np.array([_PADDING], np.int64)
    return np.array([[click.x, click.y]], np.float32) * stride, np.array([click.label], np.int64)
