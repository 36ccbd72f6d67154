from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from e2sam.modeling.geodesic import FAR, geodesic_distance


def shortest_paths(right: np.ndarray, down: np.ndarray, seed: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    index = np.arange(height * width).reshape(size)
    first = np.concatenate((index[:, :-1].ravel(), index[:-1].ravel()))
    second = np.concatenate((index[:, 1:].ravel(), index[1:].ravel()))
    graph = coo_array((np.concatenate((right.ravel(), down.ravel())), (first, second)), shape=(index.size, index.size))
    return dijkstra(graph.tocsr(), directed=False, indices=index[seed]).reshape(size)


def test_equals_dijkstra_with_enough_iterations_and_never_falls_below_it() -> None:
    rng = np.random.default_rng(0)
    size = (12, 17)
    right = (rng.random((12, 16)) + 0.01).astype(np.float32)
    down = (rng.random((11, 17)) + 0.01).astype(np.float32)
    seeds = torch.full((1, *size), FAR)
    seeds[0, 5, 8] = 0
    expected = shortest_paths(right, down, (5, 8), size)
    tensors = torch.from_numpy(right)[None], torch.from_numpy(down)[None]
    exact = geodesic_distance(*tensors, seeds, iterations=40)[0].numpy()
    quick = geodesic_distance(*tensors, seeds, iterations=3)[0].numpy()
    assert np.allclose(exact, expected, atol=1e-3)
    assert (quick >= expected - 1e-3).all() and np.abs(quick - expected).mean() < 0.1 * expected.mean()


def test_wall_is_crossed_at_its_cost_only() -> None:
    right, down = torch.full((1, 9, 8), 0.01), torch.full((1, 8, 9), 0.01)
    right[0, :, 3] = 1.0
    seeds = torch.full((1, 9, 9), FAR)
    seeds[0, 4, 0] = 0
    distance = geodesic_distance(right, down, seeds)
    assert distance[0, :, :4].max() < 0.1 and distance[0, :, 4:].min() > 1.0


def test_without_seeds_everything_is_far() -> None:
    seeds = torch.full((2, 5, 6), FAR)
    assert (geodesic_distance(torch.ones(2, 5, 5), torch.ones(2, 4, 6), seeds) == FAR).all()
