"""The decoder of `tiny`: prompts become dense maps and similarities to what was clicked, and a small U-Net decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.packed import version_of
from e2sam.modeling.tiny_encoder import DETAIL_CHANNELS, SEMANTIC_CHANNELS, ChannelNorm, ResidualBlock, upsample
from e2sam.modeling.tiny_prompts import NUM_DENSE_MAPS, PromptGeometry, dense_maps, prompt_geometry

__all__ = ["ImageFeatures", "TinyDecoder"]

NUM_CANDIDATES = 3
_HEADS = 8
_DETAIL_HEADS, _DETAIL_WIDTH = 4, 6
_WIDTHS = (48, 96, 128)
_FINE = 32
# What is measured of a mask for its predicted quality, beside the features under it.
_NUM_FACTS = 9
# Logarithm of the likeness to a click that is not there.
_UNLIKE = -50.0
# Added to the quality of the single mask among candidates: what it was trained for, all kinds of prompts, makes it the
# safer choice.
_SINGLE_BONUS = 0.03
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
    costs
        (S, 2, H, W) float32 > 0, the costs of these steps, without gradient.
    detail_norms
        (S, 4, H * W) float32, squared lengths of `detail_keys`.
    """

    trunk: Tensor
    keys: Tensor
    detail: Tensor
    detail_keys: Tensor
    boundaries: Tensor
    costs: Tensor
    detail_norms: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the stride-4 grid."""
        return int(self.detail.shape[2]), int(self.detail.shape[3])

    def of(self, images: slice) -> ImageFeatures:
        """Those of some of the embeddings."""
        return ImageFeatures(*(getattr(self, part.name)[images] for part in fields(self)))


@dataclass(frozen=True, eq=False)
class _Known:
    """Features of embeddings, and the weights that they were made with.

    The embeddings are held, so that their memory belongs to no other tensor meanwhile.
    """

    state: tuple[object, ...]
    embeddings: Tensor
    version: int
    features: ImageFeatures

    def features_of(self, embeddings: Tensor) -> ImageFeatures | None:
        """Features of the same tensor or of a slice of its images; None for any other."""
        held = self.embeddings
        is_there = (
            embeddings.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()
            and (embeddings.shape[1:], embeddings.stride(), embeddings.dtype)
            == (held.shape[1:], held.stride(), held.dtype)
            and version_of(embeddings) == self.version
        )
        if not is_there:
            return None
        first, rest = divmod(int(embeddings.storage_offset() - held.storage_offset()), held.stride(0))
        if rest or first < 0 or first + len(embeddings) > len(held):
            return None
        return self.features.of(slice(first, first + len(embeddings)))


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
        self.block8 = ResidualBlock(c8, 16)
        self.down16 = nn.Conv2d(c8, c16, 3, stride=2, padding=1)
        self.block16 = ResidualBlock(c16, 32)
        self.down32 = nn.Conv2d(c16, c32, 3, stride=2, padding=1)
        self.block32 = ResidualBlock(c32, 64)
        self.context = nn.Sequential(nn.Linear(c32, c32), nn.ReLU(), nn.Linear(c32, c32))
        self.up16 = nn.Conv2d(c32, c16, 1)
        self.merge16 = ResidualBlock(c16, 32)
        self.up8 = nn.Conv2d(c16, c8, 1)
        self.merge8 = ResidualBlock(c8, 24)
        self.fine_up = nn.Conv2d(c8, _FINE, 1)
        self.fine_dense = nn.Conv2d(maps, _FINE, 1)
        self.fine_norm = ChannelNorm(_FINE)
        self.fine_conv = nn.Conv2d(_FINE, _FINE // 2, 3, padding=1)
        self.fine_masks = nn.Conv2d(_FINE // 2, 1 + NUM_CANDIDATES, 1, bias=False)
        self.to_masks = nn.Conv2d(_FINE, 1 + NUM_CANDIDATES, 1)
        self.quality = nn.Sequential(nn.Linear(c8 + c32 + _NUM_FACTS, 96), nn.ReLU(), nn.Linear(96, 1))
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
        """`features`, kept from the last call while a user clicks on one image."""
        if torch.is_grad_enabled() or self.training:
            return self.features(embeddings)
        layers = (self.trunk_in, self.key_proj, self.detail_in, self.detail_key_proj, self.boundary)
        weights = [weight for layer in layers for weight in layer.parameters()]
        state = (
            *((id(weight), weight._version) for weight in weights),
            torch.is_autocast_enabled(embeddings.device.type),
        )
        known = self._memory.last
        features = None if known is None or known.state != state else known.features_of(embeddings)
        if features is None:
            features = self.features(embeddings)
            self._memory.last = _Known(state, embeddings, version_of(embeddings), features)
        return features

    def features(self, embeddings: Tensor) -> ImageFeatures:
        """What does not depend on prompts."""
        semantic = embeddings[:, :SEMANTIC_CHANNELS].contiguous(memory_format=torch.channels_last)
        detail = F.pixel_shuffle(embeddings[:, SEMANTIC_CHANNELS:], 2).contiguous(memory_format=torch.channels_last)
        images = len(embeddings)
        keys = self.key_proj(semantic).reshape(images, _HEADS, SEMANTIC_CHANNELS // _HEADS, -1)
        detail_keys = self.detail_key_proj(detail).reshape(images, _DETAIL_HEADS, _DETAIL_WIDTH, -1)
        boundaries = self.boundary(detail)
        return ImageFeatures(
            self.trunk_in(semantic),
            F.normalize(keys, dim=2),
            self.detail_in(detail),
            detail_keys,
            boundaries,
            torch.sigmoid(boundaries.detach().float()) + _STEP_COST,
            detail_keys.float().square().sum(2),
        )

    def decode(self, features: ImageFeatures, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """Logits (B, 4, H, W) and quality (B, 4): the single mask, then three candidates."""
        each = len(prompts.point_coords) // len(features.trunk)
        geometry = prompt_geometry(prompts, features.grid)
        cost = features.costs.repeat_interleave(each, 0) if each > 1 else features.costs
        with torch.autocast(cost.device.type, enabled=False):
            maps = dense_maps(geometry, cost[:, 0, :, :-1], cost[:, 1, :-1, :])
        maps += self._detail_similarity(features, geometry).unbind(1)
        dense = torch.stack(maps, dim=1).to(features.trunk.dtype).contiguous(memory_format=torch.channels_last)
        x8 = self.dense_down(dense) + self.similarity_in(self._similarity(features, geometry))
        x8 = _add_shared(x8, features.trunk)
        x8, x32 = self._trunk(x8)
        # The largest tensors of a click are written in place.
        fine = _add_shared(upsample(self.fine_up(x8)).add_(self.fine_dense(dense)), features.detail)
        fine = F.relu_(self.fine_norm(fine))
        logits = (self.to_masks(fine) + self.fine_masks(F.relu_(self.fine_conv(fine)))).float().contiguous()
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
        clicked = _sample(maps, (geometry.points - 0.5) / 2).unflatten(2, (heads, depth))
        clicked = F.normalize(clicked, dim=-1)
        groups = [
            _best_of(clicked, chosen, -1.0, height * width, lambda query: _scores(query, keys))
            for chosen in (geometry.is_positive, geometry.is_negative)
        ]
        region = self._region(keys, geometry)
        if region is None:
            groups.append(torch.zeros_like(groups[0]))
        else:
            groups.append(_scores(F.normalize(region, dim=-1), keys))
        similarity = torch.cat(groups, dim=1).reshape(len(clicked), 3 * heads, height, width)
        return similarity.to(features.trunk.dtype).contiguous(memory_format=torch.channels_last)

    def _region(self, keys: Tensor, geometry: PromptGeometry) -> Tensor | None:
        """(B, heads, depth): mean key under the earlier mask, or in the middle of the box; 0 for prompts without both.

        None where no prompt has either.
        """
        images, heads, depth, _ = keys.shape
        middle = None if geometry.inside is None else _box_middle(geometry, geometry.inside)
        if geometry.logits is None:
            weights = middle
        else:
            given = geometry.logits.abs().amax((1, 2, 3)) > 0
            without = torch.zeros_like(geometry.logits) if middle is None else middle
            weights = torch.where(given[:, None, None, None], torch.sigmoid(geometry.logits), without)
        if weights is None:
            return None
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
        clicked = clicked.unflatten(2, (heads, depth))
        norms = features.detail_norms.repeat_interleave(len(clicked) // images, 0)

        def closeness(query: Tensor) -> Tensor:
            return _scores(2 * query, keys).sub_(norms).sub_(query.square().sum(-1, keepdim=True))

        groups = [
            _best_of(clicked, chosen, _UNLIKE, height * width, closeness)
            for chosen in (geometry.is_positive, geometry.is_negative)
        ]
        likeness = torch.cat(groups, dim=1).clamp(_UNLIKE, 0).exp()
        return likeness.reshape(len(clicked), 2 * heads, height, width)

    def _quality(self, logits: Tensor, x8: Tensor, summary: Tensor, cost: Tensor) -> Tensor:
        """Predicted IoU (B, 4) from what lies under each mask, how sure it is, and the boundaries on its contour."""
        with torch.no_grad():
            soft = torch.sigmoid(logits)
            facts = _facts(logits, soft, cost)
            weights = F.avg_pool2d(soft, 2).flatten(2)
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-3)
        under = weights @ x8.float().flatten(2).transpose(1, 2)
        whole = summary.float()[:, None].expand(-1, logits.shape[1], -1)
        return torch.sigmoid(self.quality(torch.cat((under, whole, facts), dim=-1))[..., 0].float())


def _facts(logits: Tensor, soft: Tensor, cost: Tensor) -> Tensor:
    """(B, M, 9) facts about masks: how sure, stable, large, well bounded, and how like the others they are."""
    positions = logits[0, 0].numel()
    hard = (logits > 0).float()
    flat = hard.flatten(2)
    shared, both = flat @ flat.transpose(1, 2), (flat.unsqueeze(2) @ soft.flatten(2).unsqueeze(3))[..., 0, 0]
    area = shared.diagonal(dim1=1, dim2=2)
    sure = both / (area + soft.sum((2, 3)) - both + 1e-3)
    stable = (((logits > 1).sum((2, 3)) + 1e-3) / ((logits > -1).sum((2, 3)) + 1e-3)).float()
    alike = shared / (area[:, :, None] + area[:, None] - shared + 1e-3)
    share = area / positions
    columns = (sure, stable, share, torch.log(share + 1e-4) / 4, soft.amax((2, 3)), *_contour(hard, area, cost))
    return torch.stack((*columns, alike[:, 0], alike.mean(-1)), dim=-1)


def _candidates(logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Of the single mask and three candidates (B, 4, H, W): the single one and the better two, with their quality."""
    better = quality[:, 1:].topk(NUM_CANDIDATES - 1, dim=1).indices + 1
    order = torch.cat((torch.zeros_like(better[:, :1]), better), dim=1)
    raised = quality.gather(1, order)
    raised[:, 0] = (raised[:, 0] + _SINGLE_BONUS).clamp(max=1)
    return logits.gather(1, order[:, :, None, None].expand(-1, -1, *logits.shape[2:])), raised


