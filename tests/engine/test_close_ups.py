"""Small objects are looked at closer once their prompts name them; everything else stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.evaluation.clicks import ClickOptions, evaluate_clicks
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.predictor import Predictor
from e2sam.inference.tiling import Windows
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.weights.zoo import load_model

SIDE = 480


@pytest.fixture(scope="module")
def tiny() -> E2SAM:
    return load_model("tiny", device="cpu")


def discs(radius: int) -> tuple[ChannelStack, dict[str, NDArray[np.bool_]]]:
    """Blurred, noisy ellipses on dark ground, and the mask of each."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    masks = {
        f"{y} {x}": ((rows - y) / radius) ** 2 + ((columns - x) / (0.6 * radius)) ** 2 <= 1
        for y in (90, 240, 390)
        for x in (90, 240, 390)
    }
    rng = np.random.default_rng(0)
    image = gaussian_filter(sum(masks.values()).astype(np.float32), 1.0)
    planes = np.stack([40 + share * 90 * image for share in (1.0, 0.8, 0.6)]) + rng.normal(0, 5, (3, SIDE, SIDE))
    stack = ChannelStack(planes.clip(0, 255).astype(np.uint8), tuple(ChannelSpec(name) for name in "RGB"))
    return stack, masks


def predictor_of(model: E2SAM, radius: int, close_ups: bool | None = None) -> Predictor:
    predictor = Predictor(model, cache=False, close_ups=close_ups)
    predictor.set_stack(discs(radius)[0], tuple("RGB"))
    return predictor


def test_corrections_of_small_objects_are_better(tiny: E2SAM) -> None:
    _, masks = discs(11)
    reports = [
        evaluate_clicks(predictor_of(tiny, 11, on), masks, ClickOptions(limit=4)).to_json() for on in (False, True)
    ]
    assert reports[1]["iou"]["1"] == reports[0]["iou"]["1"]
    assert reports[1]["iou"]["3"] > reports[0]["iou"]["3"] + 0.02


def test_a_close_up_leaves_logits_and_large_objects_alone(tiny: E2SAM) -> None:
    points, labels = [(240, 240), (240, 236)], [1, 1]
    plain = predictor_of(tiny, 11, close_ups=False).predict(points, labels, multimask=False)
    predictor = predictor_of(tiny, 11)
    closer = predictor.predict(points, labels, multimask=False)
    assert plain.close_up is None and closer.close_up is not None
    np.testing.assert_array_equal(closer.logits, plain.logits)
    assert (closer.frame, closer.window) == (plain.frame, plain.window)
    x0, y0, x1, y1 = closer.close_up.window
    box = closer.mask_box()
    assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
    assert closer.mask()[240, 240] and not np.array_equal(closer.mask(), plain.mask())
    # One click may mean several things, and is answered from afar; so is an object that fills the picture.
    assert predictor.predict(points[:1], labels[:1]).close_up is None
    assert predictor.predict(points[:1], labels[:1], multimask=False).close_up is None
    # Of several candidates the best one is looked at closer, and stays the best.
    several = predictor.predict(points, labels)
    assert several.close_up is not None and list(several.close_up.logits) == [several.best]
    large = predictor_of(tiny, 75)
    assert large.predict(points, labels, multimask=False).close_up is None


def test_a_box_names_an_object_too(tiny: E2SAM) -> None:
    box = (233, 228, 248, 252)
    assert predictor_of(tiny, 11).predict(box=box, multimask=False).close_up is not None
    assert predictor_of(tiny, 11).predict(box=box).close_up is not None


