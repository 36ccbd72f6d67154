"""Fine-tuning for classes: from a labelled set to a student with a semantic decoder, its task and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e2sam.data.channels import ChannelSelection, channel_statistics, composites_for
from e2sam.data.corrections import CorrectionSet
from e2sam.data.io.datasets import LabelledItem, LabelledSet, open_dataset
from e2sam.data.normalize import ChannelRecipe, fit_recipes
from e2sam.data.stack import ChannelStack
from e2sam.errors import TrainingError
from e2sam.evaluation.pictures import rgb_channels
from e2sam.modeling.e2sam import E2SAM, SemanticConfig
from e2sam.modeling.inflation import build_student
from e2sam.modeling.semantic import build_semantic_decoder
from e2sam.training.finetune_config import FinetuneConfig
from e2sam.training.judging import SemanticFigures, commonest_class, judge_classes
from e2sam.training.semantic import SemanticImage, SemanticModule, SemanticSettings, SemanticTask, SemanticTiles
from e2sam.training.split import split_pixels, split_series
from e2sam.training.task import Outcome, TrainingTask
from e2sam.training.tuning import set_trained
from e2sam.weights.zoo import load_model

__all__ = ["SemanticHead", "preset_of"]

_OPEN_ITEMS = 8
_FITTED_IMAGES = 8
_FITTED_PIXELS = 40_000
_DECODER_STEPS, _EPOCHS = 240, 20
_PLAIN = SemanticSettings()

Loader = Callable[[], tuple[ChannelStack, NDArray[np.int32]]]


@dataclass(frozen=True)
class Preset:
    """Settings of a named recipe.

    Attributes
    ----------
    decoder, tune
        As in `FinetuneConfig`.
    settings
        Rates and losses.
    batch_size, epochs
        Length of the run.
    tile_size
        Pixels of the image on the long side of a frame; 0 = the whole image.
    kinds
        Normalization that replaces the automatic one.
    """

    decoder: str = "detail"
    tune: str = "decoder"
    settings: SemanticSettings = _PLAIN
    batch_size: int = 4
    epochs: int = 0
    tile_size: int = 0
    kinds: Mapping[str, ChannelRecipe] | str = "auto"


def preset_of(config: FinetuneConfig, stack: ChannelStack) -> Preset:
    """The recipe that a configuration names, for images like `stack`.

    "bmvc2023" is stage 2 of E2SAM's released code: LinkNet decoder on the whole encoder, cross entropy alone, AdamW
    with weight decay 0.05; on SHIFT (a stack with depth) 100 epochs of batches of 2 whole images at 1e-4, encoder 5e-5;
    on SFDD-H8 20 epochs of batches of 4 random crops of 512 pixels at 1e-4 throughout.
    """
    if not config.preset:
        return Preset()
    settings = SemanticSettings(1e-4, 5e-5, 0.05, dice=0.0, class_weights=False, flips=False)
    if "depth" in stack.names:
        kinds: dict[str, ChannelRecipe] = {"depth": ChannelRecipe("log_depth", 0, math.log(1001))}
        kinds.update((name, ChannelRecipe("range", 0, 255)) for name in ("R", "G", "B") if name in stack.names)
        return Preset("bmvc2023", "full", settings, batch_size=2, epochs=100, tile_size=max(stack.size), kinds=kinds)
    whole = replace(settings, encoder_rate=1e-4)
    return Preset("bmvc2023", "full", whole, batch_size=4, epochs=20, tile_size=512, kinds="none")


@dataclass
class SemanticHead:
    """Follows `e2sam.training.finetune.Head`.

    Attributes
    ----------
    config, preset
        Settings, and the recipe behind what they leave open.
    base
        The model that training starts from; never changed.
    train, held_out
        Images of each side.
    ignore_index
        Label value that is not counted, or None.
    semantic
        Classes and scale.
    channels
        Names of the student's channels.
    kind
        How the labels were divided: "given", "image" or "region".
    notice
        Empty: an image that cannot be read stops the run.
    """

    config: FinetuneConfig
    preset: Preset
    base: E2SAM
    train: list[SemanticImage]
    held_out: list[SemanticImage]
    ignore_index: int | None
    semantic: SemanticConfig
    channels: tuple[str, ...]
    kind: str
    notice: str = ""

    @classmethod
    def open(cls, data: CorrectionSet | LabelledSet | str | Path, config: FinetuneConfig) -> SemanticHead:
        """Divide the labels, and load the model."""
        if isinstance(data, CorrectionSet):
            raise TrainingError("Expected labels of classes for the semantic head, got corrections: use --head prompt.")
        labelled = data if isinstance(data, LabelledSet) else open_dataset(data, "classes")
        if labelled.kind != "classes":
            raise TrainingError("Expected labels of classes for the semantic head, got instances: use --head prompt.")
        ignore_index = labelled.ignore_index if config.ignore_index == "auto" else config.ignore_index
        assert not isinstance(ignore_index, str)
        # Kept while they are in use: each image is read once where there are few.
        load = lru_cache(maxsize=_OPEN_ITEMS)(LabelledItem.load)
        loaders: dict[str, Loader] = {item.name: partial(load, item) for item in labelled}
        train, held_out, kind = _divide(labelled.items, loaders, ignore_index, config)
        stack = train[0].load()[0]
        preset = preset_of(config, stack)
        base = load_model(config.model, device=config.device)
        values, names = _classes(labelled, [*train, *held_out], ignore_index, config)
        tile = config.tile_size or preset.tile_size or min(max(stack.size), base.config.image_size)
        semantic = SemanticConfig(config.decoder or preset.decoder, names, values, tile)
        own = tuple(channel.name for channel in base.config.channels)
        return cls(
            config, preset, base, train, held_out, ignore_index, semantic, own or config.channels or stack.names, kind
        )

    @cached_property
    def settings(self) -> SemanticSettings:
        """Rates and losses."""
        config, plain = self.config, self.preset.settings
        return replace(
            plain,
            learning_rate=config.learning_rate or plain.learning_rate,
            encoder_rate=config.encoder_rate or plain.encoder_rate,
            weight_decay=plain.weight_decay if config.weight_decay is None else config.weight_decay,
        )

    @property
    def tune(self) -> str:
        """What is trained."""
        return self.config.tune or self.preset.tune

    @property
    def steps(self) -> int:
        """Steps of the run."""
        if self.config.steps:
            return self.config.steps
        if self.tune == "decoder":
            return _DECODER_STEPS
        return (self.preset.epochs or _EPOCHS) * max(1, math.ceil(len(self.train) / self.batch_size))

    @property
    def seconds(self) -> float:
        """Wall-clock time for the steps; 0 = no limit."""
        return self.config.seconds

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.config.batch_size or self.preset.batch_size

    @property
    def split(self) -> dict[str, Any]:
        """How labels were divided, as JSON values."""
        counts = {"train": len(self.train), "held_out": len(self.held_out)}
        return {**counts, "kind": self.kind, "channels": list(self.channels)}

    def task(self, save_as: Callable[[Path, E2SAM, Outcome], None], identity: Mapping[str, Any]) -> TrainingTask:
        """The task, on a fresh student with a semantic decoder."""
        model = self._student()
        assert model.semantic is not None
        set_trained(model, model.semantic, self.tune, self.config.late_blocks, self.config.rank)
        train = SemanticTiles(self.train, model, self.ignore_index)
        held_out = SemanticTiles(self.held_out, model, self.ignore_index) if self.held_out else None
        digests = [tiles.digest for tiles in (train, held_out) if tiles is not None]
        known = {**identity, "images": [image.name for image in self.train], "labels": digests}
        module = SemanticModule(model, self.settings, train.counts)
        return SemanticTask(module, train, held_out, self.tune != "decoder", save_as, known)

    def _student(self) -> E2SAM:
        """The base with a semantic decoder; where it is a teacher of three planes, a student of all channels of it."""
        source = load_model(self.config.model, device=self.config.device)
        if not source.config.is_student:
            source = self._inflated(source)
        config = replace(source.config, semantic=self.semantic)
        if source.config.semantic == self.semantic and source.semantic is not None:
            return source
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            decoder = build_semantic_decoder(config)
        model = E2SAM(config, source.image_encoder, source.decoder, source.merge, decoder.to(source.device))
        return model.eval()

    def _inflated(self, teacher: E2SAM) -> E2SAM:
        stacks = [image.load()[0] for image in self.train[:_FITTED_IMAGES]]
        first = stacks[0]
        indices = first.indices(self.channels)
        kinds = self.preset.kinds
        if not isinstance(kinds, str):
            kinds = {name: recipe for name, recipe in kinds.items() if name in first.names}
        fitted = fit_recipes(first if len(stacks) == 1 else _mosaic(stacks), kinds)
        recipes = [fitted[index] for index in indices]
        selection = ChannelSelection.of(first, self._seen_first(first))
        composite = composites_for(first, selection, channel_statistics(first, fitted))[0]
        channels = [first.channels[index] for index in indices]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return build_student(teacher, channels, recipes, composite.matrix[:, list(indices)])

    def folds(self) -> Sequence[SemanticHead]:
        """Itself: pixels are many."""
        return (self,)

    def _seen_first(self, stack: ChannelStack) -> tuple[str, ...]:
        """What the encoder sees before training: of a spectrum its red, green and blue band, else all channels.

        The bands of a spectrum are much alike, and the encoder knows photographs; a decoder that reads every band
        itself adds what they do not have in common. Of a decoder that reads the embedding alone, and of other sensors,
        the encoder must see everything.
        """
        known = [stack.channels[index] for index in stack.indices(self.channels)]
        chosen = rgb_channels(known)
        is_spectrum = all(channel.wavelength_nm is not None for channel in known)
        return chosen if self.semantic.decoder == "detail" and is_spectrum and len(chosen) == 3 else self.channels

    def settle(self, trained: Sequence[E2SAM]) -> Sequence[E2SAM]:
        """The trained model: a semantic decoder starts at random, there is no way back."""
        return trained

    def combined(self, settled: Sequence[E2SAM]) -> E2SAM:
        """The trained model."""
        return settled[0]

    def before(self) -> SemanticFigures:
        """Figures of the model's own semantic decoder or, where it has none for these classes, of the commonest."""
        if self.base.config.semantic is not None and self.base.config.semantic.values == self.semantic.values:
            return self.judge([self.base])
        counts = np.zeros(len(self.semantic.values), np.int64)
        for image in self.train:
            _, labels = image.load()
            seen = labels if image.counted is None else labels[image.counted]
            counts += np.array([np.count_nonzero(seen == value) for value in self.semantic.values])
        return commonest_class(self._judged, self.semantic.values, self.semantic.classes, self.ignore_index, counts)

    @property
    def _judged(self) -> Sequence[SemanticImage]:
        return self.held_out or self.train

    def judge(self, settled: Sequence[E2SAM]) -> SemanticFigures:
        """Figures on held-out labels."""
        return judge_classes(settled[0], self._judged, self.ignore_index)

    def compare(self, before: SemanticFigures, after: SemanticFigures) -> dict[str, Any]:
        """Difference in mean IoU."""
        gain = after.miou - before.miou
        return {"miou": gain, "not_worse": bool(gain >= 0)}

    def rejected(self) -> E2SAM:
        """The model that training started from."""
        return self.base

    def twin(self) -> SemanticHead | None:
        """The same labels seen through red, green and blue alone; None for a student, which has its own channels."""
        wanted = self.tune == "decoder" and not self.config.preset if self.config.twin is None else self.config.twin
        stack = self.train[0].load()[0]
        chosen = rgb_channels([stack.channels[index] for index in stack.indices(self.channels)])
        if not wanted or self.base.config.is_student or len(chosen) < 3 or set(chosen) == set(self.channels):
            return None
        return replace(self, channels=chosen)


