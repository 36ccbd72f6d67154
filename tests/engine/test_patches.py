"""Patches of a window: they hold their object, keep to the embedding's grid, and move what is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e2sam.modeling.build import teacher_config
from e2sam.training.patches import Patch, cut, extent_of, patch_around, patch_size

CONFIG = teacher_config("tiny")


@given(data=st.data(), height=st.integers(4, 16), width=st.integers(4, 16), seed=st.integers(0, 99))
def test_patch_holds_its_object_and_keeps_to_the_grid(data, height, width, seed):
    grid = height * 8, width * 8
    top, left = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    extent = top, left, data.draw(st.integers(top + 1, grid[0])), data.draw(st.integers(left + 1, grid[1]))
    size = patch_size([extent], grid, CONFIG)
    patch = patch_around(extent, size, grid, CONFIG, np.random.default_rng(seed))
    assert 0 <= patch.top <= top and extent[2] <= patch.top + patch.height <= grid[0]
    assert 0 <= patch.left <= left and extent[3] <= patch.left + patch.width <= grid[1]
    assert patch.height >= min(64, grid[0]) and patch.width >= min(64, grid[1])
    assert all(side % 8 == 0 for side in (patch.top, patch.left, patch.height, patch.width))
    assert patch.place == (patch.top // 2, patch.left // 2, patch.height // 2, patch.width // 2)


def test_extent_is_where_anything_is_covered():
    target = np.zeros((16, 24), np.uint8)
    target[3:5, 7:11] = 1
    assert extent_of(target) == (3, 7, 5, 11)
    assert extent_of(np.zeros((16, 24), np.uint8)) == (0, 0, 16, 24)


def test_points_move_and_those_beyond_are_left_out():
    patch = Patch(16, 8, 64, 72, 4, 2)
    points = np.array([[33.0, 65.0], [31.0, 65.0], [40.0, 70.0], [900.0, 70.0]], np.float32)
    moved, labels = patch.of_points(points, np.array([1, 0, 2, 3]))
    # The first lies in the patch, the second left of it; corners of a box stay, at its border.
    assert moved.tolist() == [[1.0, 1.0], [8.0, 6.0], [288.0, 6.0]] and labels.tolist() == [1, 2, 3]


def test_cut_takes_parts_of_one_embedding_or_all_of_it():
    embedding = torch.randn(1, 3, 16, 20)
    parts = cut(embedding, torch.tensor([[0, 4, 8, 12], [8, 0, 8, 12]]))
    assert torch.equal(parts[0], embedding[0, :, :8, 4:16]) and torch.equal(parts[1], embedding[0, :, 8:, :12])
    whole = Patch.whole((32, 40), CONFIG)
    assert cut(embedding, torch.tensor([whole.place] * 2)) is embedding


@pytest.mark.parametrize("values", [np.arange(12.0).reshape(3, 4), np.arange(24).reshape(2, 3, 4)])
def test_values_on_the_grid_are_cut_at_the_end(values):
    assert np.array_equal(Patch(1, 2, 2, 2, 4, 2).of_grid(values), values[..., 1:, 2:])
