from __future__ import annotations

import math

import numpy as np
import pytest

from e2sam.errors import PromptError
from e2sam.evaluation.metrics import area_under_clicks, boundary_iou, clicks_to_reach, failure_rate, mask_iou


def test_iou_equals_scikit_learn_on_random_masks() -> None:
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        first, second = rng.random((13, 17)) < share, rng.random((13, 17)) < 0.5
        assert mask_iou(first, second) == pytest.approx(jaccard_score(first.ravel(), second.ravel()))


def test_iou_of_nothing_is_nan_and_ignored_pixels_do_not_count() -> None:
    empty = np.zeros((4, 4), bool)
    assert math.isnan(mask_iou(empty, empty))
    predicted, target, ignore = empty.copy(), empty.copy(), empty.copy()
    predicted[0], target[:2], ignore[1] = True, True, True
    assert mask_iou(predicted, target) == 0.5
    assert mask_iou(predicted, target, ignore) == 1.0
    assert math.isnan(mask_iou(predicted, target, np.ones((4, 4), bool)))


def test_shapes_must_agree() -> None:
    with pytest.raises(PromptError, match="one size"):
        mask_iou(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_boundary_iou_by_hand() -> None:
    target, predicted = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    target[5:15, 5:15] = True
    predicted[5:15, 6:15] = True
    assert boundary_iou(target, target, 1) == 1.0
    # Bands of width 1: 36 and 34 pixels; both hold the right side, and the top and bottom of what they share.
    band_target = target.copy()
    band_target[6:14, 6:14] = False
    band_predicted = predicted.copy()
    band_predicted[6:14, 7:14] = False
    expected = (band_target & band_predicted).sum() / (band_target | band_predicted).sum()
    assert boundary_iou(predicted, target, 1) == pytest.approx(expected)
    assert boundary_iou(predicted, target, 1) < mask_iou(predicted, target)
    touching = np.ones((20, 20), bool)
    assert boundary_iou(touching, touching) == 1.0


def test_clicks_to_reach() -> None:
    assert clicks_to_reach([0.9], 0.85) == 1
    assert clicks_to_reach([0.5, 0.84, 0.85], 0.85) == 3
    assert clicks_to_reach([0.5, 0.6], 0.85) == 20
    assert clicks_to_reach([0.1] * 25 + [0.9], 0.85, limit=20) == 20
    assert failure_rate([[0.9], [0.1, 0.2]], 0.85) == 0.5
    assert math.isnan(failure_rate([], 0.85))


def test_area_under_clicks_keeps_the_last_value() -> None:
    assert area_under_clicks([0.5, 1.0], limit=4) == pytest.approx((0.5 + 3.0) / 4)
    assert math.isnan(area_under_clicks([]))
