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


class WorklistPanel(QWidget):
    """Shows a worklist."""

    folder_chosen = Signal(Path)
    step_asked = Signal(int)  # -1 previous, +1 next
    item_chosen = Signal(int)  # position
    done_changed = Signal(bool)
    next_to_do_asked = Signal()
    doubt_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self.set_items((), -1)

    def _build(self) -> None:
        self.open = QPushButton("Open folder...", objectName="open_folder")
        self.items = QListWidget(objectName="worklist")
        self.previous = QPushButton("< Previous", objectName="previous_image")
        self.following = QPushButton("Next >", objectName="next_image")
        self.done = QPushButton("Done", checkable=True, objectName="image_done")
        self.to_do = QPushButton("Done, next", objectName="done_and_next")
        self.doubt = QPushButton("Most doubt", objectName="most_doubt")
        self.text = QLabel()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        top = QHBoxLayout()
        top.addWidget(self.open)
        top.addWidget(self.text, 1)
        top.addWidget(self.doubt)
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
        self.doubt.clicked.connect(lambda: self.doubt_asked.emit())
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
        self.doubt.setEnabled(remaining > (0 <= position < len(items) and items[position].state != "done"))
        self.previous.setEnabled(position > 0)
        self.following.setEnabled(0 <= position < len(items) - 1)

    def _on_open(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder of images")
        if name:
            self.folder_chosen.emit(Path(name))


def _set_text(entry: QListWidgetItem | None, item: WorkItem) -> None:
    if entry is not None:
        more = "" if item.doubt is None else f"   doubt {item.doubt:.2f}"
        if item.trouble:
            more = "   could not be read"
        entry.setText(f"{_MARKS[item.state]}{item.path.name}{more}")
        entry.setData(Qt.ItemDataRole.ToolTipRole, "\n".join(filter(None, (str(item.path), item.trouble))))
