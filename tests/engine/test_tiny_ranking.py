from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from e2sam.errors import TrainingError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.training.tiny_ranking import Examples, RankingConfig, fit_quality, train_ranking
from e2sam.weights.checkpoint import load_checkpoint, save_checkpoint


def test_only_the_head_of_the_quality_moves_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = build_model(teacher_config("tiny")).half()
    initial = save_checkpoint(tmp_path / "given.safetensors", given, {})
    first, second = (
        load_checkpoint(train_ranking(RankingConfig(initial, tmp_path / name, scenes=3, objects=2, epochs=2)))
        for name in ("one.safetensors", "other.safetensors")
    )
    moved = {name for name, weight in given.state_dict().items() if not torch.equal(weight, first.state_dict()[name])}
    assert moved and all(name.startswith("decoder.quality.") for name in moved)
    assert first.fingerprint == second.fingerprint


def test_head_learns_which_mask_is_best_and_how_good_it_is() -> None:
    torch.manual_seed(0)
    # Of 6 inputs on very different scales the third says how good a mask is.
    inputs = torch.rand(512, 4, 6) * torch.tensor([1.0, 50.0, 3.0, 1e-2, 1.0, 7.0]) + 5
    examples = Examples(inputs, (inputs[..., 2] - 5) / 3)
    head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    before = examples.chosen_iou(head)
    fit_quality(head, examples, RankingConfig(Path(), Path(), epochs=60, dropout=0.0, weight_decay=0.0))
    assert before < 0.6 and examples.chosen_iou(head) > 0.97 * float(examples.ious.amax(1).mean())
    with torch.no_grad():
        predicted = torch.sigmoid(head(inputs)[..., 0])
    assert (predicted - examples.ious).abs().mean() < 0.15


def test_other_models_are_refused(tmp_path: Path) -> None:
    vit = build_model(teacher_config("vit_test"))
    initial = save_checkpoint(tmp_path / "vit.safetensors", vit, {})
    with pytest.raises(TrainingError, match="checkpoint of tiny"):
        train_ranking(RankingConfig(initial, tmp_path / "out.safetensors"))
