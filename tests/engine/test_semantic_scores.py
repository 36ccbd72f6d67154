"""Semantic scores against hand-worked cases and scikit-learn's own confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from e2sam.errors import E2SamError
from e2sam.evaluation.semantic import ConfusionMatrix, bootstrap_miou


def scores_of(predicted, labels, **settings):
    matrix = ConfusionMatrix(**settings)
    matrix.update(np.asarray(predicted), np.asarray(labels))
    return matrix.scores()


def test_hand_worked_case():
    # class 1: 2 right of 3 labelled, 1 false: 2 / 4; class 2: 1 right of 2 labelled, 1 false: 1 / 3.
    scores = scores_of([1, 1, 2, 1, 2], [1, 1, 1, 2, 2], values=(1, 2), names=("sea", "fog"))
    assert [row.iou for row in scores.per_class] == pytest.approx([2 / 4, 1 / 3])
    assert scores.miou == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert scores.pixel_accuracy == pytest.approx(3 / 5)
    assert scores.mean_recall == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert [(row.name, row.value, row.pixels) for row in scores.per_class] == [("sea", 1, 3), ("fog", 2, 2)]


def test_sums_are_over_the_data_set_not_means_of_images():
    matrix = ConfusionMatrix(values=(0, 1))
    matrix.update(np.zeros((1, 9), int), np.zeros((1, 9), int))
    matrix.update(np.array([[0, 1]]), np.array([[1, 1]]))
    # class 0: 9 right, 9 labelled, 1 false; class 1: 1 right of 2 labelled.
    assert [row.iou for row in matrix.scores().per_class] == pytest.approx([9 / 10, 1 / 2])


def test_class_without_labels_is_nan_even_where_one_stray_pixel_predicts_it():
    labels = np.repeat(np.arange(23), 100)
    labels = labels[labels != 10]
    predicted = labels.copy()
    predicted[0] = 10
    scores = scores_of(predicted, labels, values=range(23))
    assert np.isnan(scores.per_class[10].iou)
    assert scores.per_class[0].iou == pytest.approx(0.99)
    assert scores.miou == pytest.approx((21 + 0.99) / 22)


def test_legacy_switch_reproduces_the_released_evaluation():
    labels = np.repeat(np.arange(23), 100)
    predicted = labels.copy()
    predicted[0] = 10
    scores = scores_of(predicted, labels, values=range(23), legacy_ignore10=True)
    # Vehicles (10) are dropped from the labels, and the one stray prediction gives that class an IoU of 0.
    assert scores.per_class[10].iou == 0
    assert scores.miou == pytest.approx((21 + 0.99 + 0) / 23)
    assert scores.ignore_index == 10
    honest = scores_of(predicted, labels, values=range(23))
    assert honest.per_class[10].iou == pytest.approx(100 / 101)


def test_ignored_pixels_count_nowhere():
    scores = scores_of([1, 2, 2, 1], [1, 2, 0, 0], values=(1, 2), ignore_index=0)
    assert scores.miou == 1 and scores.pixel_accuracy == 1
    assert sum(row.pixels for row in scores.per_class) == 2


def test_prediction_that_is_no_class_is_wrong():
    scores = scores_of([1, 0], [1, 1], values=(1, 2))
    assert scores.per_class[0].iou == pytest.approx(0.5)
    assert scores.pixel_accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    values = (3, 0, 7, 200)
    labels, predicted = (generator.choice(values, (40, 30)) for _ in range(2))
    scores = scores_of(predicted, labels, values=values)
    assert np.array_equal(scores.confusion, confusion_matrix(labels.ravel(), predicted.ravel(), labels=values))
    expected = jaccard_score(labels.ravel(), predicted.ravel(), labels=values, average=None)
    assert [row.iou for row in scores.per_class] == pytest.approx(expected.tolist())


def test_wrong_input_is_named():
    with pytest.raises(E2SamError, match=r"\[9\]"):
        scores_of([1, 1], [1, 9], values=(1, 2), ignore_index=0)
    with pytest.raises(E2SamError, match="shape"):
        scores_of([1, 1], [1], values=(1, 2))
    for values in ((1, 1), (), 5, "ab", (1, 2.5)):
        with pytest.raises(E2SamError, match="once"):
            ConfusionMatrix(values=values)
    with pytest.raises(E2SamError, match="a name for each of 2 classes, got 1"):
        ConfusionMatrix((1, 2), ("a",))
    assert ConfusionMatrix(np.array([1, 2])).names == ("1", "2")


@pytest.mark.parametrize("counted", [np.ones((2, 2), bool), np.ones((3, 3), int), True])
def test_what_is_counted_fits_the_labels(counted):
    labels = np.ones((3, 3), int)
    with pytest.raises(E2SamError, match=r"counted as \(3, 3\) bool"):
        ConfusionMatrix((1, 2)).update(labels, labels, counted)


def test_nothing_labelled_scores_nan():
    scores = scores_of([1], [0], values=(1, 2), ignore_index=0)
    assert np.isnan(scores.miou) and np.isnan(scores.pixel_accuracy)


def test_bootstrap_interval_holds_the_mean_and_needs_two_images():
    generator = np.random.default_rng(0)
    counts = []
    for _ in range(12):
        labels = generator.integers(0, 2, 200)
        predicted = np.where(generator.random(200) < 0.8, labels, 1 - labels)
        matrix = ConfusionMatrix(values=(0, 1))
        matrix.update(predicted, labels)
        counts.append(matrix.counts)
    whole = ConfusionMatrix(values=(0, 1))
    whole.counts = np.sum(counts, axis=0)
    low, high = bootstrap_miou(counts, repeats=200)
    assert low < whole.scores().miou < high < low + 0.1
    assert all(np.isnan(bootstrap_miou(counts[:1])))
