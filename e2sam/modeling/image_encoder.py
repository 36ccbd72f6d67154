"""SAM's ViTDet image encoder: names of weights as in segment_anything, any number of planes, any grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.attention import attend, attend_globally, attend_in_windows, relative_positions, resized_table
from e2sam.modeling.packed import Compute, fastest_dtype, passing_in

__all__ = ["EncoderSize", "ImageEncoder"]

# Of a grid of 64 x 64 tokens these are 1024: the four times wider layer between is never there as a whole.
_MLP_ROWS = 16


@dataclass(frozen=True)
class EncoderSize:
    """Dimensions of a SAM image encoder.

    Attributes
    ----------
    width, depth, heads
        Token dimension, number of blocks, heads of each block.
    global_blocks
        Indices of the blocks that attend to the whole grid; the others attend within windows.
    image_size
        Side of the frame that the position tables were made for, pixels.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    patch: int = 16
    window: int = 14
    out_channels: int = 256

    @property
    def grid(self) -> int:
        """Side of the grid of tokens that the position tables were made for."""
        return self.image_size // self.patch


class LayerNorm2d(nn.Module):
    """Layer normalization over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each pixel's channels."""
        return self.tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def tokens(self, x: Tensor) -> Tensor:
        """Normalize tokens (..., C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class PatchEmbed(nn.Module):
    """Patches of the image as tokens."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) to (B, h, w, width)."""
        tokens: Tensor = self.proj(pixels).permute(0, 2, 3, 1)
        return tokens

    def infer(self, pixels: Tensor, compute: Compute) -> Tensor:
        """As `forward`, as one matrix product of patches."""
        side = self.proj.kernel_size[0]
        patches = pixels.to(compute.dtype).unflatten(3, (-1, side)).unflatten(2, (-1, side))
        return compute.linear(self.proj, patches.permute(0, 2, 4, 1, 3, 5).flatten(3))


class Attention(nn.Module):
    """Multi-head self-attention with decomposed relative positions."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, width) to the same."""
        batch, height, width, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rows = relative_positions(self.rel_pos_h, height).to(qkv.dtype)
        columns = relative_positions(self.rel_pos_w, width).to(qkv.dtype)
        out = attend(qkv[0], qkv[1], qkv[2], rows, columns)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return projected

    def infer(self, tokens: Tensor, window: int, compute: Compute) -> Tensor:
        """As `forward` within windows (0: the whole grid) of (h, w, width) tokens of the compute type."""
        height, width, dim = tokens.shape
        qkv = compute.linear(self.qkv, tokens).view(height, width, 3, self.heads, -1)
        rows, columns = self.rel_pos_h.to(compute.dtype), self.rel_pos_w.to(compute.dtype)
        if window:
            padding = compute.bias(self.qkv, 3 * dim).view(3, self.heads, -1)
            out = attend_in_windows(qkv, padding, rows, columns)
        else:
            out = attend_globally(qkv, resized_table(rows, height), resized_table(columns, width))
        return compute.linear(self.proj, out.view(height, width, dim))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) to the same."""
        out: Tensor = self.lin2(F.gelu(self.lin1(tokens)))
        return out

    def infer(self, tokens: Tensor, compute: Compute) -> Tensor:
        """As `forward`, on tokens of the compute type."""
        return compute.linear(self.lin2, compute.linear(self.lin1, tokens, gelu=True))


class Block(nn.Module):
    """A transformer block; `window` 0 attends to the whole grid."""

    def __init__(self, size: EncoderSize, window: int, compute: Compute) -> None:
        super().__init__()
        self.window = window
        self.compute = compute
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.heads, window or size.grid)
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = Mlp(size.width, 4 * size.width)

    @property
    def linears(self) -> tuple[nn.Module, ...]:
        """Its linear layers."""
        return self.attn.qkv, self.attn.proj, self.mlp.lin1, self.mlp.lin2

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, width) to the same."""
        if _is_inference(tokens):
            return (
                torch.stack([self._infer(one) for one in tokens]) if len(tokens) > 1 else self._infer(tokens[0])[None]
            )
        normed = self.norm1(tokens)
        tokens = tokens + (self._in_windows(normed) if self.window else self.attn(normed))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out

    def _infer(self, tokens: Tensor) -> Tensor:
        """One image's tokens (h, w, width) float32 to the same, in place."""
        normed = self.norm1(tokens).to(self.compute.dtype)
        tokens.add_(self.attn.infer(normed, self.window, self.compute))
        for some in tokens.split(_MLP_ROWS):
            some.add_(self.mlp.infer(self.norm2(some).to(self.compute.dtype), self.compute))
        return tokens

    def _in_windows(self, tokens: Tensor) -> Tensor:
        side = self.window
        batch, height, width, dim = tokens.shape
        tokens = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = tokens.shape[1] // side, tokens.shape[2] // side
        windows = tokens.reshape(batch, rows, side, columns, side, dim).transpose(2, 3).reshape(-1, side, side, dim)
        out: Tensor = self.attn(windows).reshape(batch, rows, columns, side, side, dim).transpose(2, 3)
        return out.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]


