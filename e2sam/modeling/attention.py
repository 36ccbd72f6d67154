"""Self-attention with decomposed relative positions (MViTv2, as in SAM), without a bias as large as the map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attend", "relative_positions"]


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Relative position vectors (size, size, D) of query row and key row from a table (2 L - 1, D).

    Where `size` is not the table's own L, the table is interpolated linearly, as SAM does.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        table = F.interpolate(table.T.unsqueeze(0).float(), size=length, mode="linear")[0].T.to(table.dtype)
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention of (B, heads, h * w, D) tokens of a grid with decomposed relative positions.

    The bias q . rows + q . columns is an inner product: the queries are extended by their products with the relative
    positions, the keys by one-hot codes of their row and column, so that any fused attention computes it exactly.

    Parameters
    ----------
    rows, columns
        (h, h, D) and (w, w, D) from `relative_positions`.
    """
    height, width = rows.shape[0], columns.shape[0]
    batch, heads, tokens, dim = q.shape
    grid = q.reshape(batch, heads, height, width, dim)
    bias_rows = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)
    bias_columns = torch.einsum("bnhwc,wkc->bnhwk", grid, columns)
    extended = torch.cat((grid * dim**-0.5, bias_rows, bias_columns), -1).reshape(batch, heads, tokens, -1)
    codes = torch.cat(
        (
            torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, 0),
            torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1),
        ),
        -1,
    )
    keys = torch.cat((k, codes.expand(batch, heads, -1, -1)), -1)
    padding = extended.shape[-1] - dim
    values = F.pad(v, (0, padding))
    return F.scaled_dot_product_attention(extended, keys, values, scale=1.0)[..., :dim]
