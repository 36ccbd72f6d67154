"""Tiles of a semantic prediction: blended without a seam, put together exactly, at the scale that was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.inference.frame import Frame
from e2sam.inference.semantic import frame_of_tile, logits_on_grid, segment_semantic
from e2sam.inference.tiling import tiles_of
from e2sam.modeling.e2sam import E2SAM, ModelConfig, SemanticConfig


class Pool(nn.Module):
    def forward(self, pixels):
        return F.pad(F.avg_pool2d(pixels[:, :1], 4), (0, 0, 0, 0, 0, 255))


class Threshold(nn.Module):
    """Class by brightness, from the pixels themselves."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, embeddings, pixels):
        self.calls += 1
        bright = F.avg_pool2d(pixels[:, :1], 2)
        return torch.cat((torch.zeros_like(bright), 40 * bright), dim=1)


def model_of(tile_size, image_size=64):
    config = ModelConfig(
        "any", image_size, 4, 4, 32, semantic=SemanticConfig("detail", ("dark", "bright"), (3, 7), tile_size)
    )
    return E2SAM(config, Pool(), nn.Identity(), None, Threshold()).eval()


def stack_of(plane):
    data = np.stack([plane] * 3).astype(np.uint8)
    return ChannelStack(data, tuple(ChannelSpec(name) for name in "RGB"))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(30, 150), st.integers(30, 150)),
    tile=st.sampled_from([32, 48, 64]),
    overlap=st.floats(0, 0.5),
    seed=st.integers(0, 9),
)
def test_blocks_come_back_whole_wherever_tiles_end(size, tile, overlap, seed):
    plane = np.kron(np.random.default_rng(seed).integers(0, 2, (10, 10)), np.ones((16, 16)))[: size[0], : size[1]] * 255
    model = model_of(tile, image_size=tile)
    found = segment_semantic(model, stack_of(plane), overlap=overlap, with_probabilities=True)
    expected = np.where(plane > 127, 7, 3)
    # One row of pixels on either side of an edge may fall to either class.
    edges = np.zeros(size, bool)
    edges[:, 1:] |= plane[:, 1:] != plane[:, :-1]
    edges[1:] |= plane[1:] != plane[:-1]
    near = F.max_pool2d(torch.from_numpy(edges[None].astype(np.float32)), 5, 1, 2)[0].numpy() > 0
    assert np.array_equal(found.labels[~near], expected[~near])
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert model.semantic.calls == len(tiles_of(size, tile, int(tile * overlap)))


def test_constant_image_has_constant_probabilities_across_seams():
    found = segment_semantic(model_of(32, 32), stack_of(np.full((100, 90), 128)), with_probabilities=True)
    assert np.ptp(found.probabilities, axis=(1, 2)).max() < 1e-5


def test_small_images_keep_the_trained_scale():
    config = model_of(tile_size=128).config
    assert frame_of_tile((128, 100), config, 128) == Frame.of((128, 100), config)
    small = frame_of_tile((40, 60), config, 128)
    assert small.input_size == (20, 30) and small.padded_size == (32, 32)


@pytest.mark.parametrize("size", [(16, 12), (64, 48), (7, 9)])
def test_logits_are_sampled_as_torch_samples_them(size):
    logits = torch.randn(2, 3, 16, 12)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    assert torch.allclose(logits_on_grid(logits, (64, 48), (64, 48), size), expected, atol=1e-5)


def test_padding_of_the_frame_is_left_out():
    logits = torch.zeros(1, 1, 16, 16)
    logits[..., :8, :12] = 1
    assert (logits_on_grid(logits, (30, 46), (64, 64), (30, 46)) == 1).all()
