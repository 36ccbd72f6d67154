"""Self-attention with decomposed relative positions (MViTv2, as in SAM), without a bias as large as the map.

Three forms of the same sum: `attend` for any device and for gradients, `attend_globally` and `attend_in_windows` for
a CPU without gradients, where blocks of scores that stay in the processor's cache are fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attend", "attend_globally", "attend_in_windows", "relative_positions", "resized_table"]

# Queries of one block of scores: 256 x 4096 in bfloat16 are 2 MB a head, which the caches of two cores hold.
_BLOCK_QUERIES = 256


def resized_table(table: Tensor, size: int) -> Tensor:
    """Relative position table (2 size - 1, D) from one of any length, interpolated linearly as SAM does."""
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T.unsqueeze(0).float(), size=length, mode="linear")[0].T.to(table.dtype)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Relative position vectors (size, size, D) of query and key position from a table (2 L - 1, D)."""
    position = torch.arange(size, device=table.device)
    return resized_table(table, size)[position[:, None] - position[None, :] + size - 1]


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
    codes = _grid_codes(height, width, k.dtype, k.device)
    keys = torch.cat((k, codes.expand(batch, heads, -1, -1)), -1)
    # Fused kernels want values as wide as keys, and a multiple of 8.
    values = F.pad(v, (0, extended.shape[-1] - dim))
    extra = -extended.shape[-1] % 8
    if extra:
        extended, keys, values = (F.pad(part, (0, extra)) for part in (extended, keys, values))
    out = F.scaled_dot_product_attention(extended, keys, values, scale=1.0)
    return out[..., :dim]


