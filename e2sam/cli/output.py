"""What a command prints: one JSON object, or lines for a person; progress and logs on standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from e2sam.errors import OutputError

__all__ = ["PAGE", "check_folder", "check_target", "emit", "progress", "set_up_logging", "tell"]

T = TypeVar("T")

# Names of reports.
PAGE = (".html", ".htm")


def check_target(option: str, target: Path, suffixes: Sequence[str], inputs: Iterable[object]) -> None:
    """Refuse, before any work is done, a file that could not be written or that the command reads.

    Parameters
    ----------
    option
        How the user gave it, such as "--out".
    target
        File to write.
    suffixes
        Allowed ends of its name, lower case with the dot; none = any.
    inputs
        What the command was given to read; what is no file of that name (`tiny`, `shift:DIR`) is passed over.

    Raises
    ------
    OutputError
        If its name, its folder or the file itself will not do.
    """
    from e2sam.data.io import is_part_of

    if suffixes and target.suffix.lower() not in suffixes:
        raise OutputError(f"Expected {option} with a name ending in {' or '.join(suffixes)}, got {target.name!r}.")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"Expected {option} in a folder that exists, got {target.parent}: make it first.")
    _check_writable(option, target if target.is_dir() else target.absolute().parent)
    for source in inputs:
        if isinstance(source, str | Path) and is_part_of(target, Path(source)):
            raise OutputError(
                f"Expected {option} to be another file than what is read, and no image in the folder of a stack, got "
                f"{target}: name a new one."
            )


def check_folder(option: str, folder: Path) -> None:
    """Refuse, before any work is done, a folder that could not be written to, or not be made.

    Raises
    ------
    OutputError
        If it, or the nearest folder above that exists, is a file or cannot be written.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"Expected {option} to be a folder, got the file {place}: name another.")
    _check_writable(option, place)


def _check_writable(option: str, folder: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".e2sam-"):
            pass
    except OSError as error:
        reason = "it cannot be written" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise OutputError(
            f"Expected {option} in a folder that can be written, got {folder} ({reason}): name another."
        ) from error


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
    # Lightning tells its precision at INFO, and sets the level of its whole package when it is imported.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.INFO if verbose else logging.WARNING)
