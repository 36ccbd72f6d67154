"""Fine-tuning by clicks: from corrections to a task, held-out scenes and figures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e2sam.data.corrections import Correction, CorrectionSet
from e2sam.data.io.datasets import LabelledSet
from e2sam.errors import TrainingError
from e2sam.evaluation.pictures import rgb_channels
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.encoding import WindowEncoder
from e2sam.modeling.e2sam import E2SAM
from e2sam.training.dataset import LARGE_SIDE, LabelledScene, WindowData, scenes_of, windows_of
from e2sam.training.finetune_config import FinetuneConfig
from e2sam.training.judging import ClickFigures, compare_clicks, judge_clicks
from e2sam.training.promptable import ClickModule, ClickSettings, PromptTask, held_out_scores
from e2sam.training.split import ObjectPlace, Split, split_objects
from e2sam.training.task import Outcome, TrainingTask
from e2sam.training.tuning import set_trained
from e2sam.weights.zoo import load_model

__all__ = ["PromptHead"]

_FEWEST_STEPS, _MOST_STEPS = 60, 400
_CROSSED_STEPS = 72
# Up to this many objects are all judged by, see `PromptHead.folds`.
_FEW_OBJECTS = 8
_TURNED_SCENES, _MIRRORED_SCENES = 3, 8
_SECONDS_A_STEP = 0.5
# Of the way from the old weights to the trained ones, tried beside all of it.
_SHARES = (0.25, 0.5)


@dataclass
class PromptHead:
    """Follows `e2sam.training.finetune.Head`.

    Attributes
    ----------
    config
        Settings.
    base
        The model that training starts from; never changed.
    train, held_out
        Scenes with the objects of each side.
    division
        How they were divided.
    is_crossed
        Whether each side is learned from once and judges once.
    """

    config: FinetuneConfig
    base: E2SAM
    train: list[LabelledScene]
    held_out: list[LabelledScene]
    division: Split
    is_crossed: bool = False

    @classmethod
    def open(cls, data: CorrectionSet | LabelledSet | str | Path, config: FinetuneConfig) -> PromptHead:
        """Divide the corrections, and load images and model."""
        corrections = _corrections_of(data)
        is_crossed = len(corrections) <= _FEW_OBJECTS and (config.tune or "decoder") == "decoder"
        division = _divide(corrections, config, 0.5 if is_crossed else config.held_out)
        base = load_model(config.model, device=config.device)
        sides = [
            scenes_of([corrections[index] for index in side], config.channels)
            for side in (division.train, division.held_out)
        ]
        return cls(config, base, sides[0], sides[1], division, is_crossed and division.kind != "given")

    def folds(self) -> Sequence[PromptHead]:
        """Itself, or, of few objects, two: each side is learned from once and judges once what the other taught.

        Two or three held-out objects say too little, and not to learn from them costs too much.
        """
        if not self.is_crossed:
            return (self,)
        half = replace(self.config, steps=max(1, self.steps // 2), seconds=self.seconds / 2)
        turned = replace(self.division, train=self.division.held_out, held_out=self.division.train)
        one = replace(self, config=half, is_crossed=False)
        return one, replace(one, train=self.held_out, held_out=self.train, division=turned)

    @property
    def steps(self) -> int:
        """Steps of all runs together."""
        if self.is_crossed:
            return self.config.steps or _CROSSED_STEPS
        objects = sum(len(scene.objects) for scene in self.train)
        return self.config.steps or min(_MOST_STEPS, max(_FEWEST_STEPS, 40 + 8 * objects))

    @property
    def seconds(self) -> float:
        """Wall-clock time for the steps; 0 = no limit."""
        config = self.config
        if config.seconds or config.steps or (config.tune or "decoder") != "decoder":
            return config.seconds
        return _SECONDS_A_STEP * self.steps

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.config.batch_size or 4

    @property
    def split(self) -> dict[str, Any]:
        """How labels were divided, as JSON values."""
        counts = {"train": len(self.division.train), "held_out": len(self.division.held_out)}
        if self.is_crossed:
            counts = dict.fromkeys(counts, sum(counts.values()))
        return {
            **counts,
            "dropped": len(self.division.dropped),
            "kind": f"{self.division.kind}, crossed" if self.is_crossed else self.division.kind,
            "margin": self.division.margin,
        }

    def task(self, save_as: Callable[[Path, E2SAM, Outcome], None], identity: Mapping[str, Any]) -> TrainingTask:
        """The task, on a fresh copy of the model."""
        tune = self.config.tune or "decoder"
        model = load_model(self.config.model, device=self.config.device)
        cache = EmbeddingCache() if tune == "decoder" else None
        encoder = WindowEncoder(self.base, cache)
        set_trained(model, model.decoder, tune, self.config.late_blocks, self.config.rank)
        sides = (self._with_mirrors(), self.held_out)
        train, held_out = (WindowData(windows_of(side, model.config), encoder) for side in sides)
        channels = sorted({scene.channels or () for scene in (*self.train, *self.held_out)})
        known = {**identity, "channels": [list(names) for names in channels], "objects": self._places()}
        return PromptTask(ClickModule(model, self._settings()), train, held_out, tune != "decoder", save_as, known)

    def _with_mirrors(self) -> list[LabelledScene]:
        """Few images in all eight positions, more of them mirrored: each costs an encoder pass and is kept."""
        count = len(self.train)
        if not self.config.mirrors or any(max(scene.stack.size) > LARGE_SIDE for scene in self.train):
            return self.train
        if count <= _TURNED_SCENES:
            return [each for scene in self.train for each in scene.turned()]
        if count <= _MIRRORED_SCENES:
            return [*self.train, *(scene.flipped(axis) for scene in self.train for axis in (0, 1))]
        return self.train

    def _settings(self) -> ClickSettings:
        config, plain = self.config, ClickSettings(replay=self.config.replay, keep=self.config.keep)
        return replace(
            plain,
            learning_rate=config.learning_rate or plain.learning_rate,
            encoder_rate=config.encoder_rate or plain.encoder_rate,
            weight_decay=plain.weight_decay if config.weight_decay is None else config.weight_decay,
        )

    def _places(self) -> list[list[Any]]:
        return [[scene.key, *one.mask.box, one.mask.area] for scene in self.train for one in scene.objects]

    def settle(self, trained: Sequence[E2SAM]) -> Sequence[E2SAM]:
        """How far to go from the old weights to the trained ones, by held-out objects; as far in each run.

        Weights between the two often do better on what was not learned from than either of them (Wortsman et al., 2022,
        arXiv 2109.01903); of very few labels, half of the way is all that can be had.
        """
        if not self.held_out or (self.config.tune or "decoder") != "decoder":
            return trained
        encoder = WindowEncoder(self.base, EmbeddingCache())
        ways = [[_between(self.base, model, share) for model in trained] for share in _SHARES] + [list(trained)]
        sides = [WindowData(windows_of(fold.held_out, self.base.config), encoder) for fold in self.folds()]
        counts = [sum(window.num_objects for window in side.windows) for side in sides]
        scores = [
            np.average(
                [held_out_scores(model, side)["score"] for model, side in zip(way, sides, strict=True)], weights=counts
            )
            for way in ways
        ]
        return ways[int(np.nanargmax(scores))]

    def combined(self, settled: Sequence[E2SAM]) -> E2SAM:
        """The mean of the weights: it knows what each of them was taught (Wortsman et al., 2022, arXiv 2203.05482)."""
        if len(settled) == 1:
            return settled[0]
        model = copy.deepcopy(settled[0])
        model.fingerprint = ""
        decoders = [list(one.decoder.parameters()) for one in settled]
        with torch.no_grad():
            for weight, *each in zip(model.decoder.parameters(), *decoders, strict=True):
                weight.copy_(torch.stack(each).mean(0))
        return model

    def before(self) -> ClickFigures:
        """Figures of the model before training."""
        return self.judge([self.base] * len(self.folds()))

    def judge(self, settled: Sequence[E2SAM]) -> ClickFigures:
        """Figures on held-out objects, each by the model of a run that held it out."""
        limit, most = self.config.judged_clicks, self.config.judged_objects
        figures = [
            judge_clicks(model, fold.held_out, limit, most) for model, fold in zip(settled, self.folds(), strict=True)
        ]
        return ClickFigures(tuple(one for part in figures for one in part.objects), limit)

    def compare(self, before: ClickFigures, after: ClickFigures) -> dict[str, Any]:
        """Differences, object by object."""
        return compare_clicks(before, after)

    def rejected(self) -> E2SAM:
        """The model that training started from."""
        return self.base

    def twin(self) -> PromptHead | None:
        """The same labels seen through red, green and blue alone."""
        wanted = self.config.twin if self.config.twin is not None else (self.config.tune or "decoder") == "decoder"
        scenes = (*self.train, *self.held_out)
        if not wanted or all(
            scene.channels is not None and set(scene.channels) == set(_rgb(self, scene)) for scene in scenes
        ):
            return None
        if any(len(_rgb(self, scene)) < 3 for scene in scenes):
            return None
        sides = [[replace(scene, channels=_rgb(self, scene)) for scene in side] for side in (self.train, self.held_out)]
        return replace(self, train=sides[0], held_out=sides[1])


def _between(old: E2SAM, new: E2SAM, share: float) -> E2SAM:
    """A model whose decoder went a share of the way from one to the other."""
    model = copy.deepcopy(new)
    model.fingerprint = ""
    with torch.no_grad():
        for weight, start in zip(model.decoder.parameters(), old.decoder.parameters(), strict=True):
            weight.copy_(torch.lerp(start, weight, share))
    return model


def _rgb(head: PromptHead, scene: LabelledScene) -> tuple[str, ...]:
    return rgb_channels(head.base.config.channels or scene.stack.channels)


def _corrections_of(data: CorrectionSet | LabelledSet | str | Path) -> Sequence[Correction]:
    if isinstance(data, LabelledSet):
        found = CorrectionSet.from_dataset(data, minimum_area=4)
    elif isinstance(data, CorrectionSet):
        found = data
    else:
        found = CorrectionSet.open(data)
    if len(found) < 2:
        raise TrainingError(
            f"Expected at least 2 corrections, one to learn from and one to judge by, got {len(found)}: accept more."
        )
    return found.corrections


def _divide(corrections: Sequence[Correction], config: FinetuneConfig, share: float) -> Split:
    """The split that the data comes with ("val" is held out), else our own."""
    given = [correction.split for correction in corrections]
    if "train" in given and "val" in given:
        sides = [tuple(index for index, name in enumerate(given) if name == side) for side in ("train", "val")]
        return Split(sides[0], sides[1], kind="given")
    places = [ObjectPlace(one.image.key, one.image.size, one.mask.box) for one in corrections]
    return split_objects(places, share, config.seed)
