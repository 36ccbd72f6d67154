"""Knowledge inheritance (stage 1): an N-channel student from the frozen three-plane teacher, without labels."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.channels import suggest_selections
from e2sam.data.composites import best_triples
from e2sam.data.io import read_stack
from e2sam.data.normalize import ChannelRecipe, apply_recipes, fit_recipes
from e2sam.data.sampling import sample_blocks, scene_of
from e2sam.data.stack import ChannelStack
from e2sam.data.statistics import ChannelStatistics, channel_statistics
from e2sam.errors import ChannelError, TrainingError
from e2sam.modeling.channel_selector import ChannelSelector, grouping_of, view_matrix
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.inflation import build_student, canonical_order
from e2sam.modeling.packed import fastest_dtype
from e2sam.training.agreement import AgreementProbe
from e2sam.training.config import TrainStep, check_run, check_whole, checked_out
from e2sam.training.devices import starts_first
from e2sam.training.inheritance import InheritTask, Lessons, Rates
from e2sam.training.loop import run_training
from e2sam.training.state import only_run, told_of_unfinished, unfinished
from e2sam.training.task import LoopSettings
from e2sam.training.tiles import TileReader, TrainingScene, hold_out
from e2sam.training.views import TeacherViews
from e2sam.weights.checkpoint import fingerprint_of
from e2sam.weights.zoo import load_model

__all__ = ["PRESETS", "InheritConfig", "inherit"]

PRESETS = ("default", "bmvc2023")
_MAX_SAMPLED_SCENES = 8
_VALIDATION_SELECTIONS = 5
_SKETCH_RANK = 16
_STEPS_AT_FULL_RATE = 200


@dataclass(frozen=True)
class InheritConfig:
    """Settings of stage 1.

    Attributes
    ----------
    out
        Checkpoint of the student to write (.safetensors).
    teacher
        What `e2sam.load_model` takes: "tiny", "vit_b", "vit_l", "vit_h" or a file.
    student
        Weights of the student's encoder, where they are not the teacher's own ("vit_b" under a "vit_h" teacher).
    canonical
        Names of one to three channels whose composite the student equals at first; empty = all channels together, in
        a plane for each of an informative triple and its like (`grouping_of`), and the first suggestion where there are
        no more than three or the merge module is "split".
    excluded
        Selections, by name, that no step sees: those on which agreement is to be tested.
    recipes
        Normalization: "auto", one kind, or {name: kind}.
    init, merge, selector
        "inflate" | "mean" | "random" | "scratch"; "gated" | "split"; "diverse" | "random".
    tune
        "full", "lora", or "auto": LoRA for transformers, full for `tiny`.
    lora_rank
        Rank of the changes.
    steps, batch_size
        Optimizer steps, and tiles a step over all devices.
    tile_size
        Side of a tile in the model's frame; 0 = 256 for `tiny`, the teacher's own frame for SAM.
    num_tiles, num_validation_tiles
        Trained tiles (0 = by the area of the stacks, 12 to 96) and held-out ones.
    lessons, rates
        What a step holds, and learning rates; None = the usual ones, smaller in runs of fewer than 200 steps.
    seed, ema_decay, warmup_share, clip_norm, validate_every, checkpoint_every, patience, keep, resume
        As in `LoopSettings`.
    accelerator, devices, num_nodes, strategy, precision
        Lightning Fabric's own; precision "auto" is bfloat16 where the device is made for it.
    """

    out: Path
    teacher: str = "tiny"
    student: str = ""
    canonical: tuple[str, ...] = ()
    excluded: tuple[tuple[str, ...], ...] = ()
    recipes: str | dict[str, str] = "auto"
    init: str = "inflate"
    merge: str = "gated"
    selector: str = "diverse"
    tune: str = "auto"
    lora_rank: int = 8
    steps: int = 300
    batch_size: int = 4
    tile_size: int = 0
    num_tiles: int = 0
    num_validation_tiles: int = 4
    lessons: Lessons = field(default_factory=Lessons)
    rates: Rates | None = None
    seed: int = 0
    ema_decay: float = 0.999
    warmup_share: float = 0.15
    clip_norm: float = 1.0
    validate_every: int = 100
    checkpoint_every: int = 100
    patience: int = 0
    keep: str = "best"
    resume: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        choices = {"tune": ("auto", "full", "lora"), "selector": ("diverse", "random")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise TrainingError(f"Expected {name} to be {' or '.join(allowed)}, got {getattr(self, name)!r}.")
        object.__setattr__(self, "out", checked_out(self.out))
        check_run(self.seed, self.accelerator, self.strategy, self.precision)
        check_whole(self, lora_rank=1, steps=1, batch_size=1, tile_size=0, num_tiles=0, num_validation_tiles=1)
        check_whole(self, validate_every=0, checkpoint_every=0, patience=0)
        if not isinstance(self.lessons, Lessons) or not isinstance(self.rates, Rates | None):
            raise TrainingError(
                f"Expected Lessons, and Rates or None, got {self.lessons!r:.40} and {self.rates!r:.40}."
            )
        if self.lessons.loss not in ("pairwise", "mmd"):
            raise TrainingError(f"Expected a loss 'pairwise' or 'mmd', got {self.lessons.loss!r}.")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> InheritConfig:
        """Settings by name, with changes.

        "bmvc2023" follows E2SAM as published: a student drawn anew, three channels in random order for each batch,
        split heads on a frozen neck, features only, AdamW 1e-4 with weight decay 0.05, the last weights kept. What its
        code does wrong is not repeated: the loss is the pairwise one that the paper describes (the released script has
        a batch MMD that is blind to pairing), the teacher's input is in SAM's own statistics, validation never sees
        trained pixels, and every process and run is seeded.

        Raises
        ------
        TrainingError
            If there is no such preset.
        """
        if name == "default":
            return cls(**changes)
        if name != "bmvc2023":
            raise TrainingError(f"Expected a preset of {', '.join(PRESETS)}, got {name!r}.")
        paper: dict[str, Any] = {
            "init": "scratch",
            "merge": "split",
            "selector": "random",
            "tune": "full",
            "lessons": Lessons(views_per_tile=0, views_per_step=1, prompt_share=0.0, dropout=0.0),
            "rates": Rates(merge=1e-4, first_layer=1e-4, encoder=1e-4),
            "ema_decay": 0.0,
            "keep": "last",
        }
        return cls(**(paper | changes))

    def loop(self) -> LoopSettings:
        """Settings of the training loop."""
        shared = {name: getattr(self, name) for name in LoopSettings.__dataclass_fields__ if hasattr(self, name)}
        cpu = self.accelerator == "cpu" or (self.accelerator == "auto" and not torch.cuda.is_available())
        if self.precision == "auto" and cpu and fastest_dtype(torch.device("cpu")) == torch.bfloat16:
            shared["precision"] = "bf16-mixed"
        return LoopSettings(**shared)

    def to_json(self) -> dict[str, Any]:
        """What decides the result, as plain JSON for the checkpoint."""
        free = ("out", "resume", "checkpoint_every", "accelerator", "devices", "num_nodes", "strategy")
        return {name: value for name, value in asdict(self).items() if name not in free}


def inherit(
    stacks: Sequence[ChannelStack | str | Path] | ChannelStack | str | Path,
    config: InheritConfig,
    teacher: E2SAM | None = None,
) -> Generator[TrainStep, None, Path]:
    """Train a student of the stacks' channels; yields every step and returns the checkpoint.

    A quarter of each stack (of four stacks and more: whole stacks) is held out; the metrics "agreement_1_click",
    "agreement_3_clicks" and, of more than three channels, "agreement_all_1_click" are the mean IoU of the student's
    masks with the teacher's there, "agreement_score" is the mean of these. The weights of the best score are kept among
    those with none of the parts more than 0.05 under what it was before training; where that leaves none, the untrained
    student is kept ("accepted" 0.0) and the last message says which part fell. Close the generator to stop;
    `config.resume` goes on.

    Parameters
    ----------
    stacks
        One or many, with the same channels; series and volumes count plane by plane.
    config
        Settings.
    teacher
        Where it is loaded already; else `config.teacher` is.

    Raises
    ------
    E2SamError
        If stacks, channels, weights or settings do not fit, or another run writes `config.out`.

    Examples
    --------
    >>> import e2sam
    >>> from e2sam.training.inherit import InheritConfig
    >>> steps = e2sam.inherit(["a.tif"], InheritConfig(out="student.safetensors", steps=50))  # doctest: +SKIP
    >>> for step in steps:  # doctest: +SKIP
    ...     print(step.step, step.loss)
    """
    if not isinstance(config, InheritConfig):
        raise TrainingError(f"Expected an InheritConfig, got {config!r:.60}.")
    if not config.out.parent.is_dir():
        raise TrainingError(f"Expected an existing folder for {config.out.name}, got {config.out.parent}.")
    with only_run(config.out, starts_first(config.devices, config.num_nodes, config.strategy)):
        return (yield from _learn(stacks, config, teacher))


def _learn(
    stacks: Sequence[ChannelStack | str | Path] | ChannelStack | str | Path,
    config: InheritConfig,
    teacher: E2SAM | None,
) -> Generator[TrainStep, None, Path]:
    """The run itself, in a folder that is there and with no other run of the same output."""
    planes, series = _scenes_of(stacks)
    scenes = hold_out(planes, config.seed, series)
    model = load_model(config.teacher, device="cpu", exact=True) if teacher is None else teacher
    task = _build_task(scenes, model, config)
    settings = config.loop()
    told = told_of_unfinished(config.out, unfinished(config.out).exists(), config.resume)
    if told:
        yield TrainStep(0, config.steps, math.nan, message=told)
    return (yield from run_training(task, settings))


def _scenes_of(
    stacks: Sequence[ChannelStack | str | Path] | ChannelStack | str | Path,
) -> tuple[list[ChannelStack], list[int]]:
    """Every single scene, all of the same channels, and the number of the stack that each is a plane of."""
    given = [stacks] if isinstance(stacks, (ChannelStack, str, Path)) else stacks
    if not isinstance(given, Sequence):
        raise TrainingError(f"Expected stacks or their files, got {given!r:.60}.")
    opened = [entry if isinstance(entry, ChannelStack) else read_stack(entry) for entry in given]
    if not opened:
        raise TrainingError("Expected at least 1 stack, got none.")
    for stack in opened[1:]:
        if stack.names != opened[0].names:
            raise ChannelError(
                f"Expected stacks of the same channels, got {', '.join(opened[0].names[:16])} in "
                f"{opened[0].source or 'the first'} and {', '.join(stack.names[:16])} in {stack.source or 'another'}."
            )
    places = [(number, index) for number, stack in enumerate(opened) for index in np.ndindex(*stack.num_planes)]
    return [opened[number].plane(*index) for number, index in places], [number for number, _ in places]


def _build_task(scenes: tuple[TrainingScene, ...], teacher: E2SAM, config: InheritConfig) -> InheritTask:
    trained = [scene for scene in scenes if scene.train is not None]
    channels, sample = trained[0].stack.channels, _sample_of(trained)
    recipes = _fit(sample, trained, config)
    statistics = channel_statistics(sample)
    if not (statistics.deviation > 0).any():
        raise ChannelError("Expected at least 1 channel whose valid pixels differ, got none: see `e2sam info`.")
    order = canonical_order(channels)
    grouping = _grouping(sample, statistics, order)
    canonical = _canonical(sample, config, order, grouping)
    base = load_model(config.student, device="cpu", exact=True) if config.student else None
    with torch.random.fork_rng(devices=[]):
        # Weights that are drawn must be the same in every process and in every run of this seed.
        torch.manual_seed(config.seed)
        student = build_student(
            teacher,
            channels,
            recipes,
            view_matrix(canonical, len(channels), grouping),
            config.init,
            config.merge,
            base=base,
            basis=_basis(sample, recipes),
            grouping=None if grouping is None else torch.from_numpy(grouping),
        )
    _freeze(teacher)
    excluded = [sample.indices(list(names)) for names in config.excluded]
    selector = ChannelSelector(
        config.selector, len(channels), statistics.information, statistics.correlation, order, excluded=excluded
    )
    size = _tile_size(config, student)
    views = TeacherViews(teacher, size, grouping)
    reader = TileReader(scenes, recipes, student.config.image_size, size)
    count = config.num_tiles or _number_of_tiles(trained, student.config.image_size, size)
    probe = AgreementProbe(
        reader,
        reader.held_out_tiles(config.num_validation_tiles, config.seed),
        views,
        _validation_selections(selector, canonical, excluded, config.seed),
        whole=selector.ordered(range(len(channels))) if len(channels) > 3 else (),
    )
    is_split = config.merge == "split"
    return InheritTask(
        student,
        views,
        reader,
        reader.training_tiles(count, config.seed),
        selector,
        canonical=() if is_split else canonical,
        probe=probe,
        lessons=config.lessons,
        rates=_rates(config),
        tune=_tune(config, student),
        lora_rank=config.lora_rank,
        seed=config.seed,
        provenance=_provenance(config, teacher, base, scenes, [channels[i].name for i in canonical]),
    )


def _rates(config: InheritConfig) -> Rates:
    """The usual rates, or less where a run is too short to make up for what its first steps break.

    Adam's first steps move every weight by about its rate, however small or noisy the gradient. A student that starts
    from its teacher and a merge module solved in closed form has more to lose by that than to gain in a few steps.
    """
    if config.rates is not None:
        return config.rates
    return Rates().scaled(min(1.0, config.steps / _STEPS_AT_FULL_RATE))


def _freeze(teacher: E2SAM) -> None:
    teacher.eval().requires_grad_(False)
    choose = getattr(teacher.image_encoder, "prefer_speed", None)
    if choose is not None and teacher.config.architecture != "tiny":
        choose()


def _sample_of(scenes: Sequence[TrainingScene]) -> ChannelStack:
    """Pixels of the trained regions side by side, for recipes and statistics."""
    blocks = []
    for scene in scenes[:_MAX_SAMPLED_SCENES]:
        assert scene.train is not None
        x0, y0, x1, y1 = scene.train
        values, _ = sample_blocks(scene_of(scene.stack), slice(y0, y1), slice(x0, x1), max_values=1 << 21)
        blocks.append(values)
    height = min(block.shape[1] for block in blocks)
    stack = scenes[0].stack
    return replace(stack, data=np.concatenate([block[:, :height] for block in blocks], axis=2), _valid=None)


def _fit(sample: ChannelStack, scenes: Sequence[TrainingScene], config: InheritConfig) -> tuple[ChannelRecipe, ...]:
    if len(scenes) == 1:
        assert scenes[0].train is not None
        x0, y0, x1, y1 = scenes[0].train
        return fit_recipes(scenes[0].stack, config.recipes, slice(y0, y1), slice(x0, x1))
    return fit_recipes(sample, config.recipes)


def _basis(sample: ChannelStack, recipes: Sequence[ChannelRecipe]) -> Tensor | None:
    """(N, 16) directions that hold most of what the channels show; None where each channel has its own."""
    if sample.num_channels <= _SKETCH_RANK:
        return None
    step = max(1, int(np.sqrt(sample.size[0] * sample.size[1] / 20_000)))
    block = sample.read(step=step)
    pixels: NDArray[np.float32] = apply_recipes(block, sample.valid_of(block), recipes).reshape(len(block), -1)
    _, vectors = np.linalg.eigh((pixels @ pixels.T).astype(np.float64))
    return torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1][:, :_SKETCH_RANK], np.float32))


def _grouping(sample: ChannelStack, statistics: ChannelStatistics, order: Sequence[int]) -> NDArray[np.float32] | None:
    """(3, N) composite of all channels around the most informative triple; None where three or fewer are enough."""
    told = [index for index in range(sample.num_channels) if statistics.information[index] > 0]
    if sample.num_channels <= 3 or len(told) < 3:
        return None
    triple = best_triples(statistics.correlation, statistics.information, told, 1)[0]
    return grouping_of(triple, statistics.information, statistics.correlation, order)


def _canonical(
    sample: ChannelStack, config: InheritConfig, order: Sequence[int], grouping: NDArray[np.float32] | None
) -> tuple[int, ...]:
    """The selection that the student starts from, in canonical order."""
    names: Sequence[str] = config.canonical
    if not names and grouping is not None and config.merge == "gated":
        names = sample.names
    elif not names:
        suggested = suggest_selections(sample, top=1)
        names = suggested[0].names if suggested else sample.names[:3]
    if len(config.canonical) > 3:
        raise ChannelError(f"Expected one to three canonical channels, got {len(names)}.")
    return tuple(sorted(sample.indices(list(names)), key=lambda index: order[index]))


def _tile_size(config: InheritConfig, student: E2SAM) -> int:
    size = config.tile_size or (256 if student.config.architecture == "tiny" else student.config.image_size)
    unit = 32 if student.config.architecture == "tiny" else student.config.embedding_stride
    if size < unit or size % unit:
        raise TrainingError(f"Expected a tile size that is a multiple of {unit}, got {size}.")
    return size


def _number_of_tiles(scenes: Sequence[TrainingScene], image_size: int, tile_size: int) -> int:
    """About three tiles for each tile's worth of area, in the frame."""
    area = 0.0
    for scene in scenes:
        assert scene.train is not None
        x0, y0, x1, y1 = scene.train
        scale = min(1.0, max(scene.stack.size) / image_size)
        area += (x1 - x0) * (y1 - y0) / scale**2
    return int(np.clip(round(3 * area / tile_size**2), 12, 96))


