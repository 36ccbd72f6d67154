"""Table model of the Objects panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QWidget

from napari_e2sam._rows import ObjectRow, area_text

__all__ = ["ObjectColumn", "ObjectTable"]


_DISPLAY, _DECORATION, _CHECK, _TOOL_TIP = _ROLES = tuple(
    int(role)
    for role in (
        Qt.ItemDataRole.DisplayRole,
        Qt.ItemDataRole.DecorationRole,
        Qt.ItemDataRole.CheckStateRole,
        Qt.ItemDataRole.ToolTipRole,
    )
)


class ObjectColumn:
    """Columns, left to right."""

    ID, CLASS, SCORE, AREA, CHANNELS, REVIEWED = range(6)
    TITLES = ("Id", "Class", "Score", "Area", "Channels", "Rev.")


class ObjectTable(QAbstractTableModel):
    """Rows of accepted objects."""

    reviewed_changed = Signal(int, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[ObjectRow, ...] = ()
        self._colour_of: Callable[[int], tuple[float, float, float]] = _grey

    @property
    def rows(self) -> tuple[ObjectRow, ...]:
        """The rows shown."""
        return self._rows

    def set_rows(
        self, rows: Sequence[ObjectRow], colour_of: Callable[[int], tuple[float, float, float]] | None = None
    ) -> None:
        """Show these objects; `colour_of` gives red, green, blue in 0..1 of an id, and is asked for rows in view."""
        rows = tuple(rows)
        before = [row.id for row in self._rows]
        after = [row.id for row in rows]
        self._colour_of = colour_of or _grey
        if before == after:
            changed = [position for position, row in enumerate(rows) if row != self._rows[position]]
            self._rows = rows
            for position in changed:
                self.dataChanged.emit(self.index(position, 0), self.index(position, self.columnCount() - 1))
        else:
            self.beginResetModel()
            self._rows = rows
            self.endResetModel()

    def add_row(self, row: ObjectRow, colour_of: Callable[[int], tuple[float, float, float]] | None = None) -> None:
        """Show one more object behind the others; `colour_of` as in `set_rows`."""
        self._colour_of = colour_of or _grey
        self.beginInsertRows(QModelIndex(), len(self._rows), len(self._rows))
        self._rows = (*self._rows, row)
        self.endInsertRows()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(ObjectColumn.TITLES)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return ObjectColumn.TITLES[section]
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if index.column() == ObjectColumn.REVIEWED:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        return flags

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        # Qt asks for eight and more roles of each cell that it draws, and most are none of ours.
        if role not in _ROLES:
            return None
        row, column = self._rows[index.row()], index.column()
        if role == _DISPLAY:
            return _text(row, column)
        if role == _DECORATION and column == ObjectColumn.ID:
            return QColor.fromRgbF(*self._colour_of(row.id))
        if role == _CHECK and column == ObjectColumn.REVIEWED:
            return Qt.CheckState.Checked if row.is_reviewed else Qt.CheckState.Unchecked
        if role == _TOOL_TIP:
            return f"Object {row.id}, made from {', '.join(row.channels) or 'a file'}"
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role == Qt.ItemDataRole.CheckStateRole and index.column() == ObjectColumn.REVIEWED:
            self.reviewed_changed.emit(self._rows[index.row()].id, Qt.CheckState(value) == Qt.CheckState.Checked)
            return True
        return False


def _grey(number: int) -> tuple[float, float, float]:
    return 0.5, 0.5, 0.5


def _text(row: ObjectRow, column: int) -> str | None:
    if column == ObjectColumn.ID:
        return str(row.id)
    if column == ObjectColumn.CLASS:
        return row.class_name
    if column == ObjectColumn.SCORE:
        return "" if row.score is None else f"{row.score:.2f}"
    if column == ObjectColumn.AREA:
        return area_text(row.area)
    if column == ObjectColumn.CHANNELS:
        return ", ".join(row.channels)
    return None
