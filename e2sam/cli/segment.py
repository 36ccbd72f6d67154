"""Commands `segment`, `auto` and `predict`: one object, everything, and everything in many stacks."""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2sam.cli.output import check_folder, check_target, emit, progress, tell
from e2sam.cli.stacks import (
    add_search_arguments,
    add_selection_argument,
    add_stack_arguments,
    selection_of,
    stack_of,
)
from e2sam.cli.values import Once, count, share
from e2sam.cli.wording import in_command_words
from e2sam.data.stack import split_names
from e2sam.errors import E2SamError, PromptError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from e2sam.inference.automatic import AutomaticOptions, AutomaticStep
    from e2sam.inference.batch import BatchResult
    from e2sam.inference.predictor import Predictor

__all__ = ["add_commands"]

_log = logging.getLogger(__name__)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `segment`, `auto` and `predict`."""
    _add_segment(commands, common)
    _add_auto(commands, common)
    _add_predict(commands, common)


def _add_segment(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "segment",
        parents=[common],
        help="one object, from clicks or a box",
        description="Segment one object of a stack from points inside (or outside) it, a box around it, or both.",
        epilog="example: e2sam segment scene.tif --point 120,80 --point 30,40,0 --channels R,G,depth --out mask.tif",
    )
    add_stack_arguments(parser)
    parser.add_argument(
        "--point",
        type=_point,
        action="append",
        default=[],
        metavar="X,Y[,0]",
        help="pixel inside the object, or with ,0 outside it; may be repeated",
    )
    parser.add_argument("--box", type=_box, action=Once, metavar="X0,Y0,X1,Y1", help="box around the object")
    parser.add_argument("--refine", action="store_true", help="encode the object's surroundings again, closer")
    parser.add_argument(
        "--explain", action="store_true", help="also say how the mask changes without each selected channel"
    )
    _add_model_arguments(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="mask, .tif or .png: 1 on the object, else 0"
    )
    parser.set_defaults(run=_segment)


def _add_auto(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "auto",
        parents=[common],
        help="everything in a stack, as instances",
        description="Segment everything in a stack: a grid of clicks, the good masks kept.",
        epilog="example: e2sam auto scene.tif --out labels.tif",
    )
    add_stack_arguments(parser)
    _add_model_arguments(parser)
    _add_automatic_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="label image, .tif or .png")
    parser.set_defaults(run=_auto)


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "predict",
        parents=[common],
        help="everything in many stacks",
        description=(
            "Segment every stack of files and folders: everything with a promptable model, classes with a semantic "
            "one. What is there already is not made again; several processes, or a Dask cluster."
        ),
        epilog="example: e2sam predict scenes/ --model tiny --out labels/",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="STACK_OR_DIR", help="stacks, or folders of stacks")
    add_search_arguments(parser)
    _add_model_arguments(parser)
    _add_automatic_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the label images")
    parser.add_argument("--workers", type=count, default=0, metavar="N", help="processes (default: by the cores)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do the work")
    parser.add_argument("--probability", action="store_true", help="semantic models: also write NAME_percent.tif")
    parser.add_argument("--overwrite", action="store_true", help="make again what is there")
    parser.add_argument("--progress", action="store_true", help="a line on standard error as each stack is done")
    parser.set_defaults(run=_predict)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection_argument(parser)
    parser.add_argument(
        "--model", default="tiny", metavar="M", help="tiny, vit_b, vit_l, vit_h or a file (default tiny)"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda (default auto)")
    parser.add_argument("--exact", action="store_true", help="compute in float32 throughout")


def _add_automatic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points-per-side", type=count, default=32, metavar="N", help="clicks along the long side")
    parser.add_argument("--min-quality", type=share, metavar="Q", help="least predicted IoU of a mask, 0..1")
    parser.add_argument("--min-stability", type=share, metavar="S", help="least stability of a mask, 0..1")
    parser.add_argument("--min-area", type=count, default=16, metavar="PIXELS", help="smaller instances are left out")
    parser.add_argument("--tile", type=count, metavar="PIXELS", help="work in tiles of this side (default: if large)")


def _point(text: str) -> tuple[float, float, int]:
    numbers = _numbers(text)
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] not in (0, 1)):
        raise argparse.ArgumentTypeError(f"expected X,Y (inside) or X,Y,0 (outside), got {text!r}")
    return numbers[0], numbers[1], int(numbers[2]) if len(numbers) == 3 else 1


def _box(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected X0,Y0,X1,Y1, got {text!r}")
    return numbers


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between, got {text!r}") from None


def _segment(options: argparse.Namespace) -> None:
    from e2sam.data.io import write_labels
    from e2sam.data.prompts import Prompts

    check_target("--out", options.out, (".tif", ".tiff", ".png"), (options.stack, options.model))
    if not options.point and options.box is None:
        raise PromptError("Expected at least one --point X,Y or a --box X0,Y0,X1,Y1, got neither.")
    stack = stack_of(options)
    points = [point[:2] for point in options.point]
    # Checked before the model is loaded and the image encoded.
    prompts = Prompts.checked(points, [point[2] for point in options.point], options.box, None, stack.size)
    selection = selection_of(options.channels, stack)
    predictor = _predictor(options)
    predictor.set_stack(stack, selection)
    # One click may mean a part or the whole; more prompts say which.
    found = predictor.predict_prompts(prompts, multimask=len(points) == 1 and options.box is None)
    if options.refine and any(found.mask_box()):
        found = predictor.refine(prompts, found.mask_box())
    result = {
        "score": float(found.scores[found.best]),
        "scores": found.scores.tolist(),
        "area": int(found.mask_crop()[1].sum()),
        "bbox": list(found.mask_box()),
        "channels": list(found.channels),
        "selected": list(predictor.channels),
        "view": found.view,
        "model": str(options.model),
        "size": list(stack.size),
        "encoder_passes": predictor.encoder_passes,
        "seconds": {"encode": predictor.seconds_encode, "predict": predictor.seconds_predict},
        "out": str(options.out),
    }
    if options.explain:
        result["without_channel_iou"] = predictor.leave_one_out(prompts)
    write_labels(options.out, found.mask(), stack.geo)
    emit(result, options.json, _segment_lines(result))


def _segment_lines(result: dict[str, Any]) -> Iterator[str]:
    x0, y0, x1, y1 = result["bbox"]
    if not result["area"]:
        yield f"{result['out']}: an empty mask, the model sees no object there"
    else:
        yield f"{result['out']}: {result['area']} pixels in {x0},{y0} .. {x1},{y1}, predicted IoU {result['score']:.2f}"
    seconds = result["seconds"]
    yield f"channels: {', '.join(result['channels'])}"
    yield f"{seconds['encode']:.2f} s to encode, {seconds['predict']:.3f} s to predict"
    for name, iou in result.get("without_channel_iou", {}).items():
        yield f"  without {name}: IoU {iou:.2f} with this mask"


def _auto(options: argparse.Namespace) -> None:
    from e2sam.data.io import write_labels
    from e2sam.inference.automatic import segment_everything_steps

    check_target("--out", options.out, (".tif", ".tiff", ".png"), (options.stack, options.model))
    automatic = _automatic_options(options)
    stack = stack_of(options)
    selection = selection_of(options.channels, stack)
    predictor = _predictor(options)
    predictor.set_stack(stack, selection)
    labels: list[NDArray[np.int32]] = []

    def steps() -> Iterator[AutomaticStep]:
        labels.append((yield from segment_everything_steps(predictor, automatic)))

    start = time.perf_counter()
    for _ in progress(steps(), None, "batches of clicks"):
        pass
    seconds = {"encode": predictor.seconds_encode, "predict": time.perf_counter() - start}
    write_labels(options.out, labels[0], stack.geo)
    covered, objects = float((labels[0] > 0).mean()), int(labels[0].max())
    result = {
        "objects": objects,
        "covered": covered,
        "seconds": seconds,
        "channels": list(predictor.channels),
        "model": str(options.model),
        "encoder_passes": predictor.encoder_passes,
        "out": str(options.out),
    }
    emit(result, options.json, [f"{options.out}: {objects} objects over {100 * covered:.0f} % of the image"])


def _predict(options: argparse.Namespace) -> None:
    from e2sam.inference.batch import BatchOptions, find_stacks, predict_many

    batch = BatchOptions(
        channels=selection_of(options.channels),
        channel_axis=options.channel_axis,
        channel_names=None if options.channel_names is None else split_names(options.channel_names),
        nodata=options.nodata,
        device=options.device,
        exact=options.exact,
        automatic=_automatic_options(options),
        workers=options.workers,
        scheduler=options.scheduler,
        probability=options.probability,
        overwrite=options.overwrite,
    )
    tasks = find_stacks(options.paths, options.out, options.folders)
    check_folder("--out", options.out)
    if options.progress:
        # Who reads it may ask to stop: also a window started in the background, where the signal is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    results: list[BatchResult] = []
    with closing(predict_many(tasks, options.model, batch)) as done:
        for result in progress(done, len(tasks), "stacks"):
            results.append(replace(result, error=in_command_words(result.error)))
            for note in result.notes:
                _log.info(note)
            if options.progress:
                tell(len(results), len(tasks), next(_predict_lines(results[-1:])))
    if len(results) > 1 and not options.folders and all(result.channels == 1 for result in results):
        _log.info(
            "Each stack has one channel: where the images of a folder are the bands of one scene, give --folders."
        )
    failed = [result for result in results if result.error]
    emit(
        {
            "out": str(options.out),
            "stacks": len(results),
            "skipped": sum(result.skipped for result in results),
            "failed": len(failed),
            "results": [_predict_json(result) for result in results],
        },
        options.json,
        _predict_lines(results),
    )
    if failed:
        raise E2SamError(
            f"{len(failed)} of {len(results)} stacks failed; the first, {failed[0].source}: {failed[0].error}"
        )


def _predict_json(result: BatchResult) -> dict[str, Any]:
    # Nobody has counted the objects in labels that were there already.
    return {**asdict(result), "objects": None if result.skipped else result.objects}


def _predict_lines(results: Sequence[BatchResult]) -> Iterator[str]:
    for result in results:
        if result.error:
            yield f"{result.source}: {result.error}"
        elif result.skipped:
            yield f"{result.source}: there already"
        else:
            yield f"{result.source}: {result.objects} {result.what}, {result.seconds:.1f} s"


def _predictor(options: argparse.Namespace) -> Predictor:
    from e2sam.inference.predictor import Predictor
    from e2sam.weights.zoo import load_model

    return Predictor(load_model(options.model, options.device, options.exact))


def _automatic_options(options: argparse.Namespace) -> AutomaticOptions:
    from e2sam.inference.automatic import AutomaticOptions

    return AutomaticOptions(
        points_per_side=options.points_per_side,
        min_quality=options.min_quality,
        min_stability=options.min_stability,
        min_area=options.min_area,
        tile_side=options.tile,
    )
