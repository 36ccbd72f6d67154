"""What it is worth that the model looks at, and learns from, the part of a large image that its user has zoomed to.

    python -m benchmarks.zoomed [--json] [--objects 10] [--side 4096] [--view 500] [--learn] [--sets nf1_nuclei,...]

Real images are repeated to 4096 pixels and more, as a large picture of the same would be; objects of one of the copies
in the middle are clicked at as in the protocol, from afar and in a view of 500 pixels, of a grid of such views: what a
user sees who goes over the image part by part. With `--learn` five of the objects are corrections that the model is
fine-tuned on, and the others are clicked at before and after.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.finetune import CORRECTIONS, run
from benchmarks.real_sets import SETS, RealImage, load_set
from benchmarks.report import Report, at_least, parser_for
from benchmarks.tiny_quality import SHARED
from e2sam.data.clicks import next_click
from e2sam.data.corrections import Correction, CorrectionImage, CorrectionSet
from e2sam.data.masks import MaskCrop
from e2sam.data.session import Conditions
from e2sam.data.stack import ChannelStack
from e2sam.inference.prediction import Box
from e2sam.inference.predictor import Predictor
from e2sam.training.finetune_config import FinetuneConfig
from e2sam.weights.zoo import load_model

CHOSEN = ("cellpaint_cells", "cellpaint_nuclei", "nf1_nuclei", "shift_vehicles")
CLICKS = 5


def repeated(image: RealImage, side: int) -> tuple[ChannelStack, tuple[int, int]]:
    """The image repeated to at least `side` pixels either way, and (row, column) of a copy in the middle."""
    data = image.stack.read()
    height, width = data.shape[1:]
    down, across = -(-side // height), -(-side // width)
    whole = np.tile(data, (1, down, across))
    return ChannelStack(whole, image.stack.channels), (down // 2 * height, across // 2 * width)


def ious(
    predictor: Predictor, target: NDArray[np.bool_], place: tuple[int, int], view_side: int | None
) -> Iterator[float]:
    """IoU after each click on an object of the copy at `place`."""
    top, left = place
    nothing = np.zeros_like(target)
    found, points, labels, mask, view = nothing, [], [], None, None
    for _ in range(CLICKS):
        click = next_click(target, found, nothing.copy(), None, None)
        points.append((click.x + left, click.y + top))
        labels.append(click.label)
        if view_side is not None:
            view = _view_of(points[0], view_side)
        prediction = predictor.predict(points, labels, mask=mask, multimask=len(points) == 1, view=view)
        mask = prediction.logits[prediction.best]
        whole = prediction.mask()
        found = whole[top : top + target.shape[0], left : left + target.shape[1]]
        common = int((found & target).sum())
        yield common / (int(whole.sum()) + int(target.sum()) - common)


def _view_of(point: tuple[float, float], side: int) -> Box:
    x, y = (int(coordinate // side * side) for coordinate in point)
    return x, y, x + side, y + side


def main() -> None:
    """Measure and print."""
    parser = parser_for(__doc__)
    parser.add_argument("--objects", type=int, default=10, help="most objects of an image")
    parser.add_argument("--side", type=int, default=4096, help="least side of the repeated image, pixels")
    parser.add_argument("--view", type=int, default=500, help="side of the view, pixels")
    parser.add_argument("--learn", action="store_true", help="fine-tune on five objects, and click at the others")
    parser.add_argument("--sets", default=",".join(CHOSEN), help="sets, with commas between")
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("Expected the real images beside the repository, got none: this benchmark needs them.")
    report = Report("zoomed", {})
    images = {
        found.name: load_set(found, SHARED, options.objects)[0]
        for found in SETS
        if found.name in options.sets.split(",")
    }
    if options.learn:
        _measure_learning(report, images, options)
        report.show(options.json)
        return
    predictor = Predictor(load_model("tiny", device="cpu"), cache=False)
    for name, image in images.items():
        report.figures[name] = _measured(predictor, image, options)
    means = {
        name: np.mean([rows[name] for rows in report.figures.values()], axis=0).round(3).tolist()
        for name in ("afar", "zoomed", "passes")
    }
    report.figures["mean"] = means
    for click in (1, 5):
        what = f"IoU after {click} click(s), zoomed, at least that from afar"
        report.bar(what, means["afar"][click - 1], means["zoomed"][click - 1], at_least)
    report.show(options.json)


def _measured(predictor: Predictor, image: RealImage, options: Namespace) -> dict[str, list[float]]:
    """Mean IoU after each click, from afar and zoomed; encoder passes that the clicks needed, zoomed."""
    stack, place = repeated(image, options.side)
    predictor.set_stack(stack, image.channels)
    rows: dict[str, list[list[float]]] = {"afar": [], "zoomed": [], "passes": []}
    for target in image.targets.values():
        rows["afar"].append(list(ious(predictor, target, place, None)))
    for target in image.targets.values():
        zoomed, passes = [], [predictor.encoder_passes]
        for iou in ious(predictor, target, place, options.view):
            zoomed.append(iou)
            passes.append(predictor.encoder_passes)
        rows["zoomed"].append(zoomed)
        rows["passes"].append(np.diff(passes).tolist())
    return {name: np.mean(values, axis=0).round(3).tolist() for name, values in rows.items()}


def _measure_learning(report: Report, images: dict[str, RealImage], options: Namespace) -> None:
    """Fine-tune on five objects of each image; mean IoU after each click on the others, zoomed, before and after."""
    for name, image in images.items():
        stack, place = repeated(image, options.side)
        targets = list(image.targets.values())
        learned = np.unique(np.linspace(0, len(targets) - 1, CORRECTIONS).round().astype(int)).tolist()
        others = [target for index, target in enumerate(targets) if index not in learned]
        scene = CorrectionImage(name, stack.size, lambda stack=stack: stack)
        conditions = Conditions(image.channels)
        corrections = CorrectionSet(
            tuple(
                Correction(str(index), scene, MaskCrop.of(targets[index], place[1], place[0]), conditions=conditions)
                for index in learned
            )
        )
        with tempfile.TemporaryDirectory() as folder:
            config = FinetuneConfig(out=Path(folder) / "new.safetensors", device="cpu", twin=False)
            result = run(corrections, config)
            rows = []
            for model in ("tiny", result.out):
                predictor = Predictor(load_model(model, device="cpu"), cache=False)
                predictor.set_stack(stack, image.channels)
                found = [list(ious(predictor, target, place, options.view)) for target in others]
                rows.append(np.mean(found, axis=0).round(3).tolist())
        report.figures[name] = {
            "learned from": len(learned),
            "judged by": len(others),
            "taken": result.accepted,
            "seconds": round(result.seconds_to_model, 1),
            "before": rows[0],
            "after": rows[1],
        }
        report.bar(f"{name}: IoU after 1 click, after learning", rows[0][0], rows[1][0], at_least)


if __name__ == "__main__":
    main()
