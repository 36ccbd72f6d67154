"""SAM's two-way transformer without gradients: the same sums, in an order that spares the image tokens.

Of one head, a token's query q meets the image tokens x as q . (Wk x + bk) = (Wk' q) . x + constant, and softmax does
not see the constant; what it takes from them is sum p (Wv x + bv) = Wv (sum p x) + bv, as the p sum to 1. So the few
prompt tokens are projected into the width of the image tokens, and the image tokens are never projected at all. The
other way round, from image to tokens, likewise.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ImageSide", "is_plain", "two_way_pass", "upscale"]


def is_plain(transformer: Any) -> bool:
    """Whether all its projections are linear layers of torch itself, none wrapped by a low-rank adaptation."""
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    return all(
        type(getattr(attention, name)) is nn.Linear
        for attention in attentions
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    )


class ImageSide:
    """What every prompt on one image shares: its tokens, and the positions of its grid. Holds the last of each.

    Copies of a model start with none.
    """

    def __init__(self) -> None:
        self._source: weakref.ref[Tensor] | None = None
        self._keys_of: tuple[Any, ...] = ()
        self._keys = torch.empty(0)
        self._positions_of: tuple[Any, ...] = ()
        self._positions = torch.empty(0)

    def __reduce__(self) -> tuple[type[ImageSide], tuple[()]]:
        return ImageSide, ()

    def keys(self, embeddings: Tensor, no_mask: Tensor) -> Tensor:
        """Image tokens (B, h * w, 256) of embeddings (B, 256, h, w) without a mask prompt."""
        state = (*_state(embeddings), *_state(no_mask), no_mask.data_ptr())
        if self._source is None or self._source() is not embeddings or self._keys_of != state:
            self._keys = (embeddings + no_mask.view(1, -1, 1, 1)).flatten(2).transpose(1, 2).contiguous()
            self._source = weakref.ref(embeddings)
            self._keys_of = state
        return self._keys

    def positions(self, layer: Any, grid: tuple[int, int]) -> Tensor:
        """Positional encoding (h * w, 256) of a grid."""
        matrix: Tensor = layer.positional_encoding_gaussian_matrix
        state = (grid, matrix.device, *_state(matrix), matrix.data_ptr())
        if self._positions_of != state:
            self._positions = layer(grid).flatten(1).T.contiguous()
            self._positions_of = state
        return self._positions


def _state(tensor: Tensor) -> tuple[int]:
    return (-1 if tensor.is_inference() else tensor._version,)


def two_way_pass(transformer: Any, tokens: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Run the transformer.

    Parameters
    ----------
    tokens
        (B, t, C) output and prompt tokens.
    keys
        (B or 1, N, C) image tokens.
    positions
        (N, C) positional encoding of the image tokens.

    Returns
    -------
    tuple
        (B, t, C) tokens and (B, N, C) image tokens.
    """
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            query = queries + tokens
            queries = queries + layer.self_attn(q=query, k=query, v=queries)
        queries = layer.norm1(queries)
        placed = keys + positions
        read = _from_image(layer.cross_attn_token_to_image, queries + tokens, placed, keys)
        queries = layer.norm2(queries + read)
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = layer.norm4(_onto_image(layer.cross_attn_image_to_token, queries + tokens, queries, placed, keys))
    read = _from_image(transformer.final_attn_token_to_image, queries + tokens, keys + positions, keys)
    queries = transformer.norm_final_attn(queries + read)
    return queries, keys


def _heads_of(projection: nn.Linear, heads: int) -> Tensor:
    """Weights of a projection (heads, D, C)."""
    return projection.weight.view(heads, -1, projection.in_features)


def _project(projection: nn.Linear, tokens: Tensor, heads: int) -> Tensor:
    """Tokens (B, t, C) projected, of each head (heads, B * t, D)."""
    projected: Tensor = projection(tokens).flatten(0, 1).unflatten(-1, (heads, -1))
    return projected.transpose(0, 1)


