"""Small stacks and models that the tests of the predictor share."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM

__all__ = ["noise", "randomized", "small_sam", "stack_of", "student_of"]

T = TypeVar("T", bound=nn.Module)


def stack_of(data: NDArray[Any], names: str | None = None, **kinds: str) -> ChannelStack:
    called = [f"c{index}" for index in range(len(data))] if names is None else names.split()
    return ChannelStack(data, tuple(ChannelSpec(name, kind=kinds.get(name, "")) for name in called))


def noise(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Smooth noise, so that neighbouring pixels are alike and no two channels are."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((1, shape[0], 9, 9)))
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic", align_corners=False)[0].clamp(0, 1).numpy()
    scale = {"uint8": 255, "uint16": 5000, "float32": 3.5}[dtype]
    return (smooth * scale).astype(dtype)


def randomized(module: T, seed: int = 0) -> T:
    """Random values where a fresh module has zeros, so that no part of it is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval()


def small_sam() -> Sam:
    """A small model of segment_anything's own parts."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128,
        patch_size=16,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=256,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=5,
        global_attn_indexes=(1,),
    )
    prompt_encoder = PromptEncoder(256, (8, 8), (128, 128), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3)
    model = Sam(encoder, prompt_encoder, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    return randomized(model)


def student_of(names: str) -> E2SAM:
    channels = tuple(ChannelSpec(name) for name in names.split())
    recipes = tuple(ChannelRecipe("range", 0.0, 5000.0, 0.5) for _ in channels)
    torch.manual_seed(0)
    config = replace(teacher_config("vit_test"), channels=channels, recipes=recipes, merge="gated")
    return randomized(build_model(config))
