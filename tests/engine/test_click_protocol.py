from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from e2sam.errors import PromptError
from e2sam.evaluation.clicks import ClickOptions, evaluate_clicks, instance_masks


class Scripted:
    """Answers with masks of a fixed row, one row for each call with points, and remembers what was asked."""

    def __init__(self, rows: list[list[np.ndarray]], scores: list[float]) -> None:
        self.rows, self.scores, self.asked = rows, scores, []  # type: ignore[var-annotated]

    def predict(
        self, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None, multimask: bool = True
    ) -> SimpleNamespace:
        self.asked.append({"points": points, "labels": labels, "box": box, "mask": mask, "multimask": multimask})
        index = 0 if points is None else min(len(points), len(self.rows)) - 1
        masks = np.stack(self.rows[index])
        return SimpleNamespace(
            masks=masks, scores=np.array(self.scores[: len(masks)], np.float32), logits=masks.astype(np.float32)
        )


def target_mask() -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    return mask


def test_perfect_answer_takes_one_click() -> None:
    target = target_mask()
    model = Scripted([[target, ~target, np.zeros_like(target)]], [0.9, 0.1, 0.2])
    report = evaluate_clicks(model, {"a": target}).to_json()
    assert report["noc"] == {"80": 1.0, "85": 1.0, "90": 1.0} and report["fr20"] == {"85": 0.0, "90": 0.0}
    assert report["iou"] == {"1": 1.0, "2": 1.0, "3": 1.0, "5": 1.0, "10": 1.0}
    assert report["box_iou"] == 1.0 and report["auc"] == 1.0 and report["objects"] == 1
    assert json.loads(json.dumps(report)) == report


def test_quality_decides_and_the_oracle_is_told_apart() -> None:
    target = target_mask()
    half = target & (np.arange(16) < 8)
    model = Scripted([[half, target, half]], [0.9, 0.1, 0.2])
    row = evaluate_clicks(model, {"a": target}, ClickOptions(limit=1, with_box=False)).objects[0]
    assert row.ious == (0.5,) and row.chosen == 0.5 and row.oracle == 1.0 and np.isnan(row.box_iou)


def test_hopeless_answer_fails_after_twenty_clicks_and_clicks_never_repeat() -> None:
    target = target_mask()
    model = Scripted([[np.zeros_like(target)]], [0.5])
    report = evaluate_clicks(model, {"a": target}, ClickOptions(with_box=False))
    assert report.to_json()["noc"]["85"] == 20 and report.to_json()["fr20"]["90"] == 1.0
    points = model.asked[-1]["points"]
    assert len(points) == 20 and len(set(points)) == 20


def test_second_click_feeds_the_mask_and_asks_for_one() -> None:
    target = target_mask()
    half = target & (np.arange(16) < 8)
    model = Scripted([[half], [target]], [0.5])
    evaluate_clicks(model, {"a": target}, ClickOptions(with_box=False))
    first, second = model.asked
    assert first["mask"] is None and first["multimask"] and first["labels"] == [1]
    assert np.array_equal(second["mask"], half) and not second["multimask"]
    assert second["points"][1][0] > 8


def test_ignored_band_counts_for_nothing() -> None:
    target = target_mask()
    grown = np.zeros_like(target)
    grown[3:13, 3:13] = True
    model = Scripted([[grown]], [0.5])
    report = evaluate_clicks(model, {"a": target}, ClickOptions(with_box=False), ignore=grown & ~target)
    assert report.objects[0].ious == (1.0,)


def test_random_repeats_are_summed_up() -> None:
    target = target_mask()
    model = Scripted([[target]], [0.5])
    summary = evaluate_clicks(model, {"a": target}, ClickOptions(repeats=3, with_box=False)).to_json()["random"]
    assert summary["1"] == {"mean": 1.0, "std": 0.0}


def test_instances_of_a_label_image() -> None:
    labels = np.array([[0, 7, 7], [0, 0, 300]], np.uint16)
    masks = instance_masks(labels, smallest=2)
    assert list(masks) == ["7"] and masks["7"].sum() == 2
    with pytest.raises(PromptError, match="empty"):
        evaluate_clicks(Scripted([[labels > 0]], [1.0]), {"a": np.zeros((2, 3), bool)})


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": "a"}, {"limit": 2.5}, {"repeats": -1}, {"seed": -1}, {"stop_at": "x"}]
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="Expected"):
        ClickOptions(**wrong)


@pytest.mark.parametrize(
    ("targets", "options", "ignore", "said"),
    [
        (None, None, None, "mask of each object by its name"),
        ({"a": [[1]]}, None, None, "array .H, W. bool"),
        ({"a": np.ones((3, 3), int)}, None, None, "array .H, W. bool"),
        ({"a": np.ones((3, 3), bool)}, {}, None, "ClickOptions or None"),
        ({"a": np.ones((3, 3), bool)}, None, np.zeros((2, 2), bool), "masks of one size"),
    ],
)
def test_what_cannot_be_measured_is_refused(targets: Any, options: Any, ignore: Any, said: str) -> None:
    model = Scripted([[np.ones((3, 3), bool)]], [0.5])
    with pytest.raises(PromptError, match=said):
        evaluate_clicks(model, targets, options, ignore)
    assert not model.asked