def test_a_view_that_disagrees_is_not_believed(tiny: E2SAM, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of(tiny, 11)
    monkeypatch.setattr("e2sam.inference.closer._AGREES", 1.01)
    assert predictor.predict([(240, 240), (240, 236)], [1, 1], multimask=False).close_up is None


@pytest.mark.parametrize(("height", "width", "radius"), [(3000, 3000, 12), (1200, 1200, 6), (40, 3000, 9)])
def test_an_object_that_is_next_to_nothing_from_afar_is_found_by_its_prompts(
    tiny: E2SAM, height: int, width: int, radius: int
) -> None:
    x, y = 0.4667 * width, 0.5 * height
    rows, columns = np.ogrid[:height, :width]
    disc = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
    planes = np.full((3, height, width), 50, np.uint8)
    planes[:, disc] = 210
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(ChannelStack(planes, tuple(ChannelSpec(name) for name in "RGB")), tuple("RGB"))
    asked: list[dict[str, Any]] = [
        {"box": (x - radius, y - radius, x + radius, y + radius)},
        {"points": [(x, y), (x + radius / 4, y - 2)], "labels": [1, 1]},
        {"points": [(x, y), (x + 2 * radius, y)], "labels": [1, 0]},
    ]
    for prompts in asked:
        mask = predictor.predict(**prompts, multimask=False).mask()
        assert (mask & disc).sum() / (mask | disc).sum() > 0.9, prompts


def test_looking_ahead_spares_the_next_click_its_pass(tiny: E2SAM, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    predictor = Predictor(tiny, cache=cache)
    predictor.set_stack(discs(11)[0], tuple("RGB"))
    on_disk = cache.size_bytes()
    first = predictor.predict([(240, 240)])
    before = predictor.encoder_passes
    for candidate in (None, *range(len(first)), None):
        predictor.look_ahead(first, candidate)
    # One window for each candidate at most; what is there is not encoded again.
    passes = predictor.encoder_passes
    assert before < passes <= before + len(first)
    assert predictor.predict([(240, 240), (240, 236)], [1, 1], multimask=False).close_up is not None
    assert predictor.encoder_passes == passes
    assert cache.size_bytes() == on_disk > 0


def test_looking_ahead_takes_what_is_likely(tiny: E2SAM) -> None:
    predictor = predictor_of(tiny, 11)
    predictor.look_ahead(predictor.predict([(240, 240)]))
    # The best mask may be too large to be looked at closer; then the next one is made ready. Never two unasked.
    passes = predictor.encoder_passes
    assert passes == 2
    # The next click on an object that is named corrects the mask that was chosen, whose window is there.
    predictor.look_ahead(predictor.predict([(240, 240), (240, 236)], [1, 1]))
    assert predictor.encoder_passes == passes
    # Of another stack nothing is known: no error.
    other = predictor_of(tiny, 11)
    other.look_ahead(predictor.predict([(240, 240)]))
    assert other.encoder_passes == 1


def test_leaving_out_compares_what_was_seen_from_afar(tiny: E2SAM) -> None:
    stack, _ = discs(11)
    twice = ChannelStack(np.concatenate((stack.read(), stack.read())), tuple(ChannelSpec(n) for n in "RGBXYZ"))
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(twice, tuple("RGB"))
    prompts = Prompts.checked([(240, 240), (240, 236)], [1, 1], None, None, predictor.size)
    plain = Predictor(tiny, cache=False, close_ups=False)
    plain.set_stack(twice, tuple("RGB"))
    assert predictor.leave_one_out(prompts, False) == plain.leave_one_out(prompts, False)


def test_models_with_slow_encoders_do_not_look_closer() -> None:
    teacher = build_model(teacher_config("vit_test")).eval()
    assert not Predictor(teacher, cache=False).close_ups
    assert Predictor(teacher, cache=False, close_ups=True).close_ups


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_close_ups_hold_the_box_and_stay_inside(size: tuple[int, int], corners: tuple[float, ...]) -> None:
    height, width = size
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    windows = Windows(size, 512)
    window = windows.close_up((x0, y0, x1, y1), windows.whole)
    if window is None:
        assert max(x1 - x0, y1 - y0, 26) * 2.5 * 2**0.5 + 1 > 0.6 * max(size)
        return
    assert window[0] <= x0 and window[1] <= y0 and x1 <= window[2] and y1 <= window[3]
    assert window[0] >= 0 and window[1] >= 0 and window[2] <= width and window[3] <= height
    assert max(window[2] - window[0], window[3] - window[1]) <= 0.6 * max(size)


def test_close_ups_of_huge_images_are_bounded() -> None:
    windows = Windows((20_000, 20_000), 512)
    assert windows.close_up((5000, 5000, 5700, 5600), windows.whole) is not None
    assert windows.close_up((5000, 5000, 6000, 5600), windows.whole) is None
