"""Semantic decoders: sizes, the paper's parameter count, and that every channel reaches the scores."""

from __future__ import annotations

import pytest
import torch

from e2sam.data.stack import ChannelSpec
from e2sam.errors import TrainingError
from e2sam.modeling.e2sam import ModelConfig, SemanticConfig
from e2sam.modeling.semantic import DetailDecoder, LinkNetDecoder, build_semantic_decoder


def config(decoder: str, stride: int, num_channels: int) -> ModelConfig:
    channels = tuple(ChannelSpec(str(index)) for index in range(num_channels))
    return ModelConfig(
        "any", 64, stride, 4, 32, channels=channels, semantic=SemanticConfig(decoder, ("a", "b", "c"), (1, 2, 5), 64)
    )


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("num_channels", [1, 4, 13])
def test_logits_cover_the_frame(stride, num_channels):
    pixels = torch.rand(2, num_channels + 1, 64, 96)
    embeddings = torch.rand(2, 256, 64 // stride, 96 // stride)
    detail = build_semantic_decoder(config("detail", stride, num_channels)).eval()
    assert detail(embeddings, pixels).shape == (2, 3, 16, 24)
    faithful = build_semantic_decoder(config("bmvc2023", stride, num_channels)).eval()
    assert faithful(embeddings, pixels).shape == (2, 3, 64, 96)


def test_faithful_decoder_has_the_papers_size():
    # The released model's decoder has 0.188 M parameters with 23 classes.
    count = sum(weight.numel() for weight in LinkNetDecoder(23, stride=16).parameters())
    assert count == 187_735


def test_every_channel_reaches_the_scores_of_the_default_decoder():
    decoder = DetailDecoder(num_planes=7, num_classes=3, stride=8).eval()
    pixels = torch.rand(1, 7, 32, 32, requires_grad=True)
    decoder(torch.rand(1, 256, 4, 4), pixels).square().sum().backward()
    assert (pixels.grad.abs().amax((0, 2, 3)) > 0).all()


def test_fitted_statistics_cancel_a_channels_scale():
    torch.manual_seed(0)
    decoder = DetailDecoder(num_planes=2, num_classes=2, stride=8).eval()
    embeddings, pixels = torch.rand(1, 256, 4, 4), torch.rand(1, 2, 8, 8)
    scaled = pixels * torch.tensor([0.1, 5.0]).view(2, 1, 1) + 3
    decoder.fit_statistics(pixels[0].flatten(1).T)
    expected = decoder(embeddings, pixels)
    decoder.fit_statistics(scaled[0].flatten(1).T)
    assert torch.allclose(decoder(embeddings, scaled), expected, atol=1e-4)
    assert {"plane_mean", "plane_std"} <= set(decoder.state_dict())


def test_unknown_decoder_is_named():
    with pytest.raises(TrainingError, match="detail, bmvc2023"):
        build_semantic_decoder(config("unet", 8, 3))
