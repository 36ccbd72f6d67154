"""Fine-tuning: five corrections on real sets, cached against uncached steps, classes from few labels beside a forest.

    python -m benchmarks.finetune [--json | --markdown] [--only clicks,steps,classes] [--sets samson,...] [--objects 10]
        [--seeds 1]

Needs the real images beside the repository for "clicks" and "classes"; "steps" needs nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from benchmarks.real_sets import SETS, ClickSet, RealImage, load_set
from benchmarks.report import Report, at_least, at_most, parser_for
from e2sam.data.corrections import Correction, CorrectionImage, CorrectionSet
from e2sam.data.io import read_labels, read_stack
from e2sam.data.io.datasets import LabelledItem, LabelledSet
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import apply_recipes, fit_recipes
from e2sam.data.session import Conditions
from e2sam.data.stack import ChannelStack
from e2sam.data.synthetic import synthetic_stack
from e2sam.evaluation.pictures import rgb_channels
from e2sam.evaluation.semantic import ConfusionMatrix
from e2sam.inference.semantic import segment_semantic
from e2sam.modeling.build import build_model, teacher_config
from e2sam.training.dataset import LabelledObject, LabelledScene
from e2sam.training.finetune import FinetuneConfig, FinetuneResult, finetune
from e2sam.training.judging import compare_clicks, judge_clicks
from e2sam.training.prompt_head import PromptHead
from e2sam.training.split import ObjectPlace, split_objects
from e2sam.training.task import StepDraw
from e2sam.weights.checkpoint import save_checkpoint
from e2sam.weights.zoo import load_model

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CLICK_SETS = ("cellpaint_cells", "imc_cells", "shift_vehicles", "samson", "sentinel2", "mfnet")
CLASS_SETS = {
    "samson": ("samson_hsi_156band.tif", "samson_hsi_labels.png"),
    "sentinel2": ("sentinel2_slovenia_13band.tif", "sentinel2_slovenia_landcover.png"),
}
LABELLED_SHARE = 0.05
CORRECTIONS = 5
_FEWEST_JUDGED = 3
# A single image has four mirror images: two a step are enough, and all of this stays within minutes.
CLASS_STEPS = 120


def run(data: CorrectionSet | LabelledSet, config: FinetuneConfig) -> FinetuneResult:
    """The result of a run, without its steps."""
    steps = finetune(data, config)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: FinetuneResult = end.value
            return result


# Five corrections


def five_corrections(found: ClickSet, most: int) -> tuple[CorrectionSet, list[LabelledScene]]:
    """Five objects of one side of the first image, and as many as `most` others across a margin and in other images."""
    images = load_set(found, SHARED_DATA)
    first = images[0]
    masks = [MaskCrop.of(target) for target in first.targets.values()]
    places = [ObjectPlace("first", first.stack.size, mask.box) for mask in masks]
    split = split_objects(places, share=0.5)
    corrected = _spread(split.train, CORRECTIONS)
    others = [masks[index] for index in split.held_out]
    if len(images) == 1 and len(others) < _FEWEST_JUDGED:
        # Of few objects a margin leaves too few to judge by: all that were not corrected, however near.
        others = [mask for index, mask in enumerate(masks) if index not in corrected]
    scenes = [_scene(first, others)] if others else []
    scenes += [_scene(image, [MaskCrop.of(target) for target in image.targets.values()]) for image in images[1:]]
    key = CorrectionImage("first", first.stack.size, lambda: first.stack)
    conditions = Conditions(first.channels, ())
    chosen = tuple(Correction(str(index), key, masks[index], conditions=conditions) for index in corrected)
    return CorrectionSet(chosen), _fewer(scenes, most)


def _scene(image: RealImage, masks: Sequence[MaskCrop]) -> LabelledScene:
    return LabelledScene("", image.stack, tuple(LabelledObject(mask) for mask in masks), image.channels)


def _fewer(scenes: list[LabelledScene], most: int) -> list[LabelledScene]:
    """At most `most` objects, evenly from all scenes."""
    each = max(1, most // max(1, len(scenes)))
    return [replace(one, objects=tuple(_spread(one.objects, each))) for one in scenes]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[index] for index in places]


def measure_clicks(report: Report, names: Sequence[str], most: int, seeds: int, folder: Path) -> None:
    """Fine-tune on five corrections of each set and click at objects that were not among them."""
    by_name = {found.name: found for found in SETS}
    figures: dict[str, Any] = {}
    changes: dict[str, list[float]] = {}
    for name in names:
        corrections, held_out = five_corrections(by_name[name], most)
        if len(corrections) < 2 or not held_out:
            continue
        before = judge_clicks(load_model("tiny", device="cpu"), held_out, most=most)
        for seed in range(seeds):
            config = FinetuneConfig(out=folder / f"{name}.safetensors", device="cpu", twin=False, seed=seed)
            result = run(corrections, config)
            after = judge_clicks(load_model(result.out, device="cpu"), held_out, most=most)
            compared = compare_clicks(before, after)
            changes.setdefault(name, []).append(compared["noc85"])
            row = f"{name}, seed {seed}" if seeds > 1 else name
            figures[row] = {
                "corrections": len(corrections),
                "held_out": len(before.objects),
                "taken": result.accepted,
                "steps": result.steps,
                "split": f"{result.split['train']} learned from, {result.split['held_out']} to judge by",
                "own_judgement": result.difference["score"],
                "own_interval": result.difference["score_interval"],
                "own_noc85": result.difference["noc85"],
                "seconds": round(result.seconds_to_model, 1),
                "before": _short(before.to_json()),
                "after": _short(after.to_json()),
                "noc85_change": compared["noc85"],
                "noc85_interval": compared["noc85_interval"],
                "score_change": compared["score"],
            }
            _tell(row, figures[row])
    report.figures["clicks"] = figures
    means = {name: float(np.mean(each)) for name, each in changes.items()}
    report.figures["clicks, mean change of each set"] = means
    slowest = max(row["seconds"] for row in figures.values())
    report.bar("seconds from five corrections to a usable model, slowest run", 60, slowest, at_most)
    report.bar("sets with fewer clicks to 85 % than before", 4, sum(mean < 0 for mean in means.values()), at_least)
    lows = [row["noc85_interval"][0] for row in figures.values()]
    report.bar("runs that are significantly worse", 0, sum(low is not None and low > 0 for low in lows), at_most)


def _tell(name: str, figures: dict[str, Any]) -> None:
    """Say at once what took a minute to measure: the rest may be cut short."""
    print(f"{name}: {json.dumps(figures)}", file=sys.stderr, flush=True)


def _short(figures: dict[str, Any]) -> dict[str, float]:
    return {
        "iou1": figures["iou"]["1"],
        "iou5": figures["iou"]["5"],
        "box": figures["box_iou"],
        "noc85": figures["noc"]["85"],
    }


# Cached against uncached steps


def measure_steps(report: Report, architectures: Sequence[str], folder: Path) -> None:
    """Seconds of a step on cached embeddings, and with the frozen encoder in the loop; the losses must be the same."""
    figures: dict[str, Any] = {}
    for name in architectures:
        path: Path | str = name
        if name != "tiny":
            torch.manual_seed(0)
            path = save_checkpoint(folder / f"{name}.safetensors", build_model(teacher_config(name)), {})
        config = FinetuneConfig(out=folder / "steps.safetensors", model=path, device="cpu", mirrors=False)
        head = PromptHead.open(_synthetic_corrections(), config)
        cached = head.task(_nowhere, {})
        encoding = head.task(_nowhere, {})
        encoding._encodes = True
        for task in (cached, encoding):
            list(task.prepare(None))
        seconds = {}
        losses = {}
        for kind, task in (("cached", cached), ("encoding", encoding)):
            seconds[kind], losses[kind] = _timed(task, 3 if name == "tiny" else 2)
        figures[name] = {
            "seconds_cached": seconds["cached"],
            "seconds_with_encoder": seconds["encoding"],
            "ratio": seconds["encoding"] / seconds["cached"],
            "loss_difference": abs(losses["cached"] - losses["encoding"]),
        }
    report.figures["steps"] = figures
    last = figures[architectures[-1]]
    report.bar(f"{architectures[-1]}: step with the encoder / step on cached embeddings", 10, last["ratio"], at_least)
    difference = max(row["loss_difference"] for row in figures.values())
    report.bar("difference of the losses of the two", 0.01, difference, at_most)


def _nowhere(path: Path, model: Any, outcome: Any) -> None:
    del path, model, outcome


def _timed(task: Any, steps: int) -> tuple[float, float]:
    """Seconds and mean loss of some steps of one sample, after one that is not counted."""
    taken, losses = [], []
    for step in range(steps + 1):
        started = time.perf_counter()
        loss, _ = task.module(task.batch(StepDraw(step, steps + 1, 0, range(2))), 0.0)
        loss.backward()
        taken.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
        task.module.zero_grad(set_to_none=True)
    return float(np.median(taken[1:])), float(np.mean(losses))


def _synthetic_corrections() -> CorrectionSet:
    stack, labels = synthetic_stack(3, num_channels=3)
    return CorrectionSet.from_dataset(
        LabelledSet((LabelledItem("scene", "", lambda: (stack, labels)),), "instances", 0), minimum_area=100
    )


# Classes from few labels


def measure_classes(report: Report, names: Sequence[str], folder: Path) -> None:
    """Learn classes from 5 % of the labelled pixels, with all channels, with three, and by a random forest."""
    figures: dict[str, Any] = {}
    wins = 0
    for name in names:
        picture, label_picture = CLASS_SETS[name]
        stack, labels = read_stack(SHARED_DATA / picture), read_labels(SHARED_DATA / label_picture).astype(np.int32)
        few = np.where(np.random.default_rng(0).random(labels.shape) < LABELLED_SHARE, labels, 0)
        rest = np.where(few > 0, 0, labels)
        rgb = rgb_channels(stack.channels)
        load = partial(_pair, stack, few)
        labelled = LabelledSet((LabelledItem(name, "", load),), "classes", 0)
        rows: dict[str, float] = {}
        for kind, channels in (("all_channels", stack.names), ("rgb_only", rgb)):
            config = FinetuneConfig(
                out=folder / f"{name}_{kind}.safetensors",
                head="semantic",
                channels=channels,
                steps=CLASS_STEPS,
                batch_size=2,
                device="cpu",
                twin=False,
            )
            started = time.perf_counter()
            result = run(labelled, config)
            rows[f"{kind}_seconds"] = round(time.perf_counter() - started, 1)
            rows[kind] = _miou(segment_semantic(load_model(result.out, device="cpu"), stack).labels, rest)
        rows["random_forest"] = _forest(stack, stack.names, few, rest)
        rows["random_forest_rgb"] = _forest(stack, rgb, few, rest)
        figures[name] = {"channels": stack.num_channels, "labelled_pixels": int((few > 0).sum()), **rows}
        _tell(name, figures[name])
        wins += rows["all_channels"] > rows["rgb_only"]
    report.figures["classes"] = figures
    report.bar("sets where all channels beat red, green and blue in mean IoU", len(names), wins, at_least)


def _pair(stack: ChannelStack, labels: NDArray[np.int32]) -> tuple[ChannelStack, NDArray[np.int32]]:
    return stack, labels


def _forest(stack: ChannelStack, names: Sequence[str], few: NDArray[np.int32], rest: NDArray[np.int32]) -> float:
    """Mean IoU of a random forest on the normalized channels of single pixels."""
    indices = list(stack.indices(names))
    recipes = [fit_recipes(stack)[index] for index in indices]
    block = stack.read(channels=indices)
    pixels = apply_recipes(block, stack.valid_of(block, indices), recipes).reshape(len(indices), -1).T
    forest = RandomForestClassifier(200, random_state=0, n_jobs=1)
    known = few.ravel() > 0
    forest.fit(pixels[known], few.ravel()[known])
    return _miou(forest.predict(pixels).reshape(few.shape).astype(np.int32), rest)


def _miou(predicted: NDArray[np.int32], labels: NDArray[np.int32]) -> float:
    matrix = ConfusionMatrix(tuple(np.unique(labels[labels > 0]).tolist()), ignore_index=0)
    matrix.update(predicted, labels)
    return matrix.scores().miou


def _parts(options: argparse.Namespace, folder: Path) -> Iterator[Report]:
    report = Report("finetune", {"threads": torch.get_num_threads()})
    wanted = options.only.split(",")
    wanted_sets = options.sets.split(",") if options.sets else []
    if "clicks" in wanted:
        measure_clicks(report, wanted_sets or CLICK_SETS, options.objects, options.seeds, folder)
    if "steps" in wanted:
        measure_steps(report, options.architectures.split(","), folder)
    if "classes" in wanted:
        measure_classes(report, [name for name in CLASS_SETS if name in (wanted_sets or CLASS_SETS)], folder)
    yield report


def tables(report: Report) -> Iterator[str]:
    """The figures as Markdown tables, a line at a time, for docs/results.md."""
    clicks, classes, steps = (report.figures.get(part, {}) for part in ("clicks", "classes", "steps"))
    if clicks:
        yield "| set | learned from / judged by | taken | seconds (steps) | IoU, 1 click | 5 clicks | NoC@85 | change |"
        yield "|---|---|---|---|---|---|---|---|"
    for name, row in clicks.items():
        before, after, interval = row["before"], row["after"], row["noc85_interval"]
        changed = [f"{before[key]:.2f} -> {after[key]:.2f}" for key in ("iou1", "iou5", "noc85")]
        change = f"{row['noc85_change']:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"
        sides, taken = row["split"].replace(" learned from, ", " / ").split(" to ")[0], "yes" if row["taken"] else "no"
        cells = (name, sides, taken, f"{row['seconds']:.0f} ({row['steps']})", *changed, change)
        yield f"| {' | '.join(cells)} |"
    if classes:
        yield ""
        yield "| set | labelled pixels | all channels | RGB twin | forest, all channels | forest, RGB | seconds |"
        yield "|---|---|---|---|---|---|---|"
    for name, row in classes.items():
        kinds = ("all_channels", "rgb_only", "random_forest", "random_forest_rgb")
        scores = " | ".join(f"{row[kind]:.3f}" for kind in kinds)
        seconds = f"{row['all_channels_seconds']:.0f} + {row['rgb_only_seconds']:.0f}"
        yield f"| {name} ({row['channels']}) | {row['labelled_pixels']} | {scores} | {seconds} |"
    if steps:
        yield ""
        yield "| architecture | step, cached | step, encoder in the loop | ratio | difference of the losses |"
        yield "|---|---|---|---|---|"
    for name, row in steps.items():
        seconds = f"{row['seconds_cached']:.2f} s | {row['seconds_with_encoder']:.2f} s"
        yield f"| {name} | {seconds} | {row['ratio']:.1f} | {row['loss_difference']:.1e} |"
    for bar in report.bars:
        mark = "holds" if bar["holds"] else "**missed**"
        yield f"\n{bar['what']}: {bar['got']:.4g}, bar {bar['bar']:.4g}, {mark}."


def main() -> None:
    """Run the parts that were asked for."""
    parser = parser_for(__doc__)
    parser.add_argument("--only", default="clicks,steps,classes", help="parts, with commas between")
    parser.add_argument("--sets", default="", help="sets of the clicks and the classes part")
    parser.add_argument("--objects", type=int, default=10, help="most held-out objects of a set")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each set of the clicks part")
    parser.add_argument("--architectures", default="tiny,vit_b", help="of the steps part")
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/results.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for report in _parts(options, Path(folder)):
            if options.markdown:
                print("\n".join(tables(report)))
            else:
                report.show(options.json)


if __name__ == "__main__":
    main()
