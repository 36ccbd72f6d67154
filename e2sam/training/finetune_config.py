"""Settings and result of fine-tuning: frozen data, saved in the checkpoint that it made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2sam.errors import TrainingError
from e2sam.training.config import check_run, check_whole, checked_out
from e2sam.training.tuning import TUNES

__all__ = ["FinetuneConfig", "FinetuneResult"]

HEADS = ("prompt", "semantic")
PRESETS = ("", "bmvc2023")
_LEAST_TILE = 32


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning run; zeros and None mean "chosen for the data and the head".

    Attributes
    ----------
    out
        Checkpoint to write. It always holds a usable model: the new one, or, where that is worse, the old one.
    model
        What `load_model` takes: where training starts from.
    head
        "prompt" (clicks and boxes) or "semantic" (a class for each pixel).
    tune
        "decoder" (on cached embeddings; of `tiny`, up to 8 objects teach its fine layers only, and not how it ranks
        masks), "lora" (late blocks of the encoder as well) or "full".
    preset
        "" or "bmvc2023", the settings of E2SAM's released stage 2; what is set beside it wins.
    channels
        Selection to learn with; None = the one each correction was made with, all channels for the semantic head.
    steps, batch_size, learning_rate, encoder_rate, weight_decay
        Of the run; 0 (weight_decay: None) = chosen.
    seconds
        Wall-clock time for the steps; 0 = chosen: where `steps` are not set and a promptable head learns on an
        unchanged encoder, half a second for each, or 30 s of up to 8 objects, so that five corrections take under a
        minute on any machine; else no limit.
    held_out
        Share of the labels that the result is measured on; fixed before training. Of up to 8 objects to click at each
        is held out once instead: up to five models learn from the others, and the mean of their weights is kept.
    seed
        Of the split and of every draw.
    replay, keep
        Promptable head: weight of replayed answers of the old model, and of staying near its weights.
    mirrors
        Promptable head: also learn from each image mirrored either way (up to 8 images), and turned (up to 3).
    twin
        Also train on red, green and blue alone, for comparison; None = only with `tune="decoder"`.
    judged_objects, judged_clicks
        Most held-out objects, and most clicks for each, in the figures before and after.
    late_blocks, rank
        Of `tune="lora"`.
    decoder, tile_size
        Semantic head: "detail" or "bmvc2023"; pixels of the image on the long side of one frame.
    ignore_index
        Semantic head: label value that is not counted; None = none; "auto" = what the labelled set says.
    classes
        Semantic head: class names, in the order of the label values; empty = what the labelled set says.
    resume, checkpoint_every, validate_every, patience
        As in `LoopSettings`; 0 = chosen.
    device, accelerator, devices, num_nodes, strategy, precision
        Where to compute.
    """

    out: Path
    model: str | Path = "tiny"
    head: str = "prompt"
    tune: str = ""
    preset: str = ""
    channels: tuple[str, ...] | None = None
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    encoder_rate: float = 0.0
    weight_decay: float | None = None
    seconds: float = 0.0
    held_out: float = 0.25
    seed: int = 0
    replay: float = 1.0
    keep: float = 1e-2
    mirrors: bool = True
    twin: bool | None = None
    judged_objects: int = 24
    judged_clicks: int = 20
    late_blocks: int = 3
    rank: int = 8
    decoder: str = ""
    tile_size: int = 0
    ignore_index: int | str | None = "auto"
    classes: tuple[str, ...] = ()
    resume: bool = False
    checkpoint_every: int = 25
    validate_every: int = 0
    patience: int = 4
    device: str = "auto"
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", checked_out(self.out))
        check_whole(self, steps=0, batch_size=0, judged_objects=1, judged_clicks=1, late_blocks=1, rank=1, patience=0)
        check_whole(self, tile_size=0, checkpoint_every=0, validate_every=0)
        if 0 < self.tile_size < _LEAST_TILE:
            raise TrainingError(f"Expected tiles of at least {_LEAST_TILE} pixels, got {self.tile_size}.")
        if not 0 < self.held_out <= 0.5:
            raise TrainingError(f"Expected a held-out share in (0, 0.5], got {self.held_out}.")
        for name, allowed in (("head", HEADS), ("tune", ("", *TUNES)), ("preset", PRESETS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(value or "none" for value in allowed)
                raise TrainingError(f"Expected {name} of {shown}, got {getattr(self, name)!r}.")
        if self.preset and self.head != "semantic":
            raise TrainingError("Expected --head semantic with the preset bmvc2023, whose stage 2 has no prompts.")
        if self.head != "semantic":
            of_classes = {name: getattr(self, name) for name in ("decoder", "tile_size", "classes")}
            set_ones = [name for name, value in of_classes.items() if value]
            set_ones += ["ignore_index"] * (self.ignore_index != "auto")
            if set_ones:
                raise TrainingError(f"Expected --head semantic with {', '.join(set_ones)}, got {self.head}.")
        check_run(self.seed, self.accelerator, self.strategy, self.precision)
        if not self.seconds >= 0:
            raise TrainingError(f"Expected seconds of at least 0 (0 = chosen), got {self.seconds}.")
        if not (self.learning_rate >= 0 and self.encoder_rate >= 0):
            raise TrainingError(
                f"Expected learning rates above 0 (0 = chosen), got {self.learning_rate} and {self.encoder_rate}."
            )

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values, as they stand in the checkpoint."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain


@dataclass(frozen=True)
class FinetuneResult:
    """What a run came to.

    Attributes
    ----------
    out
        The checkpoint: the new model if `accepted`, else the old one unchanged.
    steps
        Steps done.
    seconds, seconds_to_model
        Wall-clock time from start to result, and to the model on disk (before the twin is trained).
    before, after
        Figures on held-out labels. These also decide which of the trained weights are kept and whether they are taken,
        so that `after` is a little better than what other objects would show.
    difference
        After - before, with intervals.
    twin
        Figures of the RGB-only twin, trained alike on the same labels; None where there is none.
    split
        How the labels were divided, and how many stand on each side.
    accepted
        Whether the new model was taken.
    message
        One line for the user.
    """

    out: Path
    steps: int
    seconds: float
    seconds_to_model: float
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    difference: Mapping[str, Any]
    twin: Mapping[str, Any] | None
    split: Mapping[str, Any]
    accepted: bool
    message: str

    def to_json(self) -> dict[str, Any]:
        """The result as `e2sam finetune --json` prints it."""
        return {**asdict(self), "out": str(self.out)}
