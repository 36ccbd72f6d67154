"""The decoder of `tiny`: prompts become dense maps and similarities to what was clicked, and a small U-Net decides."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.geodesic import cost_of_ways
from e2sam.modeling.packed import fastest_dtype, passing_in, version_of
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
# Cost of one step where no boundary is seen: 50 positions of the stride-4 grid weigh as much as one boundary.
_STEP_COST = 0.02
# A user's clicks on one object are decoded on the image and on a closer look at the object, in turns.
_REMEMBERED = 2


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder keeps of S embeddings, whatever the prompts.

    Attributes
    ----------
    trunk
        (S, 48, h, w) semantic channels for the trunk, stride 8.
    keys
        (S, 8, 16, h * w) float32, unit vectors by head, stride 8.
    detail
        (S, 32, H, W) detail for the masks, stride 4.
    detail_keys
        (S, 4, 8, H * W) float32: by head six values, their squared length, and 1; stride 4.
    boundaries
        (S, 2, H, W) logits: a boundary lies between a position and its right, its lower neighbour.
    steps
        (S, 3, H, W) float32 without gradient: costs > 0 of the step to the right, of that down (0 where there is no
        neighbour), and their sum over all four neighbours.
    along_rows, along_columns
        (S, H, W) and (S, W, H) float32, what ways cost: see `geodesic_distance`.
    """

    trunk: Tensor
    keys: Tensor
    detail: Tensor
    detail_keys: Tensor
    boundaries: Tensor
    steps: Tensor
    along_rows: Tensor
    along_columns: Tensor

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
    """The features used last, of an image and of a closer look at it; a copy of the decoder starts without any."""

    def __init__(self) -> None:
        self._known: tuple[_Known, ...] = ()

    def features_of(self, embeddings: Tensor, state: tuple[object, ...]) -> ImageFeatures | None:
        """Features of embeddings by weights of some state, where they are known."""
        for known in self._known:
            features = known.features_of(embeddings) if known.state == state else None
            if features is not None:
                self.use(known)
                return features
        return None

    def use(self, known: _Known) -> None:
        """Remember features, and forget those that were not used for longest."""
        others = [other for other in self._known if other is not known]
        self._known = (known, *others[: _REMEMBERED - 1])

    def __deepcopy__(self, memo: dict[int, object]) -> _Memory:
        return _Memory()

    def __reduce__(self) -> tuple[type[_Memory], tuple[()]]:
        return (_Memory, ())