def _contour(hard: Tensor, area: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cost (B, M) of the steps that cross the contours of masks (B, M, H, W), and of those within them."""
    right, down = cost[:, 0, :, :-1].flatten(1), cost[:, 1, :-1, :].flatten(1)
    sideways = (hard[..., :-1] - hard[..., 1:]).abs_().flatten(2)
    downwards = (hard[..., :-1, :] - hard[..., 1:, :]).abs_().flatten(2)
    length = sideways.sum(2) + downwards.sum(2)
    on_contour = (_dot(sideways, right) + _dot(downwards, down)) / (length + 1)
    within = _dot((hard[..., :-1] * hard[..., 1:]).flatten(2), right) / (area + 1)
    return on_contour, within


def _dot(maps: Tensor, weights: Tensor) -> Tensor:
    """(B, M) sums of maps (B, M, N) times the weights (B, N) of their prompt."""
    return (maps @ weights.unsqueeze(2))[..., 0]


def _add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """x (B, C, h, w), in place, plus what the prompts of one image share (S, C, h, w)."""
    images = len(shared)
    if images in (1, len(x)):
        return x.add_(shared)
    total: Tensor = x.unflatten(0, (images, -1)).add_(shared.unsqueeze(1)).flatten(0, 1)
    return total


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (B, P, C) of (S, C, h, w) at points (B, P, 2), in positions of the maps."""
    images, channels, height, width = maps.shape
    count, each = points.shape[:2]
    if each == 0:
        return maps.new_zeros(count, 0, channels)
    size = torch.tensor((width, height), device=maps.device, dtype=maps.dtype)
    grid = (points.to(maps.dtype) + 0.5) * 2 / size - 1
    grid = grid.clamp(-1, 1).reshape(images, -1, each, 2)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1).reshape(count, each, channels)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Products (B, heads, N) of queries (B, heads, depth), one of each prompt, with keys (S, heads, depth, N)."""
    images, heads, depth, positions = keys.shape
    grouped = queries.reshape(images, -1, heads, depth).transpose(1, 2)
    return (grouped @ keys).transpose(1, 2).reshape(-1, heads, positions)


def _best_of(
    clicked: Tensor, chosen: Tensor, absent: float, positions: int, score: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, heads, N): the largest score of the chosen points (B, P) of (B, P, heads, depth), `absent` without any.

    Point by point: products of single rows are several times faster than of two or three.
    """
    best: Tensor | None = None
    for point, whose in zip(clicked.unbind(1), chosen.unbind(1), strict=True):
        if not bool(whose.any()):
            continue
        found = score(point)
        if not bool(whose.all()):
            found = found.masked_fill(~whose[:, None, None], absent)
        best = found if best is None else torch.maximum(best, found)
    return clicked.new_full((len(clicked), clicked.shape[2], positions), absent) if best is None else best


def _box_middle(geometry: PromptGeometry, inside: Tensor) -> Tensor:
    """(B, 1, H, W) weights: the inner half of the box, zero without one."""
    height, width = geometry.size
    x = torch.arange(width, device=inside.device)[None]
    y = torch.arange(height, device=inside.device)[None]
    x0, y0, x1, y1 = (edge[:, None] for edge in geometry.boxes.unbind(1))
    columns = torch.exp(-8 * ((x - (x0 + x1) / 2) / (x1 - x0 + 1)) ** 2)
    rows = torch.exp(-8 * ((y - (y0 + y1) / 2) / (y1 - y0 + 1)) ** 2)
    return (rows[:, :, None] * columns[:, None, :] * inside)[:, None]
