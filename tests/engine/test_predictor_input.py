"""Predictor: careful with input, sparing with passes, safe beside other threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predicting import noise, small_sam, stack_of, student_of
from torch import Tensor

import e2sam
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelStack
from e2sam.errors import ChannelError, CheckpointError, PromptError, StackError, TrainingError
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_from_sam, build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM


@pytest.fixture(scope="module")
def teacher() -> E2SAM:
    return build_from_sam(small_sam().state_dict()).eval()


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
        lambda: predictor.predict(points=[(5, 5), (6, 6)], labels=[[1, 2], [3]]),
        lambda: predictor.predict(points=[(5, 5), (6, 6)], labels=[None, "a"]),
        lambda: predictor.predict(points=[(10**400, 1)]),
        lambda: predictor.predict(points=[(10**5000, 1)]),
        lambda: predictor.predict(points=[(1e300, 1)]),
        lambda: predictor.predict(box=(10**400, 1, 1, 1)),
        lambda: predictor.predict(points=[(5, 5)], view="x"),
        lambda: predictor.predict(points=[(5, 5)], view=(0, 0, 9)),
        lambda: predictor.predict(points=[(5, 5)], view=(0, 0, 9, np.nan)),
        lambda: predictor.predict(points=[(5, 5)], view=(9, 0, 9, 9)),
        lambda: predictor.predict(points=[(5, 5)], view=(0, 9, 9, 3)),
    ]
    for attempt in wrong:
        with pytest.raises(PromptError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
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


@pytest.mark.parametrize("recipes", [5, ["percentile"] * 4, [None] * 4, (), "bad", {"c0": 5}, object()])
def test_recipes_that_are_none_are_refused_before_any_pass(teacher: E2SAM, recipes: Any) -> None:
    predictor = Predictor(teacher, cache=False)
    with pytest.raises(ChannelError, match=r"Expected .*recipe"):
        predictor.set_stack(stack_of(noise((4, 40, 40))), recipes=recipes)
    assert predictor.encoder_passes == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mapping": ["R"]}, "Expected a mapping .*'R'"),
        ({"mapping": 5}, "Expected a mapping"),
        ({"mapping": {"R": 0}}, "Expected a mapping"),
        ({"mapping": {"a": ["c0"]}}, "Expected a mapping"),
        ({"missing": "foo"}, "'refuse' or 'fill', got 'foo'"),
        ({"missing": None}, "'refuse' or 'fill', got None"),
        ({"recipes": 5}, "one recipe for each"),
        ({"channels": np.array(2)}, r"names or indices of channels, or 'auto', got array\(2\)"),
    ],
)
@pytest.mark.parametrize("is_student", [True, False])
def test_what_cannot_be_matched_is_refused_before_any_pass(
    teacher: E2SAM, is_student: bool, options: dict[str, Any], said: str
) -> None:
    predictor = Predictor(student_of("c0 c1 c2 c3") if is_student else teacher, cache=False)
    with pytest.raises(ChannelError, match=said):
        predictor.set_stack(stack_of(noise((4, 40, 40))), **options)
    assert predictor.encoder_passes == 0


def test_masked_pixels_are_as_unmeasured_ones(teacher: E2SAM) -> None:
    data = noise((3, 40, 40), "float32")
    masked = np.ma.masked_array(data, np.zeros(data.shape, bool))
    masked[1, 10:30] = np.ma.masked
    holed = data.copy()
    holed[1, 10:30] = np.nan
    answers = []
    for pixels in (masked, holed):
        predictor = Predictor(teacher, cache=False)
        predictor.set_stack(stack_of(pixels))
        answers.append(predictor.predict(points=[(30, 30)]).logits)
    np.testing.assert_array_equal(*answers)


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
    assert refined.close_up is not None
    x0, y0, x1, y1 = refined.close_up.window
    assert (x0, y0, x1, y1) == (375, 267, 435, 328)
    # What can be given back as a mask prompt is of the whole image, as every other prediction's.
    assert refined.window == (0, 0, 800, 600)
    assert refined.logits.shape == (1, *refined.frame.logits_size)
    again = predictor.predict([(400, 300)], [1], mask=refined.logits[0], multimask=False)
    assert again.frame == refined.frame
    assert refined.masks.shape == (1, 600, 800)
    assert predictor.encoder_passes == 2
    box = refined.mask_box()
    assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1


def test_what_is_no_model_or_no_settings_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"load it with e2sam\.load_model"):
        Predictor("tiny")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="Expected a FinetuneConfig, got None"):
        next(e2sam.finetune(tmp_path, None))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="Expected an InheritConfig, got None"):
        next(e2sam.inherit([], None))  # type: ignore[arg-type]
