"""Stage 1 as a task of the training loop: a student learns the embeddings and masks of its frozen teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.channel_selector import ChannelSelector
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.inflation import input_layer
from e2sam.modeling.lora import add_lora, remove_lora
from e2sam.modeling.merge import GatedMerge
from e2sam.training.agreement import AgreementProbe, pixels_of
from e2sam.training.losses import feature_loss, maximum_mean_discrepancy
from e2sam.training.prompting import prompt_loss
from e2sam.training.readout import fit_readout
from e2sam.training.task import Outcome, ParameterGroup, StepDraw
from e2sam.training.tiles import TileReader, TileSpec
from e2sam.training.views import TeacherViews
from e2sam.weights.checkpoint import save_checkpoint

__all__ = ["InheritModule", "InheritTask", "Lessons", "Rates"]

# Tiles from which the variance of the teacher's channels, and the first readout, are taken.
_FIRST_TILES = 12
_WHOLE_SELECTION_SHARE = 0.5
# Of the samples that lose channels: how many may lose canonical ones, on which the student's features rest.
_CANONICAL_LOSS_SHARE = 0.3
# Of IoU: a fall of agreement that a few dozen held-out questions do not make by chance alone.
_CLEARLY_WORSE = 0.05


@dataclass(frozen=True)
class Rates:
    """Learning rates by part, for AdamW; weight decay on matrices only."""

    merge: float = 3e-4
    first_layer: float = 1e-3
    encoder: float = 1e-4
    lora: float = 5e-4
    weight_decay: float = 0.05

    def scaled(self, factor: float) -> Rates:
        """All learning rates times a factor."""
        rates = {name: factor * getattr(self, name) for name in ("merge", "first_layer", "encoder", "lora")}
        return replace(self, **rates)


@dataclass(frozen=True)
class Lessons:
    """What a step holds.

    Attributes
    ----------
    views_per_tile
        Selections for which each tile is encoded by the teacher, the canonical one among them; 0 = drawn anew at every
        step, one for the whole batch, as the paper has it.
    views_per_step
        How many of them a sample is compared on at a step.
    loss
        "pairwise" or "mmd".
    closed_form
        Whether the merge module's last layer is solved for before the first step; not with "mmd", which pairs nothing.
    prompt_share
        Share of the steps, at the end, that answer prompts too; 0 = features only.
    prompts
        First clicks a tile.
    prompted_share
        Share of the samples of such a step that are asked.
    prompt_weight
        Weight of the loss on masks.
    dropout
        Chance that a sample loses channels (hierarchical channel sampling).
    """

    views_per_tile: int = 6
    views_per_step: int = 2
    loss: str = "pairwise"
    closed_form: bool = True
    prompt_share: float = 0.5
    prompts: int = 6
    prompted_share: float = 0.5
    prompt_weight: float = 1.0
    dropout: float = 0.5


class InheritModule(nn.Module):
    """The student with its losses; `forward(batch, progress)` as the training loop calls it."""

    variance: Tensor

    def __init__(self, student: E2SAM, lessons: Lessons) -> None:
        super().__init__()
        self.student = student
        self.lessons = lessons
        self.register_buffer("variance", torch.ones(256), persistent=False)
        student.decoder.requires_grad_(False)

    def train(self, mode: bool = True) -> InheritModule:
        """The frozen decoder stays in eval mode."""
        super().train(mode)
        self.student.decoder.eval()
        return self

    def forward(self, batch: Mapping[str, Any], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the samples."""
        features = self.student.encode(batch["pixels"])
        samples = range(len(features))
        parts = {"features": torch.stack([self._features(features, batch, i) for i in samples]).mean()}
        if progress >= 1 - self.lessons.prompt_share:
            answers = [self._prompts(features, batch, i) for i in samples if batch["is_prompted"][i]]
            if answers:
                share = len(answers) / len(features)
                parts["prompts"] = self.lessons.prompt_weight * share * torch.stack(answers).mean()
        loss = torch.stack(list(parts.values())).sum()
        return loss, {name: value.detach() for name, value in parts.items()}

    def _features(self, features: Tensor, batch: Mapping[str, Any], index: int) -> Tensor:
        losses = []
        for selection, target in zip(batch["selections"][index], batch["targets"][index], strict=True):
            embedding = self.student.embed(features[index : index + 1], selection).float()
            if self.lessons.loss == "mmd":
                losses.append(maximum_mean_discrepancy(embedding, target[None]))
            else:
                weight = batch["weight"][index : index + 1]
                losses.append(feature_loss(embedding, target[None], self.variance, weight))
        return torch.stack(losses).mean()

    def _prompts(self, features: Tensor, batch: Mapping[str, Any], index: int) -> Tensor:
        selection, views = batch["selections"][index][0], batch["targets"][index]
        if batch["asks_all"][index]:
            selection = batch["present"][index]
        else:
            views = views[:1]
        embedding = self.student.embed(features[index : index + 1], selection).float()
        return prompt_loss(
            self.student, embedding, views, *(batch[name][index] for name in ("points", "inside", "chance"))
        )


