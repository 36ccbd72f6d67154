"""Doubt of candidate masks, at a pixel and of an image, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import e2sam
from e2sam.data.doubt import doubt_of, mean_doubt
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.inference.disagreement import image_disagreement


def test_doubt_is_largest_where_half_of_the_masks_agree() -> None:
    masks = np.zeros((4, 1, 5), bool)
    for count in range(5):
        masks[:count, 0, count] = True
    np.testing.assert_allclose(doubt_of(masks)[0], [0, 0.75, 1, 0.75, 0])


def test_an_images_doubt_counts_what_any_mask_holds() -> None:
    masks = np.zeros((3, 2, 4, 4), bool)
    masks[0, :, 0] = True  # both masks alike: no doubt
    masks[1, 0, 0] = masks[1, 1, :2] = True  # 4 pixels agreed on, 4 in full doubt
    assert mean_doubt(masks) == pytest.approx((0 + 0.5) / 2), "the empty prompt does not count"
    assert mean_doubt(masks[2:]) == 0


@pytest.mark.parametrize("size", [(64, 96), (90, 40)])
def test_the_doubt_of_an_image_is_that_of_its_predictions(size: tuple[int, int]) -> None:
    smooth = gaussian_filter(np.random.default_rng(3).random((3, *size)), (0, 9, 9)).astype(np.float32)
    stack = ChannelStack(smooth, tuple(ChannelSpec(name) for name in "abc"))
    predictor = e2sam.Predictor(e2sam.load_model("tiny"), cache=False)
    predictor.set_stack(stack, ("a", "b", "c"))
    passes = predictor.encoder_passes
    found = image_disagreement(predictor, points_per_side=2)
    assert predictor.encoder_passes == passes, "the embedding is there"
    height, width = size
    each = []
    for y in (height / 4, 3 * height / 4):
        for x in (width / 4, 3 * width / 4):
            masks = predictor.predict([(x, y)]).masks
            if masks.any():
                each.append(doubt_of(masks)[masks.any(axis=0)].mean())
    # Drawn at the size of the image, edges lie a little elsewhere than at the decoder's.
    assert found == pytest.approx(np.mean(each), abs=0.05)
