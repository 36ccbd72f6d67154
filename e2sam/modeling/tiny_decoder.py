"""The decoder of `tiny`: prompts become dense maps and similarities to what was clicked, and a small U-Net decides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.tiny_encoder import DETAIL_CHANNELS, SEMANTIC_CHANNELS, ChannelNorm, ResidualBlock, upsample
from e2sam.modeling.tiny_prompts import NUM_DENSE_MAPS, PromptGeometry, dense_maps, prompt_geometry

__all__ = ["ImageFeatures", "TinyDecoder"]

NUM_CANDIDATES = 3
_HEADS = 8
_DETAIL_HEADS, _DETAIL_WIDTH = 4, 6
_WIDTHS = (48, 96, 128)
_FINE = 32
# Added to the quality of the single mask among candidates: what it was trained for, all kinds of prompts, makes it the
# safer choice; 0.05 to 0.15 choose alike on held-out synthetic scenes, 0 loses 0.03 IoU.
_SINGLE_BONUS = 0.1
# Cost of one step where no boundary is seen: 50 positions of the stride-4 grid weigh as much as one boundary.
_STEP_COST = 0.02


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder keeps of S embeddings, whatever the prompts.

    Attributes
    ----------
    trunk
        (S, 48, h, w) semantic channels for the trunk, stride 8.
    keys
        (S, 8, 16, h * w) unit vectors by head, stride 8.
    detail
        (S, 32, H, W) detail for the masks, stride 4.
    detail_keys
        (S, 4, 6, H * W) vectors by head, stride 4.
    boundaries
        (S, 2, H, W) logits: a boundary lies between a position and its right, its lower neighbour.
    """

    trunk: Tensor
    keys: Tensor
    detail: Tensor
    detail_keys: Tensor
    boundaries: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the stride-4 grid."""
        return int(self.detail.shape[2]), int(self.detail.shape[3])


@dataclass(frozen=True, eq=False)
class _Known:
    """Features of embeddings, and the weights that they were made with."""

    state: tuple[object, ...]
    embeddings: Tensor
    features: ImageFeatures


class _Memory:
    """The last features; a copy of the decoder starts without any."""

    def __init__(self) -> None:
        self.last: _Known | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> _Memory:
        return _Memory()

    def __reduce__(self) -> tuple[type[_Memory], tuple[()]]:
        return (_Memory, ())


class TinyDecoder(nn.Module):
    """Masks of B prompts; follows `e2sam.modeling.e2sam.PromptDecoder`."""

    def __init__(self) -> None:
        super().__init__()
        c8, c16, c32 = _WIDTHS
        self.trunk_in = nn.Conv2d(SEMANTIC_CHANNELS, c8, 1)
        self.key_proj = nn.Conv2d(SEMANTIC_CHANNELS, SEMANTIC_CHANNELS, 1, bias=False)
        self.detail_in = nn.Conv2d(DETAIL_CHANNELS, _FINE, 1)
        self.detail_key_proj = nn.Conv2d(DETAIL_CHANNELS, _DETAIL_HEADS * _DETAIL_WIDTH, 1, bias=False)
        self.boundary = nn.Sequential(
            nn.ReLU(), nn.Conv2d(DETAIL_CHANNELS, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)
        )
        maps = NUM_DENSE_MAPS + 2 * _DETAIL_HEADS
        self.dense_down = nn.Conv2d(maps, c8, 3, stride=2, padding=1)
        self.similarity_in = nn.Conv2d(3 * _HEADS, c8, 1)
        self.block8 = ResidualBlock(c8)
        self.down16 = nn.Conv2d(c8, c16, 3, stride=2, padding=1)
        self.block16 = ResidualBlock(c16)
        self.down32 = nn.Conv2d(c16, c32, 3, stride=2, padding=1)
        self.block32 = nn.Sequential(ResidualBlock(c32), ResidualBlock(c32))
        self.context = nn.Sequential(nn.Linear(c32, c32), nn.ReLU(), nn.Linear(c32, c32))
        self.up16 = nn.Conv2d(c32, c16, 1)
        self.merge16 = ResidualBlock(c16)
        self.up8 = nn.Conv2d(c16, c8, 1)
        self.merge8 = ResidualBlock(c8)
        self.fine_up = nn.Conv2d(c8, _FINE, 1)
        self.fine_dense = nn.Conv2d(maps, _FINE, 1)
        self.fine_norm = ChannelNorm(_FINE)
        self.fine_conv = nn.Conv2d(_FINE, _FINE, 3, padding=1)
        self.to_masks = nn.Conv2d(_FINE, 1 + NUM_CANDIDATES, 1)
        self.quality = nn.Sequential(nn.Linear(c8 + c32 + 7, 96), nn.ReLU(), nn.Linear(96, 1))
        self._memory = _Memory()
        nn.init.constant_(self.to_masks.bias, -1.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.quality[-1].weight)  # type: ignore[arg-type]

    def forward(
        self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on (1, B or S, 256, h, w) embeddings; see `PromptDecoder`.

        With S embeddings, S dividing B, the first B / S prompts belong to the first embedding, and so on.
        """
        logits, quality = self.decode(self._known_features(image_embeddings), prompts)
        return _candidates(logits, quality) if multimask_output else (logits[:, :1], quality[:, :1])

    def _known_features(self, embeddings: Tensor) -> ImageFeatures:
        """`features`, kept from the last call while a user clicks on one image: a third of the time of a click."""
        if torch.is_grad_enabled() or self.training:
            return self.features(embeddings)
        layers = (self.trunk_in, self.key_proj, self.detail_in, self.detail_key_proj, self.boundary)
        weights = [weight for layer in layers for weight in layer.parameters()]
        state = (
            *((id(weight), weight._version) for weight in weights),
            torch.is_autocast_enabled(embeddings.device.type),
        )
        known = self._memory.last
        if known is not None and known.state == state and torch.equal(known.embeddings, embeddings):
            return known.features
        features = self.features(embeddings)
        self._memory.last = _Known(state, embeddings.clone(), features)
        return features

    def features(self, embeddings: Tensor) -> ImageFeatures:
        """What does not depend on prompts."""
        semantic = embeddings[:, :SEMANTIC_CHANNELS].contiguous(memory_format=torch.channels_last)
        detail = F.pixel_shuffle(embeddings[:, SEMANTIC_CHANNELS:], 2).contiguous(memory_format=torch.channels_last)
        images = len(embeddings)
        keys = self.key_proj(semantic).reshape(images, _HEADS, SEMANTIC_CHANNELS // _HEADS, -1)
        detail_keys = self.detail_key_proj(detail).reshape(images, _DETAIL_HEADS, _DETAIL_WIDTH, -1)
        return ImageFeatures(
            self.trunk_in(semantic),
            F.normalize(keys, dim=2),
            self.detail_in(detail),
            detail_keys,
            self.boundary(detail),
        )

    def decode(self, features: ImageFeatures, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """Logits (B, 4, H, W) and quality (B, 4): the single mask, then three candidates."""
        count = len(prompts.point_coords)
        each = count // len(features.trunk)
        geometry = prompt_geometry(prompts, features.grid)
        cost = torch.sigmoid(features.boundaries.detach().float()) + _STEP_COST
        cost = cost.repeat_interleave(each, 0)
        with torch.autocast(cost.device.type, enabled=False):
            dense = dense_maps(geometry, cost[:, 0, :, :-1], cost[:, 1, :-1, :])
        dense = torch.cat((dense, self._detail_similarity(features, geometry)), dim=1)
        dense = dense.to(features.trunk.dtype).contiguous(memory_format=torch.channels_last)
        x8 = self.dense_down(dense) + self.similarity_in(self._similarity(features, geometry))
        x8 = _add_shared(x8, features.trunk)
        x8, x32 = self._trunk(x8)
        fine = upsample(self.fine_up(x8)) + self.fine_dense(dense)
        fine = F.relu(self.fine_norm(_add_shared(fine, features.detail)))
        logits = self.to_masks(F.relu(self.fine_conv(fine)) + fine).float()
        return logits, self._quality(logits, x8, x32, cost)

    def _trunk(self, x8: Tensor) -> tuple[Tensor, Tensor]:
        x8 = self.block8(x8)
        x16 = self.block16(self.down16(x8))
        x32 = self.block32(self.down32(x16))
        summary = x32.mean((2, 3))
        x32 = x32 + self.context(summary)[:, :, None, None]
        x16 = self.merge16(x16 + upsample(self.up16(x32)))
        return self.merge8(x8 + upsample(self.up8(x16))), summary

    def _similarity(self, features: ImageFeatures, geometry: PromptGeometry) -> Tensor:
        """(B, 24, h, w): cosine similarity by head to positive clicks, negative clicks and the prompted region."""
        height, width = features.trunk.shape[-2:]
        images, heads, depth, _ = features.keys.shape
        keys = features.keys.float()
        maps = keys.reshape(images, heads * depth, height, width)
        points = (geometry.points - 0.5) / 2
        clicked = _sample(maps, points).reshape(len(points), -1, heads, depth)
        region = self._region(keys, geometry).unsqueeze(1)
        queries = F.normalize(torch.cat((clicked, region), dim=1), dim=-1)
        scores = _scores(queries, keys)
        points_only = scores[:, :-1]
        positive = _masked_max(points_only, geometry.is_positive)
        negative = _masked_max(points_only, geometry.is_negative)
        maps = torch.cat((positive, negative, scores[:, -1]), dim=1).reshape(len(points), 3 * heads, height, width)
        return maps.to(features.trunk.dtype).contiguous(memory_format=torch.channels_last)

    def _region(self, keys: Tensor, geometry: PromptGeometry) -> Tensor:
        """(B, heads, depth): mean key under the earlier mask, or in the middle of the box; 0 without both."""
        images, heads, depth, _ = keys.shape
        given = geometry.logits.abs().amax((1, 2, 3)) > 0
        weights = torch.where(given[:, None, None, None], torch.sigmoid(geometry.logits), _box_middle(geometry))
        weights = F.avg_pool2d(weights, 2).reshape(images, -1, keys.shape[-1])
        flat = keys.reshape(images, heads * depth, -1)
        mean = weights @ flat.transpose(1, 2) / (weights.sum(-1, keepdim=True) + 1e-3)
        return mean.reshape(-1, heads, depth)

    def _detail_similarity(self, features: ImageFeatures, geometry: PromptGeometry) -> Tensor:
        """(B, 8, H, W): likeness exp(-distance^2) by head to positive and to negative clicks."""
        height, width = features.grid
        images, heads, depth, _ = features.detail_keys.shape
        keys = features.detail_keys.float()
        clicked = _sample(keys.reshape(images, heads * depth, height, width), geometry.points)
        clicked = clicked.reshape(len(geometry.points), -1, heads, depth)
        norms = keys.square().sum(2).repeat_interleave(len(clicked) // images, 0)[:, None]
        distance = norms - 2 * _scores(clicked, keys) + clicked.square().sum(-1, keepdim=True)
        likeness = torch.exp(-distance.clamp(min=0))
        groups = (geometry.is_positive, geometry.is_negative)
        maps = [_masked_max(likeness, chosen, absent=0.0) for chosen in groups]
        return torch.cat(maps, dim=1).reshape(len(clicked), 2 * heads, height, width)

    def _quality(self, logits: Tensor, x8: Tensor, summary: Tensor, cost: Tensor) -> Tensor:
        """Predicted IoU (B, 4) from what lies under each mask, how sure it is, and the boundaries on its contour."""
        with torch.no_grad():
            soft = torch.sigmoid(logits)
            hard = (logits > 0).float()
            sure = (soft * hard).sum((2, 3)) / (torch.maximum(soft, hard).sum((2, 3)) + 1e-3)
            stable = ((logits > 1).sum((2, 3)) + 1e-3) / ((logits > -1).sum((2, 3)) + 1e-3)
            area = hard.mean((2, 3))
            facts = torch.stack(
                (sure, stable, area, torch.log(area + 1e-4) / 4, soft.amax((2, 3)), *_contour(hard, cost)), dim=-1
            )
            weights = F.avg_pool2d(soft, 2).flatten(2)
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-3)
        under = weights @ x8.float().flatten(2).transpose(1, 2)
        whole = summary.float()[:, None].expand(-1, logits.shape[1], -1)
        return torch.sigmoid(self.quality(torch.cat((under, whole, facts), dim=-1))[..., 0].float())


def _candidates(logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Of the single mask and three candidates (B, 4, H, W): the single one and the better two, with their quality."""
    better = quality[:, 1:].topk(NUM_CANDIDATES - 1, dim=1).indices + 1
    order = torch.cat((torch.zeros_like(better[:, :1]), better), dim=1)
    raised = quality.gather(1, order)
    raised[:, 0] = (raised[:, 0] + _SINGLE_BONUS).clamp(max=1)
    return logits.gather(1, order[:, :, None, None].expand(-1, -1, *logits.shape[2:])), raised


def _contour(hard: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cost (B, M) of the steps that cross the contours of masks (B, M, H, W), and of those within them."""
    right, down = cost[:, :1, :, :-1], cost[:, 1:, :-1, :]
    crossing = right * (hard[..., :-1] - hard[..., 1:]).abs(), down * (hard[..., :-1, :] - hard[..., 1:, :]).abs()
    length = (crossing[0] > 0).sum((2, 3)) + (crossing[1] > 0).sum((2, 3))
    on_contour = (crossing[0].sum((2, 3)) + crossing[1].sum((2, 3))) / (length + 1)
    within = (right * hard[..., :-1] * hard[..., 1:]).sum((2, 3)) / (hard.sum((2, 3)) + 1)
    return on_contour, within


def _add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """x (B, C, h, w) plus what the prompts of one image share (S, C, h, w), without a copy of it."""
    images = len(shared)
    if images in (1, len(x)):
        return x + shared
    total: Tensor = (x.unflatten(0, (images, -1)) + shared.unsqueeze(1)).flatten(0, 1)
    return total


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (B, P, C) of (S, C, h, w) at points (B, P, 2), in positions of the maps."""
    images, channels, height, width = maps.shape
    size = torch.tensor((width, height), device=maps.device, dtype=maps.dtype)
    grid = (points.to(maps.dtype) + 0.5) * 2 / size - 1
    grid = grid.clamp(-1, 1).reshape(images, -1, points.shape[1], 2)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1).reshape(len(points), points.shape[1], channels)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Products (B, P, heads, N) of queries (B, P, heads, depth) with keys (S, heads, depth, N)."""
    images, heads, depth, _ = keys.shape
    count, points = queries.shape[:2]
    grouped = queries.reshape(images, -1, heads, depth).transpose(1, 2)
    return (grouped @ keys).transpose(1, 2).reshape(count, points, heads, -1)


def _masked_max(scores: Tensor, chosen: Tensor, absent: float = -1.0) -> Tensor:
    """(B, heads, N): the largest score of the chosen points, `absent` where there are none."""
    if scores.shape[1] == 0:
        return scores.new_full((len(scores), *scores.shape[2:]), absent)
    return scores.masked_fill(~chosen[:, :, None, None], absent).amax(1)


def _box_middle(geometry: PromptGeometry) -> Tensor:
    """(B, 1, H, W) weights: the inner half of the box, zero without one."""
    height, width = geometry.inside.shape[1:]
    x = torch.arange(width, device=geometry.points.device)[None]
    y = torch.arange(height, device=geometry.points.device)[None]
    x0, y0, x1, y1 = (edge[:, None] for edge in geometry.boxes.unbind(1))
    columns = torch.exp(-8 * ((x - (x0 + x1) / 2) / (x1 - x0 + 1)) ** 2)
    rows = torch.exp(-8 * ((y - (y0 + y1) / 2) / (y1 - y0 + 1)) ** 2)
    return (rows[:, :, None] * columns[:, None, :] * geometry.inside)[:, None]
