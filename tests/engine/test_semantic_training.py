"""Fine-tuning for classes: every channel counts, what is not labelled does not, and checkpoints load like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from e2sam.data.io.datasets import LabelledItem, LabelledSet
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import CheckpointError, TrainingError
from e2sam.inference.semantic import segment_semantic
from e2sam.modeling.build import build_with_weights
from e2sam.training.finetune import FinetuneConfig, finetune
from e2sam.training.semantic import (
    NOT_COUNTED,
    SemanticImage,
    SemanticModule,
    SemanticSettings,
    SemanticTiles,
    _dice_loss,
)
from e2sam.training.semantic_head import SemanticHead
from e2sam.training.task import StepDraw
from e2sam.weights.checkpoint import read_checkpoint_info, save_checkpoint
from e2sam.weights.zoo import load_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The embedded model at a frame of 64 pixels."""
    model = load_model("tiny", device="cpu")
    small = build_with_weights(replace(model.config, image_size=64), model.state_dict())
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small.safetensors", small, {"stage": "test"})


def fields(seed=0, size=(64, 64)):
    """Three crops as blocks of 16 pixels: red, green and blue are noise, only the infrared channels tell them apart."""
    generator = np.random.default_rng(seed)
    labels = np.kron(generator.integers(1, 4, (size[0] // 16, size[1] // 16)), np.ones((16, 16), int)).astype(np.int32)
    data = generator.normal(0.4, 0.05, (5, *size)).astype(np.float32)
    data[3] += 0.15 * (labels == 1)
    data[4] += 0.15 * (labels == 2)
    channels = (*(ChannelSpec(name) for name in "RGB"), ChannelSpec("nir"), ChannelSpec("swir"))
    labels[generator.random(size) < 0.5] = 0
    return ChannelStack(data, channels), labels


def labelled(count=1, **settings):
    items = tuple(
        LabelledItem(f"field{number}", "", lambda number=number: fields(number, **settings)) for number in range(count)
    )
    return LabelledSet(items, "classes", 0)


def config(tmp_path, base, **settings):
    fast = {"steps": 2, "validate_every": 2, "head": "semantic", "twin": False, "device": "cpu"}
    return FinetuneConfig(out=tmp_path / "new.safetensors", model=base, **{**fast, **settings})


def run(data, chosen):
    steps, runner = [], finetune(data, chosen)
    while True:
        try:
            steps.append(next(runner))
        except StopIteration as end:
            return steps, end.value


def test_channels_beyond_red_green_and_blue_are_used_and_the_checkpoint_predicts(tmp_path, base):
    chosen = config(tmp_path, base, steps=40, validate_every=20, twin=True, classes=("wheat", "maize", "fallow"))
    _, result = run(labelled(), chosen)
    assert result.split["kind"] == "region" and result.accepted
    assert result.before["miou"] < 0.4 < 0.7 < result.after["miou"]
    assert result.after["miou"] > result.twin["miou"] + 0.2
    assert [row["class"] for row in result.after["per_class"]] == ["wheat", "maize", "fallow"]
    info = read_checkpoint_info(result.out)
    assert info.classes == ("wheat", "maize", "fallow") and info.parent == load_model(base, device="cpu").fingerprint
    model = load_model(result.out, device="cpu")
    assert model.config.semantic.values == (1, 2, 3) and [one.name for one in model.config.channels][3] == "nir"
    stack, labels = fields(1)
    found = segment_semantic(model, stack, with_probabilities=True)
    assert np.mean(found.labels[labels > 0] == labels[labels > 0]) > 0.7
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(found.labels, found.probabilities.argmax(0) + 1)


@pytest.mark.parametrize(
    ("decoder", "spectrum", "seen"), [("detail", True, 3), ("detail", False, 5), ("bmvc2023", True, 5)]
)
def test_of_a_spectrum_the_encoder_sees_a_photograph_first(tmp_path, base, decoder, spectrum, seen):
    stack, labels = fields()
    waves = (665.0, 560.0, 490.0, 842.0, 1610.0)
    channels = tuple(
        ChannelSpec(f"b{number}", wavelength_nm=wave if spectrum else None) for number, wave in enumerate(waves)
    )
    stack = ChannelStack(stack.read(), channels)
    data = LabelledSet((LabelledItem("field", "", lambda: (stack, labels)),), "classes", 0)
    student = SemanticHead.open(data, config(tmp_path, base, decoder=decoder))._student()
    generator = torch.Generator().manual_seed(0)
    planes = torch.rand(1, 5, 64, 64, generator=generator)
    with torch.no_grad():
        before = student.embed(student.encode(student.prepare(planes, (64, 64))))
        moved = []
        for band in range(5):
            other = planes.clone()
            other[:, band] = torch.rand(1, 64, 64, generator=generator)
            after = student.embed(student.encode(student.prepare(other, (64, 64))))
            moved.append(not torch.allclose(before, after, atol=1e-4))
    assert moved == [True] * seen + [False] * (5 - seen)


def test_images_are_held_out_whole_and_a_semantic_model_is_trained_further(tmp_path, base):
    _, first = run(labelled(4), config(tmp_path / "a", base))
    assert first.split["kind"] == "image" and (first.split["train"], first.split["held_out"]) == (3, 1)
    chosen = config(tmp_path / "b", first.out, steps=20, validate_every=10)
    _, second = run(labelled(4), chosen)
    assert second.before["miou"] == pytest.approx(first.after["miou"] if first.accepted else second.before["miou"])
    assert second.after["miou"] > second.before["miou"]


@pytest.mark.parametrize("tune", ["decoder", "lora", "full"])
def test_what_is_tuned_moves_and_nothing_else(tmp_path, base, tune):
    head = SemanticHead.open(labelled(), config(tmp_path, base, tune=tune))
    task = head.task(lambda path, model, outcome: None, {})
    for _ in task.prepare(None):
        pass
    model = task.module.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for group in task.groups() for p in group.parameters], lr=0.1)
    loss, _ = task.module(task.batch(StepDraw(0, 2, 0, range(2))), 0.0)
    loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert any(name.startswith("semantic.") for name in changed)
    assert any(name.startswith("image_encoder.") for name in changed) == (tune != "decoder")
    assert any(name.startswith("image_encoder.stem") for name in changed) == (tune == "full")
    assert not any(name.startswith("decoder.") for name in changed)
    assert 0 <= task.validate()["miou"] <= 1


def test_resumed_run_has_the_same_losses(tmp_path, base):
    chosen = config(tmp_path / "whole", base, steps=5, checkpoint_every=2)
    steps, _ = run(labelled(), chosen)
    chosen = replace(chosen, out=tmp_path / "parts" / "new.safetensors")
    runner = finetune(labelled(), chosen)
    for step in runner:
        if step.step == 3:
            break
    runner.close()
    resumed, _ = run(labelled(), replace(chosen, resume=True))
    expected = {step.step: step.loss for step in steps if step.step > 3 and not np.isnan(step.loss)}
    assert {step.step: step.loss for step in resumed if not np.isnan(step.loss)} == expected != {}


def tiles_of_model(base, tmp_path, labels, counted=None, ignore_index=0):
    head = SemanticHead.open(labelled(), config(tmp_path, base))
    model = head._student()
    stack, _ = fields()
    return SemanticTiles([SemanticImage("one", lambda: (stack, labels), counted)], model, ignore_index), model


def test_what_is_not_labelled_has_no_part_in_the_loss(tmp_path, base):
    _, labels = fields()
    tiles, model = tiles_of_model(base, tmp_path, labels)
    module = SemanticModule(model, SemanticSettings(flips=False), tiles.counts)
    loss, _ = module([tiles.encoded(0)], 0.0)
    assert (tiles.labels(0, (0, 0, 64, 64)).numpy() == np.where(labels == 0, NOT_COUNTED, labels - 1)).all()
    assert tiles.counts.tolist() == [int((labels == value).sum()) for value in (1, 2, 3)]
    hidden = labels.copy()
    hidden[:32] = 0
    by_mask, _ = tiles_of_model(base, tmp_path, labels, counted=np.arange(64)[:, None].repeat(64, 1) >= 32)
    by_label, _ = tiles_of_model(base, tmp_path, hidden)
    one, other = (module([part.encoded(0)], 0.0)[0] for part in (by_mask, by_label))
    assert torch.equal(one, other) and not torch.equal(one, loss)


def test_empty_tile_costs_nothing_and_strange_labels_are_named(tmp_path, base):
    logits = torch.randn(3, 4, 4)
    assert float(_dice_loss(logits, torch.full((4, 4), NOT_COUNTED))) == 0
    strange = fields()[1]
    strange[5, 5] = 9
    with pytest.raises(TrainingError, match=r"\[9\] in one|got \[9\]"):
        tiles_of_model(base, tmp_path, strange)


def test_dice_of_a_hand_worked_case():
    labels = torch.tensor([[0, 0], [1, NOT_COUNTED]])
    sure = torch.zeros(2, 2, 2)
    sure[0], sure[1] = torch.tensor([[50.0, -50.0], [-50.0, 0.0]]), torch.tensor([[-50.0, 50.0], [50.0, 0.0]])
    # class 0: 1 of 2 found, class 1: 1 found and 1 too much; (2 * 1 + 1) / (1 + 2 + 1) and (2 * 1 + 1) / (2 + 1 + 1).
    assert float(_dice_loss(sure, labels)) == pytest.approx(1 - 3 / 4, abs=1e-5)


def test_mirrored_tile_has_mirrored_labels_and_pixels(tmp_path, base):
    tiles, _ = tiles_of_model(base, tmp_path, fields()[1])
    plain, flipped = tiles.sample(0, (0, 0, 64, 64)), tiles.sample(0, (0, 0, 64, 64), (2,))
    assert torch.equal(flipped["labels"], plain["labels"].flip(1))
    assert torch.equal(flipped["pixels"][..., :64], plain["pixels"][..., :64].flip(3))


def test_wrong_models_and_settings_are_named(tmp_path, base):
    with pytest.raises(CheckpointError, match="semantic decoder"):
        segment_semantic(load_model(base, device="cpu"), fields()[0])
    with pytest.raises(TrainingError, match="3 class names"):
        next(finetune(labelled(), config(tmp_path, base, classes=("a", "b"))))
    with pytest.raises(TrainingError, match="head prompt"):
        next(finetune(replace(labelled(), kind="instances"), config(tmp_path, base)))
