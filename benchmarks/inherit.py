"""Knowledge inheritance: identity, orderings, agreement, cross-modality, missing channels, size, night and cost.

    python -m benchmarks.inherit [--json] [--only identity,cost,order,synthetic,real,night,water] [--seeds 2] ...

"identity" and "cost" need no training. "order" and "synthetic" train on procedural scenes; "real", "night" and
"water" need the real images beside the repository. Clicks are limited to 20 an object; one that is not at the IoU by
then counts 20. With the budgets that are set, each part takes a few minutes of two slow cores. Beside the agreement on
real stacks stands its ceiling: how far the teacher agrees with itself when the same picture lies 4 pixels further
right.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.real_sets import SETS, load_set
from benchmarks.report import Report, at_least, at_most, parser_for
from benchmarks.students import (
    Clicked,
    ShiftedTeacher,
    agreement,
    best_of,
    best_on_others,
    clicked,
    interval,
    on_triples,
    trained,
    unseen_triples,
)
from e2sam.data.io import read_stack
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.data.synthetic import SceneOptions, synthetic_stack
from e2sam.evaluation.clicks import instance_masks
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.inflation import build_student
from e2sam.training.tiles import hold_out
from e2sam.weights.zoo import load_model

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = ("identity", "cost", "order", "synthetic", "real", "night", "water")
REAL = (
    "motorcycle_rgbd",
    "livingroom_rgbd",
    "mfnet_day_rgbt",
    "sentinel2_slovenia_13band",
    "landsat7_olinda_6band",
    "cellpaint_6ch",
    "samson_hsi_156band",
)
NUM_CHANNELS = 5
SEEDS = {"order": 2, "synthetic": 2, "real": 1, "night": 1, "water": 1}
_BY_STEPS: dict[str, Any] = {"closed_form": False, "prompt_share": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "init mean": {"init": "mean"},
    "init random": {"init": "random"},
    "features only": {"prompt_share": 0.0},
    "features only, init mean": {"init": "mean", "prompt_share": 0.0},
    "features only, init random": {"init": "random", "prompt_share": 0.0},
    "by steps alone": _BY_STEPS,
    "by steps alone, init mean": {"init": "mean", **_BY_STEPS},
    "by steps alone, init random": {"init": "random", **_BY_STEPS},
    "by steps alone, loss mmd": {"loss": "mmd", **_BY_STEPS},
    "selector random": {"selector": "random"},
}


@dataclass(frozen=True)
class Budget:
    """How much is trained and judged."""

    seeds: int | None
    steps: int
    size: int
    scenes: int
    objects: int
    stacks: tuple[str, ...]

    def seeds_of(self, part: str) -> range:
        """Seeds of a part: as many as were asked for, else what it can afford."""
        return range(SEEDS[part] if self.seeds is None else self.seeds)


# Parts


def run_identity(report: Report) -> None:
    """Largest difference of the inflated student from its teacher, in units of the embedding's deviation."""
    torch.manual_seed(0)
    for name, size in (("tiny", 256), ("vit_b", 256)):
        teacher = load_model("tiny", "cpu", exact=True) if name == "tiny" else build_model(teacher_config(name)).eval()
        with torch.no_grad():
            for parameter in teacher.image_encoder.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(0, 0.02)
            channels = tuple(ChannelSpec(f"band {index}") for index in range(16))
            recipes = (ChannelRecipe("range", 0.0, 1.0, 0.0),) * 16
            matrix = torch.rand(3, 16)
            matrix = matrix / matrix.sum(1, keepdim=True)
            student = build_student(teacher, channels, recipes, matrix).eval()
            planes = torch.rand(1, 16, size - 40, size)
            composite = 255 * torch.einsum("kn,bnhw->bkhw", matrix, planes)
            expected = teacher.encode(teacher.prepare(composite, (size, size)))
            got = student.embed(student.encode(student.prepare(planes, (size, size))))
            error = float((got - expected).abs().max())
        report.figures[f"identity, {name}, largest difference"] = error
        report.bar(f"inflated {name} equals its teacher to 1e-4", 1e-4, error, at_most)


