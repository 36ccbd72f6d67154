"""Merge modules: from one student pass to the embedding of any selection of its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.data.stack import ChannelSpec
from e2sam.errors import ChannelError, CheckpointError
from e2sam.modeling.channel_selector import selection_weights, slot_weights
from e2sam.modeling.e2sam import ModelConfig

__all__ = ["EMBEDDING_CHANNELS", "GatedMerge", "SplitMerge", "build_merge"]

# What SAM's mask decoder reads.
EMBEDDING_CHANNELS = 256
_MAX_SKETCH = 16
_HIDDEN = 192
_CODE = 64
_KEY = 16
_LEARNED = 16
_SLOTS = 3
_KINDS = ("colour", "depth", "disparity", "thermal", "sar", "reflectance", "stain")
_NUM_WAVES = 4
# Weight, before training, of a channel in a slot that the composite of the selection leaves empty.
_EMPTY_SLOT = 0.0025


def build_merge(config: ModelConfig) -> nn.Module:
    """The merge module of a student's configuration, with starting weights.

    Raises
    ------
    CheckpointError
        If the name is unknown.
    """
    num_channels = len(config.channels)
    if config.merge == "gated":
        return GatedMerge(num_channels, config.embedding_stride, config.logits_stride)
    if config.merge == "split":
        return SplitMerge(num_channels)
    raise CheckpointError(f"Expected a merge module 'gated' or 'split', got {config.merge!r}.")


class GatedMerge(nn.Module):
    """Embedding of a selection from shared features and a sketch of the channels, with weights that can be shown.

    At each position, three gates (the red, green and blue slot of a composite) weigh the selected channels: softmax of
    the composite's own weights plus what queries of the position make of the channels' keys. The gated channels, at the
    stride of the decoder's logits, are what the teacher would see there. A small network then turns the features'
    canonical embedding into the selection's: it reads features and gated channels, is modulated by the code of the
    gated channels, and hands on only by how much its answer differs from the one to the canonical composite. So what
    looks like the canonical composite keeps its embedding whatever the last layer has learned from other scenes; and as
    that layer starts at zero, a new student gives its canonical embedding whatever is selected.

    A selection is a set: two or three channels fill the slots in the channels' canonical order (red first), in whatever
    order they were named. With N channels the parameters grow by 16 + 2 min(N, 16) + 31 numbers a channel.

    Parameters
    ----------
    num_channels
        N.
    embedding_stride, logits_stride
        Of the model; the sketch keeps (embedding_stride / logits_stride)^2 cells for each position.
    """

    sketch: Tensor
    loadings: Tensor
    descriptors: Tensor
    order: Tensor
    canonical: Tensor
    grouping: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, num_channels: int, embedding_stride: int, logits_stride: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.logits_stride = logits_stride
        self.ratio = embedding_stride // logits_stride
        self.rank = min(num_channels, _MAX_SKETCH)
        cells = self.ratio**2
        basis = _cosines(num_channels, self.rank)
        # Sketch of the channels: themselves up to 16, else 16 projections from which each channel is read again.
        self.register_buffer("sketch", basis.T.contiguous())
        self.register_buffer("loadings", basis.clone())
        self.register_buffer("descriptors", torch.zeros(num_channels, len(_KINDS) + 1 + 2 * _NUM_WAVES))
        self.register_buffer("order", torch.arange(num_channels))
        self.register_buffer("canonical", torch.full((_SLOTS, num_channels), 1 / num_channels))
        self.register_buffer("grouping", torch.from_numpy(slot_weights(num_channels).copy()))
        # Of the teacher's channels: some vary a hundred times more than others.
        self.register_buffer("mean", torch.zeros(EMBEDDING_CHANNELS))
        self.register_buffer("deviation", torch.ones(EMBEDDING_CHANNELS))
        self.learned = nn.Parameter(0.02 * torch.randn(num_channels, _LEARNED))
        described = self.rank + len(_KINDS) + 1 + 2 * _NUM_WAVES + _LEARNED + 2
        self.describe = nn.Sequential(nn.Linear(described, _CODE), nn.GELU(), nn.Linear(_CODE, _CODE))
        self.key = nn.Linear(_CODE, _SLOTS * _KEY)
        inputs = EMBEDDING_CHANNELS + 2 * _SLOTS * cells
        self.query = nn.Conv2d(EMBEDDING_CHANNELS + self.rank * cells, _SLOTS * _KEY, 1)
        self.widen = nn.Conv2d(inputs, _HIDDEN, 1)
        self.spread = nn.Conv2d(_HIDDEN, _HIDDEN, 3, padding=1, groups=_HIDDEN)
        self.modulate = nn.Conv2d(_SLOTS * _CODE, 2 * _HIDDEN, 1)
        self.readout = nn.Conv2d(_HIDDEN + _SLOTS * cells, EMBEDDING_CHANNELS, 1)
        for layer in (self.query, self.modulate, self.readout):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            # Half its own position, half its neighbours: edges of a gated channel are seen from the start.
            self.spread.weight.normal_(0, 1 / 3)
            self.spread.weight[:, :, 1, 1] += 1.0

    def set_channels(
        self,
        channels: Sequence[ChannelSpec],
        order: Sequence[int],
        canonical: Tensor,
        basis: Tensor | None = None,
        grouping: Tensor | None = None,
    ) -> None:
        """Tell what the channels are.

        Parameters
        ----------
        channels
            The student's, in order.
        order
            (N,) place of each in the canonical order, red first.
        canonical
            (3, N) composite whose embedding the features hold.
        basis
            (N, K) orthonormal columns that hold most of the channels' variance, K = min(N, 16); None = cosines over the
            order of the channels.
        grouping
            (3, N) weights of the channels in the slots when more than three are selected; None = divided softly over
            the slots in the canonical order.
        """
        self.descriptors.copy_(torch.stack([_describe(channel) for channel in channels]))
        self.order.copy_(torch.tensor(order))
        self.canonical.copy_(canonical)
        places = torch.tensor(order)
        # Softly: column n is that of the channel's place.
        soft = torch.from_numpy(slot_weights(self.num_channels).copy())[:, places]
        self.grouping.copy_(soft if grouping is None else grouping)
        if basis is not None:
            self.sketch.copy_(basis.T)
            self.loadings.copy_(basis)

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Tell mean and standard deviation (256,) of the teacher's embedding, in whose units the module works."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def collect(self, features: Tensor, pixels: Tensor) -> Tensor:
        """Features (B, 256, h, w) with the sketch of the prepared pixels (B, N + 1, H, W) behind them."""
        planes = F.avg_pool2d(pixels[:, :-1].to(features.dtype), self.logits_stride)
        sketch = torch.einsum("kn,bnhw->bkhw", self.sketch.to(planes.dtype), planes)
        return torch.cat((features, F.pixel_unshuffle(sketch, self.ratio)), dim=1)

    def forward(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """Embedding (B, 256, h, w) of a selection."""
        change: Tensor = self.deviation[:, None, None] * self.readout(self.basis(features, selection))
        return features[:, :EMBEDDING_CHANNELS] + change

    def weights(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """(B, len(selection), h, w) in [0, 1], summing to 1: share of each selected channel in the gated channels."""
        chosen, places = self._ordered(selection)
        gates, _ = self._gates(features, chosen)
        shares = gates.mean(1)
        return shares[:, torch.argsort(torch.tensor(places, device=shares.device))]

    def basis(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """(B, 192 + 3 cells, h, w): what the last, linear layer reads; 0 where nothing is gated but the canonical."""
        chosen, _ = self._ordered(selection)
        gates, code = self._gates(features, chosen)
        batch, _, *grid = features.shape
        sketch = features[:, EMBEDDING_CHANNELS:].reshape(batch, self.rank, self.ratio**2, *grid)
        mixture = torch.einsum("bjshw,sk->bjkhw", gates, self.loadings[chosen].to(gates.dtype))
        gated = torch.einsum("bjkhw,bkchw->bjchw", mixture, sketch).flatten(1, 2)
        usual = torch.einsum("jk,bkchw->bjchw", (self.canonical @ self.loadings).to(sketch.dtype), sketch)
        usual = usual.flatten(1, 2)
        change = 2 * (gated - usual)
        normed = self._standardized(features)
        before = self.spread(self.widen(torch.cat((normed, 2 * usual - 1, torch.zeros_like(change)), dim=1)))
        hidden = before + self._spread_change(change)
        scale, shift = self.modulate(code).chunk(2, dim=1)
        return torch.cat((F.gelu(hidden * (1 + scale) + shift) - F.gelu(before), change), dim=1)

    def _spread_change(self, change: Tensor) -> Tensor:
        """What the gated channels add to the hidden layer of the canonical ones: both inputs move by the change."""
        gated, changed = self.widen.weight[:, EMBEDDING_CHANNELS:].chunk(2, dim=1)
        wide = F.conv2d(change, gated + changed)
        return F.conv2d(wide, self.spread.weight, padding=1, groups=_HIDDEN)

    def _standardized(self, features: Tensor) -> Tensor:
        embedding = features[:, :EMBEDDING_CHANNELS]
        return ((embedding - self.mean[:, None, None]) / self.deviation[:, None, None]).to(features.dtype)

    def _ordered(self, selection: Sequence[int]) -> tuple[list[int], list[int]]:
        """The selection in canonical order, and where in the given one each of its channels stood."""
        given = [int(index) for index in selection]
        if not given or len(set(given)) != len(given) or not all(0 <= index < self.num_channels for index in given):
            raise ChannelError(
                f"Expected at least 1 of the channels 0..{self.num_channels - 1}, each once, got {given[:16]}."
            )
        ranks = self.order.tolist()
        places = sorted(range(len(given)), key=lambda place: ranks[given[place]])
        return [given[place] for place in places], places

    def _gates(self, features: Tensor, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gates (B, 3, S, h, w) of ordered channels, and the code (B, 3 x 64, h, w) of what they let through."""
        device, count = features.device, len(chosen)
        index = torch.tensor(chosen, device=device)
        standing = torch.linspace(0, 1, count, device=device)[:, None]
        shared = torch.full_like(standing, 1 / count)
        parts = (self.loadings[index], self.descriptors[index], self.learned[index], standing, shared)
        codes = self.describe(torch.cat(parts, dim=1))
        keys = self.key(codes).reshape(count, _SLOTS, _KEY)
        sketch = features[:, EMBEDDING_CHANNELS:]
        queries = self.query(torch.cat((self._standardized(features), sketch), dim=1))
        queries = queries.reshape(len(features), _SLOTS, _KEY, *features.shape[-2:])
        logits = torch.einsum("bjdhw,sjd->bjshw", queries, keys.to(queries.dtype)) / math.sqrt(_KEY)
        logits = logits.float() + self._slot_prior(chosen).to(device)[None, :, :, None, None]
        gates = torch.softmax(logits, dim=2)
        code = torch.einsum("bjshw,sc->bjchw", gates, codes.to(gates.dtype)).flatten(1, 2)
        return gates, code

    def _slot_prior(self, chosen: Sequence[int]) -> Tensor:
        """(3, S) logits of ordered channels in the three slots before anything is learned."""
        weights = torch.from_numpy(selection_weights(chosen, self.grouping.cpu().numpy()))
        # Of many channels each leaves less in the slots of others: together they would blur them.
        return weights.clamp(min=_EMPTY_SLOT * _SLOTS / max(len(chosen), _SLOTS)).log()


