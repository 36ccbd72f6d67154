"""A table that gives way: it asks for room for its rows, and does with a few of them where a screen is low."""

from __future__ import annotations

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QTableView, QWidget

__all__ = ["RowsView"]

_ROW_HEIGHT = 20


class RowsView(QTableView):
    """A table whose wanted and least heights are counted in rows.

    Parameters
    ----------
    name
        Its object name.
    parent
        The widget it lies in.
    """

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._least, self._wanted = 3, 3
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        # A text that is too long ends with dots after its last letter, not after its last word, that has room.
        self.setWordWrap(False)

    def ask_for(self, least: int, wanted: int) -> None:
        """Have room for at least `least` rows, and for `wanted` where there is any."""
        if (least, wanted) != (self._least, self._wanted):
            self._least, self._wanted = least, wanted
            self.updateGeometry()

    def height_of(self, rows: int) -> int:
        """Height in pixels of a table that shows so many rows."""
        row = max(self.verticalHeader().defaultSectionSize(), self.verticalHeader().minimumSectionSize())
        return int(self.horizontalHeader().sizeHint().height() + rows * row + 2 * self.frameWidth() + 2)

    def sizeHint(self) -> QSize:
        return QSize(super().sizeHint().width(), self.height_of(self._wanted))

    def minimumSizeHint(self) -> QSize:
        return QSize(super().minimumSizeHint().width(), self.height_of(self._least))
