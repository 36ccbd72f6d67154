"""Predictor: equal to SamPredictor, true to every channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from predicting import noise, small_sam, stack_of, student_of
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor

from e2sam.data.normalize import apply_recipes
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError
from e2sam.inference.frame import Frame
from e2sam.inference.plan import Scene
from e2sam.inference.prediction import crops_iou
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_from_sam
from e2sam.modeling.e2sam import E2SAM


@pytest.fixture(scope="module")
def sam() -> Sam:
    return small_sam()


@pytest.fixture(scope="module")
def teacher(sam: Sam) -> E2SAM:
    """The same weights as `sam`."""
    return build_from_sam(sam.state_dict()).eval()


# Agreement with segment_anything


PROMPTS: list[dict[str, Any]] = [
    {"points": [(20, 30)], "labels": [1]},
    {"points": [(20.5, 30.25), (5, 8)], "labels": [1, 0]},
    {"box": (4, 6, 40, 50)},
    {"points": [(20, 30), (33, 40)], "labels": [1, 1], "box": (4, 6, 40, 60), "multimask": False},
]


@pytest.mark.parametrize("size", [(97, 61), (60, 201), (128, 128), (300, 260)])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_equals_sam_predictor_on_rgb_bytes(
    sam: Sam, teacher: E2SAM, size: tuple[int, int], prompt: dict[str, Any]
) -> None:
    data = noise((3, *size))
    reference = SamPredictor(sam)
    reference.set_image(data.transpose(1, 2, 0))
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(data, "R G B"))
    multimask = prompt.get("multimask", True)
    points = None if "points" not in prompt else np.array(prompt["points"], float)
    labels = None if "labels" not in prompt else np.array(prompt["labels"])
    box = None if "box" not in prompt else np.array(prompt["box"], float)
    masks, scores, logits = reference.predict(points, labels, box, None, multimask)
    found = predictor.predict(**prompt)
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert found.masks.shape == masks.shape
    assert (found.masks == masks).mean() > 0.9999

    masks, _, logits = reference.predict(points, labels, box, logits[:1], multimask)
    again = predictor.predict(**prompt, mask=found.logits[0])
    np.testing.assert_allclose(again.logits, logits, atol=1e-4)


# Every number of channels


COUNTS = (1, 2, 3, 4, 5, 8, 13, 16, 32)


@pytest.mark.parametrize("layout", ["CYX", "YXC"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", COUNTS)
def test_one_pass_whole_mask_and_every_channel_counts(teacher: E2SAM, count: int, dtype: str, layout: str) -> None:
    data = noise((count, 45, 70), dtype)
    if layout == "YXC":
        data = np.ascontiguousarray(data.transpose(1, 2, 0)).transpose(2, 0, 1)
    stack = stack_of(data)
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack, channels=range(count))
    prediction = predictor.predict(points=[(30, 20)])
    assert predictor.encoder_passes == 1
    assert prediction.masks.shape == (3, 45, 70)
    assert prediction.masks.dtype == bool
    assert set(prediction.channels) <= set(stack.names)
    assert {name for view in predictor.views for name in view.channels} == set(stack.names)

    # Recipes are held, or a change of range would move all channels' pixels.
    scene = Scene.of(stack)
    plan = scene.plan(teacher.config, range(count))
    frame = Frame.of((45, 70), teacher.config)
    whole = (0, 0, 70, 45)
    before = plan.planes(whole, frame)
    for channel in range(count):
        changed = data.copy()
        changed[channel] = changed[channel][::-1, ::-1]
        after = replace(plan, scene=replace(scene, stack=stack_of(changed))).planes(whole, frame)
        assert np.abs(after[0] - before[0]).max() > 1e-3, f"channel {channel} does not reach the encoder"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13, 16, 32])
def test_every_selected_channel_changes_the_embedding(teacher: E2SAM, count: int) -> None:
    data = noise((count, 45, 70), "uint16")
    predictor = Predictor(teacher, cache=False)
    scene = Scene.of(stack_of(data))
    predictor.set_stack(stack_of(data), range(count), scene.recipes)
    before = predictor._encoder.encode(predictor._in_use().plan, (0, 0, 70, 45)).features
    for channel in range(count):
        changed = data.copy()
        changed[channel] = changed[channel][::-1, ::-1]
        predictor.set_stack(stack_of(changed), range(count), scene.recipes)
        after = predictor._encoder.encode(predictor._in_use().plan, (0, 0, 70, 45)).features
        assert not torch.allclose(after[0], before[0], atol=1e-4)


def test_two_channels_give_first_second_and_mean(teacher: E2SAM) -> None:
    data = noise((2, 128, 128))
    plan = Scene.of(stack_of(data), "none").plan(teacher.config, (1, 0))
    (planes,) = plan.planes((0, 0, 128, 128), Frame.of((128, 128), teacher.config))
    expected = np.stack([data[1], data[0], data.astype(float).mean(axis=0)])
    np.testing.assert_allclose(planes, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_large_planes_are_normalized_as_small_ones(teacher: E2SAM, dtype: str) -> None:
    data = noise((1, 700, 600), dtype)
    stack = ChannelStack(data, (ChannelSpec("a", nodata=float(data[0, 5, 5])),))
    scene = Scene.of(stack, "percentile")
    frame = Frame.of((700, 600), teacher.config)
    found = scene.plan(teacher.config, ("a",)).planes((0, 0, 600, 700), frame)[0, 0]
    expected = frame.resize(apply_recipes(data, stack.valid_of(data), scene.recipes)[0])
    np.testing.assert_allclose(found / 255, expected, atol=1e-5)


def test_the_view_with_the_best_predicted_quality_wins_and_is_named(teacher: E2SAM) -> None:
    stack = stack_of(noise((6, 60, 60), "uint16"))
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack, channels=range(6))
    found = predictor.predict(points=[(30, 30)])
    alone = []
    for view in predictor.views:
        assert view.matrix is not None
        if len(view.channels) == 3:
            single = Predictor(teacher, cache=False)
            single.set_stack(stack, channels=view.channels, recipes=Scene.of(stack).recipes)
            alone.append(single.predict(points=[(30, 30)]).scores.max())
    assert found.scores.max() >= max(alone) - 1e-5
    assert found.view in [view.name for view in predictor.views]
    np.testing.assert_allclose(predictor.channel_weights((6, 6)).sum(axis=0), 1, atol=1e-6)


def test_a_mask_prompt_stays_on_its_view(teacher: E2SAM) -> None:
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(noise((8, 60, 60), "uint16")), channels=range(8))
    first = predictor.predict(points=[(30, 30)])
    plan = predictor._in_use().plan
    answer = predictor._answers.last(plan)
    assert answer is not None
    predictor._answers.clear()
    predictor._answers.add(replace(answer, view=1))
    for _ in range(3):
        later = predictor.predict(points=[(30, 30), (10, 10)], labels=[1, 0], mask=first.logits[first.best])
        assert later.view == predictor.views[1].name
        kept = predictor._answers.last(plan)
        assert kept is not None and kept.view == 1


def test_clicks_on_one_image_give_the_decoder_the_same_embedding(
    teacher: E2SAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    decode = teacher.decode

    def spy(embeddings: Tensor, *given: Any) -> Any:
        seen.append(embeddings)
        return decode(embeddings, *given)

    monkeypatch.setattr(teacher, "decode", spy)
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(noise((3, 60, 60))))
    for click in (10, 20, 30):
        predictor.predict(points=[(click, click)])
    predictor.decode_points(np.array([[5, 5]], np.float32))
    assert all(embeddings is seen[0] for embeddings in seen)


# Students


def test_a_student_changes_its_selection_without_an_encoder_pass() -> None:
    predictor = Predictor(student_of("a b c d e"), cache=False)
    predictor.set_stack(stack_of(noise((5, 60, 80), "uint16"), "e d c b a"), channels=("a", "b"))
    first = predictor.predict(points=[(30, 30)])
    predictor.set_channels(("c", "d", "e"))
    second = predictor.predict(points=[(30, 30)])
    assert predictor.encoder_passes == 1
    assert second.channels == ("c", "d", "e")
    assert second.view == "student"
    assert not np.allclose(first.logits, second.logits)


def test_a_student_finds_its_channels_by_name() -> None:
    model = student_of("a b c")
    data = noise((4, 60, 80), "uint16")
    found = []
    for order in ("a b c x", "x c b a"):
        places = [["a", "b", "c", "x"].index(name) for name in order.split()]
        predictor = Predictor(model, cache=False)
        predictor.set_stack(stack_of(data[places], order))
        assert set(predictor.channels) == {"a", "b", "c"}
        found.append(predictor.predict(points=[(30, 30)]).logits)
    np.testing.assert_array_equal(*found)


def test_a_student_refuses_other_channels_with_both_lists() -> None:
    predictor = Predictor(student_of("a b c"), cache=False)
    stack = stack_of(noise((3, 40, 40), "uint16"), "a b thermal")
    with pytest.raises(ChannelError, match=r"a, b, c.*a, b, thermal.*missing: c"):
        predictor.set_stack(stack)
    predictor.set_stack(stack, mapping={"c": "thermal"})
    assert predictor.channels == ("a", "b", "thermal")
    predictor.set_stack(stack, missing="fill")
    assert predictor.channels == ("a", "b")
    with pytest.raises(ChannelError, match="thermal"):
        predictor.set_stack(stack, channels=("a", "thermal"), missing="fill")
    with pytest.raises(ChannelError, match="mapping"):
        predictor.set_stack(stack, mapping={"z": "thermal"})
    assert predictor.encoder_passes == 2


def test_a_student_without_names_refuses_a_stack_of_another_kind() -> None:
    predictor = Predictor(student_of("ch0 ch1 ch2"), cache=False)
    with pytest.raises(ChannelError, match=r"3 channels, as the model's have no names.*got 5"):
        predictor.set_stack(stack_of(noise((5, 40, 40), "uint16"), "ch0 ch1 ch2 ch3 ch4"))
    assert predictor.encoder_passes == 0
    predictor.set_stack(stack_of(noise((3, 40, 40), "uint16"), "ch0 ch1 ch2"))
    stack = stack_of(noise((4, 40, 40), "uint16"), "a b c d")
    predictor.set_stack(stack, mapping={"ch0": "d", "ch1": "a", "ch2": "b"})
    assert set(predictor.channels) == {"a", "b", "d"}


def test_weights_of_a_student_are_those_of_its_merge_module() -> None:
    model = student_of("a b c")
    assert model.merge is not None
    with torch.no_grad():
        model.merge.query.weight.mul_(50)
    predictor = Predictor(model, cache=False)
    predictor.set_stack(stack_of(noise((3, 64, 128), "uint16"), "a b c"))
    weights = predictor.channel_weights()
    assert weights.shape == (3, 64, 128)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    features = predictor._encoder.encode(predictor._in_use().plan, (0, 0, 128, 64)).features
    own = model.merge.weights(features, (0, 1, 2))[0, :, :4].detach()
    # The image fills the upper half of the frame; each position stands for 16 x 16 pixels.
    centres = weights[:, [23, 24, 39, 40]][:, :, [55, 56, 71, 72]].reshape(3, 2, 2, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(centres, own[:, 1:3, 3:5], atol=1e-3)
    assert own.std(dim=(1, 2)).max() > 1e-4
    prediction = predictor.predict(points=[(30, 30)])
    shares = predictor.channel_shares(prediction)
    assert list(shares) == ["a", "b", "c"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_leaving_a_channel_out_costs_a_student_no_pass() -> None:
    predictor = Predictor(student_of("a b c"), cache=False)
    predictor.set_stack(stack_of(noise((3, 64, 64), "uint16"), "a b c"))
    prompts = Prompts.checked([(20, 20)], None, None, None, predictor.size)
    found = predictor.leave_one_out(prompts)
    assert list(found) == ["a", "b", "c"]
    assert all(0 <= value <= 1 for value in found.values())
    assert predictor.encoder_passes == 1
    predictor.set_channels(("a", "c"))
    without_a = predictor.leave_one_out(prompts)["a"]
    predictor.set_channels(("a", "c"))
    full = predictor.predict_prompts(prompts)
    predictor.set_channels(("c",))
    rest = predictor.predict_prompts(prompts)
    assert without_a == pytest.approx(crops_iou(full.mask_crop(), rest.mask_crop()))
