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
    ("after", "score", "clicks", "noc85", "taken"),
    [
        # Better in both; worse in both.
        ([(0.6, 8), (0.6, 8)], 0.1, -2.0, -2.0, True),
        ([(0.4, 12), (0.5, 10)], -0.05, 1.0, 1.0, False),
        # The score fell, whatever the clicks say; clicks rose, whatever the score says.
        ([(0.3, 7), (0.6, 10)], -0.05, -1.5, -1.5, False),
        ([(0.6, 12), (0.6, 10)], 0.1, 1.0, 1.0, False),
        # More clicks to 85 % alone, where the lower levels are reached at once.
        ([(0.81, 12), (0.5, 10)], 0.155, -2.3, 1.0, True),
        # As before.
        ([(0.5, 10), (0.5, 10)], 0.0, 0.0, 0.0, True),
    ],
)
def test_taken_unless_the_score_fell_or_clicks_to_several_levels_rose(after, score, clicks, noc85, taken):
    before = figures((0.5, 10), (0.5, 10))
    compared = compare_clicks(before, figures(*after))
    got = [compared[name] for name in ("score", "clicks", "noc85")]
    assert got == pytest.approx([score, clicks, noc85])
    assert compared["not_worse"] is taken


def test_of_one_object_any_loss_counts():
    before = figures((0.5, 10))
    compared = compare_clicks(before, figures((0.4, 9)))
    assert compared["score_interval"] == [None, None] and compared["not_worse"] is False
    assert compare_clicks(before, figures((0.5, 9)))["not_worse"] is True
    assert compare_clicks(before, figures((0.6, 11)))["not_worse"] is False