class InheritTask:
    """Knowledge inheritance; follows `e2sam.training.task.TrainingTask`.

    Parameters
    ----------
    student
        From `build_student`.
    views
        The teacher.
    reader, tiles
        Training tiles.
    selector
        Draws the teacher's channels.
    canonical
        The selection whose composite the student starts from; empty where there is none.
    probe
        Validation.
    lessons, rates, tune, lora_rank
        How it is taught; `tune` is "full" or "lora".
    seed
        For the choice of views.
    provenance
        What the checkpoint is to say of the run, as plain JSON.
    """

    monitor = "agreement_score"

    def __init__(
        self,
        student: E2SAM,
        views: TeacherViews,
        reader: TileReader,
        tiles: Sequence[TileSpec],
        selector: ChannelSelector,
        *,
        canonical: Sequence[int],
        probe: AgreementProbe,
        lessons: Lessons,
        rates: Rates,
        tune: str,
        lora_rank: int,
        seed: int,
        provenance: Mapping[str, Any],
    ) -> None:
        self.module = InheritModule(student, lessons)
        self._student = student
        self._views = views
        self._reader = reader
        self._tiles = tuple(tiles)
        self._selector = selector
        self._probe = probe
        self._lessons = lessons
        self._rates = rates
        self._seed = seed
        self._canonical = frozenset(canonical)
        self._provenance = dict(provenance)
        self._fills = np.array([recipe.fill for recipe in student.config.recipes], np.float32)
        self._selections = [self._draw_selections(index, tuple(canonical)) for index in range(len(self._tiles))]
        self._lora = _adapt(student, lora_rank) if tune == "lora" else []

    def _draw_selections(self, index: int, canonical: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Different selections of one tile, the canonical one first; all channels together among them."""
        rng = np.random.default_rng((self._seed, 19, index))
        chosen = {canonical: None} if canonical else {}
        if self._selector.num_channels > 3:
            chosen[self._selector.ordered(range(self._selector.num_channels))] = None
        for turn in range(10 * self._lessons.views_per_tile):
            if len(chosen) >= self._lessons.views_per_tile:
                break
            chosen[self._selector.draw(rng, index + turn)] = None
        return tuple(chosen)

    def identity(self) -> Mapping[str, Any]:
        """What a resumed run must share."""
        return self._provenance

    def prepare(self, fabric: Any) -> Iterator[str]:
        """Encode every view that training is sure to need, shared between the processes."""
        self._views.teacher.to(fabric.device)
        if self._lessons.views_per_tile:
            mine = range(fabric.global_rank, len(self._tiles), fabric.world_size)
            for done, index in enumerate(mine, start=1):
                self._views.embed(self._reader.read(self._tiles[index]).planes, self._selections[index])
                yield f"Teacher views: {done} of {len(mine)} tiles."
        self._probe.prepare(self._seed)
        mean, variance = self._statistics()
        self.module.variance.copy_(variance)
        if isinstance(self._student.merge, GatedMerge):
            self._student.merge.set_statistics(mean, variance.sqrt())

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """(256,) mean and variance of the teacher's channels over the first tiles."""
        tokens = []
        for index in range(min(_FIRST_TILES, len(self._tiles))):
            selections = self._selections[index][:1] or [self._selector.draw(np.random.default_rng(index), index)]
            embedding = self._views.embed(self._reader.read(self._tiles[index]).planes, selections)[0]
            tokens.append(embedding.flatten(1))
        together = torch.cat(tokens, dim=1)
        variance = together.var(1)
        # A channel that hardly varies at all must not outweigh all others.
        return together.mean(1), variance.clamp(min=max(float(0.02 * variance.median()), 1e-8))

    def begin(self) -> None:
        """Before the first step: solve for the merge module's last, linear layer, given the teacher's views."""
        merge, wanted = self._student.merge, self._lessons
        solves = wanted.closed_form and wanted.views_per_tile and wanted.loss == "pairwise"
        if not solves or not isinstance(merge, GatedMerge):
            return
        lessons = []
        for index in range(min(_FIRST_TILES, len(self._tiles))):
            planes, weight = self._planes(index)
            targets = self._views.embed(planes, self._selections[index])
            lessons.append((pixels_of(self._student, planes, self._size), weight, self._selections[index], targets))
        fit_readout(self._student, merge, lessons)

    @property
    def _size(self) -> int:
        return self._views.tile_size

    def groups(self) -> list[ParameterGroup]:
        """Merge module, first layer, and the encoder or its low-rank changes."""
        rates, student = self._rates, self._student
        first = input_layer(student.image_encoder).weight
        lora = {id(parameter) for parameter in self._lora}
        kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = rates.encoder
            if name.startswith("student.merge."):
                rate = rates.merge
            elif parameter is first:
                rate = rates.first_layer
            elif id(parameter) in lora:
                rate = rates.lora
            decay = rates.weight_decay if parameter.ndim > 1 else 0.0
            kinds.setdefault((rate, decay), []).append(parameter)
        return [ParameterGroup(parameters, rate, decay) for (rate, decay), parameters in kinds.items()]

    # --- samples -----------------------------------------------------------------------------------------------------

    def batch(self, draw: StepDraw) -> dict[str, Any]:
        """Tiles with channels dropped, their selections, the teacher's embeddings and first clicks."""
        shared = self._selector.draw(draw.shared(), draw.step) if not self._lessons.views_per_tile else None
        samples = [self._sample(draw.sample(number), shared) for number in draw.samples]
        batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
        for name in ("pixels", "weight", "inside", "points", "chance"):
            batch[name] = torch.stack(batch[name])
        return batch

    def _sample(self, rng: np.random.Generator, shared: tuple[int, ...] | None) -> dict[str, Any]:
        index = int(rng.integers(len(self._tiles)))
        planes, weight = self._planes(index)
        drops = rng.random() < self._lessons.dropout
        drops &= shared is not None or any(len(selection) <= 3 for selection in self._selections[index])
        if shared is None:
            # What the teacher is shown must be there: all channels together are a lesson only where none is dropped.
            known = [selection for selection in self._selections[index] if len(selection) <= 3 or not drops]
            count = min(self._lessons.views_per_step, len(known))
            selections = [known[int(i)] for i in rng.permutation(len(known))[:count]]
        else:
            selections = [shared]
        targets = self._views.embed(planes, selections)
        needed = {channel for selection in selections for channel in selection}
        if drops and rng.random() >= _CANONICAL_LOSS_SHARE:
            needed |= self._canonical
        present = self._present(rng, needed, len(planes)) if drops else tuple(range(len(planes)))
        height, width = planes.shape[-2:]
        seen = planes.copy()
        absent = [channel for channel in range(len(planes)) if channel not in present]
        seen[absent] = self._fills[absent, None, None]
        points = rng.uniform((1, 1), (max(width - 1, 2), max(height - 1, 2)), (self._lessons.prompts, 2))
        stride = self._student.config.logits_stride
        inside = torch.zeros(self._size // stride, self._size // stride)
        inside[: -(-height // stride), : -(-width // stride)] = 1
        return {
            "pixels": pixels_of(self._student, seen, self._size),
            "weight": weight,
            "inside": inside,
            "chance": torch.from_numpy(rng.random((self._lessons.prompts, *inside.shape), np.float32)),
            "points": torch.from_numpy(points.astype(np.float32)),
            "selections": selections,
            "targets": targets,
            "present": present,
            "is_prompted": rng.random() < self._lessons.prompted_share,
            "asks_all": len(present) > 3 and rng.random() < _WHOLE_SELECTION_SHARE,
        }

    def _planes(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Pixels (N, h, w) of a tile, and the weight (h', w') of each position of the embedding."""
        tile = self._reader.read(self._tiles[index])
        height, width = tile.measured.shape
        whole = torch.zeros(1, 1, self._size, self._size)
        whole[0, 0, :height, :width] = torch.from_numpy(tile.measured)
        return tile.planes, F.avg_pool2d(whole, self._student.config.embedding_stride)[0, 0]

    def _present(self, rng: np.random.Generator, needed: set[int], num_channels: int) -> tuple[int, ...]:
        """Channels left by hierarchical sampling: how many (at least a quarter), then which; the needed ones stay."""
        count = int(rng.integers(math.ceil(num_channels / 4), num_channels + 1))
        kept = set(rng.permutation(num_channels)[:count].tolist()) | needed
        return tuple(channel for channel in range(num_channels) if channel in kept)

    # --- result ------------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Agreement with the teacher on held-out regions, and "agreement_score", the mean of its parts."""
        parts = self._probe.measure(self._student)
        return parts | {self.monitor: float(np.mean(list(parts.values())))} if parts else {}

    def objection(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """The parts of the agreement that are clearly worse than before; "" if none is.

        A student that follows triples better must not pay for it with the answers to all channels together.
        """
        fallen = [name for name, value in after.items() if name in before and value < before[name] - _CLEARLY_WORSE]
        return ", ".join(f"{n.replace('_', ' ')} fell from {before[n]:.2f} to {after[n]:.2f}" for n in fallen)

    def save(self, path: Path, outcome: Outcome) -> None:
        """Write the student, low-rank changes merged."""
        student = copy.deepcopy(self._student)
        remove_lora(student)
        result = {
            "before": dict(outcome.before),
            "after": dict(outcome.after),
            "steps": outcome.steps,
            "kept_step": outcome.kept_step,
            "seconds": outcome.seconds,
            "accepted": outcome.accepted,
        }
        save_checkpoint(path, student, {"stage": "inherit", **self._provenance, "outcome": result})


def _adapt(student: E2SAM, rank: int) -> list[nn.Parameter]:
    """Freeze a transformer encoder but for low-rank changes, first layer, norms and neck."""
    encoder = student.image_encoder
    encoder.requires_grad_(False)
    blocks = encoder.blocks
    assert isinstance(blocks, nn.ModuleList)
    trained = add_lora(blocks, rank)
    input_layer(encoder).requires_grad_(True)
    encoder.get_submodule("neck").requires_grad_(True)
    for name, parameter in blocks.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    return trained
