"""Segment everything: known scenes come out as known instances, whole or by tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import E2SamError, PromptError, StackError
from e2sam.inference.automatic import (
    AutomaticOptions,
    AutomaticStep,
    _boxes,
    segment_everything,
    segment_everything_steps,
)
from e2sam.inference.canvas import LabelCanvas
from e2sam.inference.predictor import Predictor
from e2sam.inference.tiling import tiles_of
from e2sam.modeling.e2sam import E2SAM
from e2sam.weights.zoo import load_model

# Values that the stand-in model tells apart: each object has its own brightness.
BOXES = {(10, 12, 40, 40): 120, (60, 20, 100, 60): 170, (20, 70, 90, 110): 220}


def scene(size: tuple[int, int], boxes: dict[tuple[int, int, int, int], int]) -> ChannelStack:
    plane = np.full(size, 20, np.uint8)
    for (x0, y0, x1, y1), value in boxes.items():
        plane[y0:y1, x0:x1] = value
    return ChannelStack(np.stack([plane] * 3), tuple(ChannelSpec(name) for name in "RGB"))


def truth(size: tuple[int, int], boxes: dict[tuple[int, int, int, int], int]) -> list[NDArray[np.bool_]]:
    masks = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return masks


def best_ious(labels: NDArray[np.int32], masks: list[NDArray[np.bool_]]) -> list[float]:
    found = []
    for mask in masks:
        inside = np.bincount(labels[mask], minlength=2)
        inside[0] = 0
        label = int(inside.argmax())
        found.append(
            float((mask & (labels == label)).sum() / (mask | (labels == label)).sum()) if inside.any() else 0.0
        )
    return found


def test_every_object_is_one_instance(brightness_model: E2SAM) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    labels = segment_everything(predictor, points_per_side=16)
    assert labels.shape == (128, 112)
    assert labels.dtype == np.int32
    assert predictor.encoder_passes == 1
    assert min(best_ious(labels, truth((128, 112), BOXES))) > 0.85
    # The ground is one instance more.
    assert sorted(np.unique(labels[labels > 0])) == list(range(1, len(BOXES) + 2))


def test_quality_stability_and_area_are_asked_for(brightness_model: E2SAM) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    assert segment_everything(predictor, points_per_side=8, min_quality=0.96).max() == 0
    assert segment_everything(predictor, points_per_side=8, stability_offset=1e6).max() == 0
    large = segment_everything(predictor, points_per_side=16, min_area=1500)
    assert best_ious(large, truth((128, 112), BOXES))[0] < 0.5 < best_ious(large, truth((128, 112), BOXES))[2]
    with pytest.raises(E2SamError, match="points_per_side"):
        segment_everything(predictor, points=3)
    with pytest.raises(E2SamError, match="at least 1 point"):
        AutomaticOptions(points_per_side=0)


def test_steps_tell_how_far_it_is_and_can_be_left(brightness_model: E2SAM) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    steps = segment_everything_steps(predictor, AutomaticOptions(points_per_side=8, points_per_batch=10))
    seen = [next(steps), next(steps)]
    assert seen == [AutomaticStep(1, 6), AutomaticStep(2, 6)]
    steps.close()


def test_tiles_join_what_crosses_them(brightness_model: E2SAM) -> None:
    boxes = {(30, 40, 290, 90): 120, (100, 150, 160, 400): 170, (250, 250, 300, 300): 220}
    size = (416, 320)
    predictor = Predictor(brightness_model, cache=False, large_side=200)
    predictor.set_stack(scene(size, boxes), recipes="none")
    labels = segment_everything(predictor, points_per_side=10)
    assert predictor.encoder_passes == len(tiles_of(size, 128, 32))
    assert min(best_ious(labels, truth(size, boxes))) > 0.9
    assert labels[0, 0] == labels[415, 319] == labels[200, 5] > 0, "the ground is one, through all tiles"


@pytest.mark.parametrize("large_side", [8192, 64])
def test_in_a_window_what_its_border_cuts_is_left_out(brightness_model: E2SAM, large_side: int) -> None:
    predictor = Predictor(brightness_model, cache=False, large_side=large_side)
    predictor.set_stack(scene((128, 112), BOXES), recipes="none")
    x0, y0, x1, y1 = window = (5, 6, 80, 66)
    labels = segment_everything(predictor, points_per_side=16, window=window)
    assert labels.shape == (60, 75)
    assert np.unique(labels).tolist() == [0, 1], "neither the ground nor the box that lies half outside"
    whole, cut, _ = (mask[y0:y1, x0:x1] for mask in truth((128, 112), BOXES))
    assert best_ious(labels, [whole])[0] > 0.85
    assert not labels[cut].any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"points_per_side": "a"}, "at least 1 point"),
        ({"points_per_side": 2.5}, "at least 1 point"),
        ({"points_per_batch": True}, "at least 1 point"),
        ({"min_quality": "a"}, "quality, stability"),
        ({"max_overlap": None}, "overlap in 0..1"),
        ({"tile_overlap": 0.6}, "tile overlap"),
        ({"min_area": "x"}, "area of 0 or more"),
        ({"stability_offset": float("nan")}, "offset as a number"),
        ({"tile_side": 40.5}, "at least 32 pixels, got 40.5"),
        ({"options": {}}, "Expected AutomaticOptions or None, got {}"),
        ({"options": {"points_per_side": 3}}, "Expected AutomaticOptions or None"),
    ],
)
def test_wrong_options_are_refused_before_any_decoding(
    brightness_model: E2SAM, wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    monkeypatch.setattr(predictor, "decode_points", None)
    with pytest.raises(PromptError, match=said):
        segment_everything(predictor, **wrong)
    for out in ("x", np.zeros((3, 3), np.int32), np.zeros((128, 112))):
        with pytest.raises(PromptError, match="int32 to write to"):
            next(segment_everything_steps(predictor, out=out))  # type: ignore[arg-type]
    with pytest.raises(StackError, match="Expected a Predictor"):
        segment_everything(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "window",
    [(0, 0, 113, 60), (-1, 0, 60, 60), (40, 0, 40, 60), (0, 0, 10), "abcd", (0, 0, 10.5, 10), 5, (0, 0, None, 10)],
)
def test_a_window_that_does_not_fit_is_refused(brightness_model: E2SAM, window: Any) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    with pytest.raises(PromptError, match="112 x 128"):
        segment_everything(predictor, window=window)


def test_a_tile_side_can_be_asked_for(brightness_model: E2SAM) -> None:
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    labels = segment_everything(predictor, points_per_side=8, tile_side=64)
    assert predictor.encoder_passes > 1
    assert min(best_ious(labels, truth((128, 112), BOXES))) > 0.85


def test_plain_objects_are_not_cut_into_pieces() -> None:
    rows, columns = np.mgrid[:300, :400]
    discs = [(rows - y) ** 2 + (columns - x) ** 2 <= 28**2 for y in (60, 155, 250) for x in (60, 155, 250, 345)]
    plane = 60.0 + 140 * np.sum(discs, axis=0)
    noise = np.random.default_rng(0).normal(0, 2, (3, 300, 400))
    stack = ChannelStack((plane + noise).astype(np.uint8), tuple(ChannelSpec(name) for name in "RGB"))
    predictor = Predictor(load_model("tiny", device="cpu"), cache=False)
    predictor.set_stack(stack)
    labels = segment_everything(predictor, AutomaticOptions(points_per_side=16))
    assert min(best_ious(labels, discs)) > 0.9
    assert labels.max() <= 20


def test_boxes_and_stability_are_those_of_segment_anything() -> None:
    masks = torch.from_numpy(np.random.default_rng(0).random((20, 17, 23)) > 0.97)
    masks = masks[masks.flatten(1).any(dim=1)]
    expected = batched_mask_to_box(masks)
    expected[:, 2:] += 1
    assert torch.equal(_boxes(masks).long(), expected.long())
    logits = torch.randn(6, 20, 20) * 3
    surely, maybe = (logits > 1).sum(dim=(1, 2)), (logits > -1).sum(dim=(1, 2))
    assert torch.allclose(surely / maybe, calculate_stability_score(logits, 0.0, 1.0))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), side=st.integers(12, 40))
def test_a_canvas_gives_back_the_labels_that_tiles_were_cut_from(seed: int, side: int) -> None:
    generator = np.random.default_rng(seed)
    whole = np.zeros((70, 90), np.int32)
    for number in range(1, 8):
        x0, y0 = generator.integers(0, 70), generator.integers(0, 50)
        whole[y0 : y0 + generator.integers(2, 40), x0 : x0 + generator.integers(2, 40)] = number
    canvas = LabelCanvas(whole.shape)
    for x0, y0, x1, y1 in tiles_of(whole.shape, side, side // 3):
        _, objects = np.unique(whole[y0:y1, x0:x1], return_inverse=True)
        tile = objects.reshape(y1 - y0, x1 - x0).astype(np.int32)
        if (whole[y0:y1, x0:x1] > 0).all():
            tile += 1
        canvas.add((x0, y0, x1, y1), tile)
    labels = canvas.finished(1)
    # Each label lies on one object, and on all of it where the object hangs together across the tiles' overlaps.
    assert ((labels > 0) == (whole > 0)).all()
    for label in np.unique(labels[labels > 0]):
        assert len(np.unique(whole[labels == label])) == 1
    assert sorted(np.unique(labels[labels > 0])) == list(range(1, labels.max() + 1))


def test_labels_can_be_written_to_a_file_as_they_come(brightness_model: E2SAM, tmp_path: object) -> None:
    out = np.memmap(f"{tmp_path}/labels", np.int32, "w+", shape=(128, 112))
    predictor = Predictor(brightness_model, cache=False)
    predictor.set_stack(scene((128, 112), BOXES))
    for _ in segment_everything_steps(predictor, AutomaticOptions(points_per_side=16), out):
        pass
    assert out.max() >= len(BOXES)
