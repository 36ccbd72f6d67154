from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from e2sam.data.synthetic import KINDS
from e2sam.errors import TrainingError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.training import tiny
from e2sam.training.tiny import TinyConfig, mean_of_weights, train_tiny
from e2sam.training.tiny_data import (
    Batch,
    KindShares,
    SceneSource,
    SourceSettings,
    first_prompts,
    make_batch,
    pack_scene,
)
from e2sam.training.tiny_loss import StepLoss, mask_loss
from e2sam.weights.checkpoint import load_checkpoint, save_checkpoint

SMALL = {
    "steps": 4,
    "scenes": 2,
    "objects": 2,
    "sides": (64,),
    "scene_side": 96,
    "fresh": 2,
    "capacity": 4,
    "validation": (1, 64),
}


def test_shares_of_the_scenes_are_of_some_kinds_and_the_others_stay_as_they_are() -> None:
    def packed(**shares: float) -> list[bytes]:
        return [pack_scene(0, index, None, 64, KindShares(**shares)).planes.tobytes() for index in range(12)]

    def same(one: list[bytes], other: list[bytes]) -> list[bool]:
        return [first == second for first, second in zip(one, other, strict=True)]

    plain, some, half, both = packed(), packed(streets=0.5), packed(cultures=0.5), packed(cultures=0.5, streets=0.5)
    assert 0 < sum(same(plain, some)) < 12
    are_cultures = [not is_same for is_same in same(plain, half)]
    assert same(half, both) == are_cultures
    assert not any(same(plain, both))


def test_kinds_are_drawn_by_one_draw_in_the_wanted_shares() -> None:
    rng = np.random.default_rng(0)
    shares = KindShares(cultures=0.2, streets=0.3, counts=0.1, land=0.15)
    kinds = [shares.draw(rng) for _ in range(2000)]
    assert set(kinds) == {None, "culture", "street", "counts", "land"} and set(kinds) - {None} <= set(KINDS)
    for kind, share in (("culture", 0.2), ("street", 0.3), ("counts", 0.1), ("land", 0.15)):
        assert kinds.count(kind) == pytest.approx(2000 * share, abs=60)
    again = np.random.default_rng(0)
    again.random(2000)
    assert again.random() == rng.random()
    untouched = np.random.default_rng(1)
    assert KindShares().draw(untouched) is None
    assert untouched.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize("shares", [{"cultures": 0.6, "streets": 0.5}, {"counts": -0.1, "land": 0.5}, {"land": 1.1}])
def test_shares_of_more_than_all_scenes_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="cultures, streets, counts, land"):
        KindShares(**shares)


def test_commands_take_shares_from_their_options() -> None:
    parser = argparse.ArgumentParser()
    KindShares.add_options(parser)
    options = vars(parser.parse_args(["--streets", ".2", "--land", "0.1"])) | {"seed": 3}
    assert KindShares.take(options) == KindShares(streets=0.2, land=0.1)
    assert options == {"seed": 3}
    # Thirds and tenths in floating point.
    assert KindShares(cultures=0.1, streets=0.2, counts=0.3, land=0.4)


def test_batch_asks_for_visible_objects_of_enough_pixels() -> None:
    scenes = [pack_scene(0, index, None, 96) for index in range(3)]
    batch = make_batch(np.random.default_rng(0), scenes, (3, 2, 64), 30)
    assert batch.pixels.shape == (3, 3, 64, 64) and batch.pixels.max() > 1
    assert batch.masks.shape == (6, 64, 64) and (batch.masks.sum((1, 2)) >= 30).all()
    assert batch.boundaries.shape == batch.judged.shape == (3, 2, 16, 16)
    points, labels = first_prompts(np.random.default_rng(0), batch.masks)
    for mask, row, kinds in zip(batch.masks, points.numpy(), labels.numpy(), strict=True):
        assert (kinds >= 0).any()
        if kinds[0] == 1:
            assert mask[int(row[0, 1]), int(row[0, 0])]
        if kinds[1] == 2:
            assert row[1, 0] < row[2, 0] and row[1, 1] < row[2, 1]


def test_close_looks_are_crops_around_one_object() -> None:
    scenes = [pack_scene(0, index, None, 256, KindShares(cultures=1.0)) for index in range(2)]
    shares = {}
    for close in (0.0, 1.0):
        batch = make_batch(np.random.default_rng(1), scenes, (6, 2, 96), 30, close)
        assert batch.pixels.shape == (6, 3, 96, 96)
        shares[close] = batch.masks.mean()
    # Cells of a culture are small in the scene, and large in a close look.
    assert shares[1.0] > 2 * shares[0.0]