class TinyDecoder(nn.Module):
    """Masks of B prompts; follows `e2sam.modeling.e2sam.PromptDecoder`."""

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
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
        self.quality = nn.Sequential(
            nn.Linear(c8 + c32 + _NUM_FACTS + 1 + NUM_CANDIDATES, 96), nn.ReLU(), nn.Linear(96, 1)
        )
        self._memory = _Memory()
        nn.init.constant_(self.to_masks.bias, -1.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.quality[-1].weight)  # type: ignore[arg-type]

    def forward(
        self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on (1, B or S, 256, h, w) embeddings; see `PromptDecoder`.

        With S embeddings, S dividing B, the first B / S prompts belong to the first embedding, and so on.
        """
        with passing_in(self.compute_dtype, image_embeddings.device):
            logits, quality = self.decode(self._known_features(image_embeddings), prompts)
        return _candidates(logits, quality) if multimask_output else (logits[:, :1], quality[:, :1])

    def coarse_layers(self) -> tuple[nn.Module, ...]:
        """The layers at strides 16 and 32, which see the whole image: more than half of the weights."""
        return self.down16, self.block16, self.down32, self.block32, self.context, self.up16, self.merge16

    def prefer_speed(self, dtype: torch.dtype | None = None) -> None:
        """Compute passes without gradients in the type that is fastest on the weights' device, or in `dtype`."""
        self.compute_dtype = dtype or fastest_dtype(self.trunk_in.weight.device)

    def _known_features(self, embeddings: Tensor) -> ImageFeatures:
        """`features`, kept from the last calls while a user clicks on one object."""
        if torch.is_grad_enabled() or self.training:
            return self.features(embeddings)
        layers = (self.trunk_in, self.key_proj, self.detail_in, self.detail_key_proj, self.boundary)
        weights = [weight for layer in layers for weight in layer.parameters()]
        state = (
            *((id(weight), weight._version) for weight in weights),
            torch.is_autocast_enabled(embeddings.device.type),
        )
        features = self._memory.features_of(embeddings, state)
        if features is None:
            features = self.features(embeddings)
            self._memory.use(_Known(state, embeddings, version_of(embeddings), features))
        return features

    def features(self, embeddings: Tensor) -> ImageFeatures:
        """What does not depend on prompts."""
        semantic = embeddings[:, :SEMANTIC_CHANNELS].contiguous(memory_format=torch.channels_last)
        detail = F.pixel_shuffle(embeddings[:, SEMANTIC_CHANNELS:], 2).contiguous(memory_format=torch.channels_last)
        keys = self.key_proj(semantic).float().flatten(2).unflatten(1, (_HEADS, -1))
        detail_keys = self.detail_key_proj(detail).float().flatten(2).unflatten(1, (_DETAIL_HEADS, -1))
        lengths = detail_keys.square().sum(2, keepdim=True)
        boundaries = self.boundary(detail)
        steps = _steps(torch.sigmoid(boundaries.detach().float()) + _STEP_COST)
        return ImageFeatures(
            self.trunk_in(semantic),
            F.normalize(keys, dim=2).contiguous(),
            self.detail_in(detail),
            torch.cat((detail_keys, lengths, torch.ones_like(lengths)), dim=2),
            boundaries,
            steps,
            cost_of_ways(steps[:, 0, :, :-1]),
            cost_of_ways(steps[:, 1, :-1].transpose(1, 2).contiguous()),
        )

    def decode(self, features: ImageFeatures, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        """Logits (B, 4, H, W) and quality (B, 4): the single mask, then three candidates."""
        geometry = prompt_geometry(prompts, features.grid)
        with torch.autocast(features.trunk.device.type, enabled=False):
            maps = dense_maps(geometry, features.along_rows, features.along_columns)
            maps += self._detail_similarity(features, geometry).unbind(1)
            similarity = self._similarity(features, geometry)
        dense = _channels_last(torch.stack(maps, dim=1).to(features.trunk.dtype))
        x8 = self.dense_down(dense).add_(_pointwise(self.similarity_in, similarity))
        x8 = _add_shared(x8, features.trunk)
        x8, x32 = self._trunk(x8)
        # The largest tensors of a click are written in place.
        fine = _add_shared(upsample(_pointwise(self.fine_up, x8)).add_(self.fine_dense(dense)), features.detail)
        fine = F.relu_(self.fine_norm(fine))
        logits = (self.to_masks(fine) + self.fine_masks(F.relu_(self.fine_conv(fine)))).float().contiguous()
        return logits, self._quality(logits, x8, x32, features.steps)

    def _trunk(self, x8: Tensor) -> tuple[Tensor, Tensor]:
        x8 = self.block8(x8)
        x16 = self.block16(self.down16(x8))
        x32 = self.block32(self.down32(x16))
        summary = x32.mean((2, 3))
        x32 = x32 + self.context(summary)[:, :, None, None]
        x16 = self.merge16(x16 + upsample(_pointwise(self.up16, x32)))
        return self.merge8(x8 + upsample(_pointwise(self.up8, x16))), summary

    def _similarity(self, features: ImageFeatures, geometry: PromptGeometry) -> Tensor:
        """(B, 24, h, w): cosine similarity by head to positive clicks, negative clicks and the prompted region."""
        size = features.trunk.shape[-2:]
        clicked = _sample(features.keys.flatten(1, 2).unflatten(2, size), (geometry.points - 0.5) / 2)
        clicked = clicked.unflatten(2, (_HEADS, -1))
        region = self._region(features.keys, geometry)
        queries = clicked if region is None else torch.cat((clicked, region[:, None]), dim=1)
        found = _scores(F.normalize(queries, dim=-1), features.keys)
        points = found[:, : clicked.shape[1]]
        groups = [_best_of(points, chosen, -1.0) for chosen in (geometry.is_positive, geometry.is_negative)]
        groups.append(torch.zeros_like(groups[0]) if region is None else found[:, -1])
        return torch.cat(groups, dim=1).reshape(-1, 3 * _HEADS, *size).to(features.trunk.dtype)

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
        mean = weights @ keys.flatten(1, 2).transpose(1, 2) / (weights.sum(-1, keepdim=True) + 1e-3)
        return mean.reshape(-1, heads, depth)

    def _detail_similarity(self, features: ImageFeatures, geometry: PromptGeometry) -> Tensor:
        """(B, 8, H, W): likeness exp(-distance^2) by head to positive and to negative clicks."""
        clicked = _sample(features.detail_keys.flatten(1, 2).unflatten(2, features.grid), geometry.points)
        clicked = clicked.unflatten(2, (_DETAIL_HEADS, -1))[..., :_DETAIL_WIDTH]
        # -|key - query|^2 as one product, with the key's squared length and 1 behind it.
        length = clicked.square().sum(-1, keepdim=True)
        found = _scores(torch.cat((2 * clicked, -torch.ones_like(length), -length), dim=-1), features.detail_keys)
        groups = [_best_of(found, chosen, _UNLIKE) for chosen in (geometry.is_positive, geometry.is_negative)]
        likeness = torch.cat(groups, dim=1).clamp(_UNLIKE, 0).exp()
        return likeness.reshape(-1, 2 * _DETAIL_HEADS, *features.grid)

    def _quality(self, logits: Tensor, x8: Tensor, summary: Tensor, steps: Tensor) -> Tensor:
        """Predicted IoU (B, 4) from what lies under each mask, facts about it, and which of the four it is.

        In float32, whatever the rest computes in: contours are small differences of large areas, which bfloat16 would
        round to nothing or to less.
        """
        with torch.autocast(logits.device.type, enabled=False):
            with torch.no_grad():
                soft = torch.sigmoid(logits)
                facts = _facts(logits, soft, steps)
                weights = F.avg_pool2d(soft, 2).flatten(2)
                weights = weights / (weights.sum(-1, keepdim=True) + 1e-3)
            under = weights @ x8.float().flatten(2).transpose(1, 2)
            count, masks = logits.shape[:2]
            whole = summary.float()[:, None].expand(-1, masks, -1)
            which = torch.eye(masks, device=logits.device).expand(count, -1, -1)
            return torch.sigmoid(self.quality(torch.cat((under, whole, facts, which), dim=-1))[..., 0])


def _steps(cost: Tensor) -> Tensor:
    """(B, 3, H, W): costs (B, 2, H, W) of the steps right and down, 0 beyond the edge, and of all four steps."""
    right, down = F.pad(cost[:, 0, :, :-1], (0, 1)), F.pad(cost[:, 1, :-1], (0, 0, 0, 1))
    left, up = F.pad(right[..., :-1], (1, 0)), F.pad(down[:, :-1], (0, 0, 1, 0))
    return torch.stack((right, down, right + left + down + up), dim=1)


def _facts(logits: Tensor, soft: Tensor, steps: Tensor) -> Tensor:
    """(B, M, 9) facts about masks: how sure, stable, large, well bounded, and how like the others they are."""
    hard = (logits > 0).float()
    flat, flat_soft = hard.flatten(2), soft.flatten(2)
    shared = flat @ flat.transpose(1, 2)
    both = (flat @ flat_soft.transpose(1, 2)).diagonal(dim1=1, dim2=2)
    area = shared.diagonal(dim1=1, dim2=2)
    sure = both / (area + flat_soft.sum(2) - both + 1e-3)
    stable = ((logits > 1).sum((2, 3)) + 1e-3) / ((logits > -1).sum((2, 3)) + 1e-3)
    alike = shared / (area[:, :, None] + area[:, None] - shared + 1e-3)
    share = area / flat.shape[2]
    columns = (
        sure,
        stable.float(),
        share,
        torch.log(share + 1e-4) / 4,
        flat_soft.amax(2),
        *_contour(hard, area, steps),
    )
    return torch.stack((*columns, alike[:, 0], alike.mean(-1)), dim=-1)


def _candidates(logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Of the single mask and three candidates (B, 4, H, W): the single one and the better two, with their quality."""
    better = quality[:, 1:].topk(NUM_CANDIDATES - 1, dim=1).indices + 1
    order = torch.cat((torch.zeros_like(better[:, :1]), better), dim=1)
    return logits[torch.arange(len(logits), device=logits.device)[:, None], order], quality.gather(1, order)


def _contour(hard: Tensor, area: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cost (B, M) of the steps that cross the contours of masks (B, M, H, W), and of those within them.

    Steps that cross are the steps from all positions of a mask, less twice those that stay in it.
    """
    right, down, around = steps.unbind(1)
    sideways, downwards = hard[..., :-1] * hard[..., 1:], hard[..., :-1, :] * hard[..., 1:, :]
    within = _dot(sideways, right[..., :-1])
    crossing = _dot(hard, around) - 2 * (within + _dot(downwards, down[:, :-1]))
    border = hard[..., 0, :] + hard[..., -1, :], hard[..., 0] + hard[..., -1]
    length = 4 * area - sum(edge.sum(2) for edge in border) - 2 * (sideways.sum((2, 3)) + downwards.sum((2, 3)))
    return crossing / (length + 1), within / (area + 1)


def _dot(maps: Tensor, weights: Tensor) -> Tensor:
    """(B, M) sums of maps (B, M, h, w) times the weights (S, h, w) of their image."""
    rows = maps.reshape(len(weights), -1, maps[0, 0].numel())
    return (rows @ weights.flatten(1).unsqueeze(2)).reshape(maps.shape[:2])


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
    """Products (B, P, heads, N) of queries (B, P, heads, depth) with keys (S, heads, depth, N).

    One matrix product, in which a query meets the other heads with zeros: many small ones take longer.
    """
    images, heads, depth, positions = keys.shape
    apart = queries.unsqueeze(-2) * torch.eye(heads, device=queries.device, dtype=queries.dtype).unsqueeze(-1)
    found = apart.reshape(images, -1, heads * depth) @ keys.flatten(1, 2)
    return found.reshape(*queries.shape[:3], positions)


def _best_of(scores: Tensor, chosen: Tensor, absent: float) -> Tensor:
    """(B, heads, N): the largest score (B, P, heads, N) of the chosen points (B, P), `absent` without any."""
    best: Tensor | None = None
    for found, whose in zip(scores.unbind(1), chosen.unbind(1), strict=True):
        if not bool(whose.any()):
            continue
        if not bool(whose.all()):
            found = found.masked_fill(~whose[:, None, None], absent)
        best = found if best is None else torch.maximum(best, found)
    return scores.new_full((len(scores), *scores.shape[2:]), absent) if best is None else best


def _channels_last(maps: Tensor) -> Tensor:
    """(B, C, h, w) as channels last; without gradients as plain transpositions, which torch has a quicker way for."""
    if torch.is_grad_enabled() or maps.device.type != "cpu":
        return maps.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = maps.shape
    last = maps.new_empty(batch, height * width, channels)
    for out, planes in zip(last, maps.flatten(2), strict=True):
        out.copy_(planes.t())
    return last.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of (B, C, h, w) as the matrix product that it is, channels last."""
    return F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


def _box_middle(geometry: PromptGeometry, inside: Tensor) -> Tensor:
    """(B, 1, H, W) weights: the inner half of the box, zero without one."""
    height, width = geometry.size
    x = torch.arange(width, device=inside.device)[None]
    y = torch.arange(height, device=inside.device)[None]
    x0, y0, x1, y1 = (edge[:, None] for edge in geometry.boxes.unbind(1))
    columns = torch.exp(-8 * ((x - (x0 + x1) / 2) / (x1 - x0 + 1)) ** 2)
    rows = torch.exp(-8 * ((y - (y0 + y1) / 2) / (y1 - y0 + 1)) ** 2)
    return (rows[:, :, None] * columns[:, None, :] * inside)[:, None]
