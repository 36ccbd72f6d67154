"""Merge modules: any selection of any number of channels from one pass."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from e2sam.data.stack import ChannelSpec
from e2sam.errors import ChannelError
from e2sam.modeling.merge import GatedMerge, SplitMerge, _cosines


def channels_of(count: int) -> tuple[ChannelSpec, ...]:
    return tuple(ChannelSpec(f"b{i}", wavelength_nm=400.0 + 10 * i if i % 2 else None) for i in range(count))


def gated(count: int, embedding_stride: int = 8) -> GatedMerge:
    torch.manual_seed(0)
    merge = GatedMerge(count, embedding_stride, 4)
    canonical = torch.zeros(3, count)
    for slot in range(3):
        canonical[slot, min(slot, count - 1)] = 1
    merge.set_channels(channels_of(count), list(range(count)), canonical)
    return merge


def awake(merge: GatedMerge) -> GatedMerge:
    """With weights as after training."""
    for layer in (merge.query, merge.modulate, merge.readout):
        torch.nn.init.normal_(layer.weight, 0, 0.05)
    return merge


def features_of(merge: GatedMerge, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(1, merge.num_channels + 1, *size, generator=generator)
    stride = merge.logits_stride * merge.ratio
    embedding = torch.randn(1, 256, size[0] // stride, size[1] // stride, generator=generator)
    return merge.collect(embedding, pixels)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13, 16, 156, 580])
def test_any_selection_of_any_number_of_channels(count: int) -> None:
    merge = awake(gated(count))
    features = features_of(merge)
    for size in {1, min(2, count), min(3, count), count}:
        selection = list(range(count))[-size:]
        embedding = merge(features, selection)
        weights = merge.weights(features, selection)
        assert embedding.shape == (1, 256, 4, 6) and embedding.isfinite().all()
        assert weights.shape == (1, size, 4, 6)
        torch.testing.assert_close(weights.sum(1), torch.ones(1, 4, 6))


def test_starts_at_the_canonical_embedding() -> None:
    merge = gated(5)
    features = features_of(merge)
    for selection in ([0], [4, 2], [1, 2, 3], range(5)):
        assert torch.equal(merge(features, selection), features[:, :256])


def test_canonical_selection_keeps_its_embedding_whatever_the_readout_has_learned() -> None:
    merge = gated(5)
    torch.nn.init.normal_(merge.readout.weight, 0, 0.05)
    features = features_of(merge)
    moved = [(merge(features, chosen) - features[:, :256]).abs().mean() for chosen in ([0, 1, 2], [0, 3, 4])]
    assert moved[0] < 0.02 * moved[1]


def test_more_than_three_channels_fill_the_slots_by_their_grouping() -> None:
    merge, grouping = gated(5), torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0.2, 0.8]])
    merge.set_channels(channels_of(5), range(5), grouping, grouping=grouping)
    features = features_of(merge)
    torch.nn.init.normal_(merge.readout.weight, 0, 0.05)
    torch.testing.assert_close(merge(features, range(5)), features[:, :256], atol=0.02, rtol=0)
    shares = merge.weights(features, [4, 0, 2, 3])[0, :, 0, 0]
    torch.testing.assert_close(shares, torch.tensor([0.8, 1, 1, 0.2]) / 3, atol=0.01, rtol=0)
    # A slot without any of its channels: all are divided over the three in their order.
    assert (merge.weights(features, [0, 1, 3, 4])[0, :, 0, 0] > 0.1).all()


def test_order_of_names_does_not_matter_and_weights_follow_it() -> None:
    merge = awake(gated(5))
    features = features_of(merge)
    torch.testing.assert_close(merge(features, [4, 0, 2]), merge(features, [0, 2, 4]))
    one, other = merge.weights(features, [4, 0, 2]), merge.weights(features, [0, 2, 4])
    torch.testing.assert_close(one[0, 0], other[0, 2])
    torch.testing.assert_close(one[0, 1], other[0, 0])


def test_selections_differ_once_trained() -> None:
    merge = awake(gated(16))
    features = features_of(merge)
    embeddings = [merge(features, triple) for triple in list(combinations(range(16), 3))[:40]]
    assert min((a - b).abs().max() for a, b in combinations(embeddings, 2)) > 1e-4


def test_sketch_holds_up_to_16_channels_exactly() -> None:
    merge = gated(16)
    pixels = torch.rand(1, 17, 32, 32)
    features = merge.collect(torch.zeros(1, 256, 4, 4), pixels)
    expected = torch.nn.functional.pixel_unshuffle(torch.nn.functional.avg_pool2d(pixels[:, :16], 4), 2)
    torch.testing.assert_close(features[:, 256:], expected)


def test_sketch_of_a_smooth_spectrum_gives_its_channels_back() -> None:
    merge = gated(156)
    place = torch.linspace(0, 1, 156)
    spectrum = 0.5 + 0.3 * torch.sin(3 * place) + 0.1 * place
    sketch = merge.sketch @ spectrum
    assert (merge.loadings @ sketch - spectrum).abs().max() < 0.02
    torch.testing.assert_close(_cosines(156, 16).T @ _cosines(156, 16), torch.eye(16), atol=1e-5, rtol=0)


def test_gated_channels_are_the_composite_of_a_triple() -> None:
    merge = gated(6)
    features = features_of(merge)
    change = merge.basis(features, [3, 4, 5])[:, -12:]
    sketch = features[:, 256:].unflatten(1, (6, 4))
    expected = 2 * (sketch[:, [3, 4, 5]] - sketch[:, [0, 1, 2]]).flatten(1, 2)
    torch.testing.assert_close(change, expected, atol=0.02, rtol=0)


def test_parameters_grow_slowly() -> None:
    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert size(gated(580)) - size(gated(16)) == 16 * (580 - 16)
    assert (size(SplitMerge(20)) - size(SplitMerge(16))) / 4 == 66_304
    assert size(gated(156)) < size(SplitMerge(8))


def test_selection_costs_less_than_a_hundredth_of_vit_b() -> None:
    merge = gated(16, embedding_stride=16)
    features = torch.zeros(1, 256 + 16 * 16, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        merge(features, range(16))
    # ViT-B at 1024 px: 12 blocks of 12 width^2 a token beside attention, counted without the attention maps.
    encoder_flops = 2 * 4096 * 12 * 12 * 768**2
    assert counter.get_total_flops() <= 0.01 * encoder_flops


@pytest.mark.parametrize("count", [3, 4, 16])
def test_split_heads_as_in_the_paper(count: int) -> None:
    torch.manual_seed(0)
    merge = SplitMerge(count)
    features = torch.randn(2, 256, 4, 6)
    triple = [count - 1, 0, 1]
    heads = [merge.heads[i](features.permute(0, 2, 3, 1)) for i in triple]
    fused = merge.fuse(torch.cat(heads, -1).permute(0, 3, 1, 2))
    mean, variance = fused.mean(1, keepdim=True), fused.var(1, keepdim=True, unbiased=False)
    normed = (fused - mean) / (variance + 1e-6).sqrt()
    normed = (normed - normed.mean(1, keepdim=True)) / (normed.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(merge(features, triple), normed, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merge(features, triple), merge(features, triple[::-1])), "slots are ordered"
    assert not merge.neck.weight.requires_grad
    for selection in ([0], [0, 1], list(range(count))):
        weights = merge.weights(features, selection)
        assert merge(features, selection).shape == features.shape
        torch.testing.assert_close(weights.sum(1), torch.ones(2, 4, 6))


@pytest.mark.parametrize("selection", [[], [0, 0], [5], [-1]])
def test_selections_that_do_not_exist_are_refused(selection: list[int]) -> None:
    merge = gated(5)
    with pytest.raises(ChannelError, match="at least 1 of the channels"):
        merge(features_of(merge), selection)