def _grid_codes(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One-hot codes (h * w, h + w) of the row and the column of each position of a grid."""
    rows = torch.eye(height, dtype=dtype, device=device).repeat_interleave(width, 0)
    columns = torch.eye(width, dtype=dtype, device=device).repeat(height, 1)
    return torch.cat((rows, columns), -1)


def _by_key(products: Tensor, axis: int, size: int, offset: int) -> Tensor:
    """View (..., size) of products with a reversed table: for each query the ones of the `size` keys of its axis.

    Element `offset + key - query + size - 1` of the last axis belongs to a key at a query's position along `axis`, so
    that a step of one query is one element back: a matter of strides, nothing is copied.
    """
    strides = list(products.stride())
    strides[axis] -= strides[-1]
    shape = (*products.shape[:-1], size)
    return products.as_strided(shape, strides, products.storage_offset() + (offset + size - 1) * strides[-1])


def attend_globally(qkv: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention over a whole grid, a few heads and some rows of queries at a time; CPU, no gradients.

    Parameters
    ----------
    qkv
        (h, w, 3, heads, D).
    rows, columns
        Tables (2 h - 1, D) and (2 w - 1, D) of qkv's type.

    Returns
    -------
    Tensor
        (h, w, heads, D)
    """
    height, width, _, heads, dim = qkv.shape
    tokens = height * width
    tables = torch.cat((rows.flip(0), columns.flip(0))).T
    group = min(heads, max(2, torch.get_num_threads()))
    num_rows = max(1, min(height, _BLOCK_QUERIES // width))
    scores = qkv.new_empty(group, num_rows, width, height, width)
    out = qkv.new_empty(height, width, heads, dim)
    for head in range(0, heads, group):
        part = slice(head, head + group)
        q, k, v = qkv[..., part, :].flatten(0, 1).permute(1, 2, 0, 3).contiguous()
        keys = (k * dim**-0.5).transpose(1, 2)
        products = (q.view(-1, dim) @ tables).view(-1, height, width, tables.shape[1])
        by_row = _by_key(products, 1, height, 0)
        by_column = _by_key(products, 2, width, 2 * height - 1)
        for row in range(0, height, num_rows):
            block = slice(row, row + num_rows)
            bias = scores[: keys.shape[0], : min(num_rows, height - row)]
            torch.add(by_row[:, block].unsqueeze(-1), by_column[:, block].unsqueeze(-2), out=bias)
            flat = bias.view(bias.shape[0], -1, tokens)
            flat.baddbmm_(q[:, row * width : row * width + flat.shape[1]], keys)
            torch.softmax(flat, -1, out=flat)
            attended = torch.bmm(flat, v).view(-1, bias.shape[1], width, dim)
            out[block, :, part].copy_(attended.permute(1, 2, 0, 3))
    return out


@dataclass(frozen=True)
class _Region:
    """Windows side by side that hold the same number of tokens: the whole ones of a row of windows, or its cut one.

    Attributes
    ----------
    top, left
        First token of the first window.
    num_across
        Windows.
    height, width
        Tokens of each window that lie in the grid.
    """

    top: int
    left: int
    num_across: int
    height: int
    width: int

    def of(self, grid: Tensor) -> Tensor:
        """View (num_across, heads, height, width, ...) of a grid (h, w, heads, ...)."""
        cut = grid[self.top : self.top + self.height, self.left : self.left + self.num_across * self.width]
        windows: Tensor = cut.unflatten(1, (self.num_across, self.width)).permute(1, 3, 0, 2, 4)
        return windows


def _regions(height: int, width: int, side: int) -> Iterator[_Region]:
    whole, rest = divmod(width, side)
    for top in range(0, height, side):
        rows = min(side, height - top)
        if whole:
            yield _Region(top, 0, whole, rows, side)
        if rest:
            yield _Region(top, whole * side, 1, rows, rest)


def attend_in_windows(qkv: Tensor, padding: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention within windows of side L; CPU, no gradients.

    SAM fills windows that reach over the edge with zeros after normalization, which take part as keys. They are part of
    the sum here too, as the constants that they are; as queries their results would be thrown away, so they are none.

    Parameters
    ----------
    qkv
        (h, w, 3, heads, D).
    padding
        (3, heads, D), queries, keys and values of a token of zeros.
    rows, columns
        Tables (2 L - 1, D) of qkv's type.

    Returns
    -------
    Tensor
        (h, w, heads, D)
    """
    height, width, _, _, dim = qkv.shape
    side = (rows.shape[0] + 1) // 2
    tables = torch.cat((rows.flip(0), columns.flip(0))).T
    q, k, v = qkv.unbind(2)
    codes = _grid_codes(side, side, qkv.dtype, qkv.device).view(side, side, -1)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for region in _regions(height, width, side):
        queries = _extended_queries(region.of(q).contiguous(), tables, side)
        keys = _extended_keys(region.of(k), padding[1], codes)
        values = _padded(region.of(v), padding[2], side)
        flat = (part.flatten(0, 1).flatten(1, 2) for part in (queries, keys, values))
        region.of(out).copy_(_attend_windows(*flat).view(*queries.shape[:-1], dim))
    return out


def _extended_queries(q: Tensor, tables: Tensor, side: int) -> Tensor:
    """Queries (..., r, c, E): scaled, then their products with the relative positions of the keys' rows and columns."""
    dim = q.shape[-1]
    products = q @ tables
    queries = q.new_empty(*q.shape[:-1], _extended_width(dim, side))
    queries[..., dim + 2 * side :] = 0
    torch.mul(q, dim**-0.5, out=queries[..., :dim])
    queries[..., dim : dim + side] = _by_key(products, 2, side, 0)
    queries[..., dim + side : dim + 2 * side] = _by_key(products, 3, side, 2 * side - 1)
    return queries


def _extended_width(dim: int, side: int) -> int:
    """Width of extended queries and keys: a multiple of 32, at which bfloat16 kernels are at their best."""
    return (dim + 2 * side + 31) // 32 * 32


def _extended_keys(k: Tensor, padding: Tensor, codes: Tensor) -> Tensor:
    """Keys (..., L, L, E) of whole windows, padding included, then one-hot codes of row and column."""
    across, heads, height, width, dim = k.shape
    side = codes.shape[0]
    keys = k.new_empty(across, heads, side, side, _extended_width(dim, side))
    keys[..., dim + 2 * side :] = 0
    if (height, width) != (side, side):
        keys[..., :dim] = padding[:, None, None]
    keys[..., :height, :width, :dim] = k
    keys[..., dim : dim + 2 * side] = codes
    return keys


def _padded(v: Tensor, padding: Tensor, side: int) -> Tensor:
    """Values (..., L, L, D) of whole windows, padding included."""
    across, heads, height, width, dim = v.shape
    values = v.new_empty(across, heads, side, side, dim)
    if (height, width) != (side, side):
        values[:] = padding[:, None, None]
    values[..., :height, :width, :] = v
    return values


def _attend_windows(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention (B, Q, D) of extended queries (B, Q, E) and keys (B, K, E)."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    torch.softmax(scores, -1, out=scores)
    return torch.bmm(scores, values)