def run_cost(report: Report) -> None:
    """Operations of a change of selection beside those of ViT-B's encoder; all triples of 16 channels from one pass."""
    config = teacher_config("vit_b")
    channels = tuple(ChannelSpec(f"band {index}") for index in range(16))
    with torch.device("meta"):
        student = build_model(replace(config, channels=channels, merge="gated")).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        features = student.encode(torch.zeros(1, 17, 1024, 1024, device="meta"))
    merge = build_model(replace(teacher_config("vit_test"), architecture="vit_test", channels=channels, merge="gated"))
    with torch.no_grad(), FlopCounterMode(display=False) as merging:
        assert merge.merge is not None
        merge.merge(torch.zeros(1, features.shape[1], 64, 64), range(16))
    share = merging.get_total_flops() / encoding.get_total_flops()
    report.figures["selection of 16, share of a ViT-B pass in operations"] = share
    report.bar("a change of selection costs at most 1 % of a ViT-B pass", 0.01, share, at_most)
    teacher = load_model("tiny", "cpu", exact=True)
    matrix = torch.full((3, 16), 1 / 16)
    small = build_student(teacher, channels, (ChannelRecipe("range", 0.0, 1.0, 0.0),) * 16, matrix).eval()
    stack = ChannelStack(np.random.default_rng(0).random((16, 64, 64), np.float32), channels)
    predictor = Predictor(small, cache=False)
    predictor.set_stack(stack, channels=stack.names[:3])
    triples = list(combinations(stack.names, 3))
    for triple in triples:
        predictor.set_channels(triple)
    report.figures["triples of 16 channels"] = len(triples)
    report.bar("encoder passes for 560 triples", 1, predictor.encoder_passes, at_most)


def scenes_of(seed: int, size: int, count: int, **options: Any) -> list[tuple[ChannelStack, NDArray[np.int32]]]:
    """Synthetic scenes whose objects stand in the further channels alone more often than not."""
    chosen = SceneOptions(kind="objects", **({"hidden": 0.6, "smallest": 300} | options))
    return [synthetic_stack(1000 * seed + index, NUM_CHANNELS, (size, size), chosen) for index in range(count)]


def with_targets(
    scenes: Sequence[tuple[ChannelStack, NDArray[np.int32]]], most: int
) -> list[tuple[ChannelStack, dict[str, NDArray[np.bool_]]]]:
    """Each scene with at most `most` objects."""
    return [(stack, dict(list(instance_masks(labels, 300).items())[:most])) for stack, labels in scenes]


def run_order(report: Report, teacher: E2SAM, budget: Budget) -> None:
    """What each choice is worth at equal steps.

    "By steps alone" is without the closed-form start and without prompts: what gradients of the features teach.
    """
    agreed: dict[str, list[float]] = {name: [] for name in VARIANTS}
    clicks: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in budget.seeds_of("order"):
        stacks = [stack for stack, _ in scenes_of(seed, budget.size, 5)]
        judged = with_targets(scenes_of(seed + 500, budget.size, budget.scenes), budget.objects)
        excluded = unseen_triples(stacks[0], seed)
        for name, changes in VARIANTS.items():
            student = trained(stacks, teacher, seed, budget.steps, excluded=tuple(excluded), **changes)
            found = agreement(student, teacher, hold_out(stacks, seed), _indices(stacks[0], excluded), 1.0)
            agreed[name].append(found.get("agreement_1_click", float("nan")))
            whole = sum((clicked(student, stack, stack.names, t) for stack, t in judged), Clicked())
            clicks[name].append(float(np.mean(whole.noc)))
    report.figures["agreement at one click, by choice"] = {name: interval(values) for name, values in agreed.items()}
    report.figures["NoC@85, all channels, by choice"] = {name: interval(values) for name, values in clicks.items()}
    gains = (
        ("inflated - mean, agreement", "base", "init mean", agreed),
        ("mean - random, agreement", "init mean", "init random", agreed),
        ("inflated - mean, by steps alone, agreement", "by steps alone", "by steps alone, init mean", agreed),
        (
            "mean - random, by steps alone, agreement",
            "by steps alone, init mean",
            "by steps alone, init random",
            agreed,
        ),
        ("pairwise - MMD, by steps alone, agreement", "by steps alone", "by steps alone, loss mmd", agreed),
        ("diverse - random selector, agreement", "base", "selector random", agreed),
        *(
            (f"features only - prompts in the loop{start}, NoC@85", f"features only{start}", with_prompts, clicks)
            for start, with_prompts in (("", "base"), (", init mean", "init mean"), (", init random", "init random"))
        ),
    )
    for what, first, second, values in gains:
        report.bar(what, 0.0, float(np.mean(np.subtract(values[first], values[second]))), at_least)


