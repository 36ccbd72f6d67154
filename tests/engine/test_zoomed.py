"""What a user has zoomed to in a large image is looked at in a window of about that size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.weights.zoo import load_model

SIDE = 2400


@pytest.fixture(scope="module")
def tiny() -> E2SAM:
    return load_model("tiny", device="cpu")


def ellipse(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:SIDE, :SIDE]
    return ((rows + 0.5 - y) / radius) ** 2 + ((columns + 0.5 - x) / (0.7 * radius)) ** 2 <= 1


def image(masks: list[NDArray[np.bool_]], channels: int = 3) -> ChannelStack:
    planes = np.random.default_rng(0).integers(30, 90, (channels, SIDE, SIDE), np.uint8)
    for mask in masks:
        planes[:, mask] += 120
    return ChannelStack(planes, tuple(ChannelSpec(f"c{index}") for index in range(channels)))


def around(x: float, y: float, side: float) -> tuple[int, int, int, int]:
    return int(x - side / 2), int(y - side / 2), int(x + side / 2), int(y + side / 2)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


@pytest.mark.parametrize("channels", [3, 5])
def test_one_click_on_a_small_object_finds_it_where_the_user_has_zoomed_in(tiny: E2SAM, channels: int) -> None:
    x, y = 1401.3, 902.8
    target = ellipse(x, y, 14)
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(image([target, ellipse(x + 60, y + 30, 14)], channels), range(channels))
    afar = predictor.predict([(x, y)])
    near = predictor.predict([(x, y)], view=around(x, y, 300))
    assert iou(afar.mask(), target) < 0.5 < 0.85 < iou(near.mask(), target)
    # Logits stay those of the whole image, which are what a session keeps.
    np.testing.assert_array_equal(near.logits, afar.logits)
    passes = predictor.encoder_passes
    corrected = predictor.predict(
        [(x, y), (x + 60, y + 30)], [1, 0], mask=near.logits[near.best], multimask=False, view=around(x, y, 2400)
    )
    assert iou(corrected.mask(), target) > 0.85
    assert predictor.encoder_passes == passes, "the object is still looked at where it was"
    # A click near by, in the same view, needs no pass either.
    predictor.predict([(x + 60, y + 30)], view=around(x, y, 300))
    assert predictor.encoder_passes == passes
    assert set(near.channels) == {f"c{index}" for index in range(channels)}


@pytest.mark.parametrize(("large_side", "passes"), [(8192, 1), (1024, 0)])
def test_what_a_view_needs_is_encoded_while_its_user_looks(tiny: E2SAM, large_side: int, passes: int) -> None:
    places = [(1401.3, 902.8), (1340.0, 850.5), (1460.0, 960.5)]
    predictor = Predictor(tiny, cache=False, large_side=large_side)
    predictor.set_stack(image([ellipse(x, y, 14) for x, y in places]), range(3))
    assert predictor.encoder_passes == passes
    view = around(1400, 900, 300)
    predictor.look_at(view)
    assert predictor.encoder_passes == passes + 1
    for x, y in places:
        assert iou(predictor.predict([(x, y)], view=view).mask(), ellipse(x, y, 14)) > 0.85
    predictor.look_at(view)
    assert predictor.encoder_passes == passes + 1
    # The whole image is encoded already, or too large to be read for one click.
    predictor.look_at((0, 0, SIDE, SIDE))
    assert predictor.encoder_passes == passes + 1


def test_the_candidate_that_was_chosen_is_corrected_as_a_session_keeps_it(tiny: E2SAM) -> None:
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(image([ellipse(1400, 900, 14)]), range(3))
    view, points = around(1400, 900, 300), [(1400, 900), (1410, 903)]
    first = predictor.predict(points[:1], view=view)
    other = int(np.argmin(first.scores))
    kept = np.rint(first.logits[other] * 32) / 32
    found = [predictor.predict(points, mask=mask, view=view, multimask=False) for mask in (first.logits[other], kept)]
    np.testing.assert_array_equal(found[0].mask(), found[1].mask())
    best = predictor.predict(points, mask=first.logits[first.best], view=view, multimask=False)
    assert (best.mask() != found[1].mask()).any(), "another candidate was corrected"


def test_an_object_that_is_larger_than_the_view_comes_out_whole(tiny: E2SAM) -> None:
    target = ellipse(1200, 1200, 700)
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(image([target]), range(3))
    assert iou(predictor.predict([(1200, 1200)], view=around(1200, 1200, 300)).mask(), target) > 0.85


def test_the_whole_image_is_looked_at_where_that_shows_as_much(tiny: E2SAM) -> None:
    target = ellipse(1200, 1200, 60)
    predictor = Predictor(tiny, cache=False)
    predictor.set_stack(image([target]), range(3))
    passes = predictor.encoder_passes
    assert predictor.predict([(1200, 1200)], view=around(1200, 1200, 1500)).close_up is None
    # A mask prompt speaks of the whole image.
    mask = predictor.predict([(1200, 1200)]).logits[0]
    predictor.predict([(1200, 1200)], mask=mask, view=around(1200, 1200, 300))
    assert predictor.encoder_passes == passes


def test_a_model_whose_pass_is_slow_makes_one_for_the_clicks_of_a_view() -> None:
    model = build_model(teacher_config("vit_test")).eval()
    stack, view = image([ellipse(1200, 1200, 20)]), around(1200, 1200, 300)
    predictor = Predictor(model, cache=False)
    predictor.set_stack(stack, range(3))
    passes = predictor.encoder_passes
    predictor.look_at(view)
    assert predictor.encoder_passes == passes, "not before it is asked"
    click = Prompts(np.array([[1180, 1200]], np.float32), np.array([1], np.int32))
    assert predictor.has_to_encode(click, view) and not predictor.has_to_encode(click, None)
    predictor.predict_prompts(click)
    assert predictor.has_to_encode(click, view) and predictor.encoder_passes == passes
    for x in (1180, 1200, 1220):
        predictor.predict([(x, 1200)], view=view)
    assert predictor.encoder_passes == passes + 1 and not predictor.has_to_encode(click, view)
    distant = Predictor(model, cache=False, close_ups=False)
    distant.set_stack(stack, range(3))
    assert distant.predict([(1200, 1200)], view=view).close_up is None and distant.encoder_passes == passes


def test_a_model_whose_pass_is_slow_sees_in_the_view_what_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `tiny`, were it slow; a larger object is looked at from afar, and no third pass is made for it."""
    slow = load_model("tiny", device="cpu")
    monkeypatch.setattr(type(slow.config), "looks_closer", False)
    small, large = ellipse(1401.3, 902.8, 14), ellipse(1200, 1700, 400)
    predictor = Predictor(slow, cache=False)
    predictor.set_stack(image([small, large]), range(3))
    assert iou(predictor.predict([(1401.3, 902.8)], view=around(1401, 902, 300)).mask(), small) > 0.85
    passes = predictor.encoder_passes
    found = predictor.predict([(1200, 1700)], view=around(1200, 1700, 300))
    assert iou(found.mask(), large) > 0.85 and found.close_up is None
    assert predictor.encoder_passes == passes + 1
