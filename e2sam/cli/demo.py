"""Command `demo`: the main job from an image to a better model, on data and weights that every installation has."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2sam.cli.output import check_folder, emit
from e2sam.cli.values import natural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from e2sam.cli.demo_clicks import ClickedObject
    from e2sam.cli.demo_learning import LearnedResult
    from e2sam.data.channels import ChannelScore, Suggestion
    from e2sam.data.stack import ChannelStack
    from e2sam.modeling.e2sam import E2SAM

__all__ = ["add_commands"]

_COLOUR = ("R", "G", "B")
_CELL_CHANNELS = ("R", "depth", "thermal")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        parents=[common],
        help="the whole job on embedded data, with a report",
        description=(
            "Read, rank channels, click, correct, inherit, fine-tune and export, on a photograph with disparity and on "
            "synthetic stacks, with the embedded model. Needs no network and no display."
        ),
        epilog="example: e2sam demo --out e2sam-demo",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("e2sam-demo"), metavar="DIR", help="folder (default e2sam-demo)"
    )
    parser.add_argument("--inherit-steps", type=natural, default=16, metavar="N", help="0 leaves inheriting out")
    parser.add_argument("--finetune-steps", type=natural, default=16, metavar="N", help="0 leaves fine-tuning out")
    parser.set_defaults(run=_run)


@dataclass(frozen=True, eq=False)
class _Scene:
    """One stack of the demo with what was found in it."""

    name: str
    stack: ChannelStack
    ranking: Sequence[ChannelScore]
    suggested: Sequence[Suggestion]
    colour_only: Sequence[ClickedObject]
    objects: Sequence[ClickedObject]
    pictures: Mapping[str, Path]


@dataclass
class _Demo:
    """What the demo has made so far."""

    out: Path
    model: E2SAM
    is_quiet: bool
    started: float = field(default_factory=time.perf_counter)
    scenes: list[_Scene] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One line of progress, on standard error."""
        if not self.is_quiet:
            sys.stderr.write(f"[{time.perf_counter() - self.started:5.1f} s] {text}\n")


def _run(options: argparse.Namespace) -> None:
    from e2sam.weights.zoo import load_model

    started = time.perf_counter()
    out: Path = options.out
    check_folder("--out", out)
    out.mkdir(parents=True, exist_ok=True)
    demo = _Demo(out, load_model("tiny", device="cpu"), options.json, started)
    for name, stack, targets in _sources(out):
        demo.say(f"{name}: {stack.num_channels} channels ({', '.join(stack.names)}); clicking {', '.join(targets)}")
        demo.scenes.append(_click_scene(demo, name, stack, targets))
    _export(demo)
    inherited = _inherit(demo, options.inherit_steps) if options.inherit_steps else None
    tuned = _finetune(demo, options.finetune_steps) if options.finetune_steps else None
    seconds = time.perf_counter() - started
    report = _write_report(demo, inherited, tuned, seconds)
    result = _result(demo, report, inherited, tuned, seconds)
    emit(result, options.json, _lines(demo, report, inherited, tuned, seconds))


def _sources(out: Path) -> Iterator[tuple[str, ChannelStack, dict[str, NDArray[np.bool_]]]]:
    """The demo's stacks, written to files and read again, with the objects to click."""
    from e2sam.cli.demo_clicks import hidden_objects
    from e2sam.data.io import read_stack, write_stack
    from e2sam.data.samples import motorcycle, motorcycle_masks
    from e2sam.data.synthetic import SceneOptions, synthetic_stack

    yield "photograph", read_stack(write_stack(out / "photograph.tif", motorcycle())), motorcycle_masks()
    stack, labels = synthetic_stack(4, 6, (256, 320), SceneOptions(kind="objects", hidden=0.5))
    stack = read_stack(write_stack(out / "synthetic.tif", stack))
    yield "synthetic", stack, hidden_objects(stack, labels)


def _click_scene(demo: _Demo, name: str, stack: ChannelStack, targets: dict[str, NDArray[np.bool_]]) -> _Scene:
    """Rank the channels, then click the objects with colour alone and with every channel."""
    from e2sam.cli.demo_clicks import click_objects
    from e2sam.cli.demo_pictures import channel_sheet, object_sheet, save_picture, selection_picture
    from e2sam.data.channels import channel_statistics, rank_channels, suggest_selections
    from e2sam.inference.predictor import Predictor

    statistics = channel_statistics(stack)
    ranking, suggested = rank_channels(stack, statistics), suggest_selections(stack, 5, statistics)
    predictor = Predictor(demo.model, cache=False)
    predictor.set_stack(stack, _COLOUR)
    colour_only = click_objects(predictor, targets)
    predictor.set_channels(stack.names)
    objects = click_objects(predictor, targets)
    extras = [channel for channel in stack.names if channel not in _COLOUR][:3]
    shown = (*_COLOUR[: 3 - len(extras)], *extras)
    sheets = {
        "channels": channel_sheet(stack),
        "objects": object_sheet(
            [
                (f"selected: {', '.join(_COLOUR)}", selection_picture(stack, _COLOUR), colour_only),
                (
                    f"selected: all {stack.num_channels}; shown: {', '.join(shown)}",
                    selection_picture(stack, shown),
                    objects,
                ),
            ]
        ),
    }
    pictures = {kind: save_picture(demo.out / f"{name}_{kind}.png", sheet) for kind, sheet in sheets.items()}
    demo.pictures += pictures.values()
    return _Scene(name, stack, ranking, suggested, colour_only, objects, pictures)


