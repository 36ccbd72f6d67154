"""Attention with decomposed relative positions: every form against segment_anything's own."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import (
    Attention as SamAttention,
)
from segment_anything.modeling.image_encoder import (
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor

from e2sam.modeling.attention import attend, attend_globally, attend_in_windows, relative_positions, resized_table

HEADS, DIM = 3, 8
WIDTH = HEADS * DIM


def sam_attention(table_side: int) -> SamAttention:
    torch.manual_seed(table_side)
    attention = SamAttention(WIDTH, HEADS, use_rel_pos=True, input_size=(table_side, table_side))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    # The identity shows what attention itself gives.
    torch.nn.init.eye_(attention.proj.weight)
    torch.nn.init.zeros_(attention.proj.bias)
    return attention.requires_grad_(False)


def tokens_of(height: int, width: int) -> Tensor:
    return torch.randn(1, height, width, WIDTH, generator=torch.Generator().manual_seed(1))


def qkv_of(attention: SamAttention, tokens: Tensor) -> Tensor:
    return attention.qkv(tokens[0]).unflatten(-1, (3, HEADS, DIM))


@pytest.mark.parametrize("size", [3, 5, 9])
def test_relative_positions_equal_segment_anything(size: int) -> None:
    table = torch.randn(9, DIM)
    torch.testing.assert_close(relative_positions(table, size), get_rel_pos(size, size, table))


@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 9), (1, 5), (20, 3)])
def test_attend_equals_segment_anything_on_any_grid(height: int, width: int) -> None:
    attention, tokens = sam_attention(6), tokens_of(height, width)
    q, k, v = qkv_of(attention, tokens).flatten(0, 1).permute(1, 2, 0, 3).unsqueeze(1)
    rows, columns = (
        relative_positions(attention.rel_pos_h, height),
        relative_positions(attention.rel_pos_w, width),
    )
    found = attend(q, k, v, rows, columns)[0].transpose(0, 1).reshape(1, height, width, WIDTH)
    torch.testing.assert_close(found, attention(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 9), (1, 5), (20, 3), (5, 300), (37, 13)])
def test_blocks_of_the_whole_grid_equal_segment_anything(height: int, width: int) -> None:
    """Grids of one block, of several, and with a last block that is not full."""
    attention, tokens = sam_attention(6), tokens_of(height, width)
    rows, columns = resized_table(attention.rel_pos_h, height), resized_table(attention.rel_pos_w, width)
    found = attend_globally(qkv_of(attention, tokens), rows, columns).view(1, height, width, WIDTH)
    torch.testing.assert_close(found, attention(tokens), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (12, 12), (3, 4), (11, 5), (7, 13), (5, 1)])
def test_unpadded_windows_equal_segment_anything_with_its_padding(height: int, width: int) -> None:
    """Whole windows only, cut ones at one edge, at both, and a grid smaller than a window."""
    side = 5
    attention, tokens = sam_attention(side), tokens_of(height, width)
    windows, padded = window_partition(tokens, side)
    expected = window_unpartition(attention(windows), side, padded, (height, width))
    padding = attention.qkv.bias.view(3, HEADS, DIM)
    found = attend_in_windows(qkv_of(attention, tokens), padding, attention.rel_pos_h, attention.rel_pos_w)
    torch.testing.assert_close(found.view(1, height, width, WIDTH), expected, atol=1e-5, rtol=1e-5)


def test_padding_takes_part_as_keys() -> None:
    """Without SAM's padding the sum would be another: the test above can fail."""
    attention, tokens = sam_attention(5), tokens_of(7, 7)
    qkv, padding = qkv_of(attention, tokens), attention.qkv.bias.view(3, HEADS, DIM)
    tables = attention.rel_pos_h, attention.rel_pos_w
    right = attend_in_windows(qkv, padding, *tables)
    wrong = attend_in_windows(qkv, padding + 1, *tables)
    torch.testing.assert_close(right[:5, :5], wrong[:5, :5])
    assert (right[5:] - wrong[5:]).abs().max() > 0.01


def test_bfloat16_stays_close() -> None:
    attention, tokens = sam_attention(6), tokens_of(12, 12)
    qkv = qkv_of(attention, tokens)
    rows, columns = resized_table(attention.rel_pos_h, 12), resized_table(attention.rel_pos_w, 12)
    exact = attend_globally(qkv, rows, columns)
    rough = attend_globally(qkv.bfloat16(), rows.bfloat16(), columns.bfloat16()).float()
    assert torch.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999


def test_gradients_pass_through_attend() -> None:
    """Against finite differences, in float64."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(1, 1, 6, 2), (1, 1, 6, 2), (1, 1, 6, 2), (2, 2, 2), (3, 3, 2)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(attend, inputs, atol=1e-4)
