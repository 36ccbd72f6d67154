"""Batch: predict masks for many files, in a child process, with the model in use."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from magicgui.widgets import Container, FileEdit, LineEdit
from qtpy.QtCore import QProcess
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QProgressBar, QPushButton, QVBoxLayout, QWidget

__all__ = ["BatchWidget"]


class BatchWidget(QWidget):
    """Runs ``e2sam predict`` on a folder; cancelling or closing harms nothing that was written."""

    def __init__(self) -> None:
        super().__init__()
        self._process: QProcess | None = None
        self.source = FileEdit(label="Stacks", mode="d", value=Path.home(), tooltip="Folder of stacks, or one stack.")
        self.target = FileEdit(
            label="Masks to", mode="d", value=Path.home() / "masks", tooltip="Where masks are written."
        )
        self.model = LineEdit(label="Model", value="tiny", tooltip="tiny, vit_b, vit_l, vit_h, or a file.")
        self.form = Container(widgets=[self.source, self.target, self.model], labels=True)
        self.start = QPushButton("Start")
        self.cancel = QPushButton("Cancel", enabled=False)
        self.progress = QProgressBar(textVisible=False, visible=False)
        self.log = QPlainTextEdit(readOnly=True)
        self.log.setMaximumBlockCount(500)
        self.status = QLabel(wordWrap=True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.form.native)
        row = QHBoxLayout()
        row.addWidget(self.start)
        row.addWidget(self.cancel)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        layout.addWidget(self.log, 1)
        layout.addWidget(self.status)
        self.start.clicked.connect(self._on_start)
        self.cancel.clicked.connect(self._on_cancel)

    @property
    def command(self) -> list[str]:
        """Arguments of the Python that runs the batch."""
        return [
            "-m", "e2sam.cli.main", "predict", str(self.source.value),
            "--model", self.model.value, "--out", str(self.target.value), "--json",
        ]  # fmt: skip

    def _on_start(self) -> None:
        self.log.clear()
        process = QProcess(self)
        process.readyReadStandardError.connect(self._on_log)
        process.finished.connect(self._on_finished)
        self._process = process
        self._show_running(True)
        process.start(sys.executable, self.command)

    def _on_cancel(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _on_log(self) -> None:
        if self._process is not None:
            self.log.appendPlainText(bytes(self._process.readAllStandardError()).decode(errors="replace").strip())

    def _on_finished(self, code: int, *_: object) -> None:
        if self._process is None:
            return
        output = bytes(self._process.readAllStandardOutput()).decode(errors="replace").strip()
        self._process.deleteLater()
        self._process = None
        self._show_running(False)
        self.status.setText(_summary(output) if code == 0 else "Stopped, or failed: see the lines above.")

    def _show_running(self, running: bool) -> None:
        self.start.setEnabled(not running)
        self.cancel.setEnabled(running)
        self.progress.setVisible(running)
        self.progress.setRange(0, 0)
        if running:
            self.status.setText("Working")


def _summary(output: str) -> str:
    try:
        result = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return "Done."
    there = f", {result['skipped']} of them there already" if result["skipped"] else ""
    return f"Done: {result['stacks']} stack{'' if result['stacks'] == 1 else 's'}{there}."
