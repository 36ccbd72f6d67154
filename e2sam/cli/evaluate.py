"""Commands `evaluate clicks` and `evaluate semantic`: how good a model is on labels."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2sam.cli.output import PAGE, check_target, emit, progress
from e2sam.cli.stacks import add_selection_argument, add_stack_arguments, selection_of, stack_of
from e2sam.cli.values import count, natural
from e2sam.errors import E2SamError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from e2sam.data.io.datasets import LabelledSet
    from e2sam.evaluation.clicks import ClickReport
    from e2sam.evaluation.semantic import ConfusionMatrix
    from e2sam.modeling.e2sam import SemanticConfig

__all__ = ["add_commands"]

# Clicks of the protocol; NoC and FR20 are defined by them.
_FULL_LIMIT = 20


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `evaluate` with `clicks` and `semantic`."""
    parser = commands.add_parser(
        "evaluate",
        help="how good a model is on labels",
        description="Measure a model on labels: by simulated clicks, or class by class.",
        epilog="example: e2sam evaluate clicks scene.tif scene_labels.png --model tiny",
    )
    kinds = parser.add_subparsers(title="what", metavar="WHAT", required=True, parser_class=type(parser))
    _add_clicks(kinds, common)
    _add_semantic(kinds, common)


def _add_clicks(kinds: Any, common: argparse.ArgumentParser) -> None:
    parser = kinds.add_parser(
        "clicks",
        parents=[common],
        help="simulated clicks on labelled objects",
        description="Click at every labelled object where the mask is most wrong, up to 20 times, and measure IoU, the "
        "number of clicks to 80, 85 and 90 % IoU, and the share of objects that never reach them.",
        epilog="example: e2sam evaluate clicks scene.tif scene_labels.png --model tiny --report clicks.html",
    )
    add_stack_arguments(parser)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="label image: each object its own value, 0 = none")
    parser.add_argument("--ignore", type=int, metavar="VALUE", help="label value whose pixels are not judged")
    add_selection_argument(parser)
    parser.add_argument(
        "--limit", type=count, default=_FULL_LIMIT, metavar="N", help="most clicks for an object (default 20)"
    )
    parser.add_argument("--repeats", type=natural, default=0, metavar="N", help="further runs with random clicks")
    parser.add_argument("--max-objects", type=count, metavar="N", help="at most N objects, evenly spread")
    parser.add_argument("--min-area", type=count, default=1, metavar="PIXELS", help="smaller objects are left out")
    _add_model(parser)
    parser.set_defaults(run=_clicks)


def _add_semantic(kinds: Any, common: argparse.ArgumentParser) -> None:
    parser = kinds.add_parser(
        "semantic",
        parents=[common],
        help="mean IoU and a table of classes",
        description="Predict the class of every pixel of a labelled set and compare: mean IoU over sums of the whole "
        "set, IoU and recall of each class, pixel accuracy. A class that is not labelled anywhere has no IoU.",
        epilog="example: e2sam evaluate semantic shift:DIR --model street.safetensors --report classes.html",
    )
    parser.add_argument("data", metavar="DATA", help="folder of pairs NAME.tif + NAME_labels.png, shift:DIR or h8:DIR")
    parser.add_argument(
        "--ignore-index",
        default="auto",
        metavar="VALUE",
        help="label that is not counted, or none (default: the set's)",
    )
    parser.add_argument(
        "--legacy-ignore10",
        action="store_true",
        help="score as the evaluation released with E2SAM: label 10 is not counted, classes without labels score 0",
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="only images of this split")
    _add_model(parser)
    parser.set_defaults(run=_semantic)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", metavar="M", help="tiny, vit_b, vit_l, vit_h or a file")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda (default auto)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write a page, .html")


def _clicks(options: argparse.Namespace) -> None:
    from e2sam.evaluation.clicks import ClickOptions, ClickReport, evaluate_clicks
    from e2sam.inference.predictor import Predictor
    from e2sam.weights.zoo import load_model

    if options.report is not None:
        check_target("--report", options.report, PAGE, (options.stack, options.labels, options.model))
    stack = stack_of(options)
    selection = selection_of(options.channels, stack)
    targets, ignore = _targets(options, stack.size)
    predictor = Predictor(load_model(options.model, options.device))
    predictor.set_stack(stack, selection)
    settings = ClickOptions(limit=options.limit, repeats=options.repeats)
    rows = [
        evaluate_clicks(predictor, {name: mask}, settings, ignore).objects[0]
        for name, mask in progress(targets.items(), len(targets), "objects")
    ]
    report = ClickReport(tuple(rows), options.limit)
    result = _finite({**_measured(report), "channels": list(predictor.channels), "model": str(options.model)})
    if options.report is not None:
        from e2sam.evaluation.click_report import click_report

        title = f"Clicks: {Path(options.stack).name}, {options.model}"
        result["report"] = str(click_report(title, report, stack, predictor, targets).write(options.report))
    emit(result, options.json, _click_lines(result))


