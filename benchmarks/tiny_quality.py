"""How good `tiny` is from clicks, beside what a user has without a network.

Sets: (a) synthetic scenes whose silhouettes and photographs were never trained on (purely procedural ones of unseen
seeds without `--held-out`), (b) the real images that stand beside the repository. Every method gets the same objects,
channels and simulated user; of a classical method, the best of several settings for each set is reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.classical import methods
from benchmarks.real_sets import SETS, RealImage, load_set
from benchmarks.report import Report, at_least, at_most, parser_for
from e2sam.data.clicks import next_click
from e2sam.data.likely import likely_candidate
from e2sam.data.normalize import apply_recipes, fit_recipes
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.data.synthetic import Material, SceneOptions, make_scene
from e2sam.evaluation.clicks import ClickOptions, ClickReport, ObjectClicks, PromptedModel, evaluate_clicks
from e2sam.evaluation.metrics import mask_iou
from e2sam.inference.predictor import Predictor
from e2sam.weights.zoo import load_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
_SEED = 77_000_000
# Objects that the window has seen accepted before it goes by their size.
_ACCEPTED = 3


@dataclass(frozen=True)
class Workload:
    """How much is measured.

    `objects` of an image and `limit` clicks for `tiny`; `classical_objects` of them and `classical_limit` clicks for
    the comparison, which is slow (0: none); `scenes` synthetic images.
    """

    objects: int
    scenes: int
    limit: int
    classical_objects: int
    classical_limit: int = 10


def synthetic_images(work: Workload, held_out: Path | None) -> Iterator[RealImage]:
    """Set (a): scenes of 512 pixels with objects that the colour planes show, of at least 200 pixels."""
    material = None if held_out is None else Material.load(held_out)
    options = SceneOptions(hidden=0.0, smallest=200)
    for index in range(work.scenes):
        rng = np.random.default_rng((_SEED, index))
        scene = make_scene(rng, (512, 512), 1, options, material)
        stack = ChannelStack(np.round(scene.planes[:3] * 255).astype(np.uint8), tuple(ChannelSpec(n) for n in "RGB"))
        masks = {str(label): scene.mask(label) for label in range(1, len(scene.parents))}
        seen = [name for name, mask in masks.items() if _is_seen(scene.planes[:3], mask)]
        chosen = rng.permutation(np.array(seen, dtype=object))[: work.objects]
        yield RealImage(stack, ("R", "G", "B"), {name: masks[name] for name in chosen})


def _is_seen(planes: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    """Whether an object's mean colour differs from that of its surroundings by 5 of 255 levels: night hides some."""
    ring = ndimage.binary_dilation(mask, iterations=8) & ~mask
    if not mask.any() or not ring.any():
        return False
    return float(np.abs(planes[:, mask].mean(1) - planes[:, ring].mean(1)).max()) * 255 >= 5


def picture_of(image: RealImage) -> NDArray[np.float32]:
    """The three planes (H, W, 3) in [0, 1] that every method sees, by the recipes that the predictor uses."""
    stack = image.stack
    recipes = fit_recipes(stack)
    block = stack.read()
    planes = apply_recipes(block, stack.valid_of(block), recipes)
    return planes[list(stack.indices(image.channels))].transpose(1, 2, 0)


def measure(model: PromptedModel, image: RealImage, options: ClickOptions) -> tuple[ObjectClicks, ...]:
    """Objects of one image."""
    return evaluate_clicks(model, image.targets, options).objects


def tiny_rows(predictor: Predictor, images: list[RealImage], work: Workload) -> dict[str, dict[str, float]]:
    """Figures of `tiny` on all objects of one set, and on those that the classical methods get."""
    found: list[ObjectClicks] = []
    for image in images:
        predictor.set_stack(image.stack, image.channels)
        found += measure(predictor, image, ClickOptions(limit=work.limit))
    rows = {"tiny": summary(found, work.limit)}
    if not work.classical_objects:
        return rows
    same = {(index, name) for index, image in enumerate(_fewer(images, work)) for name in image.targets}
    rows["tiny, same objects"] = summary(_kept(found, images, same), work.classical_limit)
    return rows


def classical_rows(images: list[RealImage], work: Workload) -> dict[str, dict[str, float]]:
    """Best figures of every classical method on the images of one set; they do not depend on any weights."""
    few = _fewer(images, work)
    rows: dict[str, dict[str, float]] = {}
    options = ClickOptions(limit=work.classical_limit, feeds_mask=False, with_box=False)
    for name, (method, settings) in methods().items():
        tried = []
        for setting in settings:
            result = [row for image in few for row in measure(method(picture_of(image), setting), image, options)]
            tried.append(summary(result, work.classical_limit))
        for key in ("iou_1", "iou_5"):
            best = max(tried, key=lambda row: row[key])
            rows.setdefault(name, {})[key] = best[key]
        rows[name]["noc_85"] = min(row["noc_85"] for row in tried)
    return rows


def _fewer(images: list[RealImage], work: Workload) -> list[RealImage]:
    return [RealImage(image.stack, image.channels, _few(image.targets, work.classical_objects)) for image in images]