def _divide(
    items: Sequence[LabelledItem],
    loaders: Mapping[str, Loader],
    ignore_index: int | None,
    config: FinetuneConfig,
) -> tuple[list[SemanticImage], list[SemanticImage], str]:
    """Trained and held-out images: the split that the set comes with, else by image, else by region of one image."""
    images = [SemanticImage(item.name, loaders[item.name]) for item in items]
    given = [item.split for item in items]
    if "train" in given and "val" in given:
        sides = [
            [image for image, name in zip(images, given, strict=True) if name == side] for side in ("train", "val")
        ]
        return sides[0], sides[1], "given"
    if len(images) > 1:
        split = split_series([item.series or item.name for item in items], config.held_out, config.seed)
        return [images[index] for index in split.train], [images[index] for index in split.held_out], "image"
    _, labels = images[0].load()
    trained, held = split_pixels(labels, ignore_index, config.held_out, config.seed)
    return [replace(images[0], counted=trained)], [replace(images[0], counted=held)], "region"


def _classes(
    labelled: LabelledSet, images: Sequence[SemanticImage], ignore_index: int | None, config: FinetuneConfig
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Values and names of the classes: those that the set defines, else the values that occur."""
    if labelled.classes:
        values = tuple(value for value in range(len(labelled.classes)) if value != ignore_index)
        names = tuple(labelled.classes[value] for value in values)
    else:
        seen: set[int] = set()
        for name in {image.name: image for image in images}.values():
            seen |= set(np.unique(name.load()[1]).tolist())
        values = tuple(sorted(seen - {ignore_index}))
        names = tuple(str(value) for value in values)
    if config.classes:
        if len(config.classes) != len(values):
            raise TrainingError(f"Expected {len(values)} class names, for {list(values)}, got {len(config.classes)}.")
        names = config.classes
    if len(values) < 2:
        raise TrainingError(f"Expected at least 2 classes beside the ignored value {ignore_index}, got {list(values)}.")
    return values, names


def _mosaic(stacks: Sequence[ChannelStack]) -> ChannelStack:
    """Pixels of several images in one row: what statistics over all of them are taken from."""
    unlike = [stack.names for stack in stacks if stack.names != stacks[0].names]
    if unlike:
        raise TrainingError(f"Expected the same channels in every image, got {stacks[0].names} and {unlike[0]}.")
    rows = []
    for stack in stacks:
        step = max(1, math.isqrt(stack.size[0] * stack.size[1] * len(stacks) // _FITTED_PIXELS))
        rows.append(stack.read(step=step).reshape(stack.num_channels, 1, -1))
    return replace(stacks[0], data=np.concatenate(rows, axis=2), source=None, geo=None, _valid=None)
