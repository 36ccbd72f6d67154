"""Predictor: equal to SamPredictor, true to every channel, and careful with input."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from e2sam.data.normalize import ChannelRecipe, apply_recipes
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError, PromptError, StackError
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.frame import Frame
from e2sam.inference.plan import Scene
from e2sam.inference.prediction import crops_iou
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_from_sam, build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM

T = TypeVar("T", bound=nn.Module)


def stack_of(data: NDArray[Any], names: str | None = None, **kinds: str) -> ChannelStack:
    called = [f"c{index}" for index in range(len(data))] if names is None else names.split()
    return ChannelStack(data, tuple(ChannelSpec(name, kind=kinds.get(name, "")) for name in called))


def noise(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Smooth noise, so that neighbouring pixels are alike and no two channels are."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((1, shape[0], 9, 9)))
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic", align_corners=False)[0].clamp(0, 1).numpy()
    scale = {"uint8": 255, "uint16": 5000, "float32": 3.5}[dtype]
    return (smooth * scale).astype(dtype)


def randomized(module: T, seed: int = 0) -> T:
    """Random values where a fresh module has zeros, so that no part of it is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval()


@pytest.fixture(scope="module")
def sam() -> Sam:
    """A small model of segment_anything's own parts."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128,
        patch_size=16,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=256,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=5,
        global_attn_indexes=(1,),
    )
    prompt_encoder = PromptEncoder(256, (8, 8), (128, 128), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3)
    model = Sam(encoder, prompt_encoder, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    return randomized(model)


@pytest.fixture(scope="module")
def teacher(sam: Sam) -> E2SAM:
    """The same weights as `sam`."""
    return build_from_sam(sam.state_dict()).eval()


def student_of(names: str) -> E2SAM:
    channels = tuple(ChannelSpec(name) for name in names.split())
    recipes = tuple(ChannelRecipe("range", 0.0, 5000.0, 0.5) for _ in channels)
    torch.manual_seed(0)
    config = replace(teacher_config("vit_test"), channels=channels, recipes=recipes, merge="gated")
    return randomized(build_model(config))


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
    predictor._answers[-1] = replace(predictor._answers[-1], view=1)
    for _ in range(3):
        later = predictor.predict(points=[(30, 30), (10, 10)], labels=[1, 0], mask=first.logits[first.best])
        assert later.view == predictor.views[1].name
    # Without the mask, another view must promise clearly more.
    assert [answer.view for answer in predictor._answers] == [1] * 4


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


# Input


def test_wrong_prompts_are_refused_before_any_pass(teacher: E2SAM) -> None:
    predictor = Predictor(teacher, cache=False, large_side=50)
    predictor.set_stack(stack_of(noise((3, 300, 300))))
    wrong: list[Callable[[], Any]] = [
        lambda: predictor.predict(),
        lambda: predictor.predict(points=[(301, 5)]),
        lambda: predictor.predict(points=[(5, 5)], labels=[2]),
        lambda: predictor.predict(box=(9, 9, 3, 12)),
        lambda: predictor.predict(points=[(5, 5)], mask=np.zeros((9, 9))),
        lambda: predictor.predict(points="ab"),
        lambda: predictor.predict(points=[(5, 5)], mask="x"),
    ]
    for attempt in wrong:
        with pytest.raises(PromptError):
            attempt()
    assert predictor.encoder_passes == 0


def test_wrong_channels_are_refused_before_any_pass_and_leave_the_old_state(teacher: E2SAM) -> None:
    predictor = Predictor(teacher, cache=False)
    stack = stack_of(noise((4, 40, 40)))
    with pytest.raises(StackError, match="set_stack"):
        predictor.predict(points=[(5, 5)])
    for channels in ((), ("c0", "c0"), ("nothing",), (7,)):
        with pytest.raises(ChannelError):
            predictor.set_stack(stack, channels=channels)
    with pytest.raises(StackError, match="read_stack"):
        predictor.set_stack(np.zeros((3, 8, 8)))  # type: ignore[arg-type]
    with pytest.raises(StackError, match="plane"):
        predictor.set_stack(ChannelStack(np.zeros((2, 3, 8, 8)), stack.channels[:3], leading="T"))
    assert predictor.encoder_passes == 0
    predictor.set_stack(stack, channels=("c1",))
    with pytest.raises(ChannelError):
        predictor.set_channels(("nothing",))
    assert predictor.channels == ("c1",)


def test_a_mask_is_not_made_from_nothing(
    teacher: E2SAM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command may have set up its own log in this process.
    monkeypatch.setattr(logging.getLogger("e2sam"), "propagate", True)
    predictor = Predictor(teacher, cache=False)
    data = noise((4, 40, 40), "float32")
    data[:2] = np.nan
    # One valid pixel is enough.
    data[2], data[2, 7, 9] = np.nan, 1.0
    stack = stack_of(data)
    for channels in (("c0",), ("c0", "c1")):
        with pytest.raises(ChannelError, match="valid pixels"):
            predictor.set_stack(stack, channels)
    with pytest.raises(ChannelError, match="valid pixels"):
        predictor.set_stack(stack_of(np.full((3, 8, 8), np.nan, np.float32)))
    assert predictor.encoder_passes == 0
    with caplog.at_level("WARNING", "e2sam"):
        predictor.set_stack(stack, ("c0", "c2", "c3"))
    assert "No valid pixel in c0" in caplog.text


def test_invalid_pixels_never_reach_the_model(teacher: E2SAM) -> None:
    data = noise((4, 60, 60), "float32")
    data[1, 10:30] = np.nan
    data[2, :, 5:9] = np.inf
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(data), channels=range(4))
    assert np.isfinite(predictor.predict(points=[(30, 30)]).logits).all()


# Cache and threads


def test_the_second_opening_needs_no_encoder_pass(teacher: E2SAM, tmp_path: Any) -> None:
    model = build_model(teacher_config("vit_test")).eval()
    model.fingerprint = "one"
    data = noise((5, 60, 60), "uint16")
    first = Predictor(model, cache=EmbeddingCache(tmp_path))
    first.set_stack(stack_of(data), channels=range(5))
    expected = first.predict(points=[(30, 30)])
    second = Predictor(model, cache=EmbeddingCache(tmp_path))
    second.set_stack(stack_of(data.copy()), channels=range(5))
    found = second.predict(points=[(30, 30)])
    assert (first.encoder_passes, second.encoder_passes) == (1, 0)
    np.testing.assert_allclose(found.logits, expected.logits, atol=0.02)
    second.set_stack(stack_of(data[::-1].copy()), channels=range(5), recipes="none")
    assert second.encoder_passes == 1

    model.fingerprint = "another"
    third = Predictor(model, cache=EmbeddingCache(tmp_path))
    third.prefetch(stack_of(data), channels=range(5))
    assert third.encoder_passes == 1
    third.set_stack(stack_of(data), channels=range(5))
    assert third.encoder_passes == 1


def test_a_model_without_fingerprint_is_never_cached(tmp_path: Any) -> None:
    predictor = Predictor(build_model(teacher_config("vit_test")).eval(), cache=EmbeddingCache(tmp_path))
    predictor.set_stack(stack_of(noise((3, 40, 40))))
    assert not list(tmp_path.iterdir())


def test_predict_answers_for_the_earlier_stack_while_another_is_set(teacher: E2SAM) -> None:
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(noise((3, 40, 50))))
    started, go_on = threading.Event(), threading.Event()
    run = predictor._encoder._run

    def slow(*given: Any) -> Tensor:
        started.set()
        assert go_on.wait(20)
        return run(*given)

    predictor._encoder._run = slow  # type: ignore[method-assign]
    worker = threading.Thread(target=predictor.set_stack, args=(stack_of(noise((3, 90, 20), seed=1)),))
    worker.start()
    assert started.wait(20)
    assert predictor.predict(points=[(45, 5)]).masks.shape == (3, 40, 50)
    go_on.set()
    worker.join(20)
    assert predictor.predict(points=[(5, 85)]).masks.shape == (3, 90, 20)


def test_refining_looks_closer(teacher: E2SAM) -> None:
    predictor = Predictor(teacher, cache=False)
    predictor.set_stack(stack_of(noise((3, 600, 800))))
    prompts = Prompts.checked([(400, 300), (10, 10)], [1, 0], None, None, predictor.size)
    refined = predictor.refine(prompts, (390, 290, 420, 305))
    x0, y0, x1, y1 = refined.window
    assert (x0, y0, x1, y1) == (375, 267, 435, 328)
    assert refined.masks.shape == (1, 600, 800)
    assert predictor.encoder_passes == 2
    box = refined.mask_box()
    assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