def _from_image(attention: Any, query: Tensor, placed: Tensor, keys: Tensor) -> Tensor:
    """What tokens (B, t, C) read from image tokens; `placed` are the image tokens with their positions."""
    batch, count, _ = query.shape
    heads = attention.num_heads
    q = _project(attention.q_proj, query, heads)
    # (heads, B * t, C), then (B, heads * t, C): the queries, seen from the image tokens' width.
    seen = torch.bmm(q * q.shape[-1] ** -0.5, _heads_of(attention.k_proj, heads))
    seen = seen.unflatten(1, (batch, count)).transpose(0, 1).flatten(1, 2)
    weights = torch.softmax(_products(seen, placed), dim=-1)
    read = _mixtures(weights, keys).unflatten(1, (heads, count)).transpose(0, 1).flatten(1, 2)
    values = torch.bmm(read, _heads_of(attention.v_proj, heads).transpose(1, 2))
    joined = values.unflatten(1, (batch, count)).permute(1, 2, 0, 3).flatten(2) + attention.v_proj.bias
    out: Tensor = attention.out_proj(joined)
    return out


def _onto_image(attention: Any, tokens: Tensor, values: Tensor, placed: Tensor, keys: Tensor) -> Tensor:
    """Image tokens (B, N, C) with what they read from the tokens (B, t, C) added."""
    batch, count, _ = tokens.shape
    heads = attention.num_heads
    k = _project(attention.k_proj, tokens, heads)
    scale = k.shape[-1] ** -0.5
    seen = torch.bmm(k * scale, _heads_of(attention.q_proj, heads))
    offset = torch.bmm(k * scale, attention.q_proj.bias.view(heads, -1, 1))
    seen = seen.unflatten(1, (batch, count)).transpose(0, 1).flatten(1, 2)
    offset = offset.unflatten(1, (batch, count)).transpose(0, 1)
    scores = _products(seen, placed).unflatten(1, (heads, count)) + offset
    weights = torch.softmax(scores, dim=2).flatten(1, 2)
    # Values in the width of the image tokens; the bias counts once, as the weights sum to 1 in each of the heads.
    brought = torch.bmm(
        _project(attention.v_proj, values, heads),
        attention.out_proj.weight.view(-1, heads, k.shape[-1]).permute(1, 2, 0),
    )
    brought = brought.unflatten(1, (batch, count)).transpose(0, 1).flatten(1, 2) + attention.out_proj.bias / heads
    return torch.baddbmm(keys.expand(batch, -1, -1), weights.transpose(1, 2), brought)


def _products(seen: Tensor, placed: Tensor) -> Tensor:
    """(B, r, N) inner products of (B, r, C) with image tokens (B or 1, N, C)."""
    if placed.shape[0] == 1:
        return (seen.flatten(0, 1) @ placed[0].T).view(*seen.shape[:2], -1)
    return torch.bmm(seen, placed.transpose(1, 2))


def _mixtures(weights: Tensor, keys: Tensor) -> Tensor:
    """(B, r, C) sums of image tokens (B or 1, N, C) by weights (B, r, N)."""
    if keys.shape[0] == 1:
        return (weights.flatten(0, 1) @ keys[0]).view(*weights.shape[:2], -1)
    return torch.bmm(weights, keys)


def upscale(layers: Any, keys: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Logits (B, M, 4 h, 4 w) from image tokens (B, h * w, C) and each mask's weights (B, M, 32).

    Both transposed convolutions have kernel and stride 2: every token becomes four, a matrix product whose results are
    put in their places only when they are logits.
    """
    first, norm, _, second, _ = layers
    fine = F.gelu(F.layer_norm(_four_of(first, keys), norm.weight.shape, norm.weight, norm.bias, norm.eps))
    finest = F.gelu(_four_of(second, fine.flatten(1, 2)))
    batch, masks = weights.shape[:2]
    logits = torch.bmm(finest.flatten(1, 2), weights.transpose(1, 2))
    parts = logits.view(batch, *grid, 2, 2, 2, 2, masks)
    return parts.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(batch, masks, 4 * grid[0], 4 * grid[1])


def _four_of(convolution: Any, tokens: Tensor) -> Tensor:
    """(B, n, 4, C') from tokens (B, n, C): the 2 x 2 results of a transposed convolution of kernel and stride 2."""
    kernel = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(tokens, kernel, convolution.bias.repeat(4)).view(*tokens.shape[:2], 4, -1)
