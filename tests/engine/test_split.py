"""What is held out never touches what is trained on, and is the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from e2sam.errors import TrainingError
from e2sam.training.split import ObjectPlace, cross_objects, split_images, split_objects, split_pixels, split_series


def place(x0, y0, width=10, height=10, image="a", size=(200, 300)):
    return ObjectPlace(image, size, (x0, y0, x0 + width, y0 + height))


boxes = st.builds(place, st.integers(0, 280), st.integers(0, 180), st.integers(1, 20), st.integers(1, 20))


def gap(first, second):
    """Chebyshev distance between two boxes."""
    a, b = first.box, second.box
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


@pytest.mark.parametrize("seed", range(6))
def test_an_image_with_most_of_the_objects_is_learned_from(seed):
    objects = [place(12 * index, 20 * (index % 5), image="full") for index in range(20)]
    begun = [place(5, 5, image="begun")]
    split = split_objects(objects + begun, seed=seed)
    assert len(split.train) >= 12 and len(split.held_out) >= 2 and 20 in split.held_out
    halves = split_objects([*objects, *(place(12 * index, 5, image="other") for index in range(20))], seed=seed)
    assert halves.kind == "image" and len(halves.held_out) == 20
    few = split_objects([*objects[:3], *begun], seed=seed)
    assert len(few.train) >= 1 and len(few.held_out) == 2


@settings(max_examples=60, deadline=None)
@given(
    objects=st.lists(
        st.builds(lambda one, image: ObjectPlace(image, one.size, one.box), boxes, st.sampled_from("abc")),
        min_size=2,
        max_size=30,
    ),
    seed=st.integers(0, 5),
)
def test_of_several_images_both_sides_have_objects(objects, seed):
    split = split_objects(objects, seed=seed)
    assert sorted(split.train + split.held_out + split.dropped) == list(range(len(objects)))
    assert split.train and split.held_out
    assert len(split.held_out) <= max(2, len(objects) / 2 + 1)


@settings(max_examples=60, deadline=None)
@given(objects=st.lists(boxes, min_size=1, max_size=30), seed=st.integers(0, 5))
def test_each_object_lands_once_and_held_out_ones_keep_the_margin(objects, seed):
    split = split_objects(objects, seed=seed)
    assert sorted(split.train + split.held_out + split.dropped) == list(range(len(objects)))
    assert split.train
    assert (len(objects) == 1) == (not split.held_out)
    if split.kind == "region":
        assert split.margin >= 2
        for index in split.train:
            assert all(gap(objects[index], objects[other]) >= split.margin for other in split.held_out)
    assert split_objects(objects, seed=seed) == split


def test_five_corrections_of_one_image_give_two_to_judge_by():
    objects = [place(20 + 50 * index, 30 * index) for index in range(5)]
    split = split_objects(objects)
    assert split.kind == "region"
    assert len(split.held_out) == 2 and len(split.train) == 3


def test_no_margin_is_made_where_it_would_cost_labels_of_few():
    # A chain across the image: a straight cut with two on one side drops one, and leaves two to learn from.
    chain = [place(10 + 30 * index, 10, 40, 80) for index in range(5)]
    split = split_objects(chain)
    assert split.kind == "object" and len(split.train) == 3 and len(split.held_out) == 2
    longer = [place(10 + 18 * index, 10, 20, 80) for index in range(10)]
    split = split_objects(longer)
    assert split.kind == "region" and split.dropped and len(split.held_out) >= 2


def test_several_images_are_held_out_whole():
    objects = [place(20 * index, 20, image=name) for name in "abcd" for index in range(4)]
    split = split_objects(objects, share=0.25)
    held = {objects[index].image for index in split.held_out}
    assert split.kind == "image" and len(held) == 1
    assert not held & {objects[index].image for index in split.train}


@settings(max_examples=60, deadline=None)
@given(objects=st.lists(boxes, min_size=2, max_size=9), parts=st.integers(2, 6), seed=st.integers(0, 5))
def test_each_object_is_held_out_once_and_what_is_learned_keeps_the_margin(objects, parts, seed):
    splits = cross_objects(objects, parts, seed)
    assert len(splits) == min(parts, len(objects))
    assert sorted(index for split in splits for index in split.held_out) == list(range(len(objects)))
    for split in splits:
        assert sorted(split.train + split.held_out + split.dropped) == list(range(len(objects)))
        assert split.train and split.kind == "crossed"
        assert not (split.dropped and not split.margin)
        for index in split.train if split.margin else ():
            assert all(gap(objects[index], objects[other]) >= split.margin for other in split.held_out)
    assert cross_objects(objects, parts, seed) == splits


def test_objects_of_other_images_are_never_too_near():
    splits = cross_objects([place(10, 10, image=name) for name in "abc"], 5)
    assert [len(split.train) for split in splits] == [2, 2, 2] and all(split.margin for split in splits)


def test_objects_that_all_touch_are_learned_from_all_the_same():
    splits = cross_objects([place(10, 10, 100, 100) for _ in range(3)], 5)
    assert all(len(split.train) == 2 and split.margin == 0 for split in splits)
    with pytest.raises(TrainingError, match="got 1"):
        cross_objects([place(0, 0)], 5)


def test_another_seed_gives_another_split_and_order_of_images_does_not_matter():
    names = [f"image{index}" for index in range(12)]
    assert len({split_images(names, seed=seed).held_out for seed in range(5)}) > 1
    held = {names[index] for index in split_images(names).held_out}
    reversed_names = names[::-1]
    assert {reversed_names[index] for index in split_images(reversed_names).held_out} == held
    assert len(held) == 3


def test_overlapping_objects_fall_back_to_single_objects_and_say_so():
    split = split_objects([place(10, 10, 100, 100) for _ in range(6)])
    assert split.kind == "object" and len(split.held_out) == 2 and len(split.train) == 4


@pytest.mark.parametrize("size", [(95, 95), (101, 100), (60, 200)])
def test_pixels_keep_the_margin_and_share_the_classes(size):
    labels = np.random.default_rng(0).integers(0, 4, size).astype(np.uint8)
    trained, held = split_pixels(labels, ignore_index=0, margin=5)
    assert not (trained & held).any()
    assert not (trained | held)[labels == 0].any()
    assert (distance_transform_cdt(~held, metric="chessboard")[trained] > 5).all()
    assert set(np.unique(labels[trained])) == set(np.unique(labels[held])) == {1, 2, 3}
    assert 0.1 < held.sum() / (labels > 0).sum() < 0.4
    again = split_pixels(labels, ignore_index=0, margin=5)
    assert np.array_equal(again[0], trained) and np.array_equal(again[1], held)


def test_rare_class_is_put_on_both_sides_where_that_is_possible():
    labels = np.ones((96, 96), np.uint8)
    labels[10:14, 10:14] = 2
    labels[80:84, 80:84] = 2
    trained, held = split_pixels(labels, ignore_index=None)
    assert 2 in labels[trained] and 2 in labels[held]


def test_nothing_to_split_is_an_error():
    with pytest.raises(TrainingError, match="got none"):
        split_objects([])
    with pytest.raises(TrainingError, match=r"0\.9"):
        split_objects([place(0, 0), place(50, 50)], share=0.9)
    with pytest.raises(TrainingError, match="got none"):
        split_pixels(np.zeros((50, 50), np.uint8), ignore_index=0)
    with pytest.raises(TrainingError, match="at least 2"):
        split_images(["a"])


def test_planes_of_one_series_stay_on_one_side():
    series = ["a", "a", "b", "c", "c", "c", "d"]
    for seed in range(4):
        split = split_series(series, seed=seed)
        sides = [{series[index] for index in side} for side in (split.train, split.held_out)]
        assert not sides[0] & sides[1] and sides[0] | sides[1] == set("abcd")
    alone = split_series(["a"] * 8)
    assert (alone.train, alone.dropped, alone.held_out) == ((0, 1, 2, 3, 4), (5,), (6, 7))
    assert split_series(["a", "a"]).held_out == (1,) and split_series(["a", "a"]).train == (0,)
    assert split_series(["a"] * 3).held_out == (2,) and split_series(["a"] * 3).train == (0,)
