"""Labelled objects in the model's frame: targets exact, mirrored with their prompts, clicks where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2sam.data.corrections import Correction, CorrectionImage
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.session import Conditions
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.evaluation.pictures import rgb_channels
from e2sam.inference.frame import Frame
from e2sam.modeling.build import teacher_config
from e2sam.modeling.e2sam import ModelConfig
from e2sam.training.clicking import box_prompts, click_in_error, first_click, pad_prompts, quick_clicks, user_prompts
from e2sam.training.dataset import LabelledObject, LabelledScene, coverage_on_logits, readable, scenes_of, windows_of

CONFIG = ModelConfig("any", image_size=64, embedding_stride=8, logits_stride=4, pad_multiple=32)


def stack_of(size, names=("R", "G", "B", "NIR")):
    data = np.random.default_rng(0).integers(0, 255, (len(names), *size)).astype(np.uint8)
    return ChannelStack(data, tuple(ChannelSpec(name) for name in names))


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (32, 32), (64, 40), (50, 128)])
def test_coverage_is_the_mean_of_the_mask_over_each_position(size):
    mask = np.zeros(size, bool)
    mask[5 : size[0] // 2, 7 : size[1] // 2 + 3] = True
    frame = Frame.of(size, CONFIG)
    found = coverage_on_logits(MaskCrop.of(mask), (0, 0, size[1], size[0]), frame) / 255
    # The same from a mask enlarged so far that every position is a whole number of its pixels.
    factor = 64
    fine = np.kron(mask, np.ones((factor, factor), np.uint8)).astype(float)
    height, width = (side * factor / inner * 4 for side, inner in zip(size, frame.input_size, strict=True))
    expected = np.zeros(frame.logits_size)
    for row in range(frame.logits_size[0]):
        for column in range(frame.logits_size[1]):
            cell = fine[
                round(row * height) : round((row + 1) * height), round(column * width) : round((column + 1) * width)
            ]
            expected[row, column] = cell.sum() / (height * width)
    assert np.abs(found - expected).max() < 0.02
    assert found.sum() * 16 == pytest.approx(mask.sum() * (frame.input_size[0] / size[0]) ** 2, rel=0.05)


def test_coverage_in_a_window_is_that_of_the_whole():
    mask = MaskCrop.of(np.ones((10, 12), bool), x0=100, y0=200)
    whole = coverage_on_logits(mask, (96, 192, 160, 256), Frame.of((64, 64), CONFIG))
    moved = coverage_on_logits(MaskCrop(mask.pixels, 4, 8), (0, 0, 64, 64), Frame.of((64, 64), CONFIG))
    assert np.array_equal(whole, moved) and whole.any()


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(20, 60), st.integers(20, 60)), axis=st.integers(0, 1), seed=st.integers(0, 100))
def test_mirrored_twice_is_the_scene_itself_and_prompts_stay_on_the_object(size, axis, seed):
    generator = np.random.default_rng(seed)
    x0, y0 = int(generator.integers(0, size[1] - 8)), int(generator.integers(0, size[0] - 8))
    mask = MaskCrop.of(generator.random((7, 8)) < 0.7, x0, y0)
    rows, columns = np.nonzero(mask.pixels)
    points = np.array([[mask.x0 + columns[0], mask.y0 + rows[0]]], np.float32)
    box = np.array(mask.box, np.float32)
    stack = stack_of(size)
    scene = LabelledScene("a", stack, (LabelledObject(mask, Prompts(points, np.array([1], np.int32), box)),))
    mirrored = scene.flipped(axis)
    one = mirrored.objects[0]
    assert np.array_equal(one.mask.full(size), np.flip(mask.full(size), axis))
    assert np.array_equal(mirrored.stack.read(), np.flip(stack.read(), axis + 1))
    x, y = one.prompts.points[0].astype(int)
    assert one.mask.full(size)[y, x]
    assert tuple(one.prompts.box.astype(int)) == one.mask.box
    back = mirrored.flipped(axis)
    assert np.array_equal(back.objects[0].mask.full(size), mask.full(size))
    assert np.array_equal(back.objects[0].prompts.points, points) and np.array_equal(back.objects[0].prompts.box, box)


def test_all_eight_positions_are_different_and_keep_prompts_on_the_object():
    stack, shape = stack_of((40, 30)), np.zeros((7, 8), bool)
    shape[:3], shape[:, 0] = True, True
    mask = MaskCrop.of(shape, 4, 20)
    prompts = Prompts(np.array([[4, 26]], np.float32), np.array([1], np.int32), np.array(mask.box, np.float32))
    scenes = LabelledScene("a", stack, (LabelledObject(mask, prompts),)).turned()
    pictures = [scene.objects[0].mask.full(scene.stack.size) for scene in scenes]
    assert len({picture.tobytes() + bytes(picture.shape) for picture in pictures}) == 8
    for scene, picture in zip(scenes, pictures, strict=True):
        one = scene.objects[0]
        x, y = one.prompts.points[0].astype(int)
        assert picture[y, x] and tuple(one.prompts.box.astype(int)) == one.mask.box
        # The object lies on the same pixels of the image, whatever its position.
        assert sorted(scene.stack.read()[0][picture].tolist()) == sorted(stack.read()[0][pictures[0]].tolist())


def test_corrections_are_grouped_by_image_and_channels_and_each_image_is_opened_once():
    opened = []
    stack = stack_of((40, 40))
    image = CorrectionImage("a", (40, 40), lambda: opened.append(1) or stack)
    mask = MaskCrop.of(np.ones((5, 5), bool), 3, 3)
    recipe = ChannelRecipe("range", 0, 200)
    members = [
        Correction("1", image, mask, conditions=Conditions(("R", "NIR"), (recipe, recipe))),
        Correction("2", image, mask, conditions=Conditions(("R", "NIR"), (recipe, recipe))),
        Correction("3", image, mask, conditions=Conditions(("G",), (recipe,))),
    ]
    found, stacks, lines = readable(members)
    assert found == members and not lines
    scenes = scenes_of(members, stacks)
    assert [(scene.channels, len(scene.objects)) for scene in scenes] == [(("R", "NIR"), 2), (("G",), 1)]
    assert len(opened) == 1
    fitted = scenes[0].fitted()
    assert fitted[0] == fitted[3] == recipe and fitted[1] != recipe
    assert [scene.channels for scene in scenes_of(members, stacks, ("B",))] == [("B",)]


def test_windows_hold_targets_and_prompts_of_their_objects():
    stack = stack_of((64, 48))
    mask = MaskCrop.of(np.ones((16, 16), bool), 8, 24)
    prompts = Prompts(np.array([[10, 30]], np.float32), np.array([1], np.int32))
    (window,) = windows_of([LabelledScene("a", stack, (LabelledObject(mask, prompts),), ("R", "G", "B"))], CONFIG)
    assert window.window == (0, 0, 48, 64) and window.targets.shape == (1, 16, 16)
    assert (window.targets[0, 6:10, 2:6] == 255).all() and window.targets.sum() == 16 * 255
    assert window.inside[:16, :12].all() and not window.inside[:, 12:].any()
    points, labels = user_prompts(window.prompts[0], window.frame)
    assert points.tolist() == [[10, 30]] and labels.tolist() == [1]


def test_rgb_is_found_by_name_by_wavelength_or_by_order():
    named = [ChannelSpec(name) for name in ("NIR", "Blue", "Green", "Red")]
    assert rgb_channels(named) == ("Red", "Green", "Blue")
    bands = [ChannelSpec(f"B{number}", wavelength_nm=wave) for number, wave in enumerate((443, 490, 560, 665, 842))]
    assert rgb_channels(bands) == ("B3", "B2", "B1")
    assert rgb_channels([ChannelSpec(name) for name in "abcd"]) == ("a", "b", "c")


def test_simulated_prompts_lie_where_they_should():
    target = np.zeros((16, 16), np.float32)
    target[4:9, 6:12] = 1
    generator = np.random.default_rng(0)
    for _ in range(20):
        (point,), (label,) = first_click(target, generator, 4)
        assert label == 1 and target[int(point[1] // 4), int(point[0] // 4)] == 1
        mask = np.zeros((16, 16), bool)
        mask[4:9, 0:12] = True
        (point,), (label,) = click_in_error(mask, target > 0, generator, 4)
        assert label == 0 and point[0] < 24 and 16 <= point[1] < 36
    corners, labels = box_prompts(target, None, 4)
    assert corners.tolist() == [[24, 16], [48, 36]] and labels.tolist() == [2, 3]
    assert click_in_error(target > 0, target > 0, None, 4)[1].tolist() == [-1]
    empty = np.zeros((16, 16), np.float32)
    empty[3, 3] = 0.2  # an object smaller than half a position
    assert first_click(empty, generator, 4)[0].tolist() == [[14, 14]]


def test_prompts_of_unlike_length_are_padded_as_sam_pads():
    click = (np.array([[1, 2]], np.float32), np.array([1]))
    box = (np.array([[0, 0], [4, 4]], np.float32), np.array([2, 3]))
    coords, labels = pad_prompts([click, box])
    assert coords.shape == (2, 2, 2) and labels.tolist() == [[1, -1], [2, 3]]


def test_quick_score_of_a_model_that_is_right_and_takes_the_surer_view(brightness_model):
    targets = np.zeros((2, 32, 32), np.uint8)
    targets[0, 4:12, 4:12] = 255
    targets[1, 20:30, 16:24] = 255
    picture = torch.zeros(2, 256, 32, 32)
    picture[0, 0] = torch.from_numpy(targets.max(0) / 255 * np.where(np.arange(32)[:, None] < 16, 2.0, 5.0))
    scores = quick_clicks(brightness_model, picture, targets, np.ones((32, 32), bool), clicks=3)
    assert scores.clicks.shape == (2, 3) and (scores.clicks[:, 0] == 1).all() and scores.score == 1


def small_scene(config, size=(1400, 1000), names=("R", "G", "B", "NIR")):
    """Three small objects, two of them near each other, and one that is half of the image."""
    stack = stack_of(size, names)
    places = [(100, 900), (130, 930), (700, 200)]
    masks = [MaskCrop.of(np.ones((9, 11), bool), x, y) for x, y in places] + [
        MaskCrop.of(np.ones((700, 700), bool), 200, 300)
    ]
    points = [Prompts(np.array([[x + 5, y + 4], [5, 5]], np.float32), np.array([1, 0], np.int32)) for x, y in places]
    objects = [LabelledObject(mask, prompts) for mask, prompts in zip(masks, [*points, Prompts()], strict=True)]
    return LabelledScene("a", stack, tuple(objects), labelled=tuple(masks)).planned(config)


def test_small_objects_of_a_large_image_are_learned_from_where_a_user_has_zoomed_to_them():
    config = teacher_config("vit_test")
    scene = small_scene(config)
    near, far, whole = scene.parts(config)
    assert [len(part.objects) for part in (near, far, whole)] == [2, 1, 1]
    assert whole.stack is scene.stack and near.stack.size == (128, 128)
    frame = Frame.of((128, 128), config)
    for part, (x, y) in ((near, (100, 900)), (far, (700, 200))):
        left, top = x - part.objects[0].mask.x0, y - part.objects[0].mask.y0
        window = left, top, left + 128, top + 128
        # Composed of the same channels, by the same recipes, as in the whole image.
        found = part.plan(config).planes((0, 0, 128, 128), frame)
        np.testing.assert_array_equal(found, scene.plan(config).planes(window, frame))
        np.testing.assert_array_equal(part.stack.read(), scene.stack.read()[:, top : top + 128, left : left + 128])
        # A point that does not lie there is left out.
        assert part.objects[0].prompts.points.tolist() == [[x + 5 - left, y + 4 - top]]
        assert part.channels == scene.plan(config).selected
    assert len(near.labelled) == 2 and [mask.box for mask in near.labelled] == [one.mask.box for one in near.objects]
    assert len(far.turned()) == 8 and far.turned()[5].plan(config).stack.size == (128, 128)


def test_an_image_of_few_frames_is_learned_from_whole():
    config = teacher_config("vit_test")
    scene = small_scene(config, (1000, 1000))
    assert scene.parts(replace(config, image_size=512)) == [scene]
