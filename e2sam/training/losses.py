"""What a student is told: how far its embeddings and masks are from the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cosine_loss", "feature_loss", "mask_loss", "maximum_mean_discrepancy", "weighted_mse"]

# Bandwidths of the kernels of `maximum_mean_discrepancy`, in mean squared distances (Long et al., 2015).
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_MAX_TOKENS = 512


def weighted_mse(student: Tensor, teacher: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error in units of the teacher's variance.

    SAM's embeddings have a few channels many times larger than the others, which would drown them.

    Parameters
    ----------
    student, teacher
        (B, D, h, w).
    variance
        (D,) of the teacher's channels.
    weight
        (B, h, w) in [0, 1], share of measured pixels behind each position.
    """
    error = ((student - teacher) ** 2 / variance[:, None, None]).mean(1)
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)


def cosine_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Mean of 1 - cosine of the angle between embeddings (B, D, h, w) at each position, by `weight` (B, h, w)."""
    error = 1 - F.cosine_similarity(student, teacher, dim=1)
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)


def feature_loss(student: Tensor, teacher: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """The pairwise loss of stage 1: `weighted_mse` + 0.5 `cosine_loss`, every position with its own.

    Both in units of the teacher's deviation: in `tiny`, channels that carry meaning may vary a hundred times less than
    those that carry detail.
    """
    deviation = variance.sqrt()[:, None, None]
    angle = cosine_loss(student / deviation, teacher / deviation, weight)
    return weighted_mse(student, teacher, variance, weight) + 0.5 * angle


def maximum_mean_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between two sets of embeddings (B, D, h, w), with five Gaussian kernels.

    The loss that the reference release trains with. It compares sets: an embedding may stand at the wrong position or
    image at no cost. Kept for comparison; `feature_loss` is what to use.
    """
    first, second = (_tokens(features) for features in (student, teacher))
    both = torch.cat((first, second))
    distances = torch.cdist(both, both).square()
    scale = distances.detach().mean().clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-distances / (width * scale)) for width in _BANDWIDTHS]).mean(0)
    count = len(first)
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * kernel[:count, count:].mean()


def _tokens(features: Tensor) -> Tensor:
    tokens = features.permute(0, 2, 3, 1).flatten(0, 2).float()
    step = -(-len(tokens) // _MAX_TOKENS)
    return tokens[::step]


def mask_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy plus Dice of masks, each mask counting alike.

    Parameters
    ----------
    logits
        (..., H, W) of the student.
    target
        (..., H, W) in [0, 1], the teacher's probabilities.
    weight
        (..., 1, 1) or (..., H, W), how much each mask or pixel counts.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixels = torch.broadcast_to(weight, entropy.shape)
    total = pixels.sum((-2, -1)).clamp(min=1e-6)
    entropy = (entropy * pixels).sum((-2, -1)) / total
    share = torch.sigmoid(logits)
    overlap = (share * target * pixels).sum((-2, -1))
    size = ((share + target) * pixels).sum((-2, -1))
    # One pixel added to both: an empty mask that should be empty costs nothing.
    dice = 1 - (2 * overlap + 1) / (size + 1)
    masks = pixels.amax((-2, -1))
    return ((entropy + dice) * masks).sum() / masks.sum().clamp(min=1e-6)
