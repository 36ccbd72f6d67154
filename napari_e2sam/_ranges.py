"""Ranges of values as a person reads and types them."""

from __future__ import annotations

import re

from e2sam.errors import ChannelError

__all__ = ["full_range", "range_text", "read_range"]

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
# A minus between two spaces parts two numbers; after one space it is a sign.
_PAIR = re.compile(rf"\s*{_NUMBER}(?:\s*(?:to|\.\.\.?|,|;)\s*|\s+-\s+|\s+|-){_NUMBER}\s*")
_MOST_DIGITS = 7


def range_text(low: float, high: float) -> str:
    """A range in as few digits as tell its ends apart: "0 to 255", "0.013 to 0.42", "-3 to 1.2e6"."""
    digits = 3
    while low != high and digits < _MOST_DIGITS and _short(low, digits) == _short(high, digits):
        digits += 1
    return f"{_short(low, digits)} to {_short(high, digits)}"


def full_range(low: float, high: float) -> str:
    """A range in all digits that matter, as one edits it."""
    return f"{low:.{_MOST_DIGITS}g} to {high:.{_MOST_DIGITS}g}"


def read_range(text: str) -> tuple[float, float] | None:
    """The two numbers that somebody typed: "0 to 255", "0 255", "0-255", "-3, 4"; None for "auto" or nothing.

    Raises
    ------
    ChannelError
        If it is neither.
    """
    if text.strip().lower() in ("", "auto"):
        return None
    found = _PAIR.fullmatch(text)
    if found is None:
        raise ChannelError(f"Expected two numbers such as 0 to 255, or auto, got {text.strip()!r}.")
    return float(found[1]), float(found[2])


def _short(value: float, digits: int) -> str:
    if value == int(value) and abs(value) < 1e5:
        return str(int(value))
    if 10**digits <= abs(value) < 1e5:
        return f"{value:.0f}"
    mantissa, mark, exponent = f"{value:.{digits}g}".partition("e")
    return mantissa + (f"e{int(exponent)}" if mark else "")
