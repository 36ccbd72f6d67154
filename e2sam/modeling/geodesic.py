"""Geodesic distances from prompts: how many boundaries a path from a click must cross, by raster scans."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FAR", "cost_of_ways", "geodesic_distance"]

# Distance of what no seed reaches; float32 still resolves 1e-3 beside it.
FAR = 1.0e3


def cost_of_ways(cost: Tensor) -> Tensor:
    """(B, H, W) cost of the way from the start of each row, from (B, H, W - 1) costs >= 0 of the steps to the right."""
    return torch.nn.functional.pad(cost.cumsum(-1), (1, 0))


def _scan(distance: Tensor, travelled: Tensor) -> Tensor:
    """Exact distances along each row."""
    forward = travelled + (distance - travelled).cummin(-1).values
    backward = (forward + travelled).flip(-1).cummin(-1).values.flip(-1) - travelled
    return torch.minimum(forward, backward)


@torch.no_grad()
def geodesic_distance(along_rows: Tensor, along_columns: Tensor, seeds: Tensor, iterations: int = 3) -> Tensor:
    """Least cost of a 4-connected path from the seeds to every position.

    Alternating exact scans of rows and columns (Toivanen, 1996, by running minima of cost differences): each
    iteration adds two corners to the paths that are found, so that few suffice for objects that are not spirals.

    Parameters
    ----------
    along_rows
        (..., H, W) float32, `cost_of_ways` of the steps from a position to its right neighbour.
    along_columns
        (..., W, H) float32, the same of the steps to the neighbour below, transposed.
    seeds
        (..., H, W) float32, distance at the start: 0 at seeds, `FAR` elsewhere. Costs of one image serve many.
    iterations
        Scans of rows and columns.

    Returns
    -------
    Tensor
        (..., H, W) float32 in [0, FAR].
    """
    distance = seeds
    for _ in range(iterations):
        distance = _scan(distance, along_rows)
        distance = _scan(distance.transpose(-1, -2).contiguous(), along_columns).transpose(-1, -2).contiguous()
    return distance.clamp(max=FAR)
