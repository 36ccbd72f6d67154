"""The image encoder: segment_anything's weights by their own names, its results, any planes, any grid."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from e2sam.modeling.build import encoder_size
from e2sam.modeling.image_encoder import EncoderSize, ImageEncoder
from e2sam.modeling.lora import add_lora, merge_lora
from e2sam.modeling.packed import Compute, fastest_dtype

SIZE = EncoderSize(width=32, depth=3, heads=2, global_blocks=(1,), image_size=192, window=5, out_channels=24)


def reference_encoder(size: EncoderSize = SIZE, in_channels: int = 3) -> ImageEncoderViT:
    """segment_anything's encoder with random position tables, which are zeros at first."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=size.image_size,
        patch_size=size.patch,
        in_chans=in_channels,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        out_chans=size.out_channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=size.window,
        global_attn_indexes=size.global_blocks,
    )
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder.eval()


def pair(in_channels: int = 3) -> tuple[ImageEncoderViT, ImageEncoder]:
    reference = reference_encoder(in_channels=in_channels)
    encoder = ImageEncoder(SIZE, in_channels).eval()
    encoder.load_state_dict(reference.state_dict(), strict=True)
    return reference, encoder


def pixels_of(batch: int, in_channels: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, in_channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 5, 14, 17])
def test_equals_segment_anything_with_and_without_gradients(in_channels: int) -> None:
    reference, encoder = pair(in_channels)
    pixels = pixels_of(2, in_channels, 192, 192)
    with torch.no_grad():
        expected = reference(pixels)
        torch.testing.assert_close(encoder(pixels), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder(pixels).detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_those_of_the_official_models(name: str) -> None:
    with torch.device("meta"):
        official = sam_model_registry[name]().image_encoder.state_dict()
        ours = ImageEncoder(encoder_size(name)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in official.items()}


@pytest.mark.parametrize(("height", "width"), [(192, 192), (64, 128), (240, 80), (16, 16)])
def test_any_grid_gives_the_same_with_and_without_gradients(height: int, width: int) -> None:
    _, encoder = pair()
    pixels = pixels_of(1, 3, height, width)
    with torch.no_grad():
        found = encoder(pixels)
    assert found.shape == (1, 24, height // 16, width // 16)
    torch.testing.assert_close(found, encoder(pixels).detach(), atol=1e-4, rtol=1e-4)


def test_fast_mode_agrees() -> None:
    reference, encoder = pair()
    encoder.prefer_speed(torch.bfloat16)
    assert encoder.compute_dtype == torch.bfloat16
    pixels = pixels_of(1, 3, 192, 192)
    with torch.no_grad():
        expected, found = reference(pixels), encoder(pixels)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(expected, found, dim=1).min() > 0.999
    assert (expected - found).abs().max() > 0, "bfloat16 was not used"


def test_fast_mode_leaves_weights_and_gradients_in_float32() -> None:
    _, encoder = pair()
    before = copy.deepcopy(encoder.state_dict())
    encoder.prefer_speed(torch.bfloat16)
    pixels = pixels_of(1, 3, 64, 64)
    with torch.no_grad():
        encoder(pixels)
    encoder(pixels).square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in encoder.parameters()
    )
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_training_between_two_passes_is_seen() -> None:
    """Weights are prepared once, and again when they have changed."""
    _, encoder = pair()
    pixels = pixels_of(1, 3, 64, 64)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with torch.no_grad():
        before = encoder(pixels)
    encoder(pixels).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = encoder(pixels)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, encoder(pixels).detach(), atol=1e-4, rtol=1e-4)


def test_low_rank_adaptations_are_seen() -> None:
    _, encoder = pair()
    pixels = pixels_of(1, 3, 96, 96)
    with torch.no_grad():
        before = encoder(pixels)
        for parameter in add_lora(encoder.blocks, rank=2):
            parameter.normal_(std=0.3)
        adapted = encoder(pixels)
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(adapted, encoder(pixels).detach(), atol=1e-4, rtol=1e-4)
    merge_lora(encoder)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), adapted, atol=1e-4, rtol=1e-4)


def test_autocast_around_an_exact_pass_changes_nothing() -> None:
    _, encoder = pair()
    pixels = pixels_of(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(encoder(pixels), expected)


def test_copies_and_pickles_prepare_their_own_weights() -> None:
    _, encoder = pair()
    encoder.prefer_speed(torch.bfloat16)
    pixels = pixels_of(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(pixels)
        for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):  # noqa: S301
            assert twin.compute_dtype == torch.bfloat16
            torch.testing.assert_close(twin(pixels), expected)
            twin.patch_embed.proj.weight.zero_()
        torch.testing.assert_close(encoder(pixels), expected)


def test_a_pass_in_inference_mode_serves_later_ones() -> None:
    _, encoder = pair()
    pixels = pixels_of(1, 3, 64, 64)
    with torch.inference_mode():
        expected = encoder(pixels).clone()
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), expected)
    encoder(pixels).mean().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_layers_equal_the_layer(dtype: torch.dtype) -> None:
    layer = nn.Linear(33, 17)
    tokens = torch.randn(5, 33).to(dtype)
    compute = Compute(dtype)
    with torch.no_grad():
        exact = layer(tokens.float())
        tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
        torch.testing.assert_close(compute.linear(layer, tokens).float(), exact, **tolerance)
        gelu = nn.functional.gelu(exact)
        torch.testing.assert_close(compute.linear(layer, tokens, gelu=True).float(), gelu, **tolerance)


def test_without_prepared_layouts_plain_products_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a build of torch without oneDNN."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    reference, encoder = pair()
    pixels = pixels_of(1, 3, 192, 192)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), reference(pixels), atol=1e-4, rtol=1e-4)


def test_processors_without_bfloat16_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert fastest_dtype(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert fastest_dtype(torch.device("cpu")) == torch.bfloat16
