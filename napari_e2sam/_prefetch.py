"""Prepares images that are likely to come next, in a process of its own and at low priority.

``python -m napari_e2sam._prefetch TASK`` with a JSON object {"model", "channels", "paths", "axis"} encodes the images
into the cache, and writes a line {"path", "doubt"} for each: how far its candidate masks disagree, or null.
Clicks never wait for it, and ending it at any moment harms nothing: entries of the cache appear whole or not at all.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from e2sam.errors import AxisError, E2SamError
from napari_e2sam._priority import lower_process_priority

__all__ = ["command", "environment", "main", "prefetch"]

_log = logging.getLogger(__name__)


def command(model: str, channels: Sequence[str], paths: Sequence[Path], axis: int | None = None) -> list[str]:
    """Arguments of the Python that encodes `channels` of the images at `paths`; `axis` as in `prefetch`."""
    task = {"model": model, "channels": list(channels), "paths": [str(path) for path in paths], "axis": axis}
    return ["-m", "napari_e2sam._prefetch", json.dumps(task)]


def environment() -> dict[str, str]:
    """Settings for the process: one thread, so that the window's own encoding keeps the processor."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def prefetch(
    api: Any, model: str, channels: Sequence[str], paths: Sequence[Path], axis: int | None = None
) -> Iterator[tuple[Path, float | None]]:
    """Encode the images that have these channels, and tell the doubt of each; None for one that cannot be used.

    Parameters
    ----------
    api
        Anything with the engine's `load_model`, `Predictor`, `read_stack` and `image_disagreement`.
    model, channels, paths
        Model by name or path, names of the selected channels, and the images.
    axis
        Axis of the channels in files that do not say which it is.
    """
    from e2sam.data.normalize import fit_recipes

    predictor = None
    for path in paths:
        doubt = None
        try:
            stack = _read(api, path, axis)
            if set(channels) <= set(stack.names):
                # Loaded only where there is something to encode.
                predictor = predictor or api.Predictor(api.load_model(model))
                # The same plane and the same fit as when the window opens it, so that the cache knows the answer then.
                first = stack.plane(*(0 for _ in stack.num_planes))
                middle = stack.plane(*(length // 2 for length in stack.num_planes))
                predictor.set_stack(first, tuple(channels), fit_recipes(middle))
                doubt = float(api.image_disagreement(predictor))
        except (E2SamError, OSError, MemoryError) as error:
            # The window will say what is wrong when the image is opened.
            _log.info("%s was not prefetched: %s", path, error)
        yield path, doubt


def _read(api: Any, path: Path, axis: int | None) -> Any:
    try:
        return api.read_stack(path)
    except AxisError:
        if axis is None:
            raise
        return api.read_stack(path, axis)


def main(arguments: Sequence[str]) -> int:
    """Run the task given as JSON."""
    from types import SimpleNamespace

    lower_process_priority()
    from e2sam import Predictor, load_model, read_stack
    from e2sam.inference.disagreement import image_disagreement

    api = SimpleNamespace(
        Predictor=Predictor, load_model=load_model, read_stack=read_stack, image_disagreement=image_disagreement
    )
    task = json.loads(arguments[0])
    paths = [Path(path) for path in task["paths"]]
    for path, doubt in prefetch(api, task["model"], task["channels"], paths, task["axis"]):
        sys.stdout.write(json.dumps({"path": str(path), "doubt": doubt}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
