"""Losses of knowledge inheritance against hand-worked cases."""

from __future__ import annotations

import math

import pytest
import torch

from e2sam.training.losses import cosine_loss, feature_loss, mask_loss, maximum_mean_discrepancy, weighted_mse


def maps(*values: float) -> torch.Tensor:
    """(1, D, 1, 1)."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_errors_count_in_units_of_the_teachers_variance() -> None:
    weight = torch.ones(1, 1, 1)
    got = weighted_mse(maps(1.0, 10.0), maps(0.0, 0.0), torch.tensor([1.0, 100.0]), weight)
    assert got.item() == pytest.approx(1.0)


def test_positions_without_measured_pixels_do_not_count() -> None:
    student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    student[..., 1] = 7
    weight = torch.tensor([[[1.0, 0.0]]])
    assert weighted_mse(student, teacher, torch.ones(2), weight).item() == 0
    assert weighted_mse(student, teacher, torch.ones(2), 1 - weight).item() == 49
    assert weighted_mse(student, teacher, torch.ones(2), 0 * weight).item() == 0


def test_cosine() -> None:
    weight = torch.ones(1, 1, 1)
    assert cosine_loss(maps(2.0, 0.0), maps(5.0, 0.0), weight).item() == pytest.approx(0)
    assert cosine_loss(maps(1.0, 0.0), maps(0.0, 3.0), weight).item() == pytest.approx(1)
    both = feature_loss(maps(1.0, 0.0), maps(0.0, 1.0), torch.ones(2), weight)
    assert both.item() == pytest.approx(1.5)


def test_discrepancy_is_blind_to_pairing_and_the_pairwise_loss_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 8, 4, 4, generator=generator)
    shuffled = teacher.flatten(2)[:, :, torch.randperm(16, generator=generator)].view_as(teacher).flip(0)
    weight = torch.ones(2, 4, 4)
    assert maximum_mean_discrepancy(shuffled, teacher).item() == pytest.approx(0, abs=1e-5)
    assert feature_loss(shuffled, teacher, torch.ones(8), weight).item() > 1
    assert maximum_mean_discrepancy(teacher + 2, teacher).item() > 0.1


def test_mask_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 2)
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    # Cross entropy ln 2; Dice 1 - (2 * 1 + 1) / (2 + 2 + 1).
    expected = math.log(2) + 1 - 3 / 5
    assert mask_loss(logits, target, torch.ones(1, 1, 1)).item() == pytest.approx(expected)


def test_perfect_and_empty_masks_cost_nothing() -> None:
    target = torch.zeros(2, 4, 4)
    target[0, :2] = 1
    logits = 40 * (2 * target - 1)
    assert mask_loss(logits, target, torch.ones(2, 1, 1)).item() == pytest.approx(0, abs=1e-4)


def test_masks_of_no_weight_do_not_count() -> None:
    target = torch.zeros(2, 4, 4)
    logits = torch.stack((torch.full((4, 4), -40.0), torch.full((4, 4), 40.0)))
    weight = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    assert mask_loss(logits, target, weight).item() == pytest.approx(0, abs=1e-4)
    assert mask_loss(logits, target, 1 - weight).item() > 30


def test_channels_that_vary_little_count_as_much_as_loud_ones() -> None:
    variance = torch.tensor([1e-4, 1.0])
    teacher = maps(0.01, 1.0)
    weight = torch.ones(1, 1, 1)
    quiet = feature_loss(maps(0.0, 1.0), teacher, variance, weight)
    loud = feature_loss(maps(0.01, 0.0), teacher, variance, weight)
    assert quiet.item() == pytest.approx(loud.item(), rel=1e-4)