def _export(demo: _Demo) -> None:
    """Accept the masks into a session, and write them out as label TIFF and COCO."""
    from e2sam.cli.demo_clicks import accept_all
    from e2sam.data.export import export
    from e2sam.data.session import Session

    path = demo.out / "demo.e2sam"
    path.unlink(missing_ok=True)
    with Session.open(path) as session:
        for scene in demo.scenes:
            number = accept_all(session, scene.stack, scene.objects, demo.model.fingerprint, corrected=False)
            for suffix, kind in ((".tif", "tiff"), (".png", "png")):
                written = export(session, kind, demo.out / f"{scene.name}_labels{suffix}", stack_id=number)
                demo.exports += written.paths
        demo.exports += export(session, "coco", demo.out / "objects.json").paths
    demo.say(f"exported {sum(len(scene.objects) for scene in demo.scenes)} objects")


def _inherit(demo: _Demo, steps: int) -> LearnedResult:
    """A student of the photograph's four channels: every selection from one encoder pass."""
    from e2sam.cli.demo_clicks import reclick
    from e2sam.cli.demo_learning import inherit_on
    from e2sam.cli.demo_pictures import object_sheet, save_picture, selection_picture
    from e2sam.inference.predictor import Predictor
    from e2sam.weights.zoo import load_model

    stack = demo.scenes[0].stack
    demo.say(f"inheriting a student of {stack.num_channels} channels, {steps} steps")
    teacher = load_model("tiny", device="cpu", exact=True)
    result = inherit_on(stack, teacher, demo.out / "student.safetensors", steps, demo.say)
    picture = selection_picture(stack, _COLOUR)
    predictor = Predictor(load_model(str(result.out), device="cpu"), cache=False)
    predictor.set_stack(stack, stack.names)
    shown = []
    for selection in (_COLOUR, ("R", "disparity"), stack.names):
        started = time.perf_counter()
        predictor.set_channels(selection)
        milliseconds = 1000 * (time.perf_counter() - started)
        found = [reclick(predictor, one) for one in demo.scenes[0].objects]
        shown.append((f"{', '.join(selection)}: set in {milliseconds:.0f} ms", picture, found))
    demo.say(f"three selections of the student from {predictor.encoder_passes} encoder pass")
    demo.pictures.append(save_picture(demo.out / "student_objects.png", object_sheet(shown, 480)))
    return result


def _finetune(demo: _Demo, steps: int) -> LearnedResult:
    """Correct cells of two synthetic stacks, and learn from the corrections of one for the other."""
    from e2sam.cli.demo_clicks import accept_all, click_objects
    from e2sam.cli.demo_learning import finetune_on
    from e2sam.data.io import read_stack, write_stack
    from e2sam.data.session import Session
    from e2sam.data.synthetic import SceneOptions, synthetic_stack
    from e2sam.evaluation.clicks import instance_masks
    from e2sam.inference.predictor import Predictor

    path = demo.out / "corrections.e2sam"
    path.unlink(missing_ok=True)
    predictor = Predictor(demo.model, cache=False)
    with Session.open(path) as session:
        for seed in (1, 3):
            stack, labels = synthetic_stack(seed, 5, (128, 192), SceneOptions(kind="cells", hidden=0.0))
            stack = read_stack(write_stack(demo.out / f"cells_{seed}.tif", stack))
            targets = dict(list(instance_masks(labels, smallest=150).items())[:5])
            predictor.set_stack(stack, _CELL_CHANNELS)
            accept_all(session, stack, click_objects(predictor, targets), demo.model.fingerprint, corrected=True)
        count = len(session.objects())
    demo.say(f"fine-tuning on {count} corrections, {steps} steps")
    return finetune_on(path, "tiny", demo.out / "finetuned.safetensors", steps, demo.say)


def _result(
    demo: _Demo, report: Path, inherited: LearnedResult | None, tuned: LearnedResult | None, seconds: float
) -> dict[str, Any]:
    objects = []
    for scene in demo.scenes:
        for plain, one in zip(scene.colour_only, scene.objects, strict=True):
            with_colour = {"iou_1_click": plain.ious[0], "iou_3_clicks": plain.ious[-1]}
            objects.append({**one.to_json(), "stack": scene.name, "colour_only": with_colour})
    return {
        "report": report,
        "pictures": demo.pictures,
        "exports": demo.exports,
        "objects": objects,
        "channels": {
            scene.name: {
                "ranking": [score.name for score in scene.ranking],
                "suggested": [suggestion.names for suggestion in scene.suggested],
            }
            for scene in demo.scenes
        },
        "inherit": None if inherited is None else inherited.to_json(),
        "finetune": None if tuned is None else tuned.to_json(),
        "seconds": round(seconds, 2),
    }


def _write_report(demo: _Demo, inherited: LearnedResult | None, tuned: LearnedResult | None, seconds: float) -> Path:
    from e2sam.cli.demo_report import write_report

    path = demo.out / "report.html"
    write_report(path, demo.scenes, inherited, tuned, {"seconds": seconds, "model": demo.model.config.architecture})
    return path


def _lines(
    demo: _Demo, report: Path, inherited: LearnedResult | None, tuned: LearnedResult | None, seconds: float
) -> Iterator[str]:
    for scene in demo.scenes:
        yield f"{scene.name}: IoU after 1 and 3 clicks, colour alone -> all {scene.stack.num_channels} channels"
        for plain, one in zip(scene.colour_only, scene.objects, strict=True):
            yield (f"  {one.name:12} {plain.ious[0]:.2f} {plain.ious[-1]:.2f} -> {one.ious[0]:.2f} {one.ious[-1]:.2f}")
    for what, result in (("inherit", inherited), ("fine-tune", tuned)):
        if result is not None:
            yield f"{what}: {result.steps} steps, {result.seconds:.0f} s, {'taken' if result.accepted else 'not taken'}"
    yield f"report: {report} ({seconds:.0f} s)"
