"""Students of the inheritance benchmark: trained, compared with their teacher, and clicked at."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from e2sam.data.stack import ChannelStack
from e2sam.evaluation.clicks import ClickOptions, evaluate_clicks
from e2sam.inference.predictor import Predictor
from e2sam.modeling.channel_selector import selection_weights
from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.modeling.inflation import canonical_order
from e2sam.training.agreement import AgreementProbe
from e2sam.training.inherit import InheritConfig, inherit
from e2sam.training.inheritance import Lessons
from e2sam.training.tiles import TileReader, TrainingScene
from e2sam.training.views import TeacherViews
from e2sam.weights.checkpoint import load_checkpoint

__all__ = [
    "Clicked",
    "ShiftedTeacher",
    "agreement",
    "best_of",
    "best_on_others",
    "clicked",
    "interval",
    "on_triples",
    "trained",
    "unseen_triples",
]

CLICKS = ClickOptions(limit=20, with_box=False, stop_at=0.9)
CLICKS_A_TILE = 24
# Of the frame: one position of the logits.
SHIFT = 4


def trained(stacks: Sequence[ChannelStack], teacher: E2SAM, seed: int, steps: int, **changes: Any) -> E2SAM:
    """A student after all its steps, whether it is better than before or not."""
    lessons = {name: changes.pop(name) for name in ("loss", "closed_form", "prompt_share") if name in changes}
    with tempfile.TemporaryDirectory() as folder:
        config = InheritConfig(
            out=Path(folder) / "student.safetensors",
            steps=steps,
            seed=seed,
            batch_size=2,
            keep="last",
            ema_decay=0.99,
            validate_every=0,
            checkpoint_every=0,
            num_validation_tiles=1,
            lessons=replace(Lessons(), **lessons),
            **changes,
        )
        for _ in inherit(stacks, config, teacher):
            pass
        return load_checkpoint(config.out)


def agreement(
    student: E2SAM, teacher: E2SAM, scenes: Sequence[TrainingScene], selections: Sequence[Sequence[int]], factor: float
) -> dict[str, float]:
    """Agreement on held-out regions, seen `factor` times as large as the predictor would show them."""
    reader = TileReader(scenes, student.config.recipes, student.config.image_size, 256)
    held = sum(scene.held is not None for scene in scenes)
    tiles = reader.held_out_tiles(max(4, held), 5, factor)
    probe = AgreementProbe(reader, tiles, TeacherViews(teacher, 256), selections, num_clicks=CLICKS_A_TILE)
    probe.prepare(5)
    return probe.measure(student)


class ShiftedTeacher(E2SAM):
    """The teacher before the same picture, `SHIFT` pixels further right: what it loses by that is no student's fault.

    What leaves the frame on the right comes in again on the left, so that nothing is lost but the place.
    """

    def __init__(self, teacher: E2SAM, student: E2SAM) -> None:
        super().__init__(student.config, teacher.image_encoder, teacher.decoder)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pixels: what they are to the teacher depends on the selection."""
        return pixels

    def embed(self, features: torch.Tensor, selection: Sequence[int] | None = None) -> torch.Tensor:
        """The teacher's embedding of the selection's composite."""
        chosen = list(selection or ())
        weights = torch.from_numpy(selection_weights(chosen))
        composite = 255 * torch.einsum("kn,bnhw->bkhw", weights, features[:, chosen])
        inside = features[:, -1:]
        pixels = inside * (composite - self.pixel_mean) / self.pixel_std
        embedding: torch.Tensor = self.image_encoder(pixels.roll(SHIFT, -1))
        return embedding

    def decode(
        self, image_embeddings: torch.Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of the prompts at the place where the picture now is, brought back."""
        there = SHIFT // self.config.logits_stride
        earlier = None if prompts.mask_input is None else prompts.mask_input.roll(there, -1)
        points = prompts.point_coords + torch.tensor((float(SHIFT), 0.0))
        logits, scores = super().decode(
            image_embeddings, PromptTensors(points, prompts.point_labels, earlier), multimask_output
        )
        return logits.roll(-there, -1), scores


def unseen_triples(stack: ChannelStack, seed: int, count: int = 3) -> list[tuple[str, ...]]:
    """Names of triples to be kept from training; at least one is left to train on."""
    triples = list(combinations(range(stack.num_channels), 3))
    order = canonical_order(stack.channels)
    picked = np.random.default_rng((seed, 3)).permutation(len(triples))[: min(count, len(triples) // 4)]
    return [tuple(stack.names[i] for i in sorted(triples[place], key=lambda i: order[i])) for place in picked]


@dataclass(frozen=True)
class Clicked:
    """NoC@85 and IoU at one and three clicks of each object."""

    noc: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    third: tuple[float, ...] = ()

    def __add__(self, other: Clicked) -> Clicked:
        return Clicked(self.noc + other.noc, self.first + other.first, self.third + other.third)


def clicked(
    model: E2SAM, stack: ChannelStack, channels: Sequence[str], targets: dict[str, NDArray[np.bool_]], **options: Any
) -> Clicked:
    """The protocol on the objects of one stack."""
    predictor = Predictor(model, cache=False)
    predictor.set_stack(stack, channels=tuple(channels), **options)
    result = Clicked()
    for found in evaluate_clicks(predictor, targets, CLICKS).objects:
        clicks = [number for number, iou in enumerate(found.ious, start=1) if iou >= 0.85]
        result += Clicked((float(clicks[0] if clicks else CLICKS.limit),), (found.iou_at(1),), (found.iou_at(3),))
    return result


def on_triples(
    teacher: E2SAM, scenes: Sequence[tuple[ChannelStack, dict[str, NDArray[np.bool_]]]]
) -> tuple[Clicked, ...]:
    """The teacher on each triple of channels, over all scenes."""
    return tuple(
        sum((clicked(teacher, stack, triple, targets) for stack, targets in scenes), Clicked())
        for triple in combinations(scenes[0][0].names, 3)
    )


def best_of(tried: Sequence[Clicked]) -> Clicked:
    """The triple with the fewest mean clicks: chosen knowing the answers."""
    return min(tried, key=lambda one: float(np.mean(one.noc)))


def best_on_others(tried: Sequence[Clicked]) -> Clicked:
    """For each object the triple with the fewest mean clicks on all others: chosen knowing theirs, not its own."""
    clicks = np.array([one.noc for one in tried])
    chosen = (clicks.sum(1, keepdims=True) - clicks).argmin(0)
    rows = (
        Clicked((tried[triple].noc[at],), (tried[triple].first[at],), (tried[triple].third[at],))
        for at, triple in enumerate(chosen)
    )
    return sum(rows, Clicked())


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half-width of its 95 % interval over seeds (Student's t), and the values."""
    known = np.array([value for value in values if np.isfinite(value)])
    width = float("nan")
    if len(known) > 1:
        width = float(stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    mean = float(known.mean()) if len(known) else float("nan")
    return {"mean": mean, "half_width": width, "seeds": [round(float(value), 4) for value in values]}
