"""What it is worth that the model looks at the part of a large image that its user has zoomed to.

Real images are repeated to 4096 pixels and more, as a large picture of the same would be; objects of one of the copies
in the middle are clicked at as in the protocol, from afar and in a view of 500 pixels, of a grid of such views: what a
user sees who goes over the image part by part.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.real_sets import SETS, RealImage, load_set
from benchmarks.report import Report, at_least, parser_for
from benchmarks.tiny_quality import SHARED
from e2sam.data.clicks import next_click
from e2sam.data.stack import ChannelStack
from e2sam.inference.prediction import Box
from e2sam.inference.predictor import Predictor
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
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("Expected the real images beside the repository, got none: this benchmark needs them.")
    predictor = Predictor(load_model("tiny", device="cpu"), cache=False)
    report = Report("zoomed", {})
    for found in SETS:
        if found.name in CHOSEN:
            report.figures[found.name] = _measured(predictor, load_set(found, SHARED, options.objects)[0], options)
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


if __name__ == "__main__":
    main()