def _few(targets: dict[str, NDArray[np.bool_]], most: int) -> dict[str, NDArray[np.bool_]]:
    names = list(targets)
    return {
        names[index]: targets[names[index]] for index in np.unique(np.linspace(0, len(names) - 1, most).astype(int))
    }


def _kept(found: list[ObjectClicks], images: list[RealImage], same: set[tuple[int, str]]) -> list[ObjectClicks]:
    places = [(index, name) for index, image in enumerate(images) for name in image.targets]
    return [row for row, place in zip(found, places, strict=True) if place in same]


def summary(found: list[ObjectClicks], limit: int) -> dict[str, float]:
    """The figures of one row."""
    whole = ClickReport(tuple(found), limit).to_json()
    return {
        "objects": whole["objects"],
        **{f"iou_{click}": whole["iou"][click] for click in ("1", "2", "3", "5", "10")},
        "box_iou": whole["box_iou"],
        **{f"noc_{level}": whole["noc"][level] for level in ("80", "85", "90")},
        "fr_85": whole["fr20"]["85"],
        "oracle": whole["oracle_iou"],
        "chosen": whole["chosen_iou"],
        "seconds_per_click": whole["seconds_per_click"],
    }


def agreement(fast: Predictor, exact: Predictor, image: RealImage, prompts: int = 40) -> float:
    """Mean IoU of the single masks of both at one to three random clicks in an image."""
    rng = np.random.default_rng(0)
    for predictor in (fast, exact):
        predictor.set_stack(image.stack, image.channels)
    ious = []
    for _ in range(prompts):
        points = rng.uniform((0, 0), image.stack.size[::-1], (rng.integers(1, 4), 2))
        labels = [1, *rng.integers(0, 2, len(points) - 1).tolist()]
        one, other = (predictor.predict(points, labels, multimask=False).masks[0] for predictor in (fast, exact))
        ious.append(mask_iou(one, other))
    # NaN: both are empty.
    return float(np.nanmean(ious))


def after_others(predictor: Predictor, images: list[RealImage]) -> dict[str, float]:
    """IoU after one click by predicted quality, and by what the window shows when three or more are accepted before."""
    by_quality, shown = [], []
    for image in images:
        predictor.set_stack(image.stack, image.channels)
        targets = list(image.targets.values())
        for number, target in enumerate(targets[_ACCEPTED:], start=_ACCEPTED):
            nothing = np.zeros_like(target)
            click = next_click(target, nothing, nothing.copy(), None, None)
            found = predictor.predict([(click.x, click.y)], [click.label])
            areas = [int(mask.sum()) for mask in found.masks]
            likely = likely_candidate(found.scores, areas, [int(mask.sum()) for mask in targets[:number]])
            by_quality.append(mask_iou(found.mask(), target))
            shown.append(mask_iou(found.masks[likely], target))
    if not shown:
        return {"objects": 0}
    return {"objects": len(shown), "by_quality": float(np.mean(by_quality)), "shown": float(np.mean(shown))}


def timings(predictor: Predictor, repeats: int = 9) -> dict[str, float]:
    """Median seconds of an encoder pass, a click and a correction of a small object on 512 x 512 pixels.

    A correction is looked at closer: "correction" where that window was encoded ahead, as the window's engine does it,
    "correction_cold" where it was not.
    """
    model = predictor.model
    rng = np.random.default_rng(0)
    encodes, clicks, warm, cold = [], [], [], []
    with torch.inference_mode():
        pixels = torch.randn(1, 3, 512, 512)
        for _ in range(repeats):
            start = time.perf_counter()
            model.embed(model.encode(pixels))
            encodes.append(time.perf_counter() - start)
    rows, columns = np.mgrid[:512, :512]
    disc = (rows - 200) ** 2 + (columns - 200) ** 2 < 15**2
    for _ in range(repeats):
        noise = rng.integers(0, 60, (3, 512, 512)) + 150 * disc
        stack = ChannelStack(noise.astype(np.uint8), tuple(ChannelSpec(n) for n in "RGB"))
        predictor.set_stack(stack, ("R", "G", "B"))
        logits = predictor.predict([(200, 200)], [1]).logits[0]
        prompts = ([(200, 200), (206, 198)], [1, 1])
        for close_ups, taken in ((False, clicks), (True, cold), (True, warm)):
            predictor.close_ups = close_ups
            start = time.perf_counter()
            predictor.predict(*prompts, mask=logits, multimask=False)
            taken.append(time.perf_counter() - start)
    return {
        "encoder_pass": float(np.median(encodes)),
        "click": float(np.median(clicks)),
        "correction": float(np.median(warm)),
        "correction_cold": float(np.median(cold)),
        "threads": torch.get_num_threads(),
    }


