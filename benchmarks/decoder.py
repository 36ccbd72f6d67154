"""From a click to logits: e2sam against `SamPredictor.predict`, in one run, on one machine.

    python -m benchmarks.decoder [--json] [--rounds 15]

The same weights, the same embedding of a 1024 x 1024 image, rounds of all interleaved. `SamPredictor.predict` and
`Predictor.predict` take NumPy points and give NumPy masks and logits; each click is at another place.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from benchmarks.encoder import reference_model
from benchmarks.report import Report, at_least, at_most, parser_for
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.inference.predictor import Predictor
from e2sam.modeling.build import build_from_sam
from e2sam.modeling.e2sam import E2SAM, PromptTensors

_SIDE = 1024
_MANY = 32


def main() -> None:
    """Run and print."""
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    report = Report("decoder")
    with torch.no_grad():
        _measure(report, options.rounds)
    report.show(options.json)


def _measure(report: Report, rounds: int) -> None:
    sam, weights = reference_model("vit_b")
    model = build_from_sam(sam.state_dict()).eval()
    model.image_encoder.prefer_speed()
    predictor = _predictor_on_noise(model)
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(3))
    reference = _reference_on(sam, embedding)
    generator = np.random.default_rng(0)

    def click() -> Any:
        return generator.uniform(0, _SIDE, (1, 2))

    runs: dict[str, Callable[[], Any]] = {
        "SamPredictor.predict": lambda: reference.predict(click(), np.array([1])),
        "e2sam click to logits": lambda: _logits(model, embedding, click()),
        "e2sam click to logits, new image": lambda: _logits(model, embedding.clone(), click()),
        "Predictor.predict": lambda: predictor.predict(points=click(), labels=[1]).logits,
        "segment_anything, 32 prompts": lambda: _many_reference(sam, embedding, generator),
        "e2sam, 32 prompts": lambda: _logits(model, embedding, generator.uniform(0, _SIDE, (_MANY, 2))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            if "32" in name and index > 3:
                continue
            start = perf_counter()
            run()
            # The first round warms all of them up.
            if index:
                seconds[name].append(perf_counter() - start)
    taken = {name: median(values) for name, values in seconds.items()}
    report.figures |= {
        "weights": weights,
        "threads": torch.get_num_threads(),
        "milliseconds, median": {name: 1e3 * value for name, value in taken.items()},
        "milliseconds, least": {name: 1e3 * min(values) for name, values in seconds.items()},
        "milliseconds a prompt, of 32": {
            name.split(",")[0]: 1e3 * value / _MANY for name, value in taken.items() if "32" in name
        },
        "logits, largest difference": _difference(reference, model, embedding),
    }
    slow = taken["SamPredictor.predict"]
    report.bar("click to logits, share of SamPredictor.predict", 0.5, taken["e2sam click to logits"] / slow, at_most)
    report.bar("Predictor.predict, share of SamPredictor.predict", 0.5, taken["Predictor.predict"] / slow, at_most)
    many = taken["segment_anything, 32 prompts"] / taken["e2sam, 32 prompts"]
    report.bar("32 prompts: times the speed of segment_anything", 1.0, many, at_least)


def _predictor_on_noise(model: E2SAM) -> Predictor:
    pixels = np.random.default_rng(1).integers(0, 256, (3, _SIDE, _SIDE), dtype=np.uint8)
    predictor = Predictor(model, cache=False)
    predictor.set_stack(ChannelStack(pixels, tuple(ChannelSpec(name) for name in ("R", "G", "B"))))
    return predictor


def _reference_on(sam: Any, embedding: Tensor) -> SamPredictor:
    """segment_anything's predictor on an embedding, without its encoder pass."""
    reference = SamPredictor(sam)
    reference.features, reference.is_image_set = embedding, True
    reference.original_size = reference.input_size = (_SIDE, _SIDE)
    return reference


def _logits(model: E2SAM, embedding: Tensor, points: Any) -> Any:
    """Low-resolution logits (B, 3, 256, 256) of B single clicks (B, 2), NumPy to NumPy."""
    coords = torch.from_numpy(points.astype(np.float32))[:, None]
    labels = torch.tensor([1, -1]).expand(len(points), -1)
    prompts = PromptTensors(torch.cat((coords, torch.zeros_like(coords)), 1), labels)
    return model.decode(embedding, prompts, multimask_output=True)[0].numpy()


def _many_reference(sam: Any, embedding: Tensor, generator: np.random.Generator) -> Any:
    """As segment_anything decodes the clicks of a batch (`SamPredictor.predict_torch`), low-resolution logits."""
    coords = torch.from_numpy(generator.uniform(0, _SIDE, (_MANY, 1, 2)).astype(np.float32))
    sparse, dense = sam.prompt_encoder((coords, torch.ones(_MANY, 1)), None, None)
    positions = sam.prompt_encoder.get_dense_pe()
    return sam.mask_decoder(embedding, positions, sparse, dense, True)[0].numpy()


def _difference(reference: SamPredictor, model: E2SAM, embedding: Tensor) -> float:
    points = np.array([[300.0, 420.0]])
    expected = reference.predict(points, np.array([1]))[2]
    return float(np.abs(expected - _logits(model, embedding, points)[0]).max())


if __name__ == "__main__":
    main()
