"""Whether a new model is taken: hand-worked cases."""

from __future__ import annotations

import pytest

from e2sam.evaluation.clicks import ObjectClicks
from e2sam.training.judging import ClickFigures, compare_clicks


def figures(*rows):
    """Objects whose IoU is the same after the first five clicks and from the box, and reaches 0.85 at a click."""
    objects = []
    for number, (iou, reached) in enumerate(rows):
        ious = (iou,) * 5 + tuple(0.9 if click >= reached else iou for click in range(6, 21))
        objects.append(ObjectClicks(str(number), 10, ious, box_iou=iou))
    return ClickFigures(tuple(objects), 20)


@pytest.mark.parametrize(
    ("after", "score", "clicks", "taken"),
    [
        # Better in both; worse in both.
        ([(0.7, 8), (0.6, 8)], 0.15, -2.0, True),
        ([(0.4, 12), (0.5, 10)], -0.05, 1.0, False),
        # The score fell, whatever the clicks say.
        ([(0.3, 7), (0.6, 10)], -0.05, -1.5, False),
        # Perhaps more clicks, with a score that is better on both objects, or only on one of two.
        ([(0.7, 14), (0.6, 10)], 0.15, 2.0, True),
        ([(0.8, 12), (0.4, 10)], 0.1, 1.0, False),
        # A gain that is sure, but too small for it.
        ([(0.51, 14), (0.51, 10)], 0.01, 2.0, False),
        # More clicks on both alike: more than chance explains.
        ([(0.7, 12), (0.6, 12)], 0.15, 2.0, False),
        # As before.
        ([(0.5, 10), (0.5, 10)], 0.0, 0.0, True),
    ],
)
def test_taken_unless_the_score_fell_or_clicks_rose_for_it(after, score, clicks, taken):
    before = figures((0.5, 10), (0.5, 10))
    compared = compare_clicks(before, figures(*after))
    assert compared["score"] == pytest.approx(score) and compared["noc85"] == pytest.approx(clicks)
    assert compared["not_worse"] is taken


def test_of_one_object_any_loss_counts():
    before = figures((0.5, 10))
    compared = compare_clicks(before, figures((0.4, 9)))
    assert compared["score_interval"] == [None, None] and compared["not_worse"] is False
    assert compare_clicks(before, figures((0.5, 9)))["not_worse"] is True
    assert compare_clicks(before, figures((0.6, 11)))["not_worse"] is False
