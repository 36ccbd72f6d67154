"""The demo: the whole job on embedded data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from e2sam.cli.main import main
from e2sam.data.io import read_labels, read_stack
from e2sam.data.samples import motorcycle, motorcycle_masks
from e2sam.training.config import TrainStep


def test_the_photograph_needs_no_network() -> None:
    stack = motorcycle()
    assert (stack.names, stack.data.shape) == (("R", "G", "B", "disparity"), (4, 500, 741))
    masks = motorcycle_masks()
    assert len(masks) == 3
    for mask in masks.values():
        assert mask.shape == stack.size
        assert 0.005 < mask.mean() < 0.1
    # The headlight is what stands nearest to the camera: its outline lies on it.
    disparity = stack.read()[3]
    nearest = np.nanpercentile(disparity[np.isfinite(disparity)], 80)
    assert np.median(disparity[masks["headlight"] & np.isfinite(disparity)]) > nearest


def _fake_inherit(stack: object, config: SimpleNamespace, teacher: object) -> Iterator[TrainStep]:
    from e2sam.weights.checkpoint import save_checkpoint
    from e2sam.weights.zoo import load_model

    yield TrainStep(0, 2, math.nan, {"agreement_1_click": 0.5})
    yield TrainStep(1, 2, 0.75)
    save_checkpoint(config.out, load_model("tiny", device="cpu"), {"stage": "teacher"})
    yield TrainStep(2, 2, 0.25, {"agreement_1_click": 0.6, "accepted": 1.0})
    return config.out


def _fake_finetune(corrections: object, config: SimpleNamespace) -> Iterator[TrainStep]:
    assert len(corrections) >= 8
    yield TrainStep(1, 1, 0.5, message="one step")
    before = {"iou": {"1": 0.4, "3": 0.6, "10": 0.9}, "noc": {"85": 4.0}}
    return SimpleNamespace(steps=1, seconds=0.1, before=before, after=before, accepted=False)


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the training itself, which has its own tests and takes the time."""
    monkeypatch.setattr("e2sam.cli.demo_learning.inherit", _fake_inherit)
    monkeypatch.setattr("e2sam.cli.demo_learning.finetune", _fake_finetune)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert len(result["objects"]) == 6
    for one in result["objects"]:
        assert set(one) >= {"name", "iou_1_click", "iou_3_clicks"}
        assert 0 <= one["iou_1_click"] <= 1
    after_three = [one["iou_3_clicks"] for one in result["objects"]]
    colour_only = [one["colour_only"]["iou_3_clicks"] for one in result["objects"]]
    assert np.mean(after_three) > 0.6
    assert np.mean(after_three) > np.mean(colour_only)
    assert result["inherit"]["before"] == {"agreement_1_click": 0.5}
    assert result["inherit"]["after"] == {"agreement_1_click": 0.6}
    assert result["finetune"]["before"] == {"iou_1_click": 0.4, "iou_3_click": 0.6, "noc_85": 4.0}
    assert result["finetune"]["accepted"] is False
    for path in (result["report"], *result["pictures"], *result["exports"]):
        assert Path(path).stat().st_size > 0
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert read_stack(out / "photograph.tif").names == motorcycle().names
    assert len(np.unique(read_labels(out / "photograph_labels.tif"))) == 4
    assert len(json.loads((out / "objects.json").read_text(encoding="utf-8"))["annotations"]) == 6


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("e2sam: Expected --out to be a folder")
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--inherit-steps", "-1"])
    assert stop.value.code == 2