def run_synthetic(report: Report, teacher: E2SAM, budget: Budget) -> None:
    """Cross-modality, a quarter of the channels missing, size and night, on scenes never trained on."""
    rows: dict[str, list[float]] = {}
    for seed in budget.seeds_of("synthetic"):
        for name, value in _synthetic(teacher, seed, budget):
            rows.setdefault(name, []).append(value)
    report.figures["synthetic"] = {name: interval(values) for name, values in rows.items()}
    mean = {name: float(np.mean(values)) for name, values in rows.items()}
    report.bar(
        "NoC@85, student with all channels less than teacher on RGB",
        mean["NoC@85 teacher on RGB"],
        mean["NoC@85 student, all"],
        at_most,
    )
    report.bar(
        "NoC@85, student with all channels at most teacher on the best triple",
        mean["NoC@85 teacher on the best triple"],
        mean["NoC@85 student, all"],
        at_most,
    )
    kept = mean["IoU at 3 clicks, a quarter missing"] / mean["IoU at 3 clicks, all"]
    report.bar("share of IoU kept with one channel in four missing", 0.9, kept, at_least)
    for factor in ("half", "double"):
        change = abs(mean[f"agreement, {factor} size"] - mean["agreement, same size"])
        report.bar(f"change of agreement at {factor} the size", 0.05, change, at_most)
    report.bar(
        "night: NoC@85 of the student inherited by day less than teacher on RGB",
        mean["night: NoC@85 teacher on RGB"],
        mean["night: NoC@85 student, all"],
        at_most,
    )


