"""Stack panel: which layers the stack is made of, where its channels lie, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_e2sam._rows import LayerRow

__all__ = ["StackPanel"]

_ROW_HEIGHT = 22


class StackPanel(QWidget):
    """Shows the image layers and the stack made of the chosen ones."""

    layers_chosen = Signal(list)  # keys of the ticked layers
    axis_chosen = Signal(int)  # position in the choices given to set_axes
    sample_asked = Signal()
    find_asked = Signal()  # the user wants to say where the image is now
    accept_asked = Signal()  # the image may be used as it is now
    alignment_asked = Signal()
    correction_asked = Signal()
    blink_asked = Signal(bool)
    plane_asked = Signal(int)  # -1 previous, +1 next image of the worklist
    done_changed = Signal(bool)
    summarized = Signal(str, bool)  # one line, and whether the user should look at the panel

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self.set_layers(())
        self.set_worklist(0, 0, 0, False)
        self.set_alignment("", False)
        self.set_lost("")

    def _build(self) -> None:
        self.layers = QListWidget(objectName="layers")
        self.axis = QComboBox(objectName="axis")
        self.axis.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.axis.setMinimumContentsLength(18)
        self.summary = QLabel(wordWrap=True)
        self.warning = QLabel(wordWrap=True)
        self.warning.setStyleSheet("color: #e0a030;")
        self.sample = QPushButton("Open the sample", objectName="sample")
        self.lost = QLabel(wordWrap=True)
        self.lost.setStyleSheet("color: #e0a030;")
        self.find = QPushButton("Find it...", objectName="find_image")
        self.accept = QPushButton("Use as it is now", objectName="accept_image")
        self.align = QPushButton("Check alignment", objectName="alignment")
        self.correct = QPushButton("Correct", objectName="correct")
        self.blink = QPushButton("Blink", objectName="blink", checkable=True)
        self.alignment = QLabel(wordWrap=True)
        self.previous = QPushButton("< Previous", objectName="previous_plane")
        self.following = QPushButton("Next >", objectName="next_plane")
        self.done = QPushButton("Done", checkable=True, objectName="planes_done")
        self.position = QLabel()
        self.worklist = QWidget()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        layout.addWidget(self.layers)
        layout.addWidget(self.axis)
        layout.addWidget(self.summary)
        layout.addWidget(self.warning)
        layout.addWidget(self.sample)
        layout.addWidget(self.lost)
        answers = QHBoxLayout()
        for button in (self.find, self.accept):
            answers.addWidget(button)
        layout.addLayout(answers)
        row = QHBoxLayout()
        for button in (self.align, self.correct, self.blink):
            row.addWidget(button)
        layout.addLayout(row)
        layout.addWidget(self.alignment)
        steps = QHBoxLayout(self.worklist)
        steps.setContentsMargins(0, 0, 0, 0)
        for widget in (self.previous, self.position, self.following, self.done):
            steps.addWidget(widget)
        layout.addWidget(self.worklist)

    def _connect(self) -> None:
        self.layers.itemChanged.connect(self._on_item_changed)
        self.axis.activated.connect(self.axis_chosen)
        self.sample.clicked.connect(lambda: self.sample_asked.emit())
        self.find.clicked.connect(lambda: self.find_asked.emit())
        self.accept.clicked.connect(lambda: self.accept_asked.emit())
        self.align.clicked.connect(lambda: self.alignment_asked.emit())
        self.correct.clicked.connect(lambda: self.correction_asked.emit())
        self.blink.toggled.connect(self.blink_asked)
        self.previous.clicked.connect(lambda: self.plane_asked.emit(-1))
        self.following.clicked.connect(lambda: self.plane_asked.emit(1))
        self.done.clicked.connect(self.done_changed)

    def set_layers(self, rows: Sequence[LayerRow]) -> None:
        """Show the image layers; the chosen ones are ticked."""
        with signals_blocked(self.layers):
            self.layers.clear()
            for row in rows:
                item = QListWidgetItem(row.name)
                item.setFlags(Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled)
                item.setCheckState(Qt.CheckState.Checked if row.is_chosen else Qt.CheckState.Unchecked)
                item.setData(Qt.ItemDataRole.UserRole, row.key)
                self.layers.addItem(item)
        self.layers.setFixedHeight(_ROW_HEIGHT * max(1, min(4, len(rows))) + 6)
        self.layers.setVisible(len(rows) > 0)
        self.sample.setVisible(len(rows) == 0)
        self.align.setVisible(len(rows) > 0)

    def set_axes(self, texts: Sequence[str], current: int) -> None:
        """Show the ways to find channels in the layer; hidden where there is only one."""
        with signals_blocked(self.axis):
            self.axis.clear()
            self.axis.addItems(list(texts))
            self.axis.setCurrentIndex(current)
        self.axis.setVisible(len(texts) > 1)

    def set_summary(self, text: str, warning: str = "", is_ready: bool = False) -> None:
        """Show what the stack is, and what is wrong with it."""
        self.summarized.emit(text if is_ready else "", not is_ready or bool(warning) or self.layers.count() > 1)
        self.summary.setText(text)
        self.warning.setText(warning)
        self.warning.setVisible(bool(warning))

    def set_lost(self, text: str, can_accept: bool = False) -> None:
        """Show that the session's image has moved or changed, and what can be done; "" when it is there again."""
        self.lost.setText(text)
        self.lost.setVisible(bool(text))
        self.find.setVisible(bool(text))
        self.accept.setVisible(bool(text) and can_accept)

    def set_alignment(self, text: str, can_correct: bool) -> None:
        """Show the result of the alignment check."""
        self.alignment.setText(text)
        self.alignment.setVisible(bool(text))
        self.correct.setVisible(can_correct)
        self.blink.setVisible(bool(text))

    def set_worklist(self, position: int, count: int, remaining: int, is_done: bool) -> None:
        """Show where in the series the window is; hidden for a single scene."""
        self.worklist.setVisible(count > 1)
        self.position.setText(f"{position + 1} of {count}, {remaining} to do")
        with signals_blocked(self.done):
            self.done.setChecked(is_done)

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        items = [self.layers.item(row) for row in range(self.layers.count())]
        self.layers_chosen.emit(
            [entry.data(Qt.ItemDataRole.UserRole) for entry in items if entry.checkState() == Qt.CheckState.Checked]
        )
