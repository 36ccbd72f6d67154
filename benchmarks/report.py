"""What every benchmark prints: figures, and bars that hold or do not."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "at_least", "at_most", "parser_for"]


def at_least(got: float, bar: float) -> bool:
    """Whether a figure reaches its bar; NaN does not."""
    return not math.isnan(got) and got >= bar


def at_most(got: float, bar: float) -> bool:
    """Whether a figure stays within its bar; NaN does not."""
    return not math.isnan(got) and got <= bar


@dataclass
class Report:
    """Figures of one benchmark and the bars they are held against.

    Examples
    --------
    >>> report = Report("example", {"seconds": 0.2})
    >>> report.bar("a click takes at most 0.3 s", 0.3, 0.2, at_most)
    >>> report.to_json()["bars"][0]["holds"]
    True
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def bar(self, what: str, bar: float, got: float, holds: Callable[[float, float], bool] = at_least) -> None:
        """Hold a figure against a bar, with `at_least` or `at_most`."""
        self.bars.append({"what": what, "bar": bar, "got": got, "holds": holds(got, bar)})

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; what was not measured (NaN) is null."""
        whole = {"name": self.name, "figures": self.figures, "bars": self.bars}
        cleaned: dict[str, Any] = _clean(whole)
        return cleaned

    def show(self, as_json: bool) -> None:
        """Print for a program or for a person."""
        if as_json:
            print(json.dumps(self.to_json(), indent=1))
            return
        print(self.name)
        _show(self.figures, 1)
        for bar in self.bars:
            mark = "holds" if bar["holds"] else "FAILS"
            print(f"  [{mark}] {bar['what']}: got {bar['got']:.4g}, bar {bar['bar']:.4g}")
        sys.stdout.flush()


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(figures: Mapping[str, Any], depth: int) -> None:
    for key, value in figures.items():
        indent = "  " * depth
        if isinstance(value, Mapping):
            print(f"{indent}{key}")
            _show(value, depth + 1)
        elif isinstance(value, float):
            print(f"{indent}{key}: {value:.4g}")
        else:
            print(f"{indent}{key}: {value}")


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
