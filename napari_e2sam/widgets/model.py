"""Model panel: which model makes the masks, what it is, and what it is doing."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget
from superqt.utils import signals_blocked

from napari_e2sam._rows import ModelRow

__all__ = ["ModelPanel"]


class ModelPanel(QWidget):
    """Shows the models that there are and the one in use."""

    model_chosen = Signal(str)
    browse_asked = Signal()
    summarized = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: tuple[str, ...] = ()
        self.models = QComboBox(objectName="model")
        self.models.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.models.setMinimumContentsLength(18)
        self.browse = QPushButton("File...", objectName="browse")
        self.details = QLabel(wordWrap=True)
        self.progress = QProgressBar(textVisible=True)
        self.progress.setFixedHeight(14)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        row = QHBoxLayout()
        row.addWidget(self.models, 1)
        row.addWidget(self.browse)
        layout.addLayout(row)
        layout.addWidget(self.details)
        layout.addWidget(self.progress)
        self.models.activated.connect(self._on_activated)
        self.browse.clicked.connect(lambda: self.browse_asked.emit())
        self.set_progress(None, "")

    def set_models(self, rows: Sequence[ModelRow], current: str) -> None:
        """Show the models that can be chosen."""
        self._names = tuple(row.name for row in rows)
        with signals_blocked(self.models):
            self.models.clear()
            for row in rows:
                self.models.addItem(f"{row.text}  ({row.state})" if row.state else row.text)
            self.models.setCurrentIndex(self._names.index(current) if current in self._names else -1)

    def set_details(self, text: str) -> None:
        """Show size, licence and device of the model in use, name first."""
        self.summarized.emit(text.split(",")[0].splitlines()[0] if text else "")
        self.details.setText(text)
        self.details.setVisible(bool(text))

    def set_progress(self, share: float | None, text: str) -> None:
        """Show work under way: a share in 0..1, negative where unknown; None hides it."""
        self.progress.setVisible(share is not None)
        if share is not None:
            self.progress.setRange(0, 0 if share <= 0 else 100)
            self.progress.setValue(round(100 * max(share, 0.0)))
            self.progress.setFormat(text)

    def _on_activated(self, position: int) -> None:
        self.model_chosen.emit(self._names[position])