def bars(report: Report, sets: dict[str, dict[str, dict[str, float]]]) -> None:
    """What the table is held against."""
    real = {name: rows for name, rows in sets.items() if name != "synthetic"}
    own = sets["synthetic"]["tiny"]
    report.bar("synthetic: IoU after one click", 0.72, own["iou_1"])
    report.bar("synthetic: IoU after five clicks", 0.88, own["iou_5"])
    report.bar("synthetic: clicks to IoU 0.85", 5, own["noc_85"], at_most)
    for key, bar in (("iou_1", 0.50), ("iou_5", 0.75)):
        if real:
            report.bar(f"real, mean of sets: {key}", bar, float(np.mean([rows["tiny"][key] for rows in real.values()])))
    for key in ("iou_1", "iou_5", "noc_85") if len(sets["synthetic"]) > 1 else ():
        sign = -1 if key == "noc_85" else 1
        wins = [name for name, rows in real.items() if _wins(rows, key, sign)]
        if real:
            report.bar(f"real sets where tiny beats every classical method in {key}", 5, len(wins))
            report.figures[f"won_{key}"] = wins
        report.bar(
            f"synthetic: tiny beats every classical method in {key}", 1, int(_wins(sets["synthetic"], key, sign))
        )
    lost = float(np.mean([rows["tiny"]["oracle"] - rows["tiny"]["chosen"] for rows in sets.values()]))
    report.bar("IoU lost by choosing by predicted quality, mean of sets", 0.05, lost, at_most)
    report.bar("seconds of an encoder pass at 512 px", 0.35, report.figures["seconds"]["encoder_pass"], at_most)
    report.bar("seconds of a click at 512 px", 0.025, report.figures["seconds"]["click"], at_most)


def _wins(rows: dict[str, dict[str, float]], key: str, sign: int) -> bool:
    own = sign * rows["tiny, same objects"][key]
    return all(own > sign * row[key] for name, row in rows.items() if not name.startswith("tiny"))


def image_sets(work: Workload, held_out: Path | None, only: list[str]) -> Iterator[tuple[str, list[RealImage]]]:
    """Every set that is wanted and there."""
    if not only or "synthetic" in only:
        yield "synthetic", list(synthetic_images(work, held_out))
    for found in SETS if SHARED.is_dir() else ():
        if not only or found.name in only:
            yield found.name, load_set(found, SHARED, work.objects)


def kept_classical_rows(
    name: str, images: list[RealImage], work: Workload, kept: Path | None
) -> dict[str, dict[str, float]]:
    """The classical rows of a set, from the file `kept` where an earlier run with this workload left them there."""
    key = f"{name} {asdict(work)}"
    known: dict[str, dict[str, dict[str, float]]] = {}
    if kept is not None and kept.exists():
        known = json.loads(kept.read_text(encoding="utf-8"))
    if key not in known:
        known[key] = classical_rows(images, work)
        if kept is not None:
            kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known[key]


def run(model_name: str, work: Workload, held_out: Path | None, only: list[str], kept: Path | None) -> Report:
    """Measure every set."""
    model = load_model(model_name, device="cpu")
    predictor = Predictor(model, cache=False)
    exact = Predictor(load_model(model_name, device="cpu", exact=True), cache=False)
    report = Report("tiny_quality", {"model": model_name, "fingerprint": model.fingerprint[:12], "sets": {}})
    report.figures["type"] = str(model.image_encoder.compute_dtype)
    report.figures["seconds"], report.figures["seconds, exact"] = timings(predictor), timings(exact)
    sets: dict[str, dict[str, dict[str, float]]] = report.figures["sets"]
    agreed: dict[str, float] = {}
    later: dict[str, dict[str, float]] = {}
    for name, images in image_sets(work, held_out, only):
        agreed[name] = agreement(predictor, exact, images[0])
        sets[name] = tiny_rows(predictor, images, work)
        later[name] = after_others(predictor, images)
        if work.classical_objects:
            sets[name] |= kept_classical_rows(name, images, work, kept)
    report.figures["one click, three or more accepted before"] = later
    report.figures["masks of fast and exact, IoU"] = agreed
    report.bar(
        "masks of fast and exact agree, mean IoU of the sets", 0.99, float(np.mean(list(agreed.values()))), at_least
    )
    if "synthetic" in sets:
        bars(report, sets)
    return report


def main() -> None:
    """Command line."""
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="name or checkpoint")
    parser.add_argument("--held-out", type=Path, help="held_out.npz of e2sam.training.tiny_material")
    parser.add_argument("--objects", type=int, default=8, help="most objects of an image")
    parser.add_argument("--classical-objects", type=int, default=2, help="of them, for the classical methods; 0: none")
    parser.add_argument("--scenes", type=int, default=16, help="synthetic scenes")
    parser.add_argument("--limit", type=int, default=20, help="most clicks for an object")
    parser.add_argument("--keep", type=Path, help="file that keeps the figures of the classical methods between runs")
    parser.add_argument("--only", nargs="*", default=[], help="names of sets")
    options = parser.parse_args()
    work = Workload(options.objects, options.scenes, options.limit, options.classical_objects)
    run(options.model, work, options.held_out, options.only, options.keep).show(options.json)


if __name__ == "__main__":
    main()
