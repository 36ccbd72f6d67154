"""Learning panel: let the model learn from the objects, or from the stack itself, and compare before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magicgui.widgets import ComboBox, Container, FloatSpinBox, SpinBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_e2sam.widgets._curves import Curves

__all__ = ["LearningPanel"]


class LearningPanel(QWidget):
    """Shows a training run and what came of it."""

    finetune_asked = Signal(dict)
    inherit_asked = Signal(dict)
    cancel_asked = Signal()
    use_asked = Signal()
    roll_back_asked = Signal()
    summarized = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self._is_running = False
        self.set_corrections(0)
        self.set_running(False)
        self.set_result(None)
        self.set_can_roll_back(False)

    def _build(self) -> None:
        self.finetune = QPushButton("Fine-tune", objectName="finetune")
        self.inherit = QPushButton("Inherit from this stack", objectName="inherit")
        self.cancel = QPushButton("Cancel", objectName="cancel")
        self.use = QPushButton("Use new model", objectName="use")
        self.roll_back = QPushButton("Roll back", objectName="roll_back")
        self.progress = QProgressBar(textVisible=True)
        self.progress.setFixedHeight(16)
        self.message = QLabel(wordWrap=True)
        self.result = QLabel(wordWrap=True)
        self.curves = Curves()
        self.tune = ComboBox(label="Train", choices=["decoder", "lora", "full"], value="decoder")
        self.steps = SpinBox(label="Steps (0: by itself)", value=0, min=0, max=100_000)
        self.rate = FloatSpinBox(label="Learning rate (0: by itself)", value=0.0, min=0.0, max=0.1, step=1e-5)
        self.form = Container(widgets=[self.tune, self.steps, self.rate], labels=True)
        self.form.margins = (0, 0, 0, 0)
        self.options = QCollapsible("Options")
        self.options.addWidget(self.form.native)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        grid = QGridLayout()
        grid.addWidget(self.finetune, 0, 0)
        grid.addWidget(self.inherit, 0, 1)
        layout.addLayout(grid)
        layout.addWidget(self.options)
        layout.addWidget(self.message)
        row = QHBoxLayout()
        row.addWidget(self.progress, 1)
        row.addWidget(self.cancel)
        layout.addLayout(row)
        layout.addWidget(self.curves)
        layout.addWidget(self.result)
        after = QHBoxLayout()
        after.addWidget(self.use)
        after.addWidget(self.roll_back)
        layout.addLayout(after)

    def _connect(self) -> None:
        self.finetune.clicked.connect(lambda: self.finetune_asked.emit(self.settings))
        self.inherit.clicked.connect(lambda: self.inherit_asked.emit(self.settings))
        self.cancel.clicked.connect(lambda: self.cancel_asked.emit())
        self.use.clicked.connect(lambda: self.use_asked.emit())
        self.roll_back.clicked.connect(lambda: self.roll_back_asked.emit())

    @property
    def settings(self) -> dict[str, Any]:
        """What the form says; settings left to the engine are absent."""
        settings: dict[str, Any] = {"tune": self.tune.value}
        if self.steps.value:
            settings["steps"] = self.steps.value
        if self.rate.value:
            settings["learning_rate"] = self.rate.value
        return settings

    def set_corrections(self, count: int) -> None:
        """Show from how many objects the model can learn."""
        self._count = count
        self.finetune.setText(f"Fine-tune on {count} object{'' if count == 1 else 's'}")
        self.finetune.setEnabled(count > 0 and not self._is_running)

    def set_running(self, running: bool) -> None:
        """Show whether a run is under way."""
        self._is_running = running
        self.finetune.setEnabled(not running and self._count > 0)
        self.inherit.setEnabled(not running)
        self.cancel.setVisible(running)
        self.progress.setVisible(running)
        self.curves.setVisible(running or bool(self.curves.curves))
        if running:
            self.curves.clear()
            self.progress.setRange(0, 0)
            self.set_result(None)
            self.summarized.emit("preparing")

    def show_step(self, step: int, total: int, loss: float | None, metrics: Mapping[str, float]) -> None:
        """Show one step of the run."""
        self.progress.setRange(0, max(total, 1))
        self.progress.setValue(step)
        self.progress.setFormat(f"{step} of {total}")
        self.summarized.emit(f"step {step} of {total}")
        self.curves.add(step, {**({} if loss is None else {"loss": loss}), **_shown(metrics)})

    def set_message(self, text: str) -> None:
        """Show one line about the run."""
        self.message.setText(text)
        self.message.setVisible(bool(text))
        if not self._is_running:
            self.summarized.emit("did not finish" if text else "")

    def set_result(self, text: str | None, can_use: bool = False) -> None:
        """Show before and after, and offer the trained model where it is better; None takes both away."""
        self.result.setText(text or "")
        self.result.setVisible(bool(text))
        self.use.setVisible(can_use)
        if not self._is_running:
            self.summarized.emit("" if not text else "new model ready" if can_use else "old model kept")

    def set_can_roll_back(self, can: bool) -> None:
        """Show whether there is an earlier model to go back to."""
        self.roll_back.setVisible(can)


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first few figures, under names that fit above the curves."""
    kept = {name: value for name, value in metrics.items() if name not in ("accepted", "kept_step")}
    return {name.replace("_", " "): value for name, value in list(kept.items())[:2]}
