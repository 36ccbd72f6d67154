"""SAM's image encoder: e2sam against segment_anything, in one run, on one machine.

    python -m benchmarks.encoder [--json] [--size vit_b] [--rounds 3] [--device cpu] [--batch 1]

Rounds of both are interleaved. Official weights are used where they lie in the model folder, else random ones with
random position tables. Peak memory is that of a process of its own for each, which loads the model and encodes once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch
from segment_anything import sam_model_registry
from torch import Tensor, nn

from benchmarks.matrix_limit import matrix_limit
from benchmarks.memory import file_memory_gb, peak_memory_gb
from benchmarks.report import Report, at_least, at_most, parser_for
from e2sam.modeling.build import build_from_sam, encoder_size
from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.weights.zoo import ZOO, state_of, weights_file

_PROMPTS = 200
# Spread of a trained decoder's logits; a random one's are scaled to it, so that agreement means what it says.
_LOGIT_SPREAD = 8.0


def reference_model(size: str) -> tuple[Any, str]:
    """segment_anything's model of a size, and whose weights it has."""
    entry = ZOO[size]
    if state_of(entry) == "here":
        return sam_model_registry[size](str(weights_file(entry))).eval(), "official"
    torch.manual_seed(0)
    sam = sam_model_registry[size]().eval()
    with torch.no_grad():
        for name, parameter in sam.image_encoder.named_parameters():
            if "pos" in name:
                parameter.normal_(std=0.3)
    return sam, "random"


