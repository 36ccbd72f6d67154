"""Batch: predict masks for many files, in a child process, with the model and the channels that you choose."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

from magicgui.widgets import CheckBox, FileEdit, LineEdit
from qtpy.QtCore import QProcess, Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from e2sam.data.io import STACK_SUFFIXES, read_stack
from e2sam.data.io.labels import is_labels_name
from e2sam.errors import StackError
from napari_e2sam._jobs import Tasks
from napari_e2sam._tooltips import TOOLTIPS, set_tooltips
from napari_e2sam._wire import LineBuffer

__all__ = ["BatchWidget"]

_PROGRESS = re.compile(r"(\d+) of (\d+): ")
_LIST_HEIGHT = 110


class BatchWidget(QWidget):
    """Runs ``e2sam predict`` on a folder; cancelling or closing harms nothing that was written."""

    def __init__(self) -> None:
        super().__init__()
        self._process: QProcess | None = None
        self._printed = LineBuffer()
        self._is_stopping = False
        self._tasks = tasks = Tasks()
        # The closure keeps it until Qt has taken the widget down, however that happens.
        self.destroyed.connect(lambda: tasks.close())
        self._build()
        self._lay_out()
        set_tooltips(self)
        self.source.changed.connect(lambda: self.read_channels())
        self.axis.changed.connect(lambda: self.read_channels())
        self.folders.changed.connect(lambda: self.read_channels())
        self.start.clicked.connect(self._on_start)
        self.cancel.clicked.connect(self._on_cancel)

    def _build(self) -> None:
        self.source = FileEdit(label="Stacks", mode="d", value=Path.home(), tooltip=TOOLTIPS["batch_source"])
        self.target = FileEdit(
            label="Masks to", mode="d", value=Path.home() / "masks", tooltip=TOOLTIPS["batch_target"]
        )
        self.model = LineEdit(label="Model", value="tiny", tooltip=TOOLTIPS["batch_model"])
        self.axis = LineEdit(label="Channel axis", value="", tooltip=TOOLTIPS["batch_axis"])
        self.folders = CheckBox(label="", text="Each folder is one stack", tooltip=TOOLTIPS["batch_folders"])
        self.channels = QListWidget(objectName="batch_channels")
        self.channels.setMaximumHeight(_LIST_HEIGHT)
        self.start = QPushButton("Start")
        self.cancel = QPushButton("Cancel", enabled=False, objectName="batch_cancel")
        self.progress = QProgressBar(visible=False)
        self.log = QPlainTextEdit(readOnly=True)
        self.log.setMaximumBlockCount(500)
        self.status = QLabel(wordWrap=True)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        form = QFormLayout()
        for field in (self.source, self.folders, self.target, self.model, self.axis):
            form.addRow(field.label, field.native)
        layout.addLayout(form)
        layout.addWidget(QLabel("Channels (none ticked: suggested for each stack)"))
        layout.addWidget(self.channels)
        row = QHBoxLayout()
        row.addWidget(self.start)
        row.addWidget(self.cancel)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        layout.addWidget(self.log, 1)
        layout.addWidget(self.status)

    @property
    def chosen_channels(self) -> tuple[str, ...]:
        """Names of the ticked channels."""
        items = [self.channels.item(row) for row in range(self.channels.count())]
        return tuple(item.text() for item in items if item.checkState() == Qt.CheckState.Checked)

    @property
    def command(self) -> list[str]:
        """Arguments of the Python that runs the batch."""
        chosen = self.chosen_channels
        axis = str(self.axis.value).strip()
        return [
            "-m", "e2sam.cli.main", "predict", str(self.source.value),
            "--model", self.model.value, "--out", str(self.target.value), "--json", "--progress",
            *(("--folders",) if self.folders.value else ()),
            *(("--channels", ",".join(chosen)) if chosen else ()),
            *(("--channel-axis", axis) if axis else ()),
        ]  # fmt: skip

    def read_channels(self) -> None:
        """List the channels of the first stack; those that were ticked stay so."""
        source, axis, of_folders = Path(self.source.value), str(self.axis.value).strip(), bool(self.folders.value)
        self._tasks.run(
            lambda: (
                read_stack(
                    _first_stack(source, of_folders), int(axis) if axis.lstrip("-").isdigit() else axis or None
                ).names
            ),
            self._show_channels,
            self._fail,
            lane="channels",
        )

    def _show_channels(self, names: tuple[str, ...]) -> None:
        chosen = self.chosen_channels
        self.channels.clear()
        for name in names:
            item = QListWidgetItem(name, self.channels)
            item.setCheckState(Qt.CheckState.Checked if name in chosen else Qt.CheckState.Unchecked)
        self.status.setText("")

    def _fail(self, text: str) -> None:
        self.channels.clear()
        self.status.setText(text)

    def _on_start(self) -> None:
        self.log.clear()
        self._printed, self._is_stopping = LineBuffer(), False
        process = QProcess(self)
        process.readyReadStandardError.connect(self._on_log)
        process.finished.connect(self._on_finished)
        self._process = process
        self._show_running(True)
        process.start(sys.executable, self.command)

    def _on_cancel(self) -> None:
        """Let the stacks under way be finished, so that no process of theirs stays behind; at once when asked again."""
        if self._process is None:
            return
        if os.name == "posix" and not self._is_stopping:
            self._is_stopping = True
            self.status.setText("Stopping after the stacks under way. Cancel again to stop at once.")
            os.kill(int(self._process.processId()), signal.SIGINT)
        else:
            self._is_stopping = True
            self._process.kill()

    def _on_log(self) -> None:
        if self._process is None:
            return
        for printed in self._printed.take(bytes(self._process.readAllStandardError())):
            line = printed.decode(errors="replace")
            self.log.appendPlainText(line)
            if found := _PROGRESS.match(line):
                self.progress.setRange(0, int(found[2]))
                self.progress.setValue(int(found[1]))

    def _on_finished(self, code: int, *_: object) -> None:
        if self._process is None:
            return
        self._on_log()
        output = bytes(self._process.readAllStandardOutput()).decode(errors="replace").strip()
        self._process.deleteLater()
        self._process = None
        done = self.progress.value()
        self._show_running(False)
        if code == 0:
            self.status.setText(_summary(output))
        elif self._is_stopping:
            self.status.setText(f"Stopped after {max(done, 0)}; their masks are kept, and Start goes on from there.")
        else:
            self.status.setText("Failed: see the lines above.")

    def _show_running(self, running: bool) -> None:
        self.start.setEnabled(not running)
        self.cancel.setEnabled(running)
        self.progress.setVisible(running)
        if running:
            # Until the first stack is done nobody knows how long it takes.
            self.progress.reset()
            self.progress.setRange(0, 0)
            self.status.setText("Working")


def _first_stack(source: Path, of_folders: bool) -> Path:
    """The stack whose channels stand for all: a file, or the folder of its channels."""
    if not source.is_dir() or source.suffix.lower() == ".zarr":
        return source
    found = (path for path in source.rglob("*") if path.suffix.lower() in STACK_SUFFIXES)
    first = next((path for path in found if not is_labels_name(path.name)), None)
    if first is None:
        raise StackError(f"Expected a folder of stacks, got none in {source}.")
    return first.parent if of_folders else first


def _summary(output: str) -> str:
    try:
        result = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return "Done."
    there = f", {result['skipped']} of them there already" if result["skipped"] else ""
    return f"Done: {result['stacks']} stack{'' if result['stacks'] == 1 else 's'}{there}."
