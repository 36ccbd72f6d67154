"""Many stacks: one process, two processes and a Dask cluster of two workers, and a second run that finds all done.

python -m benchmarks.batch [--json] [--stacks 8] [--model tiny]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, at_most, parser_for
from e2sam.data.io import read_labels
from e2sam.inference.automatic import AutomaticOptions
from e2sam.inference.batch import BatchOptions, find_stacks, predict_many

SIDE = 512
CHANNELS = 4


def main() -> None:
    """Run and print."""
    parser = parser_for(__doc__)
    parser.add_argument("--stacks", type=int, default=8)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    automatic = AutomaticOptions(points_per_side=16)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "stacks"
        write_stacks(source, options.stacks)
        runs: dict[str, float] = {}
        labels = {}
        for name, workers in (("one process", 1), ("two processes", 2)):
            batch = BatchOptions(automatic=automatic, device="cpu", workers=workers)
            runs[name], labels[name] = timed(source, Path(folder) / name, options.model, batch)
        runs["second run, all there"], _ = timed(source, Path(folder) / "two processes", options.model, batch)
        try:
            runs["Dask, two workers"], labels["dask"] = on_cluster(
                source, Path(folder) / "dask", options.model, automatic
            )
        except ImportError:
            runs["Dask, two workers"] = float("nan")
    report = Report("batch", {"stacks": options.stacks, "pixels": [CHANNELS, SIDE, SIDE], "seconds": runs})
    report.figures["stacks per minute"] = {name: 60 * options.stacks / seconds for name, seconds in runs.items()}
    differing = sum(
        not np.array_equal(labels["one process"][name], found)
        for other in labels.values()
        for name, found in other.items()
    )
    report.bar("label images that depend on who made them", 0, differing, at_most)
    report.bar("seconds of a second run that finds all there", 0.5, runs["second run, all there"], at_most)
    report.show(options.json)


def write_stacks(folder: Path, count: int) -> None:
    """Stacks of discs on noisy ground."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        planes = generator.normal(3000, 150, (CHANNELS, SIDE, SIDE))
        for _ in range(20):
            centre, radius = generator.uniform(0, SIDE, 2), generator.uniform(10, 50)
            inside = np.hypot(y - centre[0], x - centre[1]) < radius
            planes[:, inside] = generator.uniform(6000, 20_000, (CHANNELS, 1))
        np.save(folder / f"{number:03d}.npy", planes.clip(0, 65_535).astype(np.uint16))


def timed(source: Path, out: Path, model: str, options: BatchOptions) -> tuple[float, dict[str, Any]]:
    """Seconds of a run, processes' start included, and its label images by name."""
    start = time.perf_counter()
    results = list(predict_many(find_stacks([source], out), model, options))
    seconds = time.perf_counter() - start
    failed = [result.error for result in results if result.error]
    assert not failed, failed[0]
    return seconds, {Path(result.target).name: read_labels(result.target) for result in results}


def on_cluster(source: Path, out: Path, model: str, automatic: AutomaticOptions) -> tuple[float, dict[str, Any]]:
    """As `timed`, on a cluster that is already there."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        options = BatchOptions(automatic=automatic, device="cpu", scheduler=cluster.scheduler_address)
        return timed(source, out, model, options)


if __name__ == "__main__":
    main()