def _synthetic(teacher: E2SAM, seed: int, budget: Budget) -> Iterator[tuple[str, float]]:
    stacks = [stack for stack, _ in scenes_of(seed, budget.size, 5)]
    excluded = unseen_triples(stacks[0], seed)
    student = trained(stacks, teacher, seed, budget.steps, excluded=tuple(excluded))
    scenes, selections = hold_out(stacks, seed), _indices(stacks[0], excluded)
    for name, factor in (("half", 0.5), ("same", 1.0), ("double", 2.0)):
        found = agreement(student, teacher, scenes, selections, factor)
        yield f"agreement, {name} size", found.get("agreement_1_click", float("nan"))
    judged = with_targets(scenes_of(seed + 500, budget.size, budget.scenes), budget.objects)
    names = stacks[0].names
    whole = sum((clicked(student, stack, names, targets) for stack, targets in judged), Clicked())
    colour = sum((clicked(teacher, stack, names[:3], targets) for stack, targets in judged), Clicked())
    yield "NoC@85 student, all", float(np.mean(whole.noc))
    yield "NoC@85 teacher on RGB", float(np.mean(colour.noc))
    triples = on_triples(teacher, judged)
    yield "NoC@85 teacher on the best triple", float(np.mean(best_of(triples).noc))
    yield "NoC@85 teacher on the triple that is best on all other objects", float(np.mean(best_on_others(triples).noc))
    composites = sum((clicked(teacher, stack, names, targets) for stack, targets in judged), Clicked())
    yield "NoC@85 teacher on composites of all", float(np.mean(composites.noc))
    yield "IoU at 3 clicks, all", float(np.mean(whole.third))
    lost = np.random.default_rng(seed).permutation(NUM_CHANNELS)[: max(1, NUM_CHANNELS // 4)]
    left = [name for index, name in enumerate(names) if index not in lost]
    partial = sum((clicked(student, *_without(s, left), targets, missing="fill") for s, targets in judged), Clicked())
    yield "IoU at 3 clicks, a quarter missing", float(np.mean(partial.third))
    dark = with_targets(scenes_of(seed + 500, budget.size, budget.scenes, night=True), budget.objects)
    by_night = sum((clicked(student, stack, names, targets) for stack, targets in dark), Clicked())
    colour = sum((clicked(teacher, stack, names[:3], targets) for stack, targets in dark), Clicked())
    yield "night: NoC@85 student, all", float(np.mean(by_night.noc))
    yield "night: NoC@85 teacher on RGB", float(np.mean(colour.noc))


def _without(stack: ChannelStack, left: Sequence[str]) -> tuple[ChannelStack, Sequence[str]]:
    indices = stack.indices(list(left))
    channels = tuple(stack.channels[index] for index in indices)
    return ChannelStack(stack.read(channels=indices), channels), left


def run_real(report: Report, teacher: E2SAM, budget: Budget) -> None:
    """Agreement on real stacks for triples never trained on; clicks on objects that colour does not show."""
    agreed: dict[str, list[float]] = {}
    before: dict[str, list[float]] = {}
    ceiling: dict[str, list[float]] = {}
    for name in budget.stacks:
        stack = read_stack(SHARED_DATA / f"{name}.tif")
        for seed in budget.seeds_of("real"):
            excluded = tuple(unseen_triples(stack, seed))
            student = trained([stack], teacher, seed, budget.steps, excluded=excluded)
            scenes, selections = hold_out([stack], seed), _indices(stack, excluded)
            found = agreement(student, teacher, scenes, selections, 1.0)
            agreed.setdefault(name, []).append(found.get("agreement_1_click", float("nan")))
            start = trained([stack], teacher, seed, 1, excluded=excluded, prompt_share=0.0, warmup_share=1.0)
            found = agreement(start, teacher, scenes, selections, 1.0)
            before.setdefault(name, []).append(found.get("agreement_1_click", float("nan")))
            found = agreement(ShiftedTeacher(teacher, start).eval(), teacher, scenes, selections, 1.0)
            ceiling.setdefault(name, []).append(found.get("agreement_1_click", float("nan")))
    report.figures["agreement on unseen triples"] = {name: interval(values) for name, values in agreed.items()}
    report.figures["after one step"] = {name: interval(values) for name, values in before.items()}
    report.figures["ceiling: teacher with itself, shifted"] = {name: interval(v) for name, v in ceiling.items()}
    mean = float(np.nanmean([np.mean(values) for values in agreed.values()]))
    report.bar("mean agreement at one click on triples never trained on", 0.85, mean, at_least)


def run_night_pair(report: Report, teacher: E2SAM, budget: Budget) -> None:
    """A student inherited on the day image, judged on the night image, beside the teacher on RGB; at label size."""
    pair = next(found for found in SETS if found.name == "mfnet")
    day, night = load_set(pair, SHARED_DATA)
    students = [trained([day.stack], teacher, seed, budget.steps) for seed in budget.seeds_of("night")]
    colours = night.stack.names[:3]
    _beside_colour(report, "RGB-T night pair", (students, teacher), night.stack, colours, night.targets)


def run_water(report: Report, teacher: E2SAM, budget: Budget) -> None:
    """Open water of a Landsat scene: where the modified water index (Xu, 2006) of green and SWIR is above 0.

    The index of green and near infrared (McFeeters, 1996) has the city for water, as these are no reflectances.
    """
    stack = read_stack(SHARED_DATA / "landsat7_olinda_6band.tif")
    green, infrared = stack.read(channels=stack.indices(["B2_green", "B5_swir1"])).astype(np.float64)
    targets = instance_masks(label(green > infrared), 30)
    students = [trained([stack], teacher, seed, budget.steps) for seed in budget.seeds_of("water")]
    _beside_colour(report, "Landsat water", (students, teacher), stack, ("B3_red", "B2_green", "B1_blue"), targets)


def _beside_colour(
    report: Report,
    what: str,
    models: tuple[Sequence[E2SAM], E2SAM],
    stack: ChannelStack,
    colours: Sequence[str],
    targets: dict[str, NDArray[np.bool_]],
) -> None:
    """The students of all seeds with all channels beside the teacher on the three colours and on the best triple."""
    students, teacher = models
    by_seed = [clicked(student, stack, stack.names, targets) for student in students]
    report.figures[f"{what}, NoC@85 of students by seed"] = interval([float(np.mean(row.noc)) for row in by_seed])
    triples = on_triples(teacher, [(stack, targets)])
    rows = {
        "student, all": sum(by_seed, Clicked()),
        "teacher on RGB": clicked(teacher, stack, colours, targets),
        "teacher on the best triple": best_of(triples),
        "teacher on the triple that is best on all other objects": best_on_others(triples),
        "teacher on composites of all": clicked(teacher, stack, stack.names, targets),
    }
    report.figures[f"{what}, objects"] = len(targets)
    for figure, field in (("NoC@85", "noc"), ("IoU at 1 click", "first"), ("IoU at 3 clicks", "third")):
        report.figures[f"{what}, {figure}"] = {name: float(np.mean(getattr(row, field))) for name, row in rows.items()}
    clicks = {name: float(np.mean(row.noc)) for name, row in rows.items()}
    for other in ("teacher on RGB", "teacher on the best triple"):
        bar = f"{what}: NoC@85 of the student at most that of the {other}"
        report.bar(bar, clicks[other], clicks["student, all"], at_most)


def _indices(stack: ChannelStack, selections: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    return [stack.indices(list(names)) for names in selections]


def main() -> None:
    """Run the parts that were asked for."""
    parser = parser_for(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--seeds", type=int, help="of each part (default: 2 on synthetic, 1 on real stacks)")
    parser.add_argument("--steps", type=int, default=16, help="of each student, of two tiles")
    parser.add_argument("--size", type=int, default=192, help="side of a synthetic scene")
    parser.add_argument("--scenes", type=int, default=3, help="synthetic scenes to judge on")
    parser.add_argument("--objects", type=int, default=3, help="most objects of each")
    parser.add_argument("--stacks", default=",".join(REAL), help="real stacks, with commas between")
    options = parser.parse_args()
    budget = Budget(
        options.seeds, options.steps, options.size, options.scenes, options.objects, tuple(options.stacks.split(","))
    )
    parts = options.only.split(",")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(unknown)}")
    report = Report("inherit", {"budget": budget.__dict__})
    if "identity" in parts:
        run_identity(report)
    if "cost" in parts:
        run_cost(report)
    if set(parts) - {"identity", "cost"}:
        teacher = load_model("tiny", "cpu", exact=True)
        training_parts = (
            ("order", run_order),
            ("synthetic", run_synthetic),
            ("real", run_real),
            ("night", run_night_pair),
            ("water", run_water),
        )
        report.figures["teacher"] = teacher.fingerprint[:16]
        for part, run in training_parts:
            if part in parts:
                run(report, teacher, budget)
                # A later part may be cut short.
                print(json.dumps(report.figures), file=sys.stderr, flush=True)
    report.show(options.json)


if __name__ == "__main__":
    main()
