"""What callers hand in, told apart at the edge: whole numbers, numbers, paths."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from e2sam.errors import E2SamError

__all__ = ["check_kind", "checked_path", "is_number", "is_whole", "shown"]


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Whether a value is a whole number, NumPy's among them, of at least `least`; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number that a float can hold; True and False are none."""
    try:
        return (
            isinstance(value, int | float | np.integer | np.floating)
            and not isinstance(value, bool)
            and math.isfinite(value)
        )
    except OverflowError:
        return False


def shown(value: Any, length: int = 60) -> str:
    """The beginning of a value as a message of one line shows it."""
    try:
        return " ".join(repr(value).split())[:length]
    except ValueError:
        # Python writes no number of thousands of digits.
        return type(value).__name__


def check_kind(given: Any, kind: type, expected: str, error: type[E2SamError]) -> None:
    """Raise `error` where a caller gave something of another type than `expected` says in words."""
    if not isinstance(given, kind):
        raise error(f"Expected {expected}, got {shown(given)}.")


def checked_path(given: Any, what: str, error: type[E2SamError]) -> Path:
    """A path that the system can be asked for, whether there is something or not.

    Parameters
    ----------
    given
        What the caller gave.
    what
        What it should be the path of, for the message, such as "a session file".
    error
        What is raised where it is no path: too long, of another type, or behind a folder that must not be read.
    """
    try:
        path = Path(given)
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (TypeError, ValueError, OSError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"Expected the path of {what}, got {shown(given, 100)} ({reason}): check the path.") from cause
    return path
