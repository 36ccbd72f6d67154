"""Curves of a training run, painted without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["Curves"]

_COLOURS = ("#e08a3c", "#3f9fd8", "#4fb06d", "#b06fd0", "#d8c23f", "#e0607a")
_ROW = 16
_BETWEEN = 12
_MOST_POINTS = 400


class Curves(QWidget):
    """Named curves over steps, each on its own scale from its lowest to its highest value."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._curves: dict[str, list[tuple[float, float]]] = {}
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    @property
    def curves(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """(step, value) of each curve."""
        return self._curves

    def clear(self) -> None:
        """Take all curves away."""
        self._curves.clear()
        self.update()

    def add(self, step: float, values: Mapping[str, float]) -> None:
        """Add a value to each named curve."""
        for name, value in values.items():
            points = self._curves.setdefault(name, [])
            points.append((step, value))
            if len(points) > 2 * _MOST_POINTS:
                del points[1:-1:2]
        self.update()

    @property
    def legend(self) -> tuple[tuple[str, QPointF], ...]:
        """Name and last value of each curve, and where it is written; in as many rows as it takes."""
        labels: list[tuple[str, QPointF]] = []
        left, row = 2.0, 1
        for name, points in self._curves.items():
            text = self.fontMetrics().elidedText(
                f"{name} {points[-1][1]:.3g}", Qt.TextElideMode.ElideMiddle, self.width() - 4
            )
            width = self.fontMetrics().horizontalAdvance(text)
            if labels and left + width > self.width() - 2:
                left, row = 2.0, row + 1
            labels.append((text, QPointF(left, row * _ROW - 4)))
            left += width + _BETWEEN
        return tuple(labels)

    def sizeHint(self) -> QSize:
        return QSize(200, 110)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        frame = QColor(text)
        frame.setAlpha(60)
        legend = self.legend
        top = legend[-1][1].y() + 4 if legend else _ROW
        area = QRectF(1, top, self.width() - 2, self.height() - top - 2)
        painter.setPen(QPen(frame))
        painter.drawRect(area)
        last = max((points[-1][0] for points in self._curves.values() if points), default=1.0)
        for position, (points, (label, place)) in enumerate(zip(self._curves.values(), legend, strict=True)):
            colour = QColor(_COLOURS[position % len(_COLOURS)])
            painter.setPen(QPen(colour, 1.6))
            painter.drawPolyline(_line(points, area, last))
            painter.drawText(place, label)
        if not self._curves:
            painter.setPen(text)
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, "Curves appear while a model learns")
        painter.end()


def _line(points: Sequence[tuple[float, float]], area: QRectF, last: float) -> QPolygonF:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    spread = high - low or 1.0
    return QPolygonF(
        [
            QPointF(
                area.left() + area.width() * step / max(last, 1.0),
                area.bottom() - 3 - (area.height() - 6) * ((value - low) / spread if high > low else 0.5),
            )
            for step, value in points
        ]
    )