class SplitMerge(nn.Module):
    """The paper's split heads: Linear and LayerNorm a channel, three of them concatenated, 1x1, then the frozen neck.

    As in E2SAM (BMVC 2023), but on the 256 channels behind the student's neck, so that one encoder serves this module
    and `GatedMerge`. Three channels are taken in the given order. The paper has no other selections: one channel stands
    three times; of two, the third slot is the mean of both; more are divided in order over the slots, the mean of each.

    Parameters
    ----------
    num_channels
        N; 66,304 parameters each.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        width = EMBEDDING_CHANNELS
        self.num_channels = num_channels
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(num_channels)
        )
        self.fuse = nn.Conv2d(_SLOTS * width, width, 1, bias=False)
        self.fuse_norm = nn.LayerNorm(width, eps=1e-6)
        # Frozen: the teacher's neck where it has one, else the identity.
        self.neck = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.neck_norm = nn.LayerNorm(width, eps=1e-6)
        with torch.no_grad():
            nn.init.dirac_(self.neck.weight)
        for parameter in (*self.neck.parameters(), *self.neck_norm.parameters()):
            parameter.requires_grad_(False)

    def collect(self, features: Tensor, pixels: Tensor) -> Tensor:
        """The features alone."""
        return features

    def forward(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """Embedding (B, 256, h, w) of a selection."""
        tokens = features.permute(0, 2, 3, 1)
        slots = []
        for group in self._groups(selection):
            slots.append(torch.stack([self.heads[index](tokens) for index in group]).mean(0))
        fused = self.fuse_norm(self.fuse(torch.cat(slots, dim=-1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        out = self.neck_norm(self.neck(fused.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        embedding: Tensor = out.permute(0, 3, 1, 2)
        return embedding

    def weights(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """(B, len(selection), h, w): the share of each channel in the slots, the same everywhere."""
        groups = self._groups(selection)
        shares = [sum(group.count(index) / len(group) for group in groups) / _SLOTS for index in selection]
        column = torch.tensor(shares, dtype=features.dtype, device=features.device).view(1, -1, 1, 1)
        return column.expand(features.shape[0], -1, *features.shape[-2:])

    def _groups(self, selection: Sequence[int]) -> list[list[int]]:
        given = [int(index) for index in selection]
        if not given or not all(0 <= index < self.num_channels for index in given):
            raise ChannelError(f"Expected at least 1 of the channels 0..{self.num_channels - 1}, got {given[:16]}.")
        if len(given) == 1:
            return [given, given, given]
        if len(given) == 2:
            return [given[:1], given[1:], given]
        cuts = [round(slot * len(given) / _SLOTS) for slot in range(_SLOTS + 1)]
        return [given[start:stop] for start, stop in pairwise(cuts)]


def _cosines(num_channels: int, rank: int) -> Tensor:
    """(N, K) orthonormal columns: the identity for N = K, else the K slowest cosines over the channels."""
    if rank == num_channels:
        return torch.eye(num_channels)
    place = (torch.arange(num_channels) + 0.5) * math.pi / num_channels
    waves = torch.cos(place[:, None] * torch.arange(rank))
    return waves / waves.square().sum(0, keepdim=True).sqrt()


def _describe(channel: ChannelSpec) -> Tensor:
    """What is known of a channel: its kind, and waves of the logarithm of its wavelength."""
    kind = [float(channel.kind == known) for known in _KINDS]
    if channel.wavelength_nm is None or channel.wavelength_nm <= 0:
        return torch.tensor([*kind, 0.0, *([0.0] * (2 * _NUM_WAVES))])
    # 400 nm to 12.8 um, visible light to thermal, is one unit.
    place = math.log2(channel.wavelength_nm / 400) / 5
    angles = [math.pi * place * 2**wave for wave in range(_NUM_WAVES)]
    return torch.tensor([*kind, 1.0, *(math.sin(a) for a in angles), *(math.cos(a) for a in angles)])
