"""What the options of commands hold, for argparse: numbers within limits, or one line that says which were expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

__all__ = ["Once", "above_zero", "count", "natural", "share"]


class Once(argparse.Action):
    """Stores a value, and refuses a second one instead of taking it for the first."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Store the value."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "expected once, got it twice: give one")
        setattr(namespace, self.dest, values)


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def above_zero(text: str) -> float:
    """A finite number above 0."""
    return _number(text, lambda value: 0 < value < math.inf, "a number above 0")


def share(text: str) -> float:
    """A number in [0, 1]."""
    return _number(text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _whole(text: str, least: int) -> int:
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return int(text)


def _number(text: str, is_within: Callable[[float], bool], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_within(value):
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return value