def _measured(report: ClickReport) -> dict[str, Any]:
    """Figures of a report, without those of clicks that were not made."""
    figures: dict[str, Any] = {**report.to_json(), "limit": report.limit}
    for name in ("iou", "random"):
        figures[name] = {click: value if int(click) <= report.limit else None for click, value in figures[name].items()}
    if report.limit < _FULL_LIMIT:
        for level in figures["noc"]:
            # More clicks might have reached it, and would count.
            is_open = any(len(row.ious) == report.limit and max(row.ious) < int(level) / 100 for row in report.objects)
            for name in ("noc", "fr20"):
                if is_open and level in figures[name]:
                    figures[name][level] = None
    return figures


def _targets(
    options: argparse.Namespace, size: tuple[int, int]
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_] | None]:
    """Masks of the objects to measure, and the pixels that are not judged."""
    import numpy as np

    from e2sam.data.io import read_labels
    from e2sam.evaluation.clicks import instance_masks

    labels = read_labels(options.labels)
    if labels.shape != size:
        raise E2SamError(f"Expected labels of {size[0]} x {size[1]} (rows x columns), got {labels.shape}.")
    ignore = None if options.ignore is None else labels == options.ignore
    if ignore is not None:
        labels = np.where(ignore, 0, labels)
    targets = instance_masks(labels, options.min_area)
    if not targets:
        raise E2SamError(f"Expected labelled objects of at least {options.min_area} pixels, got none.")
    if options.max_objects is not None and len(targets) > options.max_objects:
        names = list(targets)
        kept = np.linspace(0, len(names) - 1, options.max_objects).round().astype(int)
        targets = {names[index]: targets[names[index]] for index in kept.tolist()}
    return targets, ignore


def _click_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['objects']} objects, channels {', '.join(result['channels'])}, model {result['model']}"
    yield "IoU after clicks: " + ", ".join(f"{number}: {_shown(value)}" for number, value in result["iou"].items())
    yield f"IoU from a box: {_shown(result['box_iou'])}"
    yield "clicks to IoU: " + ", ".join(f"{level} %: {_shown(value)}" for level, value in result["noc"].items())
    yield "never reach it: " + ", ".join(f"{level} %: {_shown(value)}" for level, value in result["fr20"].items())
    yield f"{_shown(result['seconds_per_click'])} s a click"
    if "report" in result:
        yield f"report: {result['report']}"


def _semantic(options: argparse.Namespace) -> None:
    from e2sam.data.io.datasets import open_dataset
    from e2sam.evaluation.semantic_set import score_images, semantic_report
    from e2sam.inference.semantic import semantic_config
    from e2sam.weights.zoo import load_model

    if options.report is not None:
        check_target("--report", options.report, PAGE, (options.data, options.model))
    labelled = open_dataset(options.data, "classes")
    items = labelled.items if options.split is None else labelled.of_split(options.split)
    if not items:
        raise E2SamError(f"Expected images of the split {options.split} in {options.data}, got none.")
    model = load_model(options.model, options.device)
    matrix = _matrix(options, labelled, semantic_config(model))
    images = list(progress(score_images(model, items, matrix), len(items), "images"))
    scores = matrix.scores()
    result = _finite(
        {
            "miou": scores.miou,
            "per_class": [
                {"class": row.name, "value": row.value, "iou": row.iou, "recall": row.recall, "pixels": row.pixels}
                for row in scores.per_class
            ],
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_recall": scores.mean_recall,
            "ignore_index": scores.ignore_index,
            "legacy_ignore10": options.legacy_ignore10,
            "images": len(images),
            "model": str(options.model),
        }
    )
    if options.report is not None:
        report = semantic_report(f"Classes: {options.data}, {options.model}", scores, images)
        result["report"] = str(report.write(options.report))
    emit(result, options.json, _semantic_lines(result))


def _matrix(options: argparse.Namespace, labelled: LabelledSet, semantic: SemanticConfig) -> ConfusionMatrix:
    """Counts for the classes of the model, and those that only the set knows, which nothing can predict."""
    from e2sam.evaluation.semantic import ConfusionMatrix

    ignore_index = labelled.ignore_index
    if options.ignore_index != "auto":
        try:
            ignore_index = None if options.ignore_index == "none" else int(options.ignore_index)
        except ValueError:
            raise E2SamError(
                f"Expected --ignore-index as a label value or none, got {options.ignore_index!r}."
            ) from None
    values, names = list(semantic.values), list(semantic.classes)
    for value, name in enumerate(labelled.classes):
        if value not in values and (value != ignore_index or options.legacy_ignore10):
            values.append(value)
            names.append(name)
    return ConfusionMatrix(values, names, ignore_index=ignore_index, legacy_ignore10=options.legacy_ignore10)


def _semantic_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"mean IoU {_shown(result['miou'])}, pixel accuracy {_shown(result['pixel_accuracy'])}"
    ignored = result["ignore_index"]
    yield f"{result['images']} image(s); not counted: {'nothing' if ignored is None else f'label {ignored}'}"
    for row in result["per_class"]:
        yield f"  {row['class']:<20} IoU {_shown(row['iou'])}  recall {_shown(row['recall'])}  {row['pixels']} pixels"
    if "report" in result:
        yield f"report: {result['report']}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _finite(value: Any) -> Any:
    """The value with None for every number that is not finite: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