def _tune(config: InheritConfig, student: E2SAM) -> str:
    has_blocks = hasattr(student.image_encoder, "blocks")
    if config.tune == "lora" and not has_blocks:
        raise TrainingError(
            "Expected tune 'full' or 'auto' with tiny, whose encoder has no transformer blocks, got 'lora'."
        )
    if config.tune != "auto":
        return config.tune
    return "lora" if has_blocks else "full"


def _validation_selections(
    selector: ChannelSelector, canonical: tuple[int, ...], excluded: Sequence[Sequence[int]], seed: int
) -> list[tuple[int, ...]]:
    """The canonical selection, those kept from training, and drawn ones."""
    chosen = {canonical: None} if len(canonical) <= 3 else {}
    chosen |= {selector.ordered(selection): None for selection in excluded}
    rng = np.random.default_rng((seed, 23))
    for turn in range(40):
        if len(chosen) >= max(_VALIDATION_SELECTIONS, len(excluded) + 1):
            break
        chosen[selector.ordered(selector.draw(rng, turn))] = None
    return list(chosen)


def _provenance(
    config: InheritConfig,
    teacher: E2SAM,
    base: E2SAM | None,
    scenes: Sequence[TrainingScene],
    canonical: Sequence[str],
) -> dict[str, Any]:
    source = base or teacher
    return {
        "teacher": teacher.fingerprint or fingerprint_of(teacher),
        "parent": source.fingerprint or fingerprint_of(source),
        "training": config.to_json(),
        "canonical": list(canonical),
        "scenes": [
            {"source": str(scene.stack.source or ""), "size": list(scene.stack.size), "held_out": scene.held}
            for scene in scenes
        ],
    }
