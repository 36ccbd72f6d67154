"""What the decoder of `tiny` makes of prompts: dense maps of clicks, boxes, earlier logits and geodesic distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.geodesic import FAR, geodesic_distance

__all__ = ["NUM_DENSE_MAPS", "PromptGeometry", "dense_maps", "prompt_geometry"]

STRIDE = 4
# Widths of the two click maps, in positions of the stride-4 grid.
_NARROW, _WIDE = 1.2, 6.0
NUM_DENSE_MAPS = 12


@dataclass(frozen=True)
class PromptGeometry:
    """Prompts of B objects on the stride-4 grid (H, W).

    Attributes
    ----------
    points
        (B, P, 2) float32 (x, y), in positions of the grid, centres at integers.
    is_positive, is_negative
        (B, P) bool.
    boxes
        (B, 4) float32 x0, y0, x1, y1 on the grid; meaningless where not `has_box`.
    has_box
        (B,) bool.
    logits
        (B, 1, H, W) earlier logits, zero where there were none.
    inside
        (B, H, W) float32, 1 inside the box, 0 outside or without one.
    """

    points: Tensor
    is_positive: Tensor
    is_negative: Tensor
    boxes: Tensor
    has_box: Tensor
    logits: Tensor
    inside: Tensor


def prompt_geometry(prompts: PromptTensors, size: tuple[int, int]) -> PromptGeometry:
    """Place prompts of the model's frame on its stride-4 grid of `size` (H, W)."""
    labels = prompts.point_labels
    points = prompts.point_coords.float() / STRIDE - 0.5
    first = (labels == 2).float().unsqueeze(-1)
    last = (labels == 3).float().unsqueeze(-1)
    boxes = torch.cat(((points * first).sum(1), (points * last).sum(1)), dim=1)
    has_box = (labels == 2).any(1) & (labels == 3).any(1)
    if prompts.mask_input is None:
        logits = points.new_zeros(len(points), 1, *size)
    else:
        logits = prompts.mask_input.float()
        if logits.shape[-2:] != torch.Size(size):
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    x, y = _axes(size, points.device)
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.unbind(1))
    columns = ((x >= x0 - 0.5) & (x <= x1 + 0.5) & has_box[:, None]).float()
    rows = ((y >= y0 - 0.5) & (y <= y1 + 0.5) & has_box[:, None]).float()
    inside = rows[:, :, None] * columns[:, None, :]
    return PromptGeometry(points, labels == 1, labels == 0, boxes, has_box, logits, inside)


def _axes(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (1, W) along x and (1, H) along y."""
    return (
        torch.arange(size[1], device=device, dtype=torch.float32)[None],
        torch.arange(size[0], device=device, dtype=torch.float32)[None],
    )


def dense_maps(geometry: PromptGeometry, cost_right: Tensor, cost_down: Tensor) -> Tensor:
    """(B, 12, H, W) maps in [-1, 1] of prompts and of the geodesic distances from them.

    `cost_right` (B, H, W - 1) and `cost_down` (B, H - 1, W) are the costs of crossing to a neighbour.
    """
    size = (geometry.inside.shape[1], geometry.inside.shape[2])
    maps = [
        _click_map(geometry.points, chosen, size, width)
        for chosen in (geometry.is_positive, geometry.is_negative)
        for width in (_NARROW, _WIDE)
    ]
    inside = geometry.inside
    border = inside * (1 - _eroded(inside))
    near, far = _distances(geometry, cost_right, cost_down)
    maps += [inside, border, torch.tanh(geometry.logits[:, 0] / 4)]
    maps += [torch.exp(-near), torch.exp(-near / 4), torch.exp(-far), torch.exp(-far / 4), torch.tanh(far - near)]
    return torch.stack(maps, dim=1)


def _click_map(points: Tensor, chosen: Tensor, size: tuple[int, int], width: float) -> Tensor:
    """(B, H, W): the largest Gaussian of the chosen points."""
    x, y = _axes(size, points.device)
    columns = torch.exp(-((x[None] - points[..., :1]) ** 2) / (2 * width**2)) * chosen[..., None]
    rows = torch.exp(-((y[None] - points[..., 1:]) ** 2) / (2 * width**2))
    result = points.new_zeros(len(points), *size)
    for index in range(points.shape[1]):
        if bool(chosen[:, index].any()):
            result = torch.maximum(result, rows[:, index, :, None] * columns[:, index, None, :])
    return result


def _eroded(inside: Tensor) -> Tensor:
    return -F.max_pool2d(-inside[:, None], 3, stride=1, padding=1)[:, 0]


def _distances(geometry: PromptGeometry, cost_right: Tensor, cost_down: Tensor) -> tuple[Tensor, Tensor]:
    """Geodesic distances (B, H, W) from positive clicks, and from negative clicks and the outside of the box."""
    positive = _seeds(geometry.points, geometry.is_positive, geometry.inside)
    negative = _seeds(geometry.points, geometry.is_negative, geometry.inside)
    outside = (geometry.inside == 0) & geometry.has_box[:, None, None]
    negative = torch.where(outside, torch.zeros_like(negative), negative)
    count = len(positive)
    used = geometry.is_negative.any() | geometry.has_box.any()
    if not bool(used):
        return geodesic_distance(cost_right, cost_down, positive), negative
    both = geodesic_distance(
        torch.cat((cost_right, cost_right)), torch.cat((cost_down, cost_down)), torch.cat((positive, negative))
    )
    return both[:count], both[count:]


def _seeds(points: Tensor, chosen: Tensor, like: Tensor) -> Tensor:
    """(B, H, W): 0 at the positions of chosen points, FAR elsewhere."""
    seeds = torch.full_like(like, FAR)
    height, width = like.shape[1:]
    column = points[..., 0].round().long().clamp(0, width - 1)
    row = points[..., 1].round().long().clamp(0, height - 1)
    batch, index = chosen.nonzero(as_tuple=True)
    seeds[batch, row[batch, index], column[batch, index]] = 0
    return seeds