def main() -> None:
    """Run and print."""
    parser = parser_for(__doc__)
    parser.add_argument("--size", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--memory-of", choices=("reference", "fast", "exact"), help="used by the benchmark itself")
    options = parser.parse_args()
    if options.memory_of:
        _print_peak_memory(options.memory_of, options.size)
        return
    report = Report("encoder")
    with torch.no_grad():
        _measure(report, options.size, options.rounds, torch.device(options.device), options.batch)
    report.show(options.json)


@dataclass
class _Times:
    """Seconds of each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def take(self, name: str, run: Callable[[], Tensor], device: torch.device) -> Tensor:
        """Run once and note the time."""
        start = perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.setdefault(name, []).append(perf_counter() - start)
        return result

    def median(self, name: str) -> float:
        """Median seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """How many times faster than the reference: median of the rounds' own ratios."""
        return median(slow / fast for slow, fast in zip(self.seconds["reference"], self.seconds[name], strict=True))


def _measure(report: Report, size: str, rounds: int, device: torch.device, batch: int) -> None:
    sam, weights = reference_model(size)
    model = build_from_sam(sam.state_dict()).eval().to(device)
    reference = sam.image_encoder.to(device)
    encoder = model.image_encoder
    pixels = _picture(batch, encoder_size(size).image_size, device)
    times, limits, embeddings = _Times(), {"bfloat16": 0.0, "float32": 0.0}, {}
    for dtype in (None, torch.float32):
        encoder.prefer_speed(dtype)
        encoder(pixels)
    for _ in range(rounds):
        embeddings["reference"] = times.take("reference", lambda: reference(pixels), device)
        for name, dtype in (("fast", None), ("exact", torch.float32)):
            # Preparing the weights for the other type is no part of a pass.
            encoder.prefer_speed(dtype)
            encoder(pixels[:, :, :64, :64])
            embeddings[name] = times.take(name, lambda: encoder(pixels), device)
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            limits[name] = max(limits[name], matrix_limit(dtype, device))
    encoder.prefer_speed(None)
    fast_type = str(encoder.compute_dtype).removeprefix("torch.")
    work = encoder_work(size) * batch
    share = work / times.median("fast") / limits.get(fast_type, limits["bfloat16"])
    report.figures |= {
        "machine": _machine(device),
        "weights": weights,
        "size": size,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "fast type": fast_type,
        "seconds": {name: [round(second, 3) for second in taken] for name, taken in times.seconds.items()},
        "work, TFLOP": work / 1e12,
        "limit of matrix products, GFLOP/s": {name: limit / 1e9 for name, limit in limits.items()},
        "share of the limit, exact": work / times.median("exact") / limits["float32"],
    }
    _add_bars(report, times, share)
    _add_agreement(report, model, embeddings)
    if device.type == "cpu":
        _add_memory(report, size)


def _add_bars(report: Report, times: _Times, share: float) -> None:
    report.bar("fast: times the speed of segment_anything", 6.0, times.ratio("fast"), at_least)
    report.bar("fast: share of the limit of matrix products", 0.65, share, at_least)
    report.bar("exact: times the speed of segment_anything", 1.7, times.ratio("exact"), at_least)
    report.figures["stretch: 8 times, reached"] = times.ratio("fast") >= 8.0


def encoder_work(size: str) -> float:
    """Floating-point operations of the matrix products of one pass, without any padding."""
    shape = encoder_size(size)
    tokens = shape.grid**2
    linear = 2 * tokens * 12 * shape.width**2 * shape.depth
    num_global = len(shape.global_blocks)
    keys = num_global * tokens + (shape.depth - num_global) * shape.window**2
    attention = 4 * tokens * keys * shape.width
    patches = 2 * tokens * 3 * shape.patch**2 * shape.width
    neck = 2 * tokens * shape.out_channels * (shape.width + 9 * shape.out_channels)
    return float(linear + attention + patches + neck)


def _picture(batch: int, side: int, device: torch.device) -> Tensor:
    """Smooth random pixels in SAM's statistics, (B, 3, side, side)."""
    generator = torch.Generator().manual_seed(1)
    parts = [
        nn.functional.interpolate(torch.randn(batch, 3, n, n, generator=generator), (side, side), mode="bicubic")
        for n in (8, 32, 128, side)
    ]
    return torch.stack(parts).sum(0).div(2).to(device)


def _add_agreement(report: Report, model: E2SAM, embeddings: dict[str, Tensor]) -> None:
    """Embeddings and masks of 200 points against those of the reference, through the same decoder."""
    prompts = _prompts(model.config.image_size, model.device)
    decoder = model.decoder
    if report.figures["weights"] == "random":
        scale = _LOGIT_SPREAD / _decode(model, embeddings["reference"], _taken(prompts, slice(8))).std()
        for network in decoder.mask_decoder.output_hypernetworks_mlps:
            network.layers[-1].weight.mul_(scale)
            network.layers[-1].bias.mul_(scale)
    figures: dict[str, Any] = {}
    ious, worst = {"fast": 1.0, "exact": 1.0}, {"fast": 0.0, "exact": 0.0}
    for start in range(0, _PROMPTS, 20):
        part = _taken(prompts, slice(start, start + 20))
        truth = _decode(model, embeddings["reference"], part)
        # A random decoder's masks are cut at their median: half of the pixels are inside, no mask is trivial.
        level = truth.flatten(2).median(-1).values[..., None, None] if report.figures["weights"] == "random" else 0.0
        for name in ious:
            logits = _decode(model, embeddings[name], part)
            a, b = truth > level, logits > level
            iou = (a & b).sum((-1, -2)) / (a | b).sum((-1, -2)).clamp_min(1)
            figures.setdefault(name, []).append(iou.flatten())
            worst[name] = max(worst[name], float((truth - logits).abs().max()))
    for name in ious:
        iou = torch.cat(figures[name])
        similarity = torch.cosine_similarity(embeddings["reference"], embeddings[name], dim=1)
        report.figures[f"agreement, {name}"] = {
            "embedding cosine, mean": float(similarity.mean()),
            "embedding cosine, least": float(similarity.min()),
            "mask IoU, mean": float(iou.mean()),
            "mask IoU, least": float(iou.min()),
            "logits, largest difference": worst[name],
            "logits, spread": float(truth.std()),
        }
        ious[name] = float(iou.mean())
    cosine = report.figures["agreement, fast"]["embedding cosine, least"]
    report.bar("fast: cosine of embeddings, least of all positions", 0.999, cosine, at_least)
    report.bar("fast: IoU of masks, mean of 200 prompts", 0.99, ious["fast"], at_least)
    report.bar("exact: largest difference of logits", 1e-3, worst["exact"], at_most)


def _prompts(side: int, device: torch.device) -> PromptTensors:
    generator = torch.Generator().manual_seed(2)
    coords = torch.rand(_PROMPTS, 2, 2, generator=generator) * side
    return PromptTensors(coords.to(device), torch.tensor([[1, -1]] * _PROMPTS, device=device))


def _taken(prompts: PromptTensors, part: slice) -> PromptTensors:
    return PromptTensors(prompts.point_coords[part], prompts.point_labels[part])


def _decode(model: E2SAM, embeddings: Tensor, prompts: PromptTensors) -> Tensor:
    return model.decode(embeddings[:1], prompts, multimask_output=True)[0].float()


def _add_memory(report: Report, size: str) -> None:
    peaks = {name: _peak_memory(name, size) for name in ("reference", "fast", "exact")}
    report.figures["peak memory, GB"] = {name: peak for name, (peak, _) in peaks.items()}
    report.figures["of it pages of files, GB"] = {name: files for name, (_, files) in peaks.items()}
    fast, reference = peaks["fast"][0], peaks["reference"][0]
    report.bar("fast: peak memory against segment_anything", 0.4, fast / reference, at_most)


def _peak_memory(name: str, size: str) -> tuple[float, float | None]:
    """Peak resident memory, GB, of a process that loads a model and encodes once, and what of it are pages of files."""
    command = [sys.executable, "-m", "benchmarks.encoder", "--memory-of", name, "--size", size]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, files = json.loads(out.splitlines()[-1])
    return float(peak), files


def _print_peak_memory(name: str, size: str) -> None:
    sam, _ = reference_model(size)
    with torch.no_grad():
        if name == "reference":
            encoder, side = sam.image_encoder, encoder_size(size).image_size
        else:
            model = build_from_sam(sam.state_dict()).eval()
            del sam
            encoder, side = model.image_encoder, model.config.image_size
            encoder.prefer_speed(None if name == "fast" else torch.float32)
        encoder(_picture(1, side, torch.device("cpu")))
    print(json.dumps([peak_memory_gb(), file_memory_gb()]))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
