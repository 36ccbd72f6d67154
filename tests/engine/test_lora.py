"""Low-rank adaptation of the encoder's linear layers."""

from __future__ import annotations

import pytest
import torch

from e2sam.errors import TrainingError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.image_encoder import ImageEncoder
from e2sam.modeling.lora import (
    LoRALinear,
    add_lora,
    load_lora_state,
    lora_layers,
    lora_state,
    merge_lora,
    remove_lora,
)


def encoder_of() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = build_model(teacher_config("vit_test")).image_encoder
    assert isinstance(encoder, ImageEncoder)
    return encoder


def stirred(encoder: ImageEncoder) -> None:
    for layer in lora_layers(encoder).values():
        torch.nn.init.normal_(layer.lora_b, 0, 0.1)


PIXELS = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))


def test_new_lora_changes_nothing_and_freezes_the_weights() -> None:
    encoder = encoder_of()
    before = encoder(PIXELS)
    names = set(encoder.state_dict())
    trained = add_lora(encoder.blocks, rank=4)
    assert len(trained) == 2 * 2 * len(encoder.blocks)
    torch.testing.assert_close(encoder(PIXELS), before)
    encoder(PIXELS).square().mean().backward()
    assert encoder.blocks[0].attn.qkv.weight.grad is None
    assert all(p.grad is not None for p in trained)
    assert names < set(encoder.state_dict()), "the frozen weights keep their names"


def test_merged_unmerged_and_removed_agree() -> None:
    encoder = encoder_of()
    names = set(encoder.state_dict())
    add_lora(encoder.blocks, rank=4, alpha=8)
    stirred(encoder)
    with torch.no_grad():
        expected = encoder(PIXELS)
        merge_lora(encoder)
        merge_lora(encoder)
        torch.testing.assert_close(encoder(PIXELS), expected, atol=1e-5, rtol=1e-4)
        weight = encoder.blocks[0].attn.qkv.weight.clone()
        for layer in lora_layers(encoder).values():
            layer.unmerge()
        torch.testing.assert_close(encoder(PIXELS), expected, atol=1e-5, rtol=1e-4)
        remove_lora(encoder)
        torch.testing.assert_close(encoder(PIXELS), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.blocks[0].attn.qkv.weight, weight)
    assert not lora_layers(encoder) and set(encoder.state_dict()) == names


def test_late_blocks_only() -> None:
    encoder = encoder_of()
    add_lora(list(encoder.blocks)[-1:], rank=2)
    assert set(lora_layers(encoder)) == {"blocks.1.attn.qkv", "blocks.1.attn.proj"}


def test_changes_alone_travel() -> None:
    first, second = encoder_of(), encoder_of()
    for encoder in (first, second):
        add_lora(encoder.blocks, rank=4)
    stirred(first)
    state = lora_state(first)
    assert sum(value.numel() for value in state.values()) == 2 * 4 * ((32 + 96) + (32 + 32))
    load_lora_state(second, state)
    torch.testing.assert_close(second(PIXELS), first(PIXELS))
    with pytest.raises(TrainingError, match="same rank"):
        load_lora_state(second, {})


def test_product_by_hand() -> None:
    linear = torch.nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.eye(2)
    layer = LoRALinear(linear, rank=1, alpha=3)
    layer.lora_a.data = torch.tensor([[1.0, 2.0]])
    layer.lora_b.data = torch.tensor([[1.0], [-1.0]])
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [10.0, -8.0]


def test_convolutional_encoders_and_rank_0_are_refused() -> None:
    tiny = build_model(teacher_config("tiny"))
    with pytest.raises(TrainingError, match="tune this encoder in full"):
        add_lora([tiny.image_encoder], names=("qkv",))
    with pytest.raises(TrainingError, match="rank"):
        add_lora(encoder_of().blocks, rank=0)
