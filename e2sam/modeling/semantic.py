"""Semantic decoders: from an embedding, and the channels behind it, to a score for each class."""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor, nn

from e2sam.errors import TrainingError
from e2sam.modeling.e2sam import ModelConfig

__all__ = ["SEMANTIC_DECODERS", "DetailDecoder", "LinkNetDecoder", "build_semantic_decoder"]

EMBEDDING_WIDTH = 256


class DetailDecoder(nn.Module):
    """Up-sampling decoder that also reads every channel at a quarter of the frame's resolution.

    The embedding says what lies where, at 1/8 or 1/16; the channels themselves, through a small network that sees one
    position at a time, give the fine boundary and the full spectrum. GroupNorm, because batches are small.

    Parameters
    ----------
    num_planes
        Planes of the prepared pixels (N + 1 for a student, 3 for a teacher).
    num_classes
        Number of classes.
    stride
        Stride of the embedding, a power of two from 4 on.
    width
        Channels inside the decoder, a multiple of 8.
    """

    plane_mean: Tensor
    plane_std: Tensor
    out_stride = 4

    def __init__(self, num_planes: int, num_classes: int, stride: int, width: int = 64) -> None:
        super().__init__()
        steps = _doublings(stride) - _doublings(self.out_stride)
        self.context = nn.Sequential(
            nn.Conv2d(EMBEDDING_WIDTH, width, 1), nn.GroupNorm(8, width), nn.GELU(), *self._doubling(width, steps)
        )
        self.spectrum = nn.Sequential(
            nn.Conv2d(num_planes, width, 1), nn.GELU(), nn.Conv2d(width, width, 1), nn.GroupNorm(8, width), nn.GELU()
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, num_classes, 1),
        )
        # Mean and standard deviation of each plane, fitted before training: bands of one spectrum differ little.
        self.register_buffer("plane_mean", torch.zeros(num_planes, 1, 1))
        self.register_buffer("plane_std", torch.ones(num_planes, 1, 1))

    @staticmethod
    def _doubling(width: int, steps: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(steps):
            layers += [
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.GELU(),
            ]
        return layers

    def fit_statistics(self, planes: Tensor) -> None:
        """Take mean and standard deviation of each plane from samples (S, planes)."""
        self.plane_mean = planes.mean(0)[:, None, None].to(self.plane_mean)
        self.plane_std = planes.std(0).clamp_min(1e-3)[:, None, None].to(self.plane_std)

    def forward(self, image_embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Logits (B, K, H / 4, W / 4); `pixels` may come already reduced to that size."""
        context = self.context(image_embeddings)
        if pixels.shape[-2:] != context.shape[-2:]:
            pixels = nn.functional.adaptive_avg_pool2d(pixels, context.shape[-2:])
        spectrum = self.spectrum((pixels - self.plane_mean) / self.plane_std)
        logits: Tensor = self.fuse(torch.cat((context, spectrum), dim=1))
        return logits


class _LinkNetBlock(nn.Module):
    """1x1 to a quarter of the width, 3x3 transposed convolution, 1x1 to the new width."""

    def __init__(self, width_in: int, width_out: int, doubling: bool) -> None:
        super().__init__()
        inner = width_in // 4
        self.layers = nn.Sequential(
            nn.Conv2d(width_in, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            # Without doubling the layer keeps its weights' shape and moves one position at a time.
            nn.ConvTranspose2d(
                inner, inner, 3, stride=2 if doubling else 1, padding=1, output_padding=1 if doubling else 0
            ),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, width_out, 1),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.layers(features)
        return result


class LinkNetDecoder(nn.Module):
    """The decoder of E2SAM's released code: four LinkNet blocks, then three convolutions.

    Widths 256, 256, 128, 64, 64. From an embedding at 1/16 all four blocks double the size, as there; from a finer one
    the first blocks keep it, so that logits come at the size of the frame. It reads the embedding only.
    """

    def __init__(self, num_classes: int, stride: int) -> None:
        super().__init__()
        widths = (EMBEDDING_WIDTH, 256, 128, 64, 64)
        kept = 4 - _doublings(stride)
        self.blocks = nn.Sequential(
            *(_LinkNetBlock(widths[index], widths[index + 1], doubling=index >= kept) for index in range(4))
        )
        self.head = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 3, stride=1, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, num_classes, 3, padding=1),
        )

    def forward(self, image_embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Logits (B, K, H, W)."""
        logits: Tensor = self.head(self.blocks(image_embeddings))
        return logits


SEMANTIC_DECODERS = ("detail", "bmvc2023")


def build_semantic_decoder(config: ModelConfig) -> nn.Module:
    """The semantic decoder that `config.semantic` names, with random weights.

    Raises
    ------
    TrainingError
        If there is no decoder of that name.
    """
    semantic = config.semantic
    assert semantic is not None
    if semantic.decoder == "detail":
        num_planes = len(config.channels) + 1 if config.is_student else 3
        return DetailDecoder(num_planes, len(semantic.classes), config.embedding_stride)
    if semantic.decoder == "bmvc2023":
        return LinkNetDecoder(len(semantic.classes), config.embedding_stride)
    raise TrainingError(f"Expected a semantic decoder of {', '.join(SEMANTIC_DECODERS)}, got {semantic.decoder!r}.")


def _doublings(stride: int) -> int:
    steps = int(log2(stride))
    assert 2**steps == stride
    return steps
