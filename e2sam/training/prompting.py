"""Prompts in the loop: student and teacher answer the same clicks through the same frozen decoder.

Encoder features alone do not carry over how a model answers prompts (EdgeSAM, Zhou et al., 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.training.losses import mask_loss

__all__ = ["TeacherMasks", "click_prompts", "prompt_loss", "teacher_masks"]

_SCORE_WEIGHT = 1.0


@dataclass(frozen=True)
class TeacherMasks:
    """What a teacher answers to P prompts, each from the view that serves it best.

    Attributes
    ----------
    logits
        (P, M, H, W) candidates.
    scores
        (P, M) predicted IoU.
    quality
        (P, M) predicted IoU x stability, in [0, 1].
    view
        (P,) index of the view.
    """

    logits: Tensor
    scores: Tensor
    quality: Tensor
    view: Tensor

    @property
    def shown(self) -> Tensor:
        """(P,) index of the candidate of best predicted IoU: the one that a user is shown."""
        return self.scores.argmax(1)


def click_prompts(points: Tensor, labels: Tensor, earlier: Tensor | None = None) -> PromptTensors:
    """Prompts of points (P, K, 2) in the model's frame with labels (P, K), and earlier logits (P, H, W)."""
    return PromptTensors(points, labels.long(), None if earlier is None else earlier[:, None])


@torch.no_grad()
def teacher_masks(model: E2SAM, views: Sequence[Tensor], prompts: PromptTensors, multimask: bool) -> TeacherMasks:
    """Masks from embeddings (256, h, w) of several views: for each prompt those of the view of best quality.

    So masks may come from channels that the usual composite lacks.
    """
    answers = [model.decode(view[None], prompts, multimask) for view in views]
    logits = torch.stack([answer[0].float() for answer in answers])
    scores = torch.stack([answer[1].float() for answer in answers])
    quality = scores.clamp(0, 1) * _stability(logits)
    view = quality.amax(2).argmax(0)
    rows = torch.arange(len(view), device=view.device)
    return TeacherMasks(logits[view, rows], scores[view, rows], quality[view, rows], view)


def _stability(logits: Tensor) -> Tensor:
    """(...) IoU of the masks (..., H, W) cut at logits 1 and -1, as SAM's mask generator has it."""
    inner, outer = ((logits > cut).sum((-2, -1)).float() for cut in (1.0, -1.0))
    return inner / outer.clamp(min=1)


def prompt_loss(
    model: E2SAM, embedding: Tensor, views: Sequence[Tensor], points: Tensor, inside: Tensor, chance: Tensor
) -> Tensor:
    """How far a student's masks are from its teacher's at one click, and at a second one where the two differ.

    Parameters
    ----------
    model
        The student; its decoder is the teacher's, frozen.
    embedding
        (1, 256, h, w) of the student's selection.
    views
        Teacher embeddings (256, h, w) for the same channels, or for parts of them.
    points
        (P, 2) first clicks in the model's frame.
    inside
        (H, W) at the stride of the logits, 1 in the image, 0 in the padding.
    chance
        (P, H, W) uniform in [0, 1): where the second clicks fall.
    """
    positive = torch.ones(len(points), 1, device=points.device)
    prompts = click_prompts(points[:, None], positive)
    taught = teacher_masks(model, views, prompts, multimask=True)
    logits, scores = model.decode(embedding, prompts, True)
    loss = _loss(logits.float(), scores.float(), taught, inside)
    rows = torch.arange(len(points), device=points.device)
    mine, its = logits[rows, taught.shown].detach().float(), taught.logits[rows, taught.shown]
    second, label = _differing_points(mine > 0, its > 0, inside, chance)
    stride = model.config.logits_stride
    both = torch.cat((points[:, None], (second + 0.5)[:, None] * stride), dim=1)
    labels = torch.cat((positive, label[:, None]), dim=1)
    taught = teacher_masks(model, views, click_prompts(both, labels, its), multimask=False)
    logits, scores = model.decode(embedding, click_prompts(both, labels, mine), False)
    return loss + _loss(logits.float(), scores.float(), taught, inside)


def _loss(logits: Tensor, scores: Tensor, taught: TeacherMasks, inside: Tensor) -> Tensor:
    # Masks that the teacher itself does not trust teach little.
    weight = taught.quality.clamp(min=0.05)
    pixels = weight[..., None, None] * inside
    masks = mask_loss(logits, torch.sigmoid(taught.logits), pixels)
    return masks + _SCORE_WEIGHT * F.mse_loss(scores, taught.scores)


def _differing_points(student: Tensor, teacher: Tensor, inside: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """A random (x, y) position (P, 2) where masks (P, H, W) differ (any where they agree), and its label (P,)."""
    width = student.shape[-1]
    place = ((chance + (student ^ teacher).float()) * inside).flatten(1).argmax(1)
    label = teacher.flatten(1)[torch.arange(len(place), device=place.device), place].float()
    return torch.stack((place % width, place // width), dim=1).float(), label
