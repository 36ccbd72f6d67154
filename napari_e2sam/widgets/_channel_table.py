"""Table model and painting of the Channels panel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QComboBox, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from napari_e2sam._ranges import full_range, range_text
from napari_e2sam._rows import ChannelRow
from napari_e2sam._tooltips import TOOLTIPS

__all__ = [
    "RECIPES",
    "ChannelTable",
    "Column",
    "Filter",
    "HistogramDelegate",
    "RangeDelegate",
    "RecipeDelegate",
    "share_text",
]

RECIPES = ("percentile", "range", "log_depth", "inverse_depth", "db", "reflectance", "none")
_HISTOGRAM = Qt.ItemDataRole.UserRole
_RANGES = re.compile(r"^\s*\d+\s*(-\s*\d+\s*)?(,\s*\d+\s*(-\s*\d+\s*)?)*$")


class Column:
    """Columns, left to right."""

    NAME, ROLE, UNIT, RECIPE, RANGE, HISTOGRAM, INVALID = range(7)
    TITLES = ("Channel", "Role", "Unit", "Recipe", "Range", "Values", "Inv.")


class ChannelTable(QAbstractTableModel):
    """Rows of channels, of which some are ticked."""

    ticked = Signal()
    recipe_chosen = Signal(int, str)
    range_typed = Signal(int, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[ChannelRow, ...] = ()
        self._selection: tuple[int, ...] = ()
        self._is_trained = False

    @property
    def selection(self) -> tuple[int, ...]:
        """Indices of the ticked channels, in the order in which they were ticked."""
        return self._selection

    @property
    def rows(self) -> tuple[ChannelRow, ...]:
        """The rows shown."""
        return self._rows

    def set_rows(self, rows: Sequence[ChannelRow]) -> None:
        """Show other channels; ticks stay where their channel stays."""
        self.beginResetModel()
        self._rows = tuple(rows)
        here = {row.index for row in rows}
        self._selection = tuple(index for index in self._selection if index in here)
        self.endResetModel()

    def set_selection(self, selection: Sequence[int]) -> None:
        """Tick these channels and no others; emits nothing."""
        self._selection = tuple(selection)
        self._changed_all()

    def set_trained(self, is_trained: bool) -> None:
        """Say in tooltips whether the model normalizes as it was trained, whatever the table has."""
        self._is_trained = is_trained

    def tick(self, positions: Sequence[int], on: bool) -> None:
        """Tick or untick rows, as the user."""
        indices = [self._rows[position].index for position in positions]
        kept = tuple(index for index in self._selection if on or index not in indices)
        after = kept + tuple(index for index in indices if on and index not in kept)
        if after != self._selection:
            self._selection = after
            self._changed_all()
            self.ticked.emit()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(Column.TITLES)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return Column.TITLES[section]
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if index.column() == Column.NAME:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        elif index.column() in (Column.RECIPE, Column.RANGE):
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return _text(row, index.column())
        if role == Qt.ItemDataRole.CheckStateRole and index.column() == Column.NAME:
            return Qt.CheckState.Checked if row.index in self._selection else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.EditRole and index.column() == Column.RECIPE:
            return row.recipe
        if role == Qt.ItemDataRole.EditRole and index.column() == Column.RANGE:
            return full_range(*row.used)
        if role == _HISTOGRAM and index.column() == Column.HISTOGRAM:
            return row.histogram
        if role == Qt.ItemDataRole.ToolTipRole and index.column() in (Column.NAME, Column.RANGE):
            how = f"\n{TOOLTIPS['range_trained' if self._is_trained else 'range']}"
            return _details(row, self._is_trained) + (how if index.column() == Column.RANGE else "")
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == Column.INVALID and row.invalid > 0.5:
            return QColor("#e05050")
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role == Qt.ItemDataRole.CheckStateRole and index.column() == Column.NAME:
            self.tick([index.row()], Qt.CheckState(value) == Qt.CheckState.Checked)
            return True
        if role == Qt.ItemDataRole.EditRole and index.column() == Column.RECIPE:
            if value != self._rows[index.row()].recipe:
                self.recipe_chosen.emit(self._rows[index.row()].index, value)
            return True
        if role == Qt.ItemDataRole.EditRole and index.column() == Column.RANGE:
            if value != full_range(*self._rows[index.row()].used):
                self.range_typed.emit(self._rows[index.row()].index, value)
            return True
        return False

    def _changed_all(self) -> None:
        if self._rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._rows) - 1, 0))


def _text(row: ChannelRow, column: int) -> str | None:
    if column == Column.NAME:
        return row.name
    if column == Column.ROLE:
        return row.role
    if column == Column.UNIT:
        return row.unit
    if column == Column.RECIPE:
        return row.recipe
    if column == Column.RANGE:
        return range_text(*row.used)
    if column == Column.INVALID:
        return share_text(row.invalid)
    return None


def share_text(share: float) -> str:
    """A share of invalid pixels as the table shows it: nothing where there are none."""
    return "" if share == 0 else f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _details(row: ChannelRow, is_trained: bool) -> str:
    wave = f", {row.wavelength_nm:g} nm" if row.wavelength_nm else ""
    return (
        f"{row.index}: {row.name}{wave}\n"
        f"{'Of its own the channel has' if is_trained else 'The model sees'} {full_range(*row.used)} {row.unit}\n"
        f"The valid pixels have {full_range(row.low, row.high)} {row.unit}\n"
        f"{100 * row.invalid:.2f} % invalid"
    )


class Filter(QSortFilterProxyModel):
    """Rows whose name, role or unit has the text, or whose position lies in ranges such as "3-10, 42"."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = ""
        self._wanted: tuple[tuple[int, int], ...] = ()

    def set_text(self, text: str) -> None:
        """Filter by `text`; empty shows every row."""
        self._text = text.strip().lower()
        self._wanted = ()
        if _RANGES.match(text):
            parts = [part.split("-") for part in text.split(",")]
            self._wanted = tuple((int(part[0]), int(part[-1])) for part in parts)
        self.invalidate()

    def filterAcceptsRow(self, source_row: int, source_parent: QModelIndex) -> bool:
        table = self.sourceModel()
        assert isinstance(table, ChannelTable)
        row = table.rows[source_row]
        if self._wanted:
            return any(first <= row.index <= last for first, last in self._wanted) or self._text in row.name.lower()
        return any(self._text in text.lower() for text in (row.name, row.role, row.unit))