def _is_inference(tokens: Tensor) -> bool:
    """Whether the CPU's own forms may be used: they have no gradients."""
    return tokens.device.type == "cpu" and not torch.is_grad_enabled()


class ImageEncoder(nn.Module):
    """SAM's image encoder for any number of planes and any grid.

    Parameters
    ----------
    size
        Its dimensions.
    in_channels
        Planes of the input: 3 for a teacher, N + 1 for a student of N channels.
    """

    def __init__(self, size: EncoderSize, in_channels: int = 3) -> None:
        super().__init__()
        self.size = size
        self.compute = Compute()
        self.patch_embed = PatchEmbed(in_channels, size.width, size.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, size.grid, size.grid, size.width))
        self.blocks = nn.ModuleList(
            Block(size, 0 if index in size.global_blocks else size.window, self.compute) for index in range(size.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(size.width, size.out_channels, kernel_size=1, bias=False),
            LayerNorm2d(size.out_channels),
            nn.Conv2d(size.out_channels, size.out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(size.out_channels),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) prepared pixels, H and W multiples of the patch, to (B, out_channels, h, w) float32."""
        if _is_inference(pixels):
            with torch.autocast("cpu", enabled=False):
                return self._infer(pixels.float())
        with passing_in(self.compute.dtype, pixels.device):
            embedding = self._forward(pixels)
        return embedding if torch.is_grad_enabled() else embedding.float()

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type in which passes without gradients compute."""
        return self.compute.dtype

    def prefer_speed(self, dtype: torch.dtype | None = None) -> None:
        """Compute passes without gradients in the type that is fastest on the weights' device, or in `dtype`.

        Weights, residuals, normalization and embedding stay float32; so does training, unless it asks for autocast.
        """
        self.compute.dtype = dtype or fastest_dtype(self.pos_embed.device)

    def _forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        tokens = tokens + self._positions(tokens.shape[1], tokens.shape[2])
        for block in self.blocks:
            tokens = block(tokens)
        embedding: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return embedding

    def _infer(self, pixels: Tensor) -> Tensor:
        compute = self.compute
        compute.prepare(layer for block in self.blocks if isinstance(block, Block) for layer in block.linears)
        tokens = self.patch_embed.infer(pixels, compute)
        tokens = tokens + self._positions(tokens.shape[1], tokens.shape[2])
        for block in self.blocks:
            tokens = block(tokens)
        reducing, norm, mixing, _ = self.neck
        assert isinstance(norm, LayerNorm2d) and isinstance(mixing, nn.Conv2d)
        reduced = norm.tokens(compute.linear(reducing, tokens.to(compute.dtype)).float())
        mixed = F.conv2d(
            reduced.to(compute.dtype).permute(0, 3, 1, 2), mixing.weight.to(compute.dtype), padding=mixing.padding
        )
        embedding: Tensor = self.neck[3](mixed.float())
        return embedding.contiguous()

    def _positions(self, height: int, width: int) -> Tensor:
        """Absolute positions (1, h, w, width), resized where the grid is not the table's own."""
        if (height, width) == self.pos_embed.shape[1:3]:
            return self.pos_embed
        table = self.pos_embed.permute(0, 3, 1, 2)
        return F.interpolate(table, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