def test_mask_loss_prefers_the_right_mask() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 2:6, 2:6] = 1
    good, bad = (target * 2 - 1) * 9, (1 - target * 2) * 9
    losses = mask_loss(torch.cat((good, bad), 1), target)
    assert losses[0, 0] < 0.01 and losses[0, 1] > 2


def test_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole = TinyConfig(tmp_path / "whole", **SMALL, device="cpu", validate_every=2)
    lines = [step.loss for step in train_tiny(whole)]
    broken = TinyConfig(tmp_path / "broken", **SMALL, device="cpu", validate_every=2)
    first = []
    for step in train_tiny(broken):
        first.append(step.loss)
        if step.step == 2:
            break
    second = [step.loss for step in train_tiny(broken, is_resumed=True)]
    assert first + second == lines
    one, other = (load_checkpoint(path / "tiny.safetensors", "cpu") for path in (whole.out, broken.out))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    log = [json.loads(line) for line in (whole.out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4] and "held_out_first" in log[-1]
    assert (whole.out / "best.safetensors").exists() and (whole.out / "last.safetensors").exists()


def test_steps_without_a_finite_gradient_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny.step_loss

    def spoiled(model: E2SAM, batch: Batch, rng: np.random.Generator, device: torch.device) -> StepLoss:
        loss = real(model, batch, rng, device)
        is_bad = torch.is_grad_enabled() and next(bad)
        return replace(loss, total=loss.total * float("nan")) if is_bad else loss

    monkeypatch.setattr(tiny, "step_loss", spoiled)
    bad = iter([False, True, False, False])
    losses = [step.loss for step in train_tiny(TinyConfig(tmp_path / "one", **SMALL, device="cpu"))]
    assert np.isnan(losses).tolist() == [False, True, False, False]
    for name in ("tiny", "last"):
        assert all(w.isfinite().all() for w in load_checkpoint(tmp_path / "one" / f"{name}.safetensors").parameters())
    bad = iter([True] * 9)
    with pytest.raises(TrainingError, match="none in 5 steps in a row, the last step 5"):
        list(train_tiny(TinyConfig(tmp_path / "all", **{**SMALL, "steps": 9}, device="cpu")))


def test_run_starts_from_given_weights(tmp_path: Path) -> None:
    given = build_model(teacher_config("tiny")).half().float()
    path = save_checkpoint(tmp_path / "given.safetensors", given, {})
    config = TinyConfig(tmp_path / "run", **{**SMALL, "steps": 1}, device="cpu", initial=path, learning_rate=0.0)
    list(train_tiny(config))
    trained = load_checkpoint(tmp_path / "run" / "tiny.safetensors").state_dict()
    for name, weight in given.state_dict().items():
        torch.testing.assert_close(trained[name].float(), weight.float(), atol=1e-6, rtol=1e-6)


def test_mean_of_weights_lies_between_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    paths = [
        save_checkpoint(tmp_path / f"{name}.safetensors", build_model(teacher_config("tiny")).half(), {})
        for name in ("one", "other")
    ]
    mean, one, other = (
        load_checkpoint(path).state_dict() for path in (mean_of_weights(paths, tmp_path / "mean.safetensors"), *paths)
    )
    for name, weight in mean.items():
        torch.testing.assert_close(weight.float(), (one[name].float() + other[name].float()) / 2, atol=1e-3, rtol=1e-3)


def test_composing_process_ends_with_the_run_that_it_serves(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "from e2sam.training.tiny_data import Batch, SceneSource, SourceSettings\n"
        "if __name__ == '__main__':\n"
        "    source = SceneSource(SourceSettings(side=64, fresh=1), 0)\n"
        "    source.advance()\n"
        "    print(source._processes[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    composer = int(done.stdout)
    end = time.monotonic() + 60
    while time.monotonic() < end and is_running(composer):
        time.sleep(0.2)
    assert not is_running(composer)


def is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_dead_composer_is_an_error_and_not_an_endless_wait() -> None:
    with SceneSource(SourceSettings(side=64, fresh=40), 0) as source:
        source._processes[0].kill()
        with pytest.raises(TrainingError, match="--resume"):
            source.advance()
