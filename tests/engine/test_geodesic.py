from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from e2sam.modeling.geodesic import FAR, cost_of_ways, geodesic_distance


def shortest_paths(right: np.ndarray, down: np.ndarray, seed: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    index = np.arange(height * width).reshape(size)
    first = np.concatenate((index[:, :-1].ravel(), index[:-1].ravel()))
    second = np.concatenate((index[:, 1:].ravel(), index[1:].ravel()))
    graph = coo_array((np.concatenate((right.ravel(), down.ravel())), (first, second)), shape=(index.size, index.size))
    return dijkstra(graph.tocsr(), directed=False, indices=index[seed]).reshape(size)


def along(right: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cost_of_ways(right), cost_of_ways(down.transpose(1, 2))


def test_equals_dijkstra_with_enough_iterations_and_never_falls_below_it() -> None:
    rng = np.random.default_rng(0)
    size = (12, 17)
    right = (rng.random((12, 16)) + 0.01).astype(np.float32)
    down = (rng.random((11, 17)) + 0.01).astype(np.float32)
    seeds = torch.full((1, *size), FAR)
    seeds[0, 5, 8] = 0
    expected = shortest_paths(right, down, (5, 8), size)
    ways = along(torch.from_numpy(right)[None], torch.from_numpy(down)[None])
    exact = geodesic_distance(*ways, seeds, iterations=40)[0].numpy()
    quick = geodesic_distance(*ways, seeds, iterations=3)[0].numpy()
    assert np.allclose(exact, expected, atol=1e-3)
    assert (quick >= expected - 1e-3).all() and np.abs(quick - expected).mean() < 0.1 * expected.mean()


def test_wall_is_crossed_at_its_cost_only() -> None:
    right, down = torch.full((1, 9, 8), 0.01), torch.full((1, 8, 9), 0.01)
    right[0, :, 3] = 1.0
    seeds = torch.full((1, 9, 9), FAR)
    seeds[0, 4, 0] = 0
    distance = geodesic_distance(*along(right, down), seeds)
    assert distance[0, :, :4].max() < 0.1 and distance[0, :, 4:].min() > 1.0


def test_without_seeds_everything_is_far() -> None:
    seeds = torch.full((2, 5, 6), FAR)
    assert (geodesic_distance(*along(torch.ones(2, 5, 5), torch.ones(2, 4, 6)), seeds) == FAR).all()


def test_costs_of_one_image_serve_many_seeds() -> None:
    ways = along(torch.rand(2, 7, 8), torch.rand(2, 6, 9))
    seeds = torch.where(torch.rand(2, 3, 7, 9) < 0.05, 0.0, FAR)
    together = geodesic_distance(ways[0].unsqueeze(1), ways[1].unsqueeze(1), seeds)
    for image in range(2):
        for index in range(3):
            alone = geodesic_distance(ways[0][image], ways[1][image], seeds[image, index])
            assert torch.allclose(alone, together[image, index])
