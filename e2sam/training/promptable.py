"""Fine-tuning of the promptable head: simulated users click at labelled objects, the mask decoder learns from it.

The encoder never runs in the loop unless it is tuned itself: embeddings are made once. So that other objects do not get
worse, the masks that the model gave before training elsewhere in the image are replayed, and weights are held near
those that training starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.training.clicking import (
    Points,
    box_prompts,
    click_in_error,
    first_click,
    pad_prompts,
    quick_clicks,
    user_prompts,
)
from e2sam.training.dataset import TrainingWindow, WindowData
from e2sam.training.patches import Extent, Patch, cut, extent_of, patch_around, patch_size
from e2sam.training.replay import Answers, remember
from e2sam.training.task import Outcome, ParameterGroup, StepDraw

__all__ = ["ClickModule", "ClickSettings", "PromptTask", "held_out_scores"]

# Windows, evenly from all, whose answers are remembered: each takes about a second.
_REPLAY_WINDOWS = 4


@dataclass(frozen=True)
class ClickSettings:
    """How the promptable head learns.

    Attributes
    ----------
    learning_rate, encoder_rate
        Of the decoder, and of what is tuned in the encoder.
    weight_decay
        Of both.
    rounds
        Most corrections after the first prompt of a sample; each step draws 0..rounds.
    chosen
        Share of the mask loss on the candidate that the model itself would choose, the rest on the best one.
    replay
        Weight of the replayed masks; 0 = none.
    keep
        Weight of the squared distance from the starting weights.
    """

    learning_rate: float = 3e-4
    encoder_rate: float = 5e-5
    weight_decay: float = 0.0
    rounds: int = 4
    chosen: float = 0.5
    replay: float = 1.0
    keep: float = 1e-2


class ClickModule(nn.Module):
    """The model with the losses of one step; see `TrainingTask.module`.

    Parameters
    ----------
    model
        Its parameters with `requires_grad` are trained.
    settings
        Weights of the losses.
    """

    def __init__(self, model: E2SAM, settings: ClickSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for index, parameter in enumerate(trained):
            self.register_buffer(f"start{index}", parameter.detach().clone(), persistent=False)

    def forward(self, batch: Mapping[str, Any], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the samples of a batch, all of one window and view."""
        embedding = batch["embedding"] if "embedding" in batch else self._encode(batch)
        parts = {"clicks": self._clicked(cut(embedding, batch["places"]), batch)}
        if self.settings.replay and "replay" in batch:
            replay = batch["replay"]
            parts["replay"] = self.settings.replay * self._replayed(cut(embedding, replay["places"]), replay)
        if self.settings.keep:
            parts["keep"] = self.settings.keep * self._distance()
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

    def _encode(self, batch: Mapping[str, Any]) -> Tensor:
        features = self.model.encode(self.model.prepare(batch["planes"], batch["padded_size"]))
        return self.model.embed(features, batch["positions"])

    def _clicked(self, embedding: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Loss over the first prompt and the corrections that follow it."""
        targets, inside = batch["targets"], batch["inside"]
        truth = (targets >= 0.5).cpu().numpy()
        generators = [np.random.default_rng(seed) for seed in batch["seeds"]]
        coords, labels, multimask = batch["coords"], batch["labels"], batch["multimask"]
        rows = torch.arange(len(targets), device=targets.device)
        previous: Tensor | None = None
        losses = []
        last, share = batch["rounds"], self.settings.chosen
        for number in range(last + 1):
            # What lies between the first and the last prompt only leads to where the last click is given.
            is_taught = number in (0, last)
            with torch.set_grad_enabled(is_taught and torch.is_grad_enabled()):
                logits, quality = self.model.decode(embedding, PromptTensors(coords, labels, previous), multimask)
            logits, chosen = logits.float(), quality.detach().argmax(1)
            if is_taught:
                each = _mask_loss(logits, targets, inside)
                # Of several candidates the best is taught, so that they may go on to differ (SAM, arXiv 2304.02643),
                # and the one that would be shown: among few labels of one kind there is little to be unsure of.
                best = each.detach().argmin(1)
                masks = (1 - share) * each[rows, best] + share * each[rows, chosen]
                losses.append(masks.mean() + F.mse_loss(quality.float(), _iou_of(logits, targets, inside)))
            if number == last:
                break
            previous = logits[rows, chosen].detach()[:, None]
            shown = ((previous[:, 0] > 0) & inside).cpu().numpy()
            stride = self.model.config.logits_stride
            more = [
                click_in_error(mask, target, generator, stride)
                for mask, target, generator in zip(shown, truth, generators, strict=True)
            ]
            points = torch.from_numpy(np.stack([point for point, _ in more])).to(coords)
            marks = torch.from_numpy(np.stack([label for _, label in more])).to(labels)
            coords, labels, multimask = torch.cat((points, coords), 1), torch.cat((marks, labels), 1), False
        return torch.stack(losses).mean()

    def _replayed(self, embedding: Tensor, replay: Mapping[str, Any]) -> Tensor:
        """How far the answers to prompts elsewhere have moved from those of the starting weights."""
        prompts = PromptTensors(replay["coords"], replay["labels"])
        logits, quality = self.model.decode(embedding, prompts, replay["multimask"])
        before = replay["logits"].float()
        old = torch.sigmoid(before)
        moved = F.binary_cross_entropy_with_logits(logits.float(), old, reduction="none")
        # What cross entropy with a soft target cannot go below is no loss.
        moved = moved - F.binary_cross_entropy_with_logits(before, old, reduction="none")
        scale = 4 * old.mean((2, 3)) + 1e-2
        each = moved.mean((2, 3)) / scale + (quality.float() - replay["quality"]).square()
        weighted: Tensor = each.mean(1) * replay["weights"]
        return weighted.mean()

    def _distance(self) -> Tensor:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        start = [getattr(self, f"start{index}") for index in range(len(trained))]
        moved = [(now - old).square().sum() for now, old in zip(trained, start, strict=True)]
        return torch.stack(moved).sum()


def _mask_loss(logits: Tensor, targets: Tensor, inside: Tensor) -> Tensor:
    """Cross entropy plus Dice (B, M) against soft targets (B, h, w); small objects weigh as much as large ones."""
    wanted, inside = targets[:, None].expand_as(logits), inside[:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * inside
    area = targets.sum((1, 2), keepdim=False)[:, None]
    around = torch.minimum(4 * area + 64, inside.sum((2, 3)).to(area))
    probability = torch.sigmoid(logits) * inside
    shared = (probability * wanted).sum((2, 3))
    dice = 1 - (2 * shared + 1) / (probability.sum((2, 3)) + area + 1)
    return entropy.sum((2, 3)) / around + dice


def _iou_of(logits: Tensor, targets: Tensor, inside: Tensor) -> Tensor:
    """IoU (B, M) of thresholded candidates: what the quality head has to predict."""
    masks, truth = (logits.detach() > 0) & inside[:, None], (targets >= 0.5)[:, None]
    shared, union = (masks & truth).sum((2, 3)), (masks | truth).sum((2, 3))
    return shared.float() / union.clamp_min(1).float()


class PromptTask:
    """Fine-tuning from labelled objects; follows `e2sam.training.task.TrainingTask`.

    Parameters
    ----------
    module
        The model with its losses.
    train, held_out
        Windows with the objects to learn from, and to judge by.
    encodes
        Whether the encoder is tuned, so that it has to run at each step.
    save_as
        Writes the checkpoint.
    identity
        What tells this run from another.
    """

    def __init__(
        self,
        module: ClickModule,
        train: WindowData,
        held_out: WindowData,
        encodes: bool,
        save_as: Callable[[Path, E2SAM, Outcome], None],
        identity: Mapping[str, Any],
    ) -> None:
        self.module: nn.Module = module
        self.monitor = "score" if held_out.windows else ""
        self._clicks = module
        self._train, self._held_out = train, held_out
        self._encodes = encodes
        self._save_as = save_as
        self._identity = identity
        counts = np.array([window.num_objects for window in train.windows], float)
        self._shares = counts / counts.sum()
        self._replay: dict[int, list[Answers]] = {}
        # Convolutions alone: a part of the embedding is decoded much as in the whole, and costs what its size costs.
        self._is_local = module.model.config.architecture == "tiny"
        self._extents = [[extent_of(target) for target in window.targets] for window in train.windows]

    def identity(self) -> Mapping[str, Any]:
        """What a resumed run must share with this one."""
        return {**self._identity, "clicks": asdict(self._clicks.settings)}

    def prepare(self, fabric: Any) -> Iterator[str]:
        """Encode each image once, and remember what the model says elsewhere in it."""
        del fabric
        count = len(self._train.windows)
        yield f"Encoding {count + len(self._held_out.windows)} image window(s)."
        replayed = set(np.linspace(0, count - 1, min(count, _REPLAY_WINDOWS)).round().astype(int).tolist())
        for index in range(count):
            self._train.embeddings(index)
            if self._clicks.settings.replay and index in replayed:
                self._replay[index] = self._remember(index)

    def _remember(self, index: int) -> list[Answers]:
        window, generator = self._train.windows[index], np.random.default_rng((index, 17))

        def patch_at(extent: Extent, generator: np.random.Generator) -> Patch:
            return self._patches(window, [extent], [generator])[0]

        return remember(self._clicks.model, window, self._train.embeddings(index)[0], patch_at, generator)

    def groups(self) -> Sequence[ParameterGroup]:
        """The decoder's parameters and, where they are tuned, the encoder's."""
        settings, model = self._clicks.settings, self._clicks.model
        decoder = [parameter for parameter in model.decoder.parameters() if parameter.requires_grad]
        own = {id(parameter) for parameter in decoder}
        rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in own]
        groups = [ParameterGroup(decoder, settings.learning_rate, settings.weight_decay)]
        return groups + ([ParameterGroup(rest, settings.encoder_rate, settings.weight_decay)] if rest else [])

    def batch(self, draw: StepDraw) -> dict[str, Any]:
        """Samples of one window and view, with the kind of prompt and the number of corrections drawn for the step."""
        shared = draw.shared()
        index = int(shared.choice(len(self._shares), p=self._shares))
        window = self._train.windows[index]
        view = int(shared.integers(len(window.plan.views)))
        kind = str(shared.choice(["point", "box", "user"], p=[0.5, 0.25, 0.25]))
        rounds = int(shared.integers(self._clicks.settings.rounds + 1))
        generators = [draw.sample(number) for number in draw.samples]
        chosen = [int(generator.integers(window.num_objects)) for generator in generators]
        patches = self._patches(window, [self._extents[index][which] for which in chosen], generators)
        prompts, targets, inside, seeds = [], [], [], []
        for which, patch, generator in zip(chosen, patches, generators, strict=True):
            target = patch.of_grid(window.targets[which]).astype(np.float32) / np.float32(255)
            prompts.append(self._start(window, which, target, patch, kind, generator))
            targets.append(target)
            inside.append(patch.of_grid(window.inside))
            seeds.append(int(generator.integers(2**31)))
        coords, labels = pad_prompts(prompts)
        batch: dict[str, Any] = {
            "coords": coords,
            "labels": labels,
            # As in `Predictor`: several candidates for a single click only.
            "multimask": all((marks >= 0).sum() == 1 for _, marks in prompts),
            "targets": torch.from_numpy(np.stack(targets)),
            "inside": torch.from_numpy(np.stack(inside)),
            "seeds": seeds,
            "rounds": rounds,
            "places": torch.tensor([patch.place for patch in patches]),
        }
        banks = self._replay.get(index)
        # Remembered of the first view; what another shows may be another object.
        if banks and view == 0:
            bank = banks[int(shared.integers(len(banks)))]
            batch["replay"] = bank.draw(shared, max(1, len(prompts) // 2))
        return {**batch, **self._input(index, view)}

    def _patches(
        self, window: TrainingWindow, extents: list[Extent], generators: list[np.random.Generator]
    ) -> list[Patch]:
        """What is decoded of a window for each object: all of it, or, where the decoder is local, what is around."""
        config, grid = self._clicks.model.config, window.frame.logits_size
        if not self._is_local:
            return [Patch.whole(grid, config)] * len(extents)
        size = patch_size(extents, grid, config)
        pairs = zip(extents, generators, strict=True)
        return [patch_around(extent, size, grid, config, generator) for extent, generator in pairs]

    def _start(
        self,
        window: TrainingWindow,
        which: int,
        target: NDArray[np.float32],
        patch: Patch,
        kind: str,
        generator: np.random.Generator,
    ) -> Points:
        """The first prompt of a sample; where there is none of a user, a click."""
        if kind == "box":
            return box_prompts(target, generator, patch.logits_stride)
        if kind == "user" and not window.prompts[which].is_empty:
            points, labels = patch.of_points(*user_prompts(window.prompts[which], window.frame))
            if len(labels):
                return points, labels
        return first_click(target, generator, patch.logits_stride)

    def _input(self, index: int, view: int) -> dict[str, Any]:
        if not self._encodes:
            return {"embedding": self._train.embeddings(index)[view : view + 1]}
        window = self._train.windows[index]
        planes = torch.from_numpy(self._train.planes(index)[view : view + 1])
        return {"planes": planes, "padded_size": window.frame.padded_size, "positions": window.plan.positions}

    # Judging

    def validate(self) -> Mapping[str, float]:
        """IoU on held-out objects after clicks and from boxes, on the grid of the logits."""
        return held_out_scores(
            self._clicks.model, self._held_out, self._current if self._encodes else self._held_out.embeddings
        )

    def _current(self, index: int) -> Tensor:
        """Embeddings of a held-out window by the weights as they stand."""
        model, window = self._clicks.model, self._held_out.windows[index]
        planes = torch.from_numpy(self._held_out.planes(index)).to(model.device)
        with torch.no_grad():
            features = model.encode(model.prepare(planes, window.frame.padded_size))
            return model.embed(features, window.plan.positions).float()

    def save(self, path: Path, outcome: Outcome) -> None:
        """Write the checkpoint of the model as it stands."""
        self._save_as(path, self._clicks.model, outcome)


def held_out_scores(
    model: E2SAM, held_out: WindowData, embeddings: Callable[[int], Tensor] | None = None
) -> dict[str, float]:
    """Mean IoU on objects of windows after 1, 3 and 5 clicks and from boxes, and their mean "score"; {} without any.

    `embeddings` gives those of a window where they are not the ones that `held_out` has.
    """
    found = [
        quick_clicks(model, (embeddings or held_out.embeddings)(index), window.targets, window.inside)
        for index, window in enumerate(held_out.windows)
    ]
    if not found:
        return {}
    clicks = np.concatenate([scores.clicks for scores in found])
    box = np.concatenate([scores.box for scores in found])
    figures = {f"iou_{number}": float(clicks[:, number - 1].mean()) for number in (1, 3, 5)}
    # Each click counts alike, and the box as one more.
    score = (clicks.sum(1) + box) / (clicks.shape[1] + 1)
    return {**figures, "box_iou": float(box.mean()), "score": float(score.mean())}
