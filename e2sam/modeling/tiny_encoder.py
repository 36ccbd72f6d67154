"""The encoder of `tiny`: a light residual network whose embedding holds meaning at stride 8 and detail at stride 4."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.packed import fastest_dtype, passing_in

__all__ = ["DETAIL_CHANNELS", "SEMANTIC_CHANNELS", "ChannelNorm", "ResidualBlock", "TinyEncoder", "upsample"]

SEMANTIC_CHANNELS = 128
# At stride 4; held in the embedding as 4 x 32 channels at stride 8.
DETAIL_CHANNELS = 32
_WIDTHS = (48, 96, 160, 256)
_STEM = 32


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each position, so that no size or padding changes what it does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        y: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class ResidualBlock(nn.Module):
    """Two plain 3 x 3 convolutions, `inner` channels between them (default: all).

    On CPUs with bfloat16 products they are several times faster than depthwise ones.
    """

    def __init__(self, channels: int, inner: int | None = None) -> None:
        super().__init__()
        inner = channels if inner is None else inner
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, C, H, W)."""
        y: Tensor = torch.addcmul(x, self.scale.to(x.dtype), self.conv2(F.relu_(self.conv1(self.norm(x)))))
        return y


class _Stage(nn.Module):
    """Halves the resolution, then refines."""

    def __init__(self, in_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(in_channels)
        self.down = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.down(self.norm(x)))
        return y


class _GlobalContext(nn.Module):
    """Adds what the whole image says to every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.mix(x.mean((2, 3)))[:, :, None, None]
        return y


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class TinyEncoder(nn.Module):
    """Planes (B, in_channels, H, W) to the embedding (B, 256, H / 8, W / 8); H and W are multiples of 32.

    The first 128 channels of the embedding carry meaning at stride 8, the others are 32 channels at stride 4, four
    positions to one (`torch.nn.functional.pixel_shuffle` spreads them again). The first layer, `input_conv`, is
    linear with zero padding, so that it inflates to more planes without any change of function.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.input_conv = nn.Conv2d(in_channels, _STEM, 3, stride=2, padding=1)
        self.input_norm = ChannelNorm(_STEM)
        self.stem = nn.Sequential(nn.Conv2d(_STEM, _WIDTHS[0], 3, stride=2, padding=1), ResidualBlock(_WIDTHS[0]))
        self.stages = nn.ModuleList(_Stage(a, b, 2) for a, b in pairwise(_WIDTHS))
        self.context = _GlobalContext(_WIDTHS[-1])
        self.laterals = nn.ModuleList(nn.Conv2d(width, SEMANTIC_CHANNELS, 1) for width in _WIDTHS[1:])
        self.smooth16 = ResidualBlock(SEMANTIC_CHANNELS)
        self.smooth8 = nn.Sequential(
            ChannelNorm(SEMANTIC_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(SEMANTIC_CHANNELS, SEMANTIC_CHANNELS, 3, padding=1),
            ChannelNorm(SEMANTIC_CHANNELS),
        )
        self.detail_lateral = nn.Conv2d(_WIDTHS[0], DETAIL_CHANNELS, 1)
        self.detail_top = nn.Conv2d(SEMANTIC_CHANNELS, DETAIL_CHANNELS, 1)
        self.detail_conv = nn.Sequential(
            ChannelNorm(DETAIL_CHANNELS), nn.ReLU(), nn.Conv2d(DETAIL_CHANNELS, DETAIL_CHANNELS, 3, padding=1)
        )
        self.detail_input = nn.Conv2d(_STEM, DETAIL_CHANNELS, 1)
        self._keep_colours(min(in_channels, _STEM))

    @torch.no_grad()
    def _keep_colours(self, planes: int) -> None:
        """Start with the planes themselves among the detail channels: colour distance works before any training."""
        for plane in range(planes):
            self.input_conv.weight[plane].zero_()
            self.input_conv.weight[plane, plane].fill_(1 / 9)
            self.detail_input.weight[plane].zero_()
            self.detail_input.weight[plane, plane] = 1.0

    def forward(self, pixels: Tensor) -> Tensor:
        """Embedding of prepared planes, float32 where there are no gradients."""
        with passing_in(self.compute_dtype, pixels.device):
            embedding = self._forward(pixels)
        return embedding if torch.is_grad_enabled() else embedding.float()

    def prefer_speed(self, dtype: torch.dtype | None = None) -> None:
        """Compute passes without gradients in the type that is fastest on the weights' device, or in `dtype`."""
        self.compute_dtype = dtype or fastest_dtype(self.input_conv.weight.device)

    def _forward(self, pixels: Tensor) -> Tensor:
        linear = self.input_conv(pixels.contiguous(memory_format=torch.channels_last))
        x = self.stem(F.relu(self.input_norm(linear)))
        levels = []
        y = x
        for stage in self.stages:
            y = stage(y)
            levels.append(y)
        levels[-1] = self.context(levels[-1])
        p8, p16, p32 = (lateral(level) for lateral, level in zip(self.laterals, levels, strict=True))
        p16 = self.smooth16(p16 + upsample(p32))
        p8 = p8 + upsample(p16)
        detail = self.detail_lateral(x) + upsample(self.detail_top(p8))
        detail = self.detail_conv(detail) + self.detail_input(F.avg_pool2d(linear, 2))
        embedding = torch.cat((self.smooth8(p8), F.pixel_unshuffle(detail, 2)), dim=1)
        return embedding.contiguous()
