"""Runs `napari_e2sam._prefetch` beside the window and brings what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QCoreApplication, QObject, QProcess, QProcessEnvironment, Signal

from napari_e2sam import _prefetch
from napari_e2sam._wire import LineBuffer

__all__ = ["PrefetchProcess"]


class PrefetchProcess(QObject):
    """One process at a time; a new task takes the place of the one under way."""

    prepared = Signal(Path, object)  # image, and its doubt in 0..1 or None
    finished = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._printed = LineBuffer()
        self._task: tuple[str, tuple[str, ...], int | None] = ("", (), None)
        self._left: list[Path] = []

    def prepare(self, model: str, channels: Sequence[str], paths: Sequence[Path], axis: int | None = None) -> None:
        """Prepare images in this order; a process that is at them already goes on with them.

        `axis` holds the channels of those that do not say which one does.
        """
        task = (model, tuple(channels), axis)
        if self._process is not None and self._task == task and set(paths) <= set(self._left):
            return
        self.stop()
        if not paths:
            return
        self._task, self._left, self._printed = task, list(paths), LineBuffer()
        process = QProcess()
        environment = QProcessEnvironment.systemEnvironment()
        for name, value in _prefetch.environment().items():
            environment.insert(name, value)
        process.setProcessEnvironment(environment)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
        process.readyReadStandardOutput.connect(self._on_output)
        process.finished.connect(self._on_finished)
        self._process = process
        process.start(sys.executable, _prefetch.command(model, channels, paths, axis))

    def stop(self) -> None:
        """End what is under way; nothing is told of it any more."""
        process, self._process = self._process, None
        if process is None:
            return
        process.readyReadStandardOutput.disconnect(self._on_output)
        process.finished.disconnect(self._on_finished)
        # Qt must not take down an object whose process still runs: it goes when the process has.
        process.setParent(QCoreApplication.instance())
        process.finished.connect(process.deleteLater)
        process.kill()

    def close(self) -> None:
        """End it with the window."""
        process = self._process
        self.stop()
        if process is not None:
            process.waitForFinished(2000)

    def _on_output(self) -> None:
        if self._process is None:
            return
        for line in self._printed.take(bytes(self._process.readAllStandardOutput())):
            # A library may print too.
            if not line.startswith(b"{"):
                continue
            answer = json.loads(line)
            path = Path(answer["path"])
            if path in self._left:
                self._left.remove(path)
            self.prepared.emit(path, answer["doubt"])

    def _on_finished(self, *_: object) -> None:
        if self._process is None:
            return
        self._on_output()
        process, self._process = self._process, None
        process.deleteLater()
        self.finished.emit()
