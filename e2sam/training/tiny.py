"""Trains `tiny` from nothing: `python -m e2sam.training.tiny --help`.

Scenes are composed in a second process while the model learns; every random draw follows from (seed, step), so that a
resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from e2sam.data.synthetic import Material
from e2sam.errors import TrainingError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.packed import fastest_dtype
from e2sam.modeling.tiny import TinyDecoder
from e2sam.training.config import TrainStep
from e2sam.training.state import RunState, load_optimizer, load_tensors, optimizer_tensors, read_state, write_state
from e2sam.training.task import MOST_UNSOUND_STEPS
from e2sam.training.tiny_data import (
    SCENE_SIDE,
    Batch,
    KindShares,
    SceneSource,
    SourceSettings,
    first_prompts,
    make_batch,
    pack_scene,
)
from e2sam.training.tiny_loss import Rounds, StepLoss, boundary_loss, play_rounds
from e2sam.weights.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["TinyConfig", "mean_of_weights", "train_tiny"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TinyConfig:
    """Settings of a run.

    Attributes
    ----------
    out
        Folder for `state.safetensors` (to resume), `tiny.safetensors` (averaged weights), `last.safetensors` (those of
        the last step, the better ones of a run shorter than the average is long), `best.safetensors` and `log.jsonl`.
    material
        `train.npz` of `e2sam.training.tiny_material`, or None for procedural scenes only.
    held_out
        `held_out.npz` of the same, for validation.
    initial
        Checkpoint of `tiny` to start from, or None to start from nothing.
    steps
        Length of the run and of its cosine schedule.
    scenes, objects, sides
        Scenes in a step, objects of each, and sides of the crops in pixels, multiples of 32: each step draws one, and
        takes fewer scenes where they are larger than the first.
    scene_side
        Height and width of the scenes that crops are taken from, pixels.
    shares
        How often a scene is of a kind that is asked for by name.
    fresh, capacity
        New scenes taken in at each step, and how many are held.
    close
        Share of the crops that are close looks at one object.
    learning_rate, weight_decay, averaging
        Of AdamW, and of the running average of the weights that is saved.
    smallest
        Least area of an object that is asked for, pixels.
    seed, device
        Random seed; "auto", "cpu" or "cuda".
    validate_every, validation
        Steps between validations; their batches of 8 scenes, and the side of their crops.
    workers, cores
        Processes that compose scenes, and the cores that they keep to.
    """

    out: Path
    material: Path | None = None
    held_out: Path | None = None
    initial: Path | None = None
    steps: int = 3000
    scenes: int = 8
    objects: int = 4
    sides: tuple[int, ...] = (192,)
    scene_side: int = SCENE_SIDE
    shares: KindShares = field(default_factory=KindShares)
    fresh: int = 3
    capacity: int = 1000
    close: float = 0.0
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.03
    averaging: float = 0.998
    smallest: int = 50
    seed: int = 0
    device: str = "auto"
    validate_every: int = 250
    validation: tuple[int, int] = (5, 256)
    workers: int = 1
    cores: tuple[int, ...] = ()

    def draw_shape(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Scenes, objects and side of a step."""
        side = int(rng.choice(self.sides))
        return max(1, round(self.scenes * (self.sides[0] / side) ** 1.4)), self.objects, side

    def source(self) -> SourceSettings:
        """Settings of the scenes."""
        return SourceSettings(
            self.seed,
            self.scene_side,
            self.shares,
            self.fresh,
            self.capacity,
            self.material,
            self.workers,
            self.cores,
        )


