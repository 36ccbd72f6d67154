"""Large stacks: only what is needed is read, objects come out whole, no seam."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import PromptError
from e2sam.inference.frame import Frame
from e2sam.inference.predictor import Predictor
from e2sam.inference.tiling import Windows, logits_in_window, tiles_of
from e2sam.modeling.build import teacher_config
from e2sam.modeling.e2sam import E2SAM


def scene(size: tuple[int, int], *boxes: tuple[int, int, int, int], channels: int = 4) -> NDArray[np.uint16]:
    """Bright rectangles on dark ground, alike in every channel."""
    plane = np.full(size, 1000, np.uint16)
    for x0, y0, x1, y1 in boxes:
        plane[y0:y1, x0:x1] = 50_000
    return np.broadcast_to(plane, (channels, *size)).copy()


def stack_of(data: Any) -> ChannelStack:
    return ChannelStack(data, tuple(ChannelSpec(f"c{index}") for index in range(data.shape[0])))


class Counted:
    """An array on disk, as far as anyone can tell, that counts what is read of it."""

    def __init__(self, data: NDArray[Any]) -> None:
        self._data = data
        self.shape = data.shape
        self.dtype = data.dtype
        self.values_read = 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        found = self._data[key]
        self.values_read += found.size
        return found


def iou(found: NDArray[np.bool_], box: tuple[int, int, int, int]) -> float:
    expected = np.zeros_like(found)
    expected[box[1] : box[3], box[0] : box[2]] = True
    return float((found & expected).sum() / (found | expected).sum())


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    base=st.sampled_from([64, 512]),
)
def test_the_first_window_holds_the_prompt_with_room_around(
    size: tuple[int, int], x: float, y: float, base: int
) -> None:
    height, width = size
    windows = Windows(size, base)
    prompts = Prompts.checked([(x * width, y * height)], None, None, None, size)
    x0, y0, x1, y1 = windows.first(prompts, None)
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert (x1 - x0, y1 - y0) == (min(base, width), min(base, height))
    px, py = prompts.points[0]
    assert px - x0 >= min(base / 4, px) - 1 and x1 - px >= min(base / 4, width - px) - 1
    assert py - y0 >= min(base / 4, py) - 1 and y1 - py >= min(base / 4, height - py) - 1
    assert windows.holds((x0, y0, x1, y1), prompts)


def test_windows_grow_to_the_whole_image() -> None:
    windows = Windows((1000, 700), 64)
    window = windows.first(Prompts.checked([(500, 500)], None, None, None, (1000, 700)), None)
    sides = [window[2] - window[0]]
    while window != windows.whole:
        window = windows.larger(window, (490, 490, 510, 510))
        sides.append(window[3] - window[1])
    assert sides == [64, 128, 256, 512, 1000]


def test_a_wide_view_means_a_wide_window() -> None:
    windows = Windows((20_000, 20_000), 512)
    prompts = Prompts.checked([(9000, 9000)], None, None, None, windows.size)
    narrow = windows.first(prompts, (8900, 8900, 9100, 9100))
    wide = windows.first(prompts, (8000, 8000, 9800, 9500))
    widest = windows.first(prompts, windows.whole)
    assert [window[2] - window[0] for window in (narrow, wide, widest)] == [512, 2048, 2048]
    box = Prompts.checked(None, None, (1000, 1000, 4000, 2000), None, windows.size)
    assert windows.first(box, None)[2] - windows.first(box, None)[0] == 8192


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    side=st.integers(32, 300),
    share=st.floats(0, 0.5),
)
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], side: int, share: float) -> None:
    overlap = int(side * share)
    covered = np.zeros(size, int)
    tiles = tiles_of(size, side, overlap)
    for x0, y0, x1, y1 in tiles:
        assert 0 < x1 - x0 <= side and 0 < y1 - y0 <= side
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    lefts = sorted({(tile[0], tile[2]) for tile in tiles})
    for (_, end), (start, _) in pairwise(lefts):
        assert end - start >= overlap


def test_logits_keep_their_place_in_a_wider_window() -> None:
    config = teacher_config("vit_test")
    narrow, wide = (300, 300, 428, 428), (200, 250, 456, 506)
    from e2sam.inference.prediction import Prediction

    frame = Frame.of((128, 128), config)
    ramp = (np.arange(32) + 0.5) * 4
    logits = np.broadcast_to(ramp, (32, 32)).astype(np.float32)
    prediction = Prediction(np.ones(1, np.float32), logits[None], ("a",), "a", frame, narrow, (1000, 1000))
    moved = logits_in_window(logits, prediction, wide, Frame.of((256, 256), config))
    # Column k of the wide frame lies at x = 200 + 8 k + 4, which is column (x - 300) of the narrow window.
    columns = 200 + (np.arange(32) + 0.5) * 8 - 300
    row = 15
    inside = (columns > 4) & (columns < 124)
    np.testing.assert_allclose(moved[row, inside], columns[inside], atol=1e-3)
    assert (moved[row, (columns < 0) | (columns > 128)] < -5).all()
    assert (moved[0] < -5).all()


def test_a_click_in_a_large_stack_reads_one_window(brightness_model: E2SAM) -> None:
    data = Counted(scene((2000, 2400), (1000, 900, 1060, 950)))
    predictor = Predictor(brightness_model, cache=False, large_side=1024)
    predictor.set_stack(stack_of(data), channels=("c0", "c1"), recipes="none")
    assert predictor.is_large
    assert predictor.encoder_passes == 0
    data.values_read = 0
    found = predictor.predict(points=[(1030, 925)])
    assert predictor.encoder_passes == 1
    assert data.values_read <= 2 * 128 * 128
    assert iou(found.mask(), (1000, 900, 1060, 950)) > 0.9
    predictor.predict(points=[(1020, 920)])
    assert predictor.encoder_passes == 1, "a click nearby uses the same window"


def test_an_object_larger_than_a_window_comes_out_whole(brightness_model: E2SAM) -> None:
    box = (300, 200, 1500, 620)
    predictor = Predictor(brightness_model, cache=False, large_side=1024)
    predictor.set_stack(stack_of(scene((1400, 2000), box)), channels=("c0", "c1", "c2"))
    found = predictor.predict(points=[(900, 400)])
    assert found.masks.shape == (3, 1400, 2000)
    # 2000 pixels are 64 logits wide: whole, to the nearest logit.
    assert np.abs(np.subtract(found.mask_box(), box)).max() <= 2000 / 64
    assert iou(found.mask(), box) > 0.85
    assert predictor.encoder_passes <= 6


def test_a_wider_window_that_sees_something_else_is_not_believed(
    brightness_model: E2SAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(brightness_model, cache=False, large_side=256)
    data = scene((600, 600), (0, 290, 600, 310))
    predictor.set_stack(stack_of(data), channels=("c0",))
    narrow = predictor._predict_in
    seen = []

    def elsewhere(current: Any, window: Any, *given: Any) -> Any:
        answer = narrow(current, window, *given)
        seen.append(window)
        if window[2] - window[0] > 128:
            answer.prediction.logits[...] = -1
        return answer

    monkeypatch.setattr(predictor, "_predict_in", elsewhere)
    found = predictor.predict(points=[(300, 300)])
    assert len(seen) == 2
    assert found.window == seen[0]
    assert found.mask().any()


def test_a_mask_prompt_follows_into_the_window_of_later_clicks(brightness_model: E2SAM) -> None:
    predictor = Predictor(brightness_model, cache=False, large_side=256)
    predictor.set_stack(stack_of(scene((900, 900), (400, 400, 440, 430))), channels=("c0",))
    first = predictor.predict(points=[(420, 410)])
    near = predictor.predict(points=[(420, 410), (430, 420)], mask=first.logits[0])
    assert near.window == first.window
    far = predictor.predict(points=[(420, 410), (700, 700)], labels=[1, 0], mask=first.logits[0])
    assert far.window[2] - far.window[0] > first.window[2] - first.window[0]
    with pytest.raises(PromptError, match="mask prompt"):
        predictor.predict(points=[(420, 410)], mask=np.zeros((3, 3)))


def test_a_file_on_disk_is_read_by_windows(brightness_model: E2SAM, tmp_path: Path) -> None:
    from e2sam.data.io import read_stack

    path = tmp_path / "large.npy"
    np.save(path, scene((1500, 1500), (700, 700, 760, 750)))
    predictor = Predictor(brightness_model, cache=False, large_side=1024)
    predictor.set_stack(read_stack(path), channels=(0, 1))
    assert iou(predictor.predict(points=[(730, 720)]).mask(), (700, 700, 760, 750)) > 0.9
