"""Fine-tuning by clicks: it learns, leaves alone what is frozen, resumes exactly, keeps the old model if better."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from e2sam.data.corrections import CorrectionImage, CorrectionSet
from e2sam.data.io.datasets import LabelledItem, LabelledSet
from e2sam.data.masks import MaskCrop
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import StackError, TrainingError
from e2sam.modeling.build import build_model, build_with_weights, teacher_config
from e2sam.training.dataset import coverage_on_logits
from e2sam.training.finetune import FinetuneConfig, finetune
from e2sam.training.prompt_head import PromptHead
from e2sam.training.task import StepDraw
from e2sam.weights.checkpoint import read_checkpoint_info, save_checkpoint
from e2sam.weights.zoo import load_model

FAST = {"steps": 4, "validate_every": 4, "judged_objects": 1, "judged_clicks": 2, "twin": False, "device": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The embedded model at a frame of 64 pixels, whose masks are too small: cheap, and something to learn."""
    model = load_model("tiny", device="cpu")
    small = build_with_weights(replace(model.config, image_size=64), model.state_dict())
    with torch.no_grad():
        small.decoder.to_masks.bias -= 1.5
    return save_checkpoint(
        tmp_path_factory.mktemp("models") / "small.safetensors", small, {"stage": "test", "teacher": "abc"}
    )