class RecipeDelegate(QStyledItemDelegate):
    """Chooses a recipe from a list."""

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> QWidget:
        editor = QComboBox(parent)
        editor.addItems(list(RECIPES))
        editor.activated.connect(lambda: self.commitData.emit(editor))
        return editor

    def setEditorData(self, editor: QWidget, index: QModelIndex) -> None:
        assert isinstance(editor, QComboBox)
        editor.setCurrentText(str(index.data(Qt.ItemDataRole.EditRole)))

    def setModelData(self, editor: QWidget, model: Any, index: QModelIndex) -> None:
        assert isinstance(editor, QComboBox)
        model.setData(index, editor.currentText(), Qt.ItemDataRole.EditRole)


class RangeDelegate(QStyledItemDelegate):
    """Edits a range in as much room as its digits need, over the cells to its right."""

    _ROOM = 170

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        area = option.rect
        width = max(area.width(), self._ROOM)
        left = min(area.left(), editor.parentWidget().width() - width)
        editor.setGeometry(max(left, 0), area.top(), width, area.height())


class HistogramDelegate(QStyledItemDelegate):
    """Paints a small histogram."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        super().paint(painter, option, index)
        bars = index.data(_HISTOGRAM)
        if not bars:
            return
        area = option.rect.adjusted(3, 3, -3, -2)
        colour = QColor(option.palette.text().color())
        colour.setAlpha(170)
        painter.save()
        width = area.width() / len(bars)
        for position, bar in enumerate(bars):
            height = max(1.0, bar * area.height()) if bar > 0 else 0.0
            left = area.left() + position * width
            painter.fillRect(
                int(left), int(area.bottom() + 1 - height), max(1, int(left + width) - int(left)), int(height), colour
            )
        painter.restore()
