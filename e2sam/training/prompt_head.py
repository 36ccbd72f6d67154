"""Fine-tuning by clicks: from corrections to a task, held-out scenes and figures."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e2sam.data.content import hash_pixels
from e2sam.data.corrections import Correction, CorrectionSet
from e2sam.data.io.datasets import LabelledSet
from e2sam.data.stack import ChannelStack
from e2sam.errors import TrainingError
from e2sam.evaluation.pictures import rgb_channels
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.encoding import WindowEncoder
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.tiny import TinyDecoder
from e2sam.training.dataset import LabelledScene, WindowData, readable, scenes_of, windows_of
from e2sam.training.finetune_config import FinetuneConfig
from e2sam.training.judging import ClickFigures, compare_clicks, judge_clicks
from e2sam.training.promptable import ClickModule, ClickSettings, PromptTask, held_out_scores
from e2sam.training.split import ObjectPlace, Split, cross_objects, split_objects
from e2sam.training.task import Outcome, TrainingTask
from e2sam.training.tuning import set_trained
from e2sam.weights.zoo import load_model

__all__ = ["PromptHead"]

_FEWEST_STEPS, _MOST_STEPS = 60, 400
# Up to this many objects are all learned from and all judged by, see `PromptHead.folds`.
_FEW_OBJECTS = 8
_CROSSED_RUNS, _CROSSED_STEPS, _CROSSED_SECONDS = 5, 150, 30.0
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
    crossed
        Of few objects: the runs that each hold out others of them, see `folds`.
    notice
        What was left out of the data, in a line for the user; empty where nothing was.
    """

    config: FinetuneConfig
    base: E2SAM
    train: list[LabelledScene]
    held_out: list[LabelledScene]
    division: Split
    crossed: tuple[PromptHead, ...] = ()
    notice: str = ""

    @classmethod
    def open(cls, data: CorrectionSet | LabelledSet | str | Path, config: FinetuneConfig) -> PromptHead:
        """Divide the corrections, and load images and model."""
        corrections, stacks, notice = _corrections_of(data)
        base = load_model(config.model, device=config.device)
        scenes = [scene.planned(base.config) for scene in scenes_of(corrections, stacks, config.channels)]
        places = [ObjectPlace(one.image.group, one.image.size, one.mask.box) for one in corrections]

        def head_of(division: Split, config: FinetuneConfig) -> PromptHead:
            sides = ([corrections[index] for index in side] for side in (division.train, division.held_out))
            train, held_out = (
                [part for scene in _only(scenes, side) for part in scene.parts(base.config)] for side in sides
            )
            return cls(config, base, train, held_out, division, notice=notice)

        given = _given(corrections)
        if given or len(corrections) > _FEW_OBJECTS or (config.tune or "decoder") != "decoder":
            return head_of(given or split_objects(places, config.held_out, config.seed), config)
        divisions = cross_objects(places, _CROSSED_RUNS, config.seed)
        steps, seconds = config.steps or _CROSSED_STEPS, config.seconds or (0 if config.steps else _CROSSED_SECONDS)
        each = replace(config, steps=max(1, steps // len(divisions)), seconds=seconds / len(divisions))
        everything = tuple(range(len(corrections)))
        whole = Split(everything, everything, kind="crossed", margin=max(one.margin for one in divisions))
        return replace(head_of(whole, config), crossed=tuple(head_of(one, each) for one in divisions))

    def folds(self) -> Sequence[PromptHead]:
        """Itself, or, of few objects, several runs: each object judges once what was learned from the others.

        Two or three held-out objects say too little, and not to learn from them costs too much.
        """
        return self.crossed or (self,)

    @property
    def steps(self) -> int:
        """Steps of all runs together."""
        if self.crossed:
            return sum(run.steps for run in self.crossed)
        objects = sum(len(scene.objects) for scene in self.train)
        return self.config.steps or min(_MOST_STEPS, max(_FEWEST_STEPS, 40 + 8 * objects))

    @property
    def seconds(self) -> float:
        """Wall-clock time for the steps; 0 = no limit."""
        config = self.config
        if self.crossed:
            return sum(run.seconds for run in self.crossed)
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
        division = self.division
        counts = {name: len(getattr(division, name)) for name in ("train", "held_out", "dropped")}
        return {**counts, "kind": division.kind, "margin": division.margin}

    def task(self, save_as: Callable[[Path, E2SAM, Outcome], None], identity: Mapping[str, Any]) -> TrainingTask:
        """The task, on a fresh copy of the model."""
        tune = self.config.tune or "decoder"
        model = copy.deepcopy(self.base)
        cache = EmbeddingCache() if tune == "decoder" else None
        encoder = WindowEncoder(self.base, cache)
        set_trained(model, model.decoder, tune, self.config.late_blocks, self.config.rank)
        if self.division.kind == "crossed" and isinstance(model.decoder, TinyDecoder):
            # Few objects teach how their kind looks; with all layers taught, others got worse (docs/results.md). What
            # ranks masks has learned from thousands of objects, and five make it no better.
            for layer in (*model.decoder.coarse_layers(), model.decoder.quality):
                layer.requires_grad_(False)
        sides = (self._with_mirrors(), self.held_out)
        train, held_out = (WindowData(windows_of(side, model.config), encoder) for side in sides)
        channels = sorted({scene.channels or () for scene in (*self.train, *self.held_out)})
        known = {**identity, "channels": [list(names) for names in channels], "labels": self._digest()}
        return PromptTask(ClickModule(model, self._settings()), train, held_out, tune != "decoder", save_as, known)

    def _with_mirrors(self) -> list[LabelledScene]:
        """Few images in all eight positions, more of them mirrored: each costs an encoder pass and is kept."""
        count = len(self.train)
        if not self.config.mirrors or any(not scene.is_encoded_whole(self.base.config) for scene in self.train):
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

    def _digest(self) -> str:
        """Hash of all images and masks, of both sides: a run does not go on with others."""
        digest = hashlib.blake2b(digest_size=16)
        for side in (self.train, self.held_out):
            for scene in side:
                digest.update(f"{scene.key} {hash_pixels(scene.stack)} {len(scene.objects)} ".encode())
                for mask in (*(one.mask for one in scene.objects), *scene.labelled):
                    digest.update(f"{mask.box} ".encode() + np.packbits(mask.pixels).tobytes())
        return digest.hexdigest()

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
        if not wanted or all(set(scene.plan(self.base.config).selected) == set(_rgb(self, scene)) for scene in scenes):
            return None
        if any(len(_rgb(self, scene)) < 3 for scene in scenes):
            return None
        return replace(self._on_rgb(), crossed=tuple(run._on_rgb() for run in self.crossed))

    def _on_rgb(self) -> PromptHead:
        sides = [
            [replace(scene, channels=_rgb(self, scene), composed=None) for scene in side]
            for side in (self.train, self.held_out)
        ]
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


def _corrections_of(
    data: CorrectionSet | LabelledSet | str | Path,
) -> tuple[list[Correction], dict[str, ChannelStack], str]:
    """The corrections that can be learned from, their images by key, and what was left out."""
    if isinstance(data, LabelledSet):
        data = CorrectionSet.from_dataset(data)
    elif not isinstance(data, CorrectionSet):
        data = CorrectionSet.open(data)
    corrections, stacks, lines = readable(data.corrections)
    notice = ""
    if lines:
        left_out, images = len(data) - len(corrections), f"{len(lines)} of {len(lines) + len(stacks)} images"
        notice = f"Left out: {left_out} of {len(data)} corrections, as {images} cannot be read: {lines[0]}"
    if len(corrections) < 2:
        raise TrainingError(
            f"Expected at least 2 corrections, one to learn from and one to judge by, got {len(corrections)}: "
            f"{notice or 'accept more.'}"
        )
    return corrections, stacks, notice


def _given(corrections: Sequence[Correction]) -> Split | None:
    """The split that the data comes with ("val" is held out), if it comes with one."""
    given = [correction.split for correction in corrections]
    if "train" not in given or "val" not in given:
        return None
    sides = [tuple(index for index, name in enumerate(given) if name == side) for side in ("train", "val")]
    return Split(sides[0], sides[1], kind="given")


def _only(scenes: Sequence[LabelledScene], corrections: Sequence[Correction]) -> list[LabelledScene]:
    """Scenes with the objects of some corrections alone; images are not opened again."""
    wanted = {id(correction.mask) for correction in corrections}
    kept = [replace(scene, objects=tuple(one for one in scene.objects if id(one.mask) in wanted)) for scene in scenes]
    return [scene for scene in kept if scene.objects]
