"""Masks of a prediction: the reference's two bilinear steps, tight boxes, overlap of crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from e2sam.inference.frame import Frame
from e2sam.inference.prediction import Prediction, crops_iou
from e2sam.inference.upsampling import upsampled_crop
from e2sam.modeling.build import teacher_config


@pytest.mark.parametrize("most_dense", [0, 1 << 19])
@pytest.mark.parametrize("size", [(97, 61), (400, 333), (1000, 200), (129, 128), (128, 128)])
@pytest.mark.parametrize("grain", [1, 9, 32])
def test_masks_are_those_of_two_bilinear_steps(
    size: tuple[int, int], grain: int, most_dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2sam.inference.upsampling._MOST_DENSE", most_dense)
    config = teacher_config("vit_test")
    frame = Frame.of(size, config)
    coarse = torch.from_numpy(np.random.default_rng(3).random((1, 1, grain, grain)))
    coarse[..., 0, 0] = 1
    smooth = nn.functional.interpolate(coarse, frame.logits_size, mode="bicubic")[0, 0].clamp(0, 1)
    logits = (3.5 * smooth - 2).float().numpy()
    steps = nn.functional.interpolate(torch.from_numpy(logits)[None, None], frame.padded_size, mode="bilinear")
    steps = steps[..., : frame.input_size[0], : frame.input_size[1]]
    expected = nn.functional.interpolate(steps, size, mode="bilinear")[0, 0].numpy()
    mask = upsampled_crop(logits, frame)
    assert mask is not None
    found, crop = mask.full(size), mask.pixels
    clear = np.abs(expected) > 1e-5
    np.testing.assert_array_equal(found[clear], (expected > 0)[clear])
    assert crop.any(axis=1)[[0, -1]].all() and crop.any(axis=0)[[0, -1]].all(), "the box is tight"


def test_an_empty_mask_has_an_empty_box() -> None:
    frame = Frame.of((300, 300), teacher_config("vit_test"))
    prediction = Prediction(
        np.ones(1, np.float32), np.full((1, 32, 32), -1, np.float32), ("a",), "a", frame, (0, 0, 300, 300), (300, 300)
    )
    assert prediction.mask_box() == (0, 0, 0, 0)
    assert not prediction.mask().any()


def test_iou_of_crops_is_that_of_whole_masks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        whole = np.zeros((2, 30, 30), bool)
        crops = []
        for mask in whole:
            (x0, x1), (y0, y1) = (
                np.sort(generator.choice(30, 2, replace=False)),
                np.sort(generator.choice(30, 2, replace=False)),
            )
            mask[y0:y1, x0:x1] = generator.random((y1 - y0, x1 - x0)) > 0.3
            crops.append(((int(x0), int(y0), int(x1), int(y1)), mask[y0:y1, x0:x1]))
        expected = (whole[0] & whole[1]).sum() / max(1, (whole[0] | whole[1]).sum())
        assert crops_iou(*crops) == pytest.approx(expected)
        inner = whole[:, 5:20, 8:25]
        expected = (inner[0] & inner[1]).sum() / (inner[0] | inner[1]).sum() if inner.any() else 1.0
        assert crops_iou(*crops, within=(8, 5, 25, 20)) == pytest.approx(expected)
