"""A stack of 20,000 x 20,000 x 4 uint16 on disk: time to the first mask, and peak memory.

``python -m benchmarks.large_stack`` writes a tiled, compressed TIFF to a temporary folder (about 2 GB, removed
afterwards) and opens it in a fresh process, which clicks objects at several places.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.memory import peak_memory_gb
from benchmarks.report import Report, at_most, parser_for

CHANNELS = 4
TILE = 512
DISTINCT_TILES = 12
# Radius of the disc in the middle of each tile, pixels.
RADIUS = 90


def main() -> None:
    """Write the file, measure in a fresh process, print."""
    parser = parser_for(__doc__)
    parser.add_argument("--side", type=int, default=20_000, help="pixels along each side")
    parser.add_argument("--folder", type=Path, help="where to write the temporary file")
    parser.add_argument("--model", default="tiny", help="name or file of the model")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.model)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "large.tif"
        start = time.perf_counter()
        write_stack(path, options.side)
        written = {"seconds": time.perf_counter() - start, "gigabytes": path.stat().st_size / 1e9}
        command = [sys.executable, "-m", "benchmarks.large_stack", "--measure", str(path), "--model", options.model]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    report = Report(
        "large_stack", {"side": options.side, "channels": CHANNELS, "model": options.model, "file": written} | figures
    )
    report.bar("seconds from file name to first mask", 3.0, figures["first_mask"]["seconds"], at_most)
    report.bar("peak memory of the process, GB", 2.0, figures["peak_gb"], at_most)
    report.show(options.json)


def write_stack(path: Path, side: int) -> None:
    """A tiled TIFF of noisy ground with a disc in each tile; compressed tiles are written again and again."""
    generator = np.random.default_rng(0)
    tiles = [imagecodecs.deflate_encode(_tile(generator).tobytes(), level=1) for _ in range(DISTINCT_TILES)]
    count = (-(-side // TILE)) ** 2

    def encoded() -> Iterator[bytes]:
        for index in range(count):
            yield tiles[index % DISTINCT_TILES]

    tifffile.imwrite(
        path,
        encoded(),
        shape=(side, side, CHANNELS),
        dtype=np.uint16,
        tile=(TILE, TILE),
        compression="deflate",
        photometric="minisblack",
        planarconfig="contig",
        bigtiff=True,
        metadata={"axes": "YXC", "channels": ["red", "green", "nir", "thermal"]},
    )


def _tile(generator: np.random.Generator) -> NDArray[np.uint16]:
    """(TILE, TILE, 4) uint16: a disc, brighter or darker than the ground by channel."""
    y, x = np.mgrid[:TILE, :TILE] - TILE / 2
    inside = np.hypot(x, y)[..., None] < RADIUS
    ground, disc = generator.uniform(3000, 6000, CHANNELS), generator.uniform(9000, 20_000, CHANNELS)
    noise = generator.normal(0, 150, (TILE, TILE, CHANNELS))
    return np.clip(np.where(inside, disc, ground) + noise, 0, 65_535).astype(np.uint16)


def measure(path: Path, name: str) -> dict[str, Any]:
    """Times and peak memory of this process, which has opened nothing else."""
    from e2sam.data.io import read_stack
    from e2sam.inference.predictor import Predictor
    from e2sam.weights.zoo import load_model

    start = time.perf_counter()
    model = load_model(name, device="cpu")
    loaded = time.perf_counter() - start
    predictor = Predictor(model, cache=False)
    start, busy = time.perf_counter(), time.process_time()
    stack = read_stack(path)
    opened = time.perf_counter()
    predictor.set_stack(stack, channels=range(CHANNELS))
    prepared = time.perf_counter()
    centres = [((tile + 0.5) * TILE, (tile + 0.5) * TILE) for tile in (18, 3, 35, 10, 27)]
    centres = [(x, y) for x, y in centres if x < stack.size[1] and y < stack.size[0]]
    first = predictor.predict(points=centres[:1])
    area = int(first.mask_crop()[1].sum())
    done, busy = time.perf_counter(), time.process_time() - busy
    later = []
    for centre in centres[1:]:
        begun = time.perf_counter()
        predictor.predict(points=[centre]).mask_crop()
        later.append(time.perf_counter() - begun)
    again = time.perf_counter()
    predictor.predict(points=[centres[0], (centres[0][0] + 5, centres[0][1])]).mask_crop()
    again = time.perf_counter() - again
    peak = peak_memory_gb()
    return {
        "first_mask": {
            "seconds": done - start,
            "open": opened - start,
            "prepare": prepared - opened,
            "click": done - prepared,
            "processor_seconds": busy,
            "pixels": area,
            "pixels_of_disc": round(np.pi * RADIUS**2),
        },
        "click_elsewhere_seconds": float(np.median(later)) if later else None,
        "click_nearby_seconds": again,
        "load_model_seconds": loaded,
        "encoder_passes": predictor.encoder_passes,
        "peak_gb": peak,
    }


if __name__ == "__main__":
    main()
