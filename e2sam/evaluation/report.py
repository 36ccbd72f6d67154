"""Reports: one HTML file with tables, curves, a confusion matrix and pictures, readable without a network."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2sam.evaluation.pictures import data_uri, fit_within

__all__ = ["Report"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } caption { text-align: left; color: var(--quiet); }
.matrix td { padding: .15rem .4rem; font-size: .8rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
figcaption { color: var(--quiet); font-size: .85rem; max-width: 24rem; } img { display: block; max-width: 100%; }
svg { max-width: 100%; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
""".strip()

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 260, 56, 36, 14, 150


class Report:
    """A page that is put together part by part, then written at once.

    Parameters
    ----------
    title
        Heading of the page.

    Examples
    --------
    >>> report = Report("Fine-tuning")
    >>> report.table(("", "before", "after"), [("IoU, one click", 0.61, 0.74)])
    >>> report.curves({"loss": [(1, 0.9), (2, 0.5)]}, "step", "loss")
    >>> "<svg" in report.html()
    True
    """

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str | int | float | None]], caption: str = ""
    ) -> None:
        """Add a table; NaN and None stand as a dash, numbers with three digits after the point."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        self._parts.append(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def curves(self, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> None:
        """Add curves of (x, y) points, one colour a series; points that are not finite are left out."""
        self._parts.append(_svg_curves(series, x_label, y_label))

    def confusion(self, names: Sequence[str], counts: NDArray[np.integer]) -> None:
        """Add a confusion matrix (K, K), rows the labelled class, as shares of each row."""
        totals = counts.sum(1)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        rows = []
        for name, row, total in zip(names, counts, totals, strict=True):
            cells = "".join(_shaded(count / total if total else math.nan, int(count)) for count in row)
            rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
        self._parts.append(
            '<table class="matrix"><caption>Rows: labelled as. Columns: predicted as. Shares of each row.</caption>'
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )

    def pictures(self, pictures: Sequence[tuple[NDArray[np.uint8], str]], side: int = 360) -> None:
        """Add pictures (H, W, 3) uint8 with captions, at most `side` pixels long."""
        figures = []
        for picture, caption in pictures:
            text = html.escape(caption)
            figures.append(
                f'<figure><img src="{data_uri(fit_within(picture, side))}" alt="{text}">'
                f"<figcaption>{text}</figcaption></figure>"
            )
        self._parts.append(f'<div class="pictures">{"".join(figures)}</div>')

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{self._title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head><body>\n<h1>{self._title}</h1>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Write the page, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            partial.write_text(self.html(), encoding="utf-8")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target


def _cell(value: str | int | float | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return html.escape(str(value))


def _shaded(share: float, count: int) -> str:
    if math.isnan(share):
        return "<td>–</td>"
    return f'<td title="{count} pixels" style="background: rgba(31, 119, 180, {share:.3f})">{share:.2f}</td>'


def _svg_curves(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    every = [point for points in finite.values() for point in points]
    if not every:
        return "<p>No curve: nothing was measured.</p>"
    x_low, x_high = _range([x for x, _ in every])
    y_low, y_high = _range([y for _, y in every])
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * across,
            _TOP + (1 - (y - y_low) / (y_high - y_low)) * up,
        )

    parts = [_axes(x_low, x_high, y_low, y_high, x_label, y_label)]
    for index, (name, points) in enumerate(finite.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        placed = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(placed) <= 40:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>' for x, y in placed]
        top = _TOP + 14 + 18 * index
        left = _WIDTH - _RIGHT + 12
        parts.append(f'<rect x="{left}" y="{top - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 16}" y="{top}">{html.escape(name)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">{"".join(parts)}</svg>'


def _axes(x_low: float, x_high: float, y_low: float, y_high: float, x_label: str, y_label: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    lines = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity=".5"/>']
    for share in (0.0, 0.5, 1.0):
        x, y = _LEFT + share * (right - _LEFT), bottom - share * (bottom - _TOP)
        lines.append(
            f'<text x="{x:.0f}" y="{bottom + 15}" text-anchor="middle">{x_low + share * (x_high - x_low):.4g}</text>'
        )
        lines.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{y_low + share * (y_high - y_low):.3g}</text>'
        )
    lines.append(
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    middle = (_TOP + bottom) / 2
    lines.append(
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">'
        f"{html.escape(y_label)}</text>"
    )
    return "".join(lines)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low - 0.5, high + 0.5) if low == high else (low, high)