def discs(seed=0, count=9):
    """Bright discs on a dark ground, and their instances."""
    generator = np.random.default_rng(seed)
    data = generator.normal(40, 6, (5, 64, 64))
    labels = np.zeros((64, 64), np.int32)
    rows, columns = np.mgrid[:64, :64]
    for number in range(count):
        row, column = 10 + 21 * (number // 3), 10 + 21 * (number % 3)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < generator.integers(5, 9) ** 2
        labels[disc] = number + 1
        data[:, disc] += 120
    names = tuple(ChannelSpec(name) for name in ("R", "G", "B", "NIR", "depth"))
    return ChannelStack(data.clip(0, 255).astype(np.uint8), names), labels


@pytest.fixture(scope="module")
def corrections():
    scene = discs()
    return CorrectionSet.from_dataset(LabelledSet((LabelledItem("one", "", lambda: scene),), "instances", 0))


def run(corrections, config):
    """Every step, and the result."""
    steps, runner = [], finetune(corrections, config)
    while True:
        try:
            steps.append(next(runner))
        except StopIteration as end:
            return steps, end.value


def config(tmp_path, base, **settings):
    return FinetuneConfig(out=tmp_path / "new.safetensors", model=base, **{**FAST, **settings})


def test_learns_and_is_taken_only_because_held_out_objects_got_better(tmp_path, base, corrections):
    chosen = config(
        tmp_path, base, steps=24, validate_every=8, learning_rate=2e-3, judged_objects=3, judged_clicks=5, mirrors=False
    )
    steps, result = run(corrections, replace(chosen, channels=("R", "G", "B")))
    assert result.accepted and result.after["score"] > result.before["score"] + 0.02
    assert result.split == {"train": 6, "held_out": 3, "dropped": 0, "kind": "region", "margin": 2}
    assert result.after["objects"] == 3 and result.twin is None
    losses = [step.loss for step in steps if not math.isnan(step.loss)]
    assert len(losses) == 24 and np.mean(losses[-5:]) < np.mean(losses[:5])
    assert steps[-1].metrics["accepted"] == 1.0 and "is better" in steps[-1].message
    old, new = load_model(base, device="cpu").state_dict(), load_model(result.out, device="cpu").state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if not name.startswith("decoder."))
    assert any(not torch.equal(old[name], new[name]) for name in old if name.startswith("decoder."))
    info = read_checkpoint_info(result.out)
    assert info.stage == "finetune" and info.parent == load_model(base, device="cpu").fingerprint
    assert info.teacher == "abc"
    assert info.training["config"]["steps"] == 24 and info.training["result"]["accepted"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.safetensors"]


def test_worse_model_is_not_taken_and_the_old_one_stands_in_its_place(tmp_path, base, corrections):
    steps, result = run(corrections, config(tmp_path, base, learning_rate=0.3, keep=0.0))
    assert not result.accepted and "kept" in result.message and "kept" in steps[-1].message
    old, new = load_model(base, device="cpu"), load_model(result.out, device="cpu")
    assert old.fingerprint == new.fingerprint
    assert read_checkpoint_info(result.out).stage == "unchanged"
    assert result.after["score"] < result.before["score"]


def test_only_a_part_of_the_way_is_gone_where_all_of_it_is_too_far(tmp_path, base, corrections):
    head = PromptHead.open(corrections, config(tmp_path, base, channels=("R", "G", "B")))
    trained = load_model(base, device="cpu")
    old = head.base.decoder.to_masks.bias.detach()
    with torch.no_grad():
        # A quarter of the way makes up for what the fixture took away.
        trained.decoder.to_masks.bias += 6.0
    settled = head.settle([trained])[0]
    gone = (settled.decoder.to_masks.bias.detach() - old) / 6
    assert torch.allclose(gone, gone[0].expand_as(gone), atol=1e-6) and 0.2 < float(gone[0]) < 0.6
    assert settled.fingerprint == ""
    assert torch.equal(trained.decoder.to_masks.bias.detach(), old + 6)


def test_broken_weights_are_not_even_judged(tmp_path, base, corrections):
    _, result = run(corrections, config(tmp_path, base, learning_rate=1e6, keep=0.0, mirrors=False))
    assert not result.accepted and result.after == result.before
    assert load_model(base, device="cpu").fingerprint == load_model(result.out, device="cpu").fingerprint


def test_encoder_runs_once_for_each_image_however_many_steps(tmp_path, base, corrections, monkeypatch):
    passes = []
    import e2sam.modeling.tiny_encoder as tiny_encoder

    forward = tiny_encoder.TinyEncoder.forward
    monkeypatch.setattr(
        tiny_encoder.TinyEncoder, "forward", lambda self, pixels: passes.append(1) or forward(self, pixels)
    )
    monkeypatch.setenv("E2SAM_CACHE_SIZE_GB", "0")
    counts = []
    for number in (1, 6):
        passes.clear()
        run(corrections, config(tmp_path / str(number), base, steps=number, mirrors=False, channels=("R", "G", "B")))
        counts.append(len(passes))
    assert counts[0] == counts[1]


def test_time_for_the_steps_follows_from_their_number_unless_they_are_given(tmp_path, base, corrections):
    chosen = config(tmp_path, base, steps=0)
    head = PromptHead.open(corrections, chosen)
    assert head.steps == 88 and head.seconds == pytest.approx(0.5 * 88)
    for changes, seconds in (({"steps": 5}, 0), ({"tune": "full"}, 0), ({"seconds": 3.0}, 3.0)):
        assert PromptHead.open(corrections, replace(chosen, **changes)).seconds == seconds
    with pytest.raises(TrainingError, match="seconds"):
        config(tmp_path, base, seconds=-1.0)


def check_resume(data, chosen, last, left):
    """A run that is closed after step `last` and resumed comes to the losses and the model of one that is not."""
    steps, whole = run(data, replace(chosen, out=chosen.out.parent / "whole" / "new.safetensors"))
    chosen = replace(chosen, out=chosen.out.parent / "parts" / "new.safetensors")
    runner = finetune(data, chosen)
    for step in runner:
        if step.step == last:
            break
    runner.close()
    assert not chosen.out.exists()
    resumed, parts = run(data, replace(chosen, resume=True))
    expected = {step.step: step.loss for step in steps if step.step > last and not math.isnan(step.loss)}
    assert {step.step: step.loss for step in resumed if not math.isnan(step.loss)} == expected
    assert sorted(expected) == left
    one, other = (load_model(result.out, device="cpu").fingerprint for result in (whole, parts))
    assert one == other


def test_closed_run_resumes_with_the_same_losses(tmp_path, base, corrections):
    check_resume(corrections, config(tmp_path, base, steps=6, checkpoint_every=2), 3, [4, 5, 6])


def test_few_objects_are_learned_from_and_judged_by_in_turn(tmp_path, base, corrections):
    few = CorrectionSet(corrections.corrections[:5])
    chosen = config(tmp_path, base, steps=10, judged_objects=9, mirrors=False, channels=("R", "G", "B"))
    head = PromptHead.open(few, chosen)
    runs = head.folds()
    held = [each.mask.box for run in runs for scene in run.held_out for each in scene.objects]
    assert len(runs) == 5 and len(set(held)) == len(held) == 5
    for one in runs:
        learned = {each.mask.box for scene in one.train for each in scene.objects}
        assert learned and not learned & {each.mask.box for scene in one.held_out for each in scene.objects}
        assert one.steps == 2 and one.folds() == (one,)
        # The image is opened once, whatever is learned from it.
        assert {id(scene.stack) for scene in (*one.train, *one.held_out)} == {id(head.train[0].stack)}
    assert head.steps == 10
    trained = [load_model(base, device="cpu") for _ in runs]
    with torch.no_grad():
        for number, model in enumerate(trained):
            model.decoder.to_masks.bias += float(number)
    moved = head.combined(trained).decoder.to_masks.bias - head.base.decoder.to_masks.bias
    assert torch.allclose(moved, torch.full_like(moved, 2.0), atol=1e-6)
    # Each is judged by what its own run held out.
    figures = head.judge(trained)
    for fold, model, shown in zip(runs, trained, figures.objects, strict=True):
        assert shown.ious == fold.judge([model]).objects[0].ious
    steps, result = run(few, chosen)
    assert result.before["objects"] == result.after["objects"] == 5
    assert result.split == {"train": 5, "held_out": 5, "dropped": 0, "kind": "crossed", "margin": 2}
    assert [step.step for step in steps if not math.isnan(step.loss)] == list(range(1, 11)) and result.steps == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.safetensors"]


@pytest.mark.parametrize(("count", "runs"), [(2, 2), (3, 3), (8, 5), (9, 1)])
def test_number_of_runs_follows_from_that_of_the_objects(tmp_path, base, corrections, count, runs):
    many = [
        replace(one, key=f"{one.key} {turn}", mask=copy(one.mask))
        for turn in range(2)
        for one in corrections.corrections
    ]
    head = PromptHead.open(CorrectionSet(tuple(many[:count])), config(tmp_path, base, steps=0))
    assert len(head.folds()) == runs
    if runs > 1:
        assert head.steps == runs * (150 // runs) and head.seconds == pytest.approx(30)
        timed = PromptHead.open(CorrectionSet(tuple(many[:count])), config(tmp_path, base, steps=0, seconds=4.0))
        assert timed.seconds == pytest.approx(4) and timed.steps == head.steps


@pytest.mark.parametrize(("count", "taught"), [(8, False), (9, True)])
def test_few_objects_teach_the_fine_layers_alone(tmp_path, base, corrections, count, taught):
    chosen = CorrectionSet(corrections.corrections[:count])
    fold = PromptHead.open(chosen, config(tmp_path, base, channels=("R", "G", "B"))).folds()[0]
    task = fold.task(lambda path, model, outcome: None, {})
    decoder, given = task.module.model.decoder, {id(p) for group in task.groups() for p in group.parameters}
    kept = [id(p) for layer in (*decoder.coarse_layers(), decoder.quality) for p in layer.parameters()]
    fine = {id(p) for p in decoder.parameters()} - set(kept)
    assert fine <= given and given.isdisjoint(kept) is not taught


def test_a_run_closed_in_its_second_part_resumes_there(tmp_path, base, corrections):
    few = CorrectionSet(corrections.corrections[:3])
    check_resume(few, config(tmp_path, base, steps=9, checkpoint_every=1, mirrors=False), 5, [6, 7, 8, 9])


def test_resume_of_another_run_is_refused(tmp_path, base, corrections):
    chosen = config(tmp_path, base)
    runner = finetune(corrections, chosen)
    for step in runner:
        if step.step == 2:
            break
    runner.close()
    with pytest.raises(TrainingError, match="learning_rate"):
        run(corrections, replace(chosen, resume=True, learning_rate=1e-5))


def test_masks_that_have_changed_since_are_not_resumed_with(tmp_path, base, corrections):
    few = CorrectionSet(corrections.corrections[:3])
    chosen = config(tmp_path, base, steps=6, checkpoint_every=1, mirrors=False)
    # Killed when two of three runs have left their weights.
    runner = finetune(few, chosen)
    for step in runner:
        if step.step == 4:
            break
    runner.close()
    assert all((tmp_path / f"new.candidate{number}.safetensors").exists() for number in (1, 2))
    smaller = tuple(replace(one, mask=MaskCrop.of(_shrunk(one.mask.pixels), *one.mask.box[:2])) for one in few)
    steps, _ = run(CorrectionSet(smaller), replace(chosen, resume=True))
    assert [step.step for step in steps if not math.isnan(step.loss)] == [1, 2, 3, 4, 5, 6]


def _shrunk(pixels):
    """A mask of the same box and another shape."""
    less = pixels.copy()
    less[len(less) // 2, 1:-1] = False
    return less


def test_weights_of_another_run_are_not_judged(tmp_path, base, corrections):
    chosen = config(tmp_path, base, mirrors=False)
    with pytest.raises(TrainingError, match="at the same time"):
        for step in finetune(corrections, chosen):
            if step.step == FAST["steps"]:
                # The last step's weights are written: another run's in their place.
                other = replace(chosen, seed=1, out=tmp_path / "other.safetensors")
                _stop_before_judging(corrections, other)
                (tmp_path / "other.candidate.safetensors").replace(tmp_path / "new.candidate.safetensors")


def test_a_second_run_of_the_same_output_is_refused(tmp_path, base, corrections):
    runner = finetune(corrections, config(tmp_path, base))
    next(runner)
    with pytest.raises(TrainingError, match=r"one run at a time to write new\.safetensors, got another \(process"):
        next(finetune(corrections, config(tmp_path, base, resume=True)))
    runner.close()
    assert not list(tmp_path.iterdir())


def _stop_before_judging(corrections, chosen):
    runner = finetune(corrections, chosen)
    for step in runner:
        if step.step == FAST["steps"]:
            return runner.close()


def test_what_the_old_model_said_is_not_held_on_to_at_held_out_objects(tmp_path, base, corrections):
    head = PromptHead.open(CorrectionSet(corrections.corrections[:5]), config(tmp_path, base))
    for fold in head.folds():
        task = fold.task(lambda *_: None, {})
        held = [one.mask for scene in fold.held_out for one in scene.objects]
        assert held
        for window in task._train.windows[:1]:
            for mask in held:
                covered = coverage_on_logits(mask, window.window, window.frame) > 128
                assert covered.any() and window.labelled[covered].all()
        unlabelled = task._train.windows[0].inside & ~task._train.windows[0].labelled
        assert unlabelled.any()


def test_five_trainings_in_a_row_and_the_same_seed_gives_the_same_model(tmp_path, base, corrections):
    prints = set()
    for number in range(5):
        _, result = run(corrections, config(tmp_path / str(number), base, steps=2, validate_every=1, mirrors=False))
        prints.add(load_model(result.out, device="cpu").fingerprint)
    assert len(prints) == 1


def test_twin_sees_red_green_and_blue_alone(tmp_path, base, corrections):
    head = PromptHead.open(corrections, config(tmp_path, base, twin=True, channels=("NIR", "depth")))
    twin = head.twin()
    assert {scene.channels for scene in twin.train} == {("R", "G", "B")}
    assert [len(scene.objects) for scene in twin.train] == [len(scene.objects) for scene in head.train]
    assert PromptHead.open(corrections, config(tmp_path, base, twin=True, channels=("G", "B", "R"))).twin() is None
    colours = PromptHead.open(corrections, config(tmp_path, base, twin=True, channels=None))
    assert (colours.twin() is None) == (set(colours.train[0].plan(colours.base.config).selected) == set("RGB"))
    steps, result = run(corrections, config(tmp_path, base, steps=1, twin=True, channels=("NIR", "depth")))
    assert result.twin["objects"] == 1 and steps[-1].total == 2
    assert [step.step for step in steps] == sorted(step.step for step in steps)


@pytest.mark.parametrize(
    ("tune", "moved", "still"),
    [
        ("lora", ("image_encoder.stages.2", "decoder."), ("image_encoder.stem", "image_encoder.stages.0")),
        ("full", ("image_encoder.stem", "image_encoder.stages.0", "decoder."), ()),
    ],
)
def test_tuned_encoder_moves_where_it_should(tmp_path, base, corrections, tune, moved, still):
    head = PromptHead.open(corrections, config(tmp_path, base, tune=tune, mirrors=False, channels=("R", "G", "B")))
    task = head.task(lambda path, model, outcome: None, {})
    model = task.module.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in task.prepare(None):
        pass
    optimizer = torch.optim.SGD([p for group in task.groups() for p in group.parameters], lr=0.01)
    loss, _ = task.module(task.batch(StepDraw(0, 4, 0, range(2))), 0.0)
    loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    for prefix in moved:
        assert any(name.startswith(prefix) for name in changed), prefix
    for prefix in still:
        assert not any(name.startswith(prefix) for name in changed), prefix
    assert task.validate()["score"] >= 0


def test_low_rank_changes_of_a_sam_encoder_are_saved_merged(tmp_path, corrections):
    torch.manual_seed(0)
    path = save_checkpoint(tmp_path / "vit.safetensors", build_model(teacher_config("vit_test")), {})
    head = PromptHead.open(corrections, config(tmp_path, path, tune="lora", mirrors=False, channels=("R", "G", "B")))
    saved = tmp_path / "tuned.safetensors"
    from e2sam.training.tuning import plain_copy

    task = head.task(lambda target, model, outcome: save_checkpoint(target, plain_copy(model), {}), {})
    trained = task.module.model
    for layer in (part for part in trained.modules() if hasattr(part, "lora_b")):
        torch.nn.init.normal_(layer.lora_b, std=0.5)
    pixels = torch.rand(1, 3, 128, 128)
    expected = trained.encode(pixels)
    task.save(saved, None)
    assert torch.allclose(load_model(saved, device="cpu", exact=True).encode(pixels), expected, atol=1e-4)
    assert not torch.allclose(head.base.encode(pixels), expected, atol=1e-2)


def test_at_the_start_nothing_has_moved_from_the_old_model(tmp_path, base, corrections):
    head = PromptHead.open(corrections, config(tmp_path, base, channels=("R", "G", "B"), mirrors=False, replay=1.0))
    task = head.task(lambda path, model, outcome: None, {})
    for _ in task.prepare(None):
        pass
    batch = task.batch(StepDraw(1, 4, 0, range(2)))
    batch["replay"]["weights"].fill_(1.0)
    _, parts = task.module(batch, 0.0)
    assert float(parts["keep"]) == 0
    # Answers are kept in half precision.
    assert float(parts["replay"]) == pytest.approx(0, abs=2e-3)
    with torch.no_grad():
        for weight in task.module.model.decoder.parameters():
            weight.mul_(1.3)
    _, parts = task.module(batch, 0.0)
    assert float(parts["keep"]) > 0 and float(parts["replay"]) > 0.01


def test_images_that_cannot_be_read_are_left_out_and_said(tmp_path, base, corrections):
    def gone():
        raise StackError("Expected the image away.tif, got none.")

    away = CorrectionImage("away", (64, 64), gone)
    lost = [replace(one, key=f"lost {one.key}", image=away) for one in corrections.corrections[:3]]
    steps, result = run(CorrectionSet((*corrections.corrections, *lost)), config(tmp_path, base))
    told = "Left out: 3 of 12 corrections, as 1 of 2 images cannot be read: Expected the image away.tif, got none."
    assert steps[0].message == told and result.message.endswith(f" {told}")
    assert result.split["train"] + result.split["held_out"] + result.split["dropped"] == 9
    with pytest.raises(TrainingError, match=r"at least 2 .* got 1: Left out: 3 of 4 corrections"):
        next(finetune(CorrectionSet((corrections.corrections[0], *lost)), config(tmp_path, base)))


def test_too_little_or_wrong_data_is_named(tmp_path, base, corrections):
    with pytest.raises(TrainingError, match="at least 2 corrections"):
        next(finetune(CorrectionSet(corrections.corrections[:1]), config(tmp_path, base)))
    for wrong in (["a.tif"], 5, None):
        with pytest.raises(TrainingError, match="corrections, a labelled set"):
            next(finetune(wrong, config(tmp_path, base)))
    assert next(finetune(list(corrections), config(tmp_path, base))).step == 0
    with pytest.raises(TrainingError, match="head prompt"):
        next(finetune(corrections, config(tmp_path, base, head="semantic")))
    assert FinetuneConfig(out=str(tmp_path / "a.safetensors")).out == tmp_path / "a.safetensors"
    for name, value in {"steps": "x", "seed": 1.5, "judged_clicks": 0, "judged_objects": -1}.items():
        with pytest.raises(TrainingError, match=name):
            FinetuneConfig(**{"out": "a.safetensors", name: value})
    with pytest.raises(TrainingError, match="held-out share"):
        FinetuneConfig(out="a.safetensors", held_out=0.9)
    for out in ("a.pth", None):
        with pytest.raises(TrainingError, match=r"NAME\.safetensors"):
            FinetuneConfig(out=out)
    with pytest.raises(TrainingError, match="tune"):
        config(tmp_path, base, tune="everything")
    with pytest.raises(TrainingError, match="semantic"):
        config(tmp_path, base, preset="bmvc2023")
