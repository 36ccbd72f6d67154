"""Worklist panel: the images of a folder, which are done, and the way to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_e2sam._worklist import WorkItem

__all__ = ["WorklistPanel"]

_MARKS = {"done": "\N{CHECK MARK} ", "begun": "\N{MIDDLE DOT} ", "new": "  "}
_TOOLTIPS = {
    "open": "Take the images of a folder as a worklist; it is kept in the session.",
    "items": "Images of the worklist: a tick for those that are done, a dot for those with objects.",
    "previous": "The image before this one.",
    "following": "The image after this one.",
    "to_do": "Tick this image off and go to the next one that is not done.",
    "done": "Whether this image is done.",
}


class WorklistPanel(QWidget):
    """Shows a worklist."""

    folder_chosen = Signal(Path)
    step_asked = Signal(int)  # -1 previous, +1 next
    item_chosen = Signal(int)  # position
    done_changed = Signal(bool)
    next_to_do_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self.set_items((), -1)

    def _build(self) -> None:
        self.open = QPushButton("Open folder...")
        self.items = QListWidget()
        self.previous = QPushButton("< Previous")
        self.following = QPushButton("Next >")
        self.done = QPushButton("Done", checkable=True)
        self.to_do = QPushButton("Done, next")
        self.text = QLabel()
        for name, tooltip in _TOOLTIPS.items():
            getattr(self, name).setToolTip(tooltip)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        top = QHBoxLayout()
        top.addWidget(self.open)
        top.addWidget(self.text, 1)
        layout.addLayout(top)
        layout.addWidget(self.items)
        self.items.setMaximumHeight(140)
        row = QHBoxLayout()
        for button in (self.previous, self.following, self.done, self.to_do):
            row.addWidget(button)
        layout.addLayout(row)

    def _connect(self) -> None:
        self.open.clicked.connect(self._on_open)
        self.items.currentRowChanged.connect(self.item_chosen)
        self.previous.clicked.connect(lambda: self.step_asked.emit(-1))
        self.following.clicked.connect(lambda: self.step_asked.emit(1))
        self.done.clicked.connect(self.done_changed)
        self.to_do.clicked.connect(lambda: self.next_to_do_asked.emit())

    def set_items(self, items: Sequence[WorkItem], position: int) -> None:
        """Show the images and which is current."""
        with signals_blocked(self.items), signals_blocked(self.done):
            if self.items.count() != len(items):
                self.items.clear()
                self.items.addItems([""] * len(items))
            for row, item in enumerate(items):
                _set_text(self.items.item(row), item)
            self.items.setCurrentRow(position)
            self.done.setChecked(bool(items) and items[position].state == "done")
        remaining = sum(item.state != "done" for item in items)
        self.text.setText(f"{position + 1} of {len(items)}, {remaining} to do" if items else "")
        self.items.setVisible(bool(items))
        for button in (self.done, self.to_do):
            button.setEnabled(bool(items))
        self.previous.setEnabled(position > 0)
        self.following.setEnabled(0 <= position < len(items) - 1)

    def _on_open(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of images")
        if name:
            self.folder_chosen.emit(Path(name))


def _set_text(entry: QListWidgetItem | None, item: WorkItem) -> None:
    if entry is not None:
        entry.setText(_MARKS[item.state] + item.path.name)
        entry.setData(Qt.ItemDataRole.ToolTipRole, str(item.path))
