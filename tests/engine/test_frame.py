"""Frame: the geometry of segment_anything, on any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from e2sam.inference.frame import Frame
from e2sam.modeling.e2sam import ModelConfig

SAM = ModelConfig("vit_b", image_size=1024, embedding_stride=16, logits_stride=4, pad_multiple=1024)
TINY = ModelConfig("tiny", image_size=512, embedding_stride=8, logits_stride=4, pad_multiple=32)
SIDES = st.integers(1, 20_000)


@settings(deadline=None)
@given(height=SIDES, width=SIDES)
def test_sizes_are_those_of_segment_anything(height: int, width: int) -> None:
    expected = ResizeLongestSide.get_preprocess_shape(height, width, 1024)
    frame = Frame.of((height, width), SAM)
    assert frame.input_size == tuple(max(1, side) for side in expected)
    assert frame.padded_size == (1024, 1024)
    assert frame.logits_size == (256, 256)


@settings(deadline=None)
@given(height=SIDES, width=SIDES)
def test_padding_is_the_least_that_divides(height: int, width: int) -> None:
    frame = Frame.of((height, width), TINY)
    assert max(frame.input_size) == 512
    for padded, side in zip(frame.padded_size, frame.input_size, strict=True):
        assert padded % 32 == 0
        assert 0 <= padded - side < 32


@settings(deadline=None)
@given(height=SIDES, width=SIDES, x=st.floats(0, 1), y=st.floats(0, 1))
def test_points_are_scaled_as_segment_anything_does_and_come_back(height: int, width: int, x: float, y: float) -> None:
    frame = Frame.of((height, width), SAM)
    points = np.array([[x * width, y * height]])
    scaled = frame.to_model(points)
    if min(frame.input_size) > 1:
        np.testing.assert_allclose(
            scaled, ResizeLongestSide(1024).apply_coords(points, (height, width)), rtol=1e-6, atol=1e-4
        )
    assert (scaled <= np.array(frame.input_size[::-1]) + 1e-3).all()
    np.testing.assert_allclose(frame.to_image(scaled), points, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (1500, 1100), (1024, 700)])
def test_bytes_are_resized_as_sam_predictor_does(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = ResizeLongestSide(1024).apply_image(image)
    frame = Frame.of(size, SAM)
    resized = np.stack([frame.resize(image[..., plane]) for plane in range(3)], axis=-1)
    np.testing.assert_array_equal(resized, expected)


def test_other_types_are_resized_by_the_same_filter_without_rounding() -> None:
    plane = np.random.default_rng(0).random((300, 200)).astype(np.float32)
    frame = Frame.of(plane.shape, ModelConfig("tiny", 64, 8, 4, 32))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(plane)[None, None], frame.input_size, mode="bilinear", antialias=True
    )[0, 0]
    np.testing.assert_allclose(frame.resize(plane), expected.numpy(), atol=1e-6)
    # PIL's filter on bytes is the same one, rounded.
    assert np.abs(frame.resize((plane * 255).astype(np.uint8)) - 255 * frame.resize(plane)).max() < 2


def test_maps_cover_the_image_and_not_its_padding() -> None:
    frame = Frame.of((100, 50), SAM)
    columns = np.broadcast_to((np.arange(64) + 0.5) * 16, (1, 64, 64)).astype(np.float32)
    sampled = frame.grid(columns, 16, (100, 50))
    # The map holds each cell's x in the frame, so sampling it gives the x of each pixel's centre.
    expected = (np.arange(50) + 0.5) * frame.input_size[1] / 50
    np.testing.assert_allclose(sampled[0, 40], np.maximum(expected, 8), atol=1e-2)
