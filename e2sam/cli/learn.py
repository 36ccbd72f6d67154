"""Commands `inherit` (stage 1, no labels) and `finetune` (stage 2, from corrections or labels)."""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tqdm import tqdm

from e2sam.cli.output import PAGE, check_target, emit
from e2sam.cli.stacks import add_search_arguments
from e2sam.cli.values import above_zero, count, natural, share
from e2sam.data.stack import split_names
from e2sam.errors import TrainingError

if TYPE_CHECKING:
    from e2sam.data.io.datasets import LabelledItem
    from e2sam.data.stack import ChannelStack
    from e2sam.training.config import TrainStep
    from e2sam.training.finetune_config import FinetuneResult
    from e2sam.training.inherit import InheritConfig

__all__ = ["add_commands"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `inherit` and `finetune`."""
    _add_inherit(commands, common)
    _add_finetune(commands, common)


# --- inherit ---------------------------------------------------------------------------------------------------------


def _add_inherit(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "inherit",
        parents=[common],
        help="train a student of all channels, without labels",
        description=(
            "Train a student whose one pass over all channels of a stack serves every selection, from a frozen teacher "
            "of three planes and without labels. A part of the stacks is held out to measure how well they agree."
        ),
        epilog="example: e2sam inherit scene.tif --teacher tiny --out student.safetensors",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="STACK_OR_DIR", help="stacks, folders of stacks, shift:DIR"
    )
    add_search_arguments(parser)
    parser.add_argument("--teacher", default="tiny", metavar="M", help="tiny, vit_b, vit_l, vit_h or a file")
    parser.add_argument("--student", metavar="M", help="weights of the student's encoder, if not the teacher's")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="student to write, .safetensors")
    parser.add_argument("--preset", choices=("default", "bmvc2023"), default="default", help="settings to start from")
    parser.add_argument(
        "--canonical", metavar="A,B,C", help="channels that the student starts from (default: all together)"
    )
    for name, choices in (
        ("init", ("inflate", "mean", "random", "scratch")),
        ("merge", ("gated", "split")),
        ("selector", ("diverse", "random")),
        ("tune", ("auto", "full", "lora")),
    ):
        parser.add_argument(f"--{name}", choices=choices, help="default: by the preset")
    parser.add_argument("--loss", choices=("pairwise", "mmd"), help="default: pairwise")
    for name, what in (
        ("prompt-share", "share of the steps, at the end, that answer clicks too"),
        ("dropout", "chance that a sample loses channels"),
    ):
        parser.add_argument(f"--{name}", type=share, metavar="0..1", help=what)
    parser.add_argument("--tile-size", type=count, metavar="PIXELS", help="side of a tile in the model's frame")
    parser.add_argument("--tiles", dest="num_tiles", type=count, metavar="N", help="trained tiles (default: by area)")
    parser.add_argument("--lora-rank", type=count, metavar="R", help="rank of the low-rank changes (default 8)")
    _add_run_arguments(parser)
    parser.set_defaults(run=_inherit)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the training loop, which both commands share."""
    parser.add_argument(
        "--steps", type=count, metavar="N", help="optimizer steps (default: inherit 300, finetune by the data)"
    )
    parser.add_argument("--batch-size", type=count, metavar="N", help="samples a step, over all devices")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of every random draw (default 0)")
    parser.add_argument("--validate-every", type=count, metavar="N", help="steps between validations")
    parser.add_argument("--checkpoint-every", type=count, metavar="N", help="steps between checkpoints of the run")
    parser.add_argument("--patience", type=count, metavar="N", help="stop after N validations without improvement")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished run of this --out")
    parser.add_argument("--accelerator", default="auto", metavar="A", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--devices", type=_devices, default=1, metavar="N", help="devices or processes (default 1)")
    parser.add_argument("--nodes", dest="num_nodes", type=count, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument("--strategy", default="auto", metavar="S", help="of Lightning Fabric: auto, ddp")
    parser.add_argument("--precision", default="auto", metavar="P", help="auto, 32-true, bf16-mixed, 16-mixed")


def _inherit(options: argparse.Namespace) -> None:
    from e2sam.training.devices import is_first_process
    from e2sam.training.inherit import inherit

    config = _inherit_config(options)
    watched = _Watched(inherit(_stacks(options), config))
    watched.drive("inherit")
    if not is_first_process():
        return
    after = dict(watched.last.metrics)
    accepted = bool(after.pop("accepted", 1.0))
    kept = int(after.pop("kept_step", watched.last.step))
    result = {
        "out": str(config.out),
        "steps": watched.last.step,
        "seconds": round(watched.seconds, 2),
        "before": dict(watched.before),
        "after": after,
        "accepted": accepted,
        "kept_step": kept,
    }
    emit(result, options.json, _inherit_lines(result))


def _inherit_config(options: argparse.Namespace) -> InheritConfig:
    from dataclasses import fields, replace

    from e2sam.training.inherit import InheritConfig
    from e2sam.training.inheritance import Lessons

    check_target("--out", options.out, (".safetensors",), (*options.paths, options.teacher, options.student))
    given = {name: value for name, value in vars(options).items() if value is not None}
    known = {field.name for field in fields(InheritConfig)}
    changes = {name: value for name, value in given.items() if name in known}
    changes["canonical"] = split_names(options.canonical or "")
    config = InheritConfig.preset(options.preset, **changes)
    lessons = {name: given[name] for name in ("loss", "prompt_share", "dropout") if name in given}
    changed: Lessons = replace(config.lessons, **lessons)
    return replace(config, lessons=changed)


def _stacks(options: argparse.Namespace) -> list[ChannelStack]:
    from e2sam.data.io import read_stack
    from e2sam.data.io.datasets import open_dataset
    from e2sam.inference.batch import search_stacks

    names = None if options.channel_names is None else split_names(options.channel_names)
    stacks = []
    images: dict[Path, dict[str, LabelledItem]] = {}
    # Each once, though a file is named beside its folder.
    for source, item in dict.fromkeys(
        (found.source, found.item) for found in search_stacks(options.paths, of_folders=options.folders)
    ):
        if not item:
            stacks.append(read_stack(source, options.channel_axis, names, nodata=options.nodata))
            continue
        if source not in images:
            images[source] = {image.name: image for image in open_dataset(str(source))}
        stacks.append(images[source][item].load()[0])
    return stacks


def _inherit_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['out']}: {result['steps']} steps in {result['seconds']:.0f} s"
    for name, value in result["after"].items():
        words = name.replace("_", " ")
        before = result["before"].get(name)
        yield f"{words}: {value:.3f}" + ("" if before is None else f" (before training {before:.3f})")
    if not result["accepted"]:
        yield "no step was better than the untrained student without being clearly worse in a part: that one was kept"


# --- finetune --------------------------------------------------------------------------------------------------------


def _add_finetune(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "finetune",
        parents=[common],
        help="learn from corrections or labels",
        description=(
            "Train a model further on a session's accepted objects or on labelled stacks. A part is held out before "
            "training; the new model is taken only if it is not worse there."
        ),
        epilog="example: e2sam finetune work.e2sam --model tiny --out mine.safetensors",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="session (.e2sam), folder of pairs NAME.tif + NAME_labels.png, shift:DIR or h8:DIR",
    )
    parser.add_argument("--model", default="tiny", metavar="M", help="what training starts from (default tiny)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="model to write, .safetensors")
    parser.add_argument("--head", choices=("prompt", "semantic"), default="prompt", help="clicks, or classes")
    parser.add_argument(
        "--tune", choices=("decoder", "lora", "full"), default="", help="what is trained (default: by the data)"
    )
    parser.add_argument("--preset", choices=("bmvc2023",), default="", help="settings of the paper's stage 2")
    parser.add_argument("--channels", metavar="A,B,C", help="selection (default: that of each correction)")
    parser.add_argument("--learning-rate", type=above_zero, metavar="R", help="of the decoder")
    parser.add_argument("--encoder-rate", type=above_zero, metavar="R", help="of the encoder")
    parser.add_argument(
        "--seconds",
        type=above_zero,
        metavar="S",
        help="time for the steps (default: half a second for each, 30 s for up to 8 objects)",
    )
    parser.add_argument(
        "--held-out",
        type=share,
        metavar="0..0.5",
        help="share of the labels to judge by, above 0 (default 0.25; up to 8 objects: each by what others taught)",
    )
    parser.add_argument("--lora-rank", dest="rank", type=count, metavar="R", help="rank of the low-rank changes")
    parser.add_argument("--decoder", choices=("detail", "bmvc2023"), help="of the semantic head")
    parser.add_argument("--tile-size", type=count, metavar="PIXELS", help="semantic head: long side of a tile")
    parser.add_argument("--ignore-index", metavar="V", help="semantic head: label that is not counted, or none")
    parser.add_argument("--classes", metavar="A,B,C", help="semantic head: names in the order of the label values")
    parser.add_argument(
        "--twin",
        action=argparse.BooleanOptionalAction,
        help="also train on red, green, blue alone (default: where more is seen and the decoder alone learns)",
    )
    parser.add_argument("--report", type=Path, metavar="PAGE", help="also write curves and figures, .html")
    _add_run_arguments(parser)
    parser.set_defaults(run=_finetune)


def _finetune(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from e2sam.training.devices import is_first_process
    from e2sam.training.finetune import FinetuneConfig, finetune

    inputs = (options.data, options.model)
    check_target("--out", options.out, (".safetensors",), inputs)
    if options.report is not None:
        check_target("--report", options.report, PAGE, inputs)
    known = {field.name for field in fields(FinetuneConfig)}
    changes = {name: value for name, value in vars(options).items() if value is not None and name in known}
    for name in ("channels", "classes"):
        if changes.get(name):
            changes[name] = split_names(changes[name])
    if "ignore_index" in changes:
        changes["ignore_index"] = _ignored(changes["ignore_index"])
    watched: _Watched[FinetuneResult] = _Watched(finetune(options.data, FinetuneConfig(**changes)))
    watched.drive("fine-tune")
    if is_first_process() and watched.result is not None:
        result = watched.result.to_json()
        if options.report is not None:
            from e2sam.evaluation.learning_report import learning_report

            page = learning_report(f"Fine-tuning: {options.data}", result, watched.losses, watched.scores)
            result["report"] = str(page.write(options.report))
        emit(result, options.json, [watched.result.message, f"{result['out']}: {result['seconds']:.0f} s"])


def _ignored(text: str) -> int | str | None:
    if text in ("none", "auto"):
        return None if text == "none" else text
    try:
        return int(text)
    except ValueError:
        raise TrainingError(f"Expected --ignore-index as a whole number, none or auto, got {text!r}.") from None


# --- both ------------------------------------------------------------------------------------------------------------


class _Watched(Generic[T]):
    """Drives a run, shows it to a person, and keeps what it came to."""

    def __init__(self, steps: Generator[TrainStep, None, T]) -> None:
        from e2sam.training.config import TrainStep

        self._steps = steps
        self.last = TrainStep(0, 0, 0.0)
        self.before: dict[str, float] = {}
        self._is_asked_to_stop = False
        self.seconds = 0.0
        self.result: T | None = None
        self.losses: list[tuple[float, float]] = []
        self.scores: dict[str, list[tuple[float, float]]] = {}

    def drive(self, what: str) -> None:
        """Run to the end; on Ctrl-C the run is kept for --resume.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C: once the step is done that is under way, so that none is half done in what is kept.
        """
        started = time.perf_counter()
        bar = tqdm(desc=what, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
        usual = signal.getsignal(signal.SIGINT)
        try:
            # Where a shell or a caller has decided otherwise about Ctrl-C, it stands.
            if usual is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._ask_to_stop)
            while not self._is_asked_to_stop:
                step = next(self._steps)
                bar.total = step.total
                bar.update(step.step - bar.n)
                self._take(step)
            logger.warning("Stopped at step %d: the same command with --resume goes on from there.", self.last.step)
            raise KeyboardInterrupt
        except StopIteration as end:
            self.result = end.value
        finally:
            self._steps.close()
            bar.close()
            if usual is signal.default_int_handler:
                signal.signal(signal.SIGINT, usual)
            self.seconds = time.perf_counter() - started

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """What Ctrl-C does: before the first step, or the second time, it stops at once."""
        del number, frame
        if self._is_asked_to_stop or self.last.step == 0:
            raise KeyboardInterrupt
        self._is_asked_to_stop = True

    def _take(self, step: TrainStep) -> None:
        if math.isfinite(step.loss):
            self.losses.append((step.step, step.loss))
        if "score" in step.metrics:
            for name, value in step.metrics.items():
                if name != "kept_step":
                    self.scores.setdefault(name, []).append((step.step, value))
        if step.step == 0 and step.metrics:
            self.before = dict(step.metrics)
        if step.message:
            logger.info(step.message)
        if step.metrics:
            figures = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in step.metrics.items())
            logger.info("step %d of %d: %s", step.step, step.total, figures)
        self.last = step


def _devices(text: str) -> int | str:
    if text == "auto":
        return text
    return count(text)
