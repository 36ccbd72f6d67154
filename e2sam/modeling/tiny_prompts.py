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
        (B, P, 2) float32 (x, y), in positions of the grid, centres at integers: the clicks.
    is_positive, is_negative
        (B, P) bool; neither where a prompt has fewer clicks than others.
    boxes
        (B, 4) float32 x0, y0, x1, y1 on the grid; meaningless where not `has_box`.
    has_box
        (B,) bool.
    logits
        (B, 1, H, W) earlier logits, zero where there were none; None where no prompt has any.
    inside
        (B, H, W) float32, 1 inside the box, 0 outside or without one; None where no prompt has a box.
    size
        (H, W).
    """

    points: Tensor
    is_positive: Tensor
    is_negative: Tensor
    boxes: Tensor
    has_box: Tensor
    logits: Tensor | None
    inside: Tensor | None
    size: tuple[int, int]


def prompt_geometry(prompts: PromptTensors, size: tuple[int, int]) -> PromptGeometry:
    """Place prompts of the model's frame on its stride-4 grid of `size` (H, W)."""
    labels = prompts.point_labels
    points = prompts.point_coords.float() / STRIDE - 0.5
    first, last = labels == 2, labels == 3
    has_box = first.any(1) & last.any(1)
    boxes = torch.cat(
        ((points * first.unsqueeze(-1)).sum(1), (points * last.unsqueeze(-1)).sum(1)),
        dim=1,
    )
    inside = _inside(boxes, has_box, size) if bool(has_box.any()) else None
    logits = prompts.mask_input
    if logits is not None:
        logits = logits.float()
        if logits.shape[-2:] != torch.Size(size):
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    used = ((labels == 1) | (labels == 0)).any(0)
    points, labels = points[:, used], labels[:, used]
    return PromptGeometry(points, labels == 1, labels == 0, boxes, has_box, logits, inside, size)


def _inside(boxes: Tensor, has_box: Tensor, size: tuple[int, int]) -> Tensor:
    x, y = _axes(size, boxes.device)
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.unbind(1))
    columns = ((x >= x0 - 0.5) & (x <= x1 + 0.5) & has_box[:, None]).float()
    rows = ((y >= y0 - 0.5) & (y <= y1 + 0.5) & has_box[:, None]).float()
    return rows[:, :, None] * columns[:, None, :]


def _axes(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (1, W) along x and (1, H) along y."""
    return (
        torch.arange(size[1], device=device, dtype=torch.float32)[None],
        torch.arange(size[0], device=device, dtype=torch.float32)[None],
    )


def dense_maps(geometry: PromptGeometry, along_rows: Tensor, along_columns: Tensor) -> list[Tensor]:
    """12 maps (B, H, W) in [-1, 1] of prompts and of the geodesic distances from them.

    `along_rows` (S, H, W) and `along_columns` (S, W, H) are what ways cost in the images, as `geodesic_distance` takes
    them; the first B / S prompts belong to the first image, and so on.
    """
    maps = [
        *_click_maps(geometry.points, geometry.is_positive, geometry.size),
        *_click_maps(geometry.points, geometry.is_negative, geometry.size),
    ]
    absent = geometry.points.new_zeros(len(geometry.points), *geometry.size)
    inside = geometry.inside
    maps += [absent, absent] if inside is None else [inside, inside * (1 - _eroded(inside))]
    maps.append(absent if geometry.logits is None else torch.tanh(geometry.logits[:, 0] / 4))
    near, far = _distances(geometry, along_rows, along_columns)
    # Past 60 nothing is left of the exponentials but the time that processors take for numbers so small.
    for distance in (near.clamp(max=60), far.clamp(max=60)):
        maps += [torch.exp(-distance), torch.exp(-distance / 4)]
    return [*maps, torch.tanh(far - near)]


def _click_maps(points: Tensor, chosen: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Narrow and wide (B, H, W): the largest Gaussian of the chosen points."""
    falls = points.new_tensor((_NARROW, _WIDE)).square().mul(-2).reciprocal()[:, None]
    x, y = _axes(size, points.device)
    result: Tensor | None = None
    for index in chosen.any(0).nonzero()[:, 0].tolist():
        at = points[:, index, :, None, None]
        columns = torch.exp((x - at[:, 0]).square() * falls) * chosen[:, index, None, None]
        rows = torch.exp((y - at[:, 1]).square() * falls)
        both = rows.unsqueeze(3) * columns.unsqueeze(2)
        result = both if result is None else torch.maximum(result, both)
    return list((points.new_zeros(len(points), 2, *size) if result is None else result).unbind(1))


def _eroded(inside: Tensor) -> Tensor:
    return -F.max_pool2d(-inside[:, None], 3, stride=1, padding=1)[:, 0]


def _distances(geometry: PromptGeometry, along_rows: Tensor, along_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Geodesic distances (B, H, W) from positive clicks, and from negative clicks and the outside of the box."""
    positive = _seeds(geometry, geometry.is_positive)
    negative = _seeds(geometry, geometry.is_negative)
    wanted = [positive, negative]
    if geometry.inside is not None:
        outside = (geometry.inside == 0) & geometry.has_box[:, None, None]
        wanted[1] = torch.where(outside, torch.zeros_like(negative), negative)
    elif not bool(geometry.is_negative.any()):
        wanted.pop()
    seeds = torch.stack(wanted).unflatten(1, (len(along_rows), -1))
    near, *far = geodesic_distance(along_rows.unsqueeze(1), along_columns.unsqueeze(1), seeds).flatten(1, 2)
    return near, far[0] if far else negative


def _seeds(geometry: PromptGeometry, chosen: Tensor) -> Tensor:
    """(B, H, W): 0 at the positions of chosen points, FAR elsewhere."""
    height, width = geometry.size
    points = geometry.points
    seeds = points.new_full((len(points), height, width), FAR)
    column = points[..., 0].round().long().clamp(0, width - 1)
    row = points[..., 1].round().long().clamp(0, height - 1)
    batch, index = chosen.nonzero(as_tuple=True)
    seeds[batch, row[batch, index], column[batch, index]] = 0
    return seeds
