"""Fixtures for the engine's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.e2sam import E2SAM, ModelConfig, PromptTensors

# For what several files of tests share, such as `inheriting`.
sys.path.insert(0, str(Path(__file__).parent))

_STRIDE = 2


class _Brightness(nn.Module):
    """An encoder whose embedding is the picture itself, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = F.avg_pool2d(pixels.mean(dim=1, keepdim=True), _STRIDE)
        inside = F.avg_pool2d((pixels != 0).any(dim=1, keepdim=True).float(), _STRIDE)
        return F.pad(torch.cat((pooled, inside), dim=1), (0, 0, 0, 0, 0, 254))


class _AsBrightAsThePoint(nn.Module):
    """A decoder that answers with what is as bright as the first point, or as a box's centre, within a tolerance."""

    def forward(self, embeddings: Tensor, prompts: PromptTensors, multimask: bool) -> tuple[Tensor, Tensor]:
        count = len(prompts.point_coords)
        image = embeddings.expand(count, -1, -1, -1)[:, 0]
        points = prompts.point_coords[:, :1]
        if (prompts.point_labels[:, 0] == 2).all():
            points = prompts.point_coords[:, :2].mean(dim=1, keepdim=True)
        place = (points / _STRIDE).long()
        column = place[:, 0, 0].clamp(0, image.shape[2] - 1)
        row = place[:, 0, 1].clamp(0, image.shape[1] - 1)
        wanted = image[torch.arange(count), row, column]
        tolerances = torch.tensor([0.3, 0.15, 0.05]) if multimask else torch.tensor([0.3])
        difference = (image - wanted[:, None, None]).abs()
        logits = (30 * (tolerances.view(1, -1, 1, 1) - difference[:, None])).clamp(-5, 5)
        return logits, torch.tensor([0.95, 0.9, 0.85])[: len(tolerances)].expand(count, -1)


@pytest.fixture
def brightness_model() -> E2SAM:
    """A model whose masks are right by construction: what is as bright as the click. Frame 128, any aspect."""
    config = ModelConfig("brightness", image_size=128, embedding_stride=_STRIDE, logits_stride=_STRIDE, pad_multiple=32)
    return E2SAM(config, _Brightness(), _AsBrightAsThePoint()).eval()
