"""Losses of one training step of `tiny`: masks, candidates, quality and boundaries over rounds of clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from e2sam.data.clicks import training_click
from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.tiny import TinyDecoder
from e2sam.modeling.tiny_decoder import ImageFeatures

__all__ = ["Rounds", "StepLoss", "boundary_loss", "corrected", "mask_loss", "play_rounds"]

# Chance of 0, 1, 2... rounds without gradient between the first and the last round of a step.
_SILENT_ROUNDS = (0.4, 0.2, 0.15, 0.12, 0.08, 0.05)


@dataclass(frozen=True)
class Rounds:
    """The prompts of a step so far: coordinates (B, P, 2), labels (B, P), earlier logits (B, 1, H, W) or None."""

    points: Tensor
    labels: Tensor
    logits: Tensor | None = None

    def prompts(self) -> PromptTensors:
        """As the decoder takes them."""
        return PromptTensors(self.points, self.labels, self.logits)


@dataclass(frozen=True)
class StepLoss:
    """Loss of a step and mean IoU of its first and its last round (single mask; best of the candidates)."""

    total: Tensor
    first_iou: float
    last_iou: float
    best_iou: float


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """2 x cross entropy + Dice loss of logits (B, M, h, w) against soft targets (B, 1, h, w); (B, M)."""
    target = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
    soft = torch.sigmoid(logits)
    overlap = 2 * (soft * target).sum((2, 3)) + 1
    return 2 * entropy + 1 - overlap / (soft.sum((2, 3)) + target.sum((2, 3)) + 1)


def boundary_loss(features: ImageFeatures, boundaries: Tensor, judged: Tensor) -> Tensor:
    """Weighted cross entropy of the boundary logits; boundaries are rare, so that they weigh threefold."""
    logits = features.boundaries.float()
    entropy = F.binary_cross_entropy_with_logits(
        logits, boundaries, reduction="none", pos_weight=logits.new_tensor(3.0)
    )
    return (entropy * judged).sum() / judged.sum().clamp(min=1)


def _round_loss(logits: Tensor, quality: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the single mask, the best candidate and the predicted quality; IoU (B, 4) of the masks."""
    fine = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
    losses = mask_loss(fine, target)
    with torch.no_grad():
        hard, truth = fine > 0, target > 0.5
        iou = (hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)
    candidates = losses[:, 1:]
    total = losses[:, 0] + candidates.amin(1) + 0.05 * candidates.mean(1) + (quality - iou).square().mean(1)
    # What choosing by quality loses against the best mask, made smooth.
    chance = torch.softmax(12 * quality, dim=1)
    total = total + (chance * (iou.amax(1, keepdim=True) - iou)).sum(1)
    return total.mean(), iou


def play_rounds(
    decoder: TinyDecoder,
    features: ImageFeatures,
    rounds: Rounds,
    masks: NDArray[np.bool_],
    rng: np.random.Generator,
) -> StepLoss:
    """A first and a later round with gradients, and silent rounds of corrections between them."""
    device = features.trunk.device
    masks2 = masks[:, ::2, ::2]
    target = F.avg_pool2d(torch.from_numpy(masks[:, None].astype(np.float32)), 2).to(device)
    logits, quality = decoder.decode(features, rounds.prompts())
    first, iou = _round_loss(logits, quality, target)
    shown = _shown(logits, quality, rng)
    for _ in range(int(rng.choice(len(_SILENT_ROUNDS), p=_SILENT_ROUNDS))):
        rounds = corrected(rounds, shown, masks2, rng)
        with torch.no_grad():
            silent, _ = decoder.decode(features, rounds.prompts())
        shown = silent[:, :1]
    rounds = corrected(rounds, shown, masks2, rng)
    logits, quality = decoder.decode(features, rounds.prompts())
    last, later = _round_loss(logits, quality, target)
    return StepLoss(first + last, float(iou[:, 0].mean()), float(later[:, 0].mean()), float(iou[:, 1:].amax(1).mean()))


def _shown(logits: Tensor, quality: Tensor, rng: np.random.Generator) -> Tensor:
    """The mask (B, 1, H, W) that a user would see: the single one, or the one of best predicted quality."""
    logits = logits.detach()
    if rng.random() < 0.5:
        return logits[:, :1]
    best = quality.argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), best][:, None]


def corrected(rounds: Rounds, shown: Tensor, masks: NDArray[np.bool_], rng: np.random.Generator) -> Rounds:
    """One more click for each object, in the larger error of what is shown; targets (B, h, w) at stride 2."""
    fine = F.interpolate(shown.float(), scale_factor=2, mode="bilinear", align_corners=False)
    predicted = (fine[:, 0] > 0).cpu().numpy()
    points = np.zeros((len(masks), 1, 2), np.float32)
    labels = np.full((len(masks), 1), -1, np.int64)
    for index, mask in enumerate(masks):
        click = training_click(mask, predicted[index], rng)
        if click is not None:
            points[index, 0] = (2 * click.x, 2 * click.y)
            labels[index, 0] = click.label
    device = rounds.points.device
    return Rounds(
        torch.cat((rounds.points, torch.from_numpy(points).to(device)), dim=1),
        torch.cat((rounds.labels, torch.from_numpy(labels).to(device)), dim=1),
        shown.detach().float(),
    )
