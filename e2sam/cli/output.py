"""What a command prints: one JSON object, or lines for a person; progress and logs on standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

__all__ = ["emit", "progress", "set_up_logging", "tell"]

T = TypeVar("T")


def emit(result: dict[str, Any], as_json: bool, lines: Iterable[str]) -> None:
    """Print `result` as one JSON object, or `lines` for a person.

    NumPy values and arrays become numbers and lists, paths text, NaN and infinities null.
    """
    if as_json:
        sys.stdout.write(json.dumps(_plain(result), allow_nan=False) + "\n")
    else:
        for line in lines:
            sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def progress(steps: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """Pass `steps` on with a progress bar on standard error when a person watches."""
    yield from tqdm(steps, total=total, desc=what, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


def tell(done: int, total: int, what: str) -> None:
    """One line of progress on standard error, for a program that watches."""
    sys.stderr.write(f"{done} of {total}: {what}\n")
    sys.stderr.flush()


def set_up_logging(verbose: bool) -> None:
    """Send the engine's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("e2sam")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