class _Run:
    """Model, averaged model, optimizer and place in the run."""

    def __init__(self, config: TinyConfig) -> None:
        has_gpu = torch.cuda.is_available() and config.device != "cpu"
        self.device = torch.device("cuda" if has_gpu else "cpu")
        torch.manual_seed(config.seed)
        self.config = config
        self.model = self._new_model()
        if config.initial is not None:
            self.model.load_state_dict(load_checkpoint(config.initial).state_dict())
        self.average = self._new_model()
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        decayed = [weight for weight in self.model.parameters() if weight.ndim > 1]
        free = [weight for weight in self.model.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.names: dict[nn.Parameter, str] = {weight: name for name, weight in self.model.named_parameters()}
        self.state = RunState(identity={"task": "tiny", "seed": config.seed})
        self.unsound = 0

    def _new_model(self) -> E2SAM:
        return build_model(teacher_config("tiny")).to(self.device).to(memory_format=torch.channels_last)

    @property
    def state_path(self) -> Path:
        return self.config.out / "state.safetensors"

    def resume(self) -> None:
        """Go on from the folder's state, if there is one."""
        if not self.state_path.exists():
            return
        tensors, self.state = read_state(self.state_path)
        load_tensors(dict(self.model.state_dict()), tensors, "model")
        load_tensors(dict(self.average.state_dict()), tensors, "average")
        load_optimizer(self.optimizer, self.names, tensors)
        logger.info("resumed at step %d", self.state.step)

    def save(self) -> None:
        """Write state and averaged weights."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        write_state(self.state_path, tensors | optimizer_tensors(self.optimizer, self.names), self.state)
        self.export(self.config.out / "tiny.safetensors", self.average)
        self.export(self.config.out / "last.safetensors", self.model)

    def export(self, path: Path, model: E2SAM) -> None:
        """Write weights as a float16 checkpoint."""
        half = build_model(teacher_config("tiny"))
        half.load_state_dict(model.state_dict())
        settings = {
            key: value
            for key, value in asdict(self.config).items()
            if key not in ("out", "material", "held_out", "initial")
        }
        facts = {"stage": "teacher", "training": {**settings, "step": self.state.step, "seconds": self.state.seconds}}
        save_checkpoint(path, half.half(), facts)

    def learning_rate(self) -> float:
        """Warm-up over 100 steps, then cosine to 2 %."""
        step, total = self.state.step, max(self.config.steps, 1)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
        return self.config.learning_rate * min(1.0, (step + 1) / 100) * cosine

    def learn(self, batch: Batch, rng: np.random.Generator) -> StepLoss:
        """One step of the optimizer; left out where its gradient is not finite, which would end every weight."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss = step_loss(self.model, batch, rng, self.device)
        loss.total.backward()
        length = float(nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        self.unsound = 0 if math.isfinite(length) else self.unsound + 1
        if self.unsound:
            logger.warning("step %d left out: its loss is %s", self.state.step + 1, loss.total.item())
            if self.unsound >= MOST_UNSOUND_STEPS:
                raise TrainingError(
                    f"Expected finite gradients, got none in {self.unsound} steps in a row, the last step "
                    f"{self.state.step + 1}: lower the learning rate."
                )
            self.state.step += 1
            return loss
        self.optimizer.step()
        kept = min(self.config.averaging, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            values = list(self.model.state_dict().values())
            torch._foreach_lerp_(list(self.average.state_dict().values()), values, 1 - kept)
        self.state.step += 1
        return loss


def step_loss(model: E2SAM, batch: Batch, rng: np.random.Generator, device: torch.device) -> StepLoss:
    """Loss of a batch, in bfloat16 where the device is made for it, from pixels to the last round of clicks."""
    decoder = model.decoder
    assert isinstance(decoder, TinyDecoder)
    points, labels = first_prompts(rng, batch.masks)
    side = batch.pixels.shape[-1]
    is_fast = fastest_dtype(device) == torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=is_fast):
        pixels = model.prepare(batch.pixels.to(device), (side, side))
        features = decoder.features(model.encode(pixels))
        borders = boundary_loss(features, batch.boundaries.to(device), batch.judged.to(device))
        played = play_rounds(decoder, features, Rounds(points.to(device), labels.to(device)), batch.masks, rng)
    return StepLoss(played.total + borders, played.first_iou, played.last_iou, played.best_iou)


@torch.no_grad()
def validate(model: E2SAM, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Mean IoU of the first and the last round on fixed batches."""
    results = [step_loss(model, batch, np.random.default_rng(index), device) for index, batch in enumerate(batches)]
    return {
        "loss": float(np.mean([float(result.total) for result in results])),
        "first": float(np.mean([result.first_iou for result in results])),
        "last": float(np.mean([result.last_iou for result in results])),
        "best_of_3": float(np.mean([result.best_iou for result in results])),
    }


def mean_of_weights(paths: Sequence[Path], out: Path) -> Path:
    """Write the mean of the weights of runs that began at the same weights, such as a run's start and its end.

    What either does well, their mean often does too (model soups, arXiv 2203.05482).
    """
    models = [load_checkpoint(path) for path in paths]
    states = [model.state_dict() for model in models]
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    models[0].load_state_dict(mean)
    facts = {"stage": "teacher", "training": {"mean_of": [model.fingerprint for model in models]}}
    return save_checkpoint(out, models[0].half(), facts)


def _held_out(config: TinyConfig) -> list[Batch]:
    """Fixed batches from scenes, and where given material, that training never sees."""
    material = None if config.held_out is None else Material.load(config.held_out)
    batches, side = config.validation
    result = []
    for index in range(batches):
        numbers = range(8 * index, 8 * index + 8)
        scenes = [pack_scene(config.seed + 1_000_003, number, material, SCENE_SIDE) for number in numbers]
        result.append(make_batch(np.random.default_rng((7, index)), scenes, (8, 4, side), config.smallest))
    return result


def train_tiny(config: TinyConfig, is_resumed: bool = False) -> Iterator[TrainStep]:
    """Train; yields after each step. Stopping at any step is safe: call again with `is_resumed`."""
    config.out.mkdir(parents=True, exist_ok=True)
    run = _Run(config)
    if is_resumed:
        run.resume()
    held_out = _held_out(config)
    source = SceneSource(config.source(), run.state.step)
    with source, (config.out / "log.jsonl").open("a", encoding="utf-8") as log:
        start = time.monotonic() - run.state.seconds
        while run.state.step < config.steps:
            rng = np.random.default_rng((config.seed, run.state.step))
            waited = time.monotonic()
            scenes = source.advance()
            batch = make_batch(rng, scenes, config.draw_shape(rng), config.smallest, config.close)
            waited = time.monotonic() - waited
            loss = run.learn(batch, rng)
            run.state.seconds = time.monotonic() - start
            metrics = {"first": loss.first_iou, "last": loss.last_iou, "best_of_3": loss.best_iou, "waited": waited}
            if run.state.step % config.validate_every == 0 or run.state.step == config.steps:
                metrics |= _validated(run, held_out)
            line = {"step": run.state.step, "loss": loss.total.item(), "seconds": run.state.seconds, **metrics}
            log.write(json.dumps(line) + "\n")
            log.flush()
            yield TrainStep(run.state.step, config.steps, loss.total.item(), metrics)


def _validated(run: _Run, held_out: Sequence[Batch]) -> dict[str, float]:
    """Validate the averaged weights, save, and keep the best."""
    figures = validate(run.average, held_out, run.device)
    if figures["first"] + figures["last"] >= run.state.best.get("first", 0) + run.state.best.get("last", 0):
        run.state.best, run.state.best_step = figures, run.state.step
        run.export(run.config.out / "best.safetensors", run.average)
    run.save()
    return {f"held_out_{name}": value for name, value in figures.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train the embedded model from nothing.",
        epilog="example: python -m e2sam.training.tiny --out run --material material/train.npz --steps 3000",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--material", type=Path, help="train.npz of e2sam.training.tiny_material")
    parser.add_argument("--held-out", type=Path, help="held_out.npz of e2sam.training.tiny_material")
    parser.add_argument("--initial", type=Path, help="checkpoint to start from, e.g. the shipped weights")
    parser.add_argument("--mean-of", type=Path, nargs="+", help="train nothing: write the mean of these checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="cores of the process that composes scenes")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--sides", type=int, nargs="+", default=[192], help="sides of the crops, pixels")
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    defaults = TinyConfig(Path())
    for name in (
        "validate_every",
        "steps",
        "scenes",
        "objects",
        "scene_side",
        "fresh",
        "capacity",
        "smallest",
        "seed",
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(defaults, name))
    for name in ("close", "learning_rate", "weight_decay", "averaging"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(defaults, name))
    KindShares.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = vars(_parser().parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    is_resumed, mean_of = options.pop("resume"), options.pop("mean_of")
    if mean_of:
        logger.info("wrote %s", mean_of_weights(mean_of, options["out"] / "tiny.safetensors"))
        return
    options["shares"] = KindShares.take(options)
    config = TinyConfig(**{**options, "cores": tuple(options["cores"]), "sides": tuple(options["sides"])})
    for step in train_tiny(config, is_resumed):
        if step.step % 20 == 0 or "held_out_first" in step.metrics:
            figures = " ".join(f"{name} {value:.3f}" for name, value in step.metrics.items())
            logger.info("step %d/%d loss %.3f %s", step.step, step.total, step.loss, figures)


if __name__ == "__main__":
    main()
