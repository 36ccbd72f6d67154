"""The gated merge's last layer in closed form: a start that gradient steps would need hundreds of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.merge import EMBEDDING_CHANNELS, GatedMerge

__all__ = ["fit_readout"]

# Prepared pixels (N + 1, t, t), weight (h, w), selections, and the teacher's embedding (256, h, w) of each.
Lesson = tuple[Tensor, Tensor, Sequence[tuple[int, ...]], Sequence[Tensor]]

_RIDGE = 3e-3


@torch.no_grad()
def fit_readout(student: E2SAM, merge: GatedMerge, lessons: Sequence[Lesson]) -> None:
    """Ridge regression from `merge.basis` to what the teacher's embeddings differ by from the student's features.

    The basis is a random, untrained layer with the gated channels beside it (as in an extreme learning machine, Huang
    et al., 2006); only the layer behind it is solved for, without an intercept, so that the canonical selection keeps
    its embedding.
    """
    device = student.device
    width = merge.readout.in_channels
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    moment = torch.zeros(width, EMBEDDING_CHANNELS, dtype=torch.float64, device=device)
    for pixels, weight, selections, targets in lessons:
        features = student.encode(pixels[None].to(device)).float()
        share = weight.flatten().to(device)[:, None]
        for selection, target in zip(selections, targets, strict=True):
            rows = merge.basis(features, selection)[0].flatten(1).T
            wanted = (target.to(device) - features[0, :EMBEDDING_CHANNELS]).flatten(1).T / merge.deviation
            gram += (rows.T @ (rows * share)).double()
            moment += (rows.T @ (wanted * share)).double()
    # Of one channel there is but one selection, and nothing to solve for.
    gram += _RIDGE * gram.diagonal().mean().clamp(min=1e-9) * torch.eye(width, dtype=gram.dtype, device=device)
    solution = torch.linalg.solve(gram, moment).float()
    merge.readout.weight.copy_(solution.T[:, :, None, None])
