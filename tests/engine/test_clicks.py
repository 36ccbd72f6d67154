from __future__ import annotations

import numpy as np
import pytest

from e2sam.data.clicks import box_of, jittered_box, next_click, training_click


def square(size: int = 20, low: int = 5, high: int = 14) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[low:high, low:high] = True
    return mask


def test_first_click_is_in_the_middle() -> None:
    click = next_click(square(), np.zeros((20, 20), bool))
    assert click is not None and (click.x, click.y, click.label) == (9.5, 9.5, 1)


def test_deeper_error_is_clicked() -> None:
    target, predicted = square(), square()
    predicted[7:12, 5] = False  # one pixel missed
    predicted[0:4, 0:4] = True  # four pixels wrong
    click = next_click(target, predicted)
    assert click is not None and click.label == 0 and click.x < 4 and click.y < 4


def test_border_counts_as_outside() -> None:
    target = np.ones((9, 9), bool)
    click = next_click(target, np.zeros_like(target))
    assert click is not None and (click.x, click.y) == (4.5, 4.5)


def test_single_pixel_object_and_perfect_mask() -> None:
    target = np.zeros((6, 6), bool)
    target[0, 5] = True
    click = next_click(target, np.zeros_like(target))
    assert click is not None and (click.x, click.y) == (5.5, 0.5)
    assert next_click(target, target) is None
    assert training_click(target, target, np.random.default_rng(0)) is None


def test_clicked_and_ignored_pixels_are_left_alone() -> None:
    target = np.zeros((6, 6), bool)
    target[2, 2:4] = True
    clicked = np.zeros_like(target)
    clicked[2, 2] = True
    click = next_click(target, np.zeros_like(target), clicked)
    assert click is not None and (click.x, click.y) == (3.5, 2.5)
    assert next_click(target, np.zeros_like(target), clicked, ignore=target) is None


def test_random_clicks_stay_in_the_error() -> None:
    rng = np.random.default_rng(0)
    target = square()
    seen = {
        (click.x, click.y) for click in (next_click(target, np.zeros_like(target), rng=rng) for _ in range(50)) if click
    }
    assert len(seen) > 20 and all(target[int(y), int(x)] for x, y in seen)


def test_training_clicks_stay_in_the_inner_half() -> None:
    rng = np.random.default_rng(0)
    target = square()
    for _ in range(30):
        click = training_click(target, np.zeros_like(target), rng)
        assert click is not None and 7 <= click.x <= 12 and 7 <= click.y <= 12


def test_boxes() -> None:
    assert box_of(square()) == (5.0, 5.0, 14.0, 14.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        x0, y0, x1, y1 = jittered_box(square(), 0.1, rng)
        assert np.abs(np.subtract((x0, y0, x1, y1), (5, 5, 14, 14))).max() <= 0.9 + 1e-9
        assert x0 < x1 and y0 < y1
    whole = np.ones((4, 4), bool)
    assert all(0 <= edge <= 4 for edge in jittered_box(whole, 0.5, rng))
    assert next_click(np.zeros((3, 3), bool), np.zeros((3, 3), bool)) is None
    assert jittered_box(whole, 0.0, rng) == pytest.approx((0, 0, 4, 4))
