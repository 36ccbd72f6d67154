"""Channels panel: which channels the model sees, and how each is normalized."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QEvent, QModelIndex, QObject, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_e2sam._ranges import range_text
from napari_e2sam._rows import ChannelRow
from napari_e2sam.widgets._channel_table import (
    ChannelTable,
    Column,
    Filter,
    HistogramDelegate,
    RangeDelegate,
    RecipeDelegate,
    share_text,
)
from napari_e2sam.widgets._rows_view import RowsView

__all__ = ["ChannelsPanel"]

# Rows of the table on a screen with room, and on a low one; past so many there is a filter.
_SHOWN_ROWS = 10
_LEAST_ROWS = 4
_UNFILTERED_ROWS = 7
_WIDTHS = {
    Column.NAME: 80,
    Column.ROLE: 54,
    Column.UNIT: 32,
    Column.RECIPE: 72,
    Column.RANGE: 66,
    Column.HISTOGRAM: 48,
    Column.INVALID: 30,
}
_LEAST_NAME = 64
_MOST_ROLE = 72
_MOST_RANGE = 124
_MOST_INVALID = 48
# What a cell keeps free on both sides of its text.
_CELL_MARGIN = 10
# The borders of the table and its scroll bar.
_FRAME = 20


class ChannelsPanel(QWidget):
    """Shows every channel of the stack; the ticked ones are the selection."""

    selection_changed = Signal(tuple)
    recipe_chosen = Signal(int, str)
    range_typed = Signal(int, str)
    suggestion_asked = Signal()
    preset_chosen = Signal(int)
    preset_saved = Signal()
    composite_toggled = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self.set_rows(())

    def _build(self) -> None:
        self.table = ChannelTable(self)
        self._proxy = Filter(self)
        self._proxy.setSourceModel(self.table)
        self.view = RowsView("channels")
        self.view.setModel(self._proxy)
        self.view.setItemDelegateForColumn(Column.RECIPE, RecipeDelegate(self.view))
        self.view.setItemDelegateForColumn(Column.RANGE, RangeDelegate(self.view))
        self.view.setItemDelegateForColumn(Column.HISTOGRAM, HistogramDelegate(self.view))
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        # A range is double-clicked, so that one click still highlights the row for Space.
        self.view.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        header = self.view.horizontalHeader()
        header.setMinimumSectionSize(24)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setHighlightSections(False)
        for column, width in _WIDTHS.items():
            self.view.setColumnWidth(column, width)
        # Names take what width there is; the table scrolls only where there is too little.
        header.setSectionResizeMode(Column.NAME, QHeaderView.ResizeMode.Stretch)
        self.filter = QLineEdit(objectName="filter", placeholderText="Filter: name, role, unit or 10-20")
        self.filter.setClearButtonEnabled(True)
        self.suggest = QPushButton("Suggest", objectName="suggest")
        self.presets = QComboBox(objectName="preset")
        self.presets.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.presets.setMinimumContentsLength(12)
        self.save_preset = QPushButton("Save", objectName="save_preset")
        self.all = QPushButton("All", objectName="all")
        self.none = QPushButton("None", objectName="none")
        self._reason = ""
        self.count = QLabel()
        # Its text grows with the selection; the dock must not.
        self.count.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.composite = QCheckBox("Model input", objectName="composite")

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        top = QHBoxLayout()
        top.addWidget(self.suggest)
        top.addWidget(self.presets, 1)
        top.addWidget(self.save_preset)
        layout.addLayout(top)
        second = QHBoxLayout()
        second.addWidget(self.filter, 1)
        second.addWidget(self.all)
        second.addWidget(self.none)
        layout.addLayout(second)
        layout.addWidget(self.view)
        bottom = QHBoxLayout()
        bottom.addWidget(self.count, 1)
        bottom.addWidget(self.composite)
        layout.addLayout(bottom)

    def _connect(self) -> None:
        self.table.ticked.connect(self._on_ticked)
        self.table.recipe_chosen.connect(self.recipe_chosen)
        self.table.range_typed.connect(self.range_typed)
        self.view.clicked.connect(self._on_clicked)
        self.filter.textChanged.connect(self._proxy.set_text)
        self.suggest.clicked.connect(lambda: self.suggestion_asked.emit())
        self.presets.activated.connect(self.preset_chosen)
        self.save_preset.clicked.connect(lambda: self.preset_saved.emit())
        self.all.clicked.connect(lambda: self.table.tick(self._shown_rows(), True))
        self.none.clicked.connect(lambda: self.table.tick(self._shown_rows(), False))
        self.composite.toggled.connect(self.composite_toggled)
        self.view.installEventFilter(self)

    def set_rows(self, rows: Sequence[ChannelRow]) -> None:
        """Show the channels of a stack."""
        self.table.set_rows(rows)
        self._fit_columns(rows)
        self.view.ask_for(min(max(len(rows), 3), _LEAST_ROWS), min(max(len(rows), 3), _SHOWN_ROWS))
        many = len(rows) > _UNFILTERED_ROWS
        for widget in (self.filter, self.all, self.none):
            widget.setVisible(many)
        self._update_count()

    def _fit_columns(self, rows: Sequence[ChannelRow]) -> None:
        """Leave out columns that say nothing of these channels, so that names and ranges can be read."""
        says = {
            Column.ROLE: len({row.role for row in rows}) > 1,
            Column.UNIT: any(row.unit for row in rows),
            Column.INVALID: any(row.invalid > 0 for row in rows),
        }
        for column, is_shown in says.items():
            self.view.setColumnHidden(column, bool(rows) and not is_shown)
        self._fit_column(Column.ROLE, [row.role for row in rows], _MOST_ROLE)
        self._fit_column(Column.RANGE, [range_text(*row.used) for row in rows], _MOST_RANGE)
        self._fit_column(Column.INVALID, [share_text(row.invalid) for row in rows], _MOST_INVALID)
        others = (column for column in _WIDTHS if column != Column.NAME and not self.view.isColumnHidden(column))
        self.view.setMinimumWidth(_LEAST_NAME + sum(self.view.columnWidth(column) for column in others) + _FRAME)

    def _fit_column(self, column: int, texts: Sequence[str], most: int) -> None:
        metrics = self.view.fontMetrics()
        longest = max((metrics.horizontalAdvance(text) for text in texts), default=0)
        self.view.setColumnWidth(column, min(max(longest + _CELL_MARGIN, _WIDTHS[column]), most))

    def set_selection(self, selection: Sequence[int]) -> None:
        """Tick these channels."""
        self.table.set_selection(selection)
        self._update_count()

    def set_presets(self, texts: Sequence[str], current: int = -1) -> None:
        """Show the presets that there are."""
        with signals_blocked(self.presets):
            self.presets.clear()
            self.presets.addItems(list(texts))
            self.presets.setCurrentIndex(current)
        self.presets.setEnabled(len(texts) > 0)
        self.presets.setPlaceholderText("Presets")

    def set_reason(self, text: str) -> None:
        """Show why a selection was suggested, with it."""
        self._reason = text
        self._update_count()

    def set_composite_shown(self, shown: bool) -> None:
        """Show whether the composite layer is visible."""
        with signals_blocked(self.composite):
            self.composite.setChecked(shown)

    def sizeHint(self) -> QSize:
        return QSize(360, super().sizeHint().height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.view and event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Space:
            self._toggle_highlighted()
            return True
        return bool(super().eventFilter(watched, event))

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == Column.RECIPE:
            self.view.edit(index)

    def _toggle_highlighted(self) -> None:
        rows = [self._proxy.mapToSource(index).row() for index in self.view.selectionModel().selectedRows()]
        if rows:
            all_on = all(self.table.rows[row].index in self.table.selection for row in rows)
            self.table.tick(rows, not all_on)

    def _shown_rows(self) -> list[int]:
        return [self._proxy.mapToSource(self._proxy.index(row, 0)).row() for row in range(self._proxy.rowCount())]

    def _on_ticked(self) -> None:
        self._update_count()
        self.selection_changed.emit(self.table.selection)

    def _update_count(self) -> None:
        names = {row.index: row.name for row in self.table.rows}
        chosen = [names[index] for index in self.table.selection if index in names]
        why = f", {self._reason}" if self._reason and chosen else ""
        # Three channels are named by their preset already, and a line that is cut off names none.
        listed = "" if why else ": " + ", ".join(chosen[:4]) + (", ..." if len(chosen) > 4 else "")
        self.count.setText(f"{len(chosen)} of {len(names)}{why}{listed}" if names else "No stack")
        self.count.setToolTip("\n".join(chosen[:40]))
