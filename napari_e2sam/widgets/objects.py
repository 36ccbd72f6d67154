"""Objects panel: accepted objects, their classes, and everything that can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qtpy.QtCore import QItemSelectionModel, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_e2sam._rows import ObjectRow
from napari_e2sam.widgets._object_table import ObjectColumn, ObjectTable
from napari_e2sam.widgets._rows_view import RowsView

__all__ = ["ObjectsPanel"]

# Rows of the table on a low screen, and where there is a little more room; it takes all that is left.
_LEAST_ROWS, _WANTED_ROWS = 3, 5
_ACTIONS = (
    ("edit", "Edit"),
    ("delete", "Delete"),
    ("merge", "Merge"),
    ("split", "Split"),
    ("next", "Next"),
    ("everything", "Find all"),
    ("everything_here", "In view"),
    ("import", "Import..."),
    ("export", "Export..."),
    ("undo", "Undo"),
    ("redo", "Redo"),
)
# Where each stands below the table, as many in a row as the dock is wide.
_BELOW = (
    ("edit", "delete", "merge", "split", "next", "carry", "overlap"),
    ("everything", "everything_here", "import", "export", "undo", "redo"),
)


class ObjectsPanel(QWidget):
    """Shows the accepted objects."""

    chosen = Signal(list)  # ids
    class_chosen = Signal(str)
    class_add_asked = Signal()
    class_rename_asked = Signal()
    class_remove_asked = Signal()
    reviewed_changed = Signal(list, bool)
    action_asked = Signal(str)  # one of _ACTIONS
    summarized = Signal(str)
    overlap_chosen = Signal(str)
    carry_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._keys: Mapping[str, str] = {}
        self._build()
        self._lay_out()
        self._connect()
        self.set_rows(())
        self.set_history(False, False)
        self.set_can_carry(False)
        self._update_enabled()

    def _build(self) -> None:
        self.table = ObjectTable(self)
        self.view = RowsView("objects")
        self.view.ask_for(_LEAST_ROWS, _WANTED_ROWS)
        self.view.setModel(self.table)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        header = self.view.horizontalHeader()
        header.setMinimumSectionSize(30)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in enumerate((46, 72, 42, 66, 66, 40)):
            self.view.setColumnWidth(column, width)
        # The column of the longest text takes what width there is; the table scrolls only where there is too little.
        header.setSectionResizeMode(ObjectColumn.CHANNELS, QHeaderView.ResizeMode.Stretch)
        self.classes = QComboBox(objectName="classes")
        self.classes.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.classes.setMinimumContentsLength(4)
        self.add_class = QPushButton("New...", objectName="add_class")
        self.rename_class = QPushButton("Rename...", objectName="rename_class")
        self.remove_class = QPushButton("Remove", objectName="remove_class")
        self.overlap = QComboBox(objectName="overlap")
        self.overlap.addItems(["new on top", "old on top"])
        self.overlap.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.carry = QPushButton("Carry", objectName="carry")
        self.actions_by_name = {name: QPushButton(text, objectName=name) for name, text in _ACTIONS}
        self.undo, self.redo = self.actions_by_name["undo"], self.actions_by_name["redo"]

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        top = QHBoxLayout()
        top.setSpacing(2)
        top.addWidget(self.classes, 1)
        for widget in (self.add_class, self.rename_class, self.remove_class):
            top.addWidget(widget)
        layout.addLayout(top)
        layout.addWidget(self.view, 1)
        placed = {**self.actions_by_name, "carry": self.carry, "overlap": self.overlap}
        below = QVBoxLayout()
        below.setSpacing(2)
        for names in _BELOW:
            row = QHBoxLayout()
            row.setSpacing(2)
            for name in names:
                row.addWidget(placed[name], 1 if name == "overlap" else 0)
            below.addLayout(row)
        layout.addLayout(below)

    def _connect(self) -> None:
        self.view.selectionModel().selectionChanged.connect(self._on_selection_changed)
        self.view.doubleClicked.connect(lambda index: self.action_asked.emit("edit"))
        self.table.reviewed_changed.connect(lambda number, on: self.reviewed_changed.emit([number], on))
        self.classes.activated.connect(lambda position: self.class_chosen.emit(self.classes.itemText(position)))
        self.add_class.clicked.connect(lambda: self.class_add_asked.emit())
        self.rename_class.clicked.connect(lambda: self.class_rename_asked.emit())
        self.remove_class.clicked.connect(lambda: self.class_remove_asked.emit())
        self.overlap.activated.connect(lambda position: self.overlap_chosen.emit(("newest", "oldest")[position]))
        self.carry.clicked.connect(lambda: self.carry_asked.emit())
        for name, button in self.actions_by_name.items():
            button.clicked.connect(lambda _=False, name=name: self.action_asked.emit(name))

    @property
    def buttons(self) -> list[QPushButton]:
        """Every button of what can be done with objects."""
        return list(self.actions_by_name.values())

    @property
    def chosen_ids(self) -> list[int]:
        """Ids of the highlighted objects, in the order of the table."""
        rows = sorted(index.row() for index in self.view.selectionModel().selectedRows())
        return [self.table.rows[row].id for row in rows]

    def set_rows(
        self, rows: Sequence[ObjectRow], colour_of: Callable[[int], tuple[float, float, float]] | None = None
    ) -> None:
        """Show these objects; `colour_of` gives red, green, blue in 0..1 of an id."""
        grew = len(rows) > len(self.table.rows)
        chosen = self.chosen_ids
        self.table.set_rows(rows, colour_of)
        if chosen != self.chosen_ids:
            self.choose([number for number in chosen if any(row.id == number for row in rows)])
        self._fit_ids()
        if grew:
            self.view.scrollToBottom()
        self._summarize()

    def add_row(self, row: ObjectRow, colour_of: Callable[[int], tuple[float, float, float]] | None = None) -> None:
        """Show one more object behind the others."""
        self.table.add_row(row, colour_of)
        self._fit_ids()
        self.view.scrollToBottom()
        self._summarize()

    def _fit_ids(self) -> None:
        """Have room for the largest id, which stands in the last row."""
        last = self.table.index(len(self.table.rows) - 1, ObjectColumn.ID)
        width = self.view.sizeHintForIndex(last).width() + 1
        if width > self.view.columnWidth(ObjectColumn.ID):
            self.view.setColumnWidth(ObjectColumn.ID, width)

    def _summarize(self) -> None:
        rows = self.table.rows
        reviewed = sum(row.is_reviewed for row in rows)
        self.summarized.emit(f"{reviewed} of {len(rows)} reviewed" if rows else "none yet")
        self._update_enabled()

    def choose(self, numbers: Sequence[int]) -> None:
        """Highlight these objects."""
        model = self.view.selectionModel()
        with signals_blocked(model):
            model.clearSelection()
            for position, row in enumerate(self.table.rows):
                if row.id in numbers:
                    model.select(
                        self.table.index(position, 0),
                        QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows,
                    )
                    self.view.scrollTo(self.table.index(position, 0))
        self.view.viewport().update()
        self._update_enabled()

    def set_classes(self, names: Sequence[str], current: str, colours: Sequence[str] = ()) -> None:
        """Show the classes that there are, each with its colour "#rrggbb"."""
        with signals_blocked(self.classes):
            self.classes.clear()
            for position, name in enumerate(names):
                self.classes.addItem(name)
                if position < len(colours):
                    self.classes.setItemData(position, QColor(colours[position]), Qt.ItemDataRole.DecorationRole)
                if position < 9:
                    self.classes.setItemData(position, self._key_of(f"class {position}"), Qt.ItemDataRole.ToolTipRole)
            self.classes.setCurrentIndex(list(names).index(current) if current in names else -1)
        self.remove_class.setEnabled(len(names) > 1)

    def set_history(self, can_undo: bool, can_redo: bool, undo_text: str = "", redo_text: str = "") -> None:
        """Show whether there is something to undo and redo, and what; or why there is, and not here."""
        self._history = (can_undo, can_redo, undo_text, redo_text)
        for name, can, text in (("undo", can_undo, undo_text), ("redo", can_redo, redo_text)):
            button = self.actions_by_name[name]
            button.setEnabled(can)
            is_why_not = text and not can
            button.setToolTip(text if is_why_not else f"{name.capitalize()} {text} {self._key_of(name)}".strip())

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """Name these keys, by action, where the window says what a button or a class is for."""
        self._keys = keys
        self.set_history(*self._history)

    def _key_of(self, action: str) -> str:
        return f"({self._keys[action]})" if action in self._keys else ""

    def set_overlap(self, policy: str) -> None:
        """Show the overlap policy: "newest" or "oldest"."""
        with signals_blocked(self.overlap):
            self.overlap.setCurrentIndex(0 if policy == "newest" else 1)

    def set_can_carry(self, can: bool) -> None:
        """Show whether the stack has other planes to carry an object to."""
        self.carry.setVisible(can)
        # In the same row: one of them is cut before the dock is made wider for both.
        self.overlap.setMinimumContentsLength(4 if can else 6)

    def set_segmenting(self, running: bool) -> None:
        """Show whether everything is being segmented, which the same button stops."""
        self.actions_by_name["everything"].setText("Stop" if running else "Find all")
        self.actions_by_name["everything_here"].setEnabled(not running)

    def _on_selection_changed(self, *_: object) -> None:
        self._update_enabled()
        self.chosen.emit(self.chosen_ids)

    def _update_enabled(self) -> None:
        count = len(self.chosen_ids)
        needs = {"edit": count == 1, "delete": count > 0, "merge": count > 1, "split": count > 0}
        needs |= {"next": len(self.table.rows) > 0, "export": len(self.table.rows) > 0}
        for name, enabled in needs.items():
            self.actions_by_name[name].setEnabled(enabled)
