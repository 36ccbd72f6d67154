"""Training in a child process: if it dies, the window and the session do not."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QProcess, Signal

from napari_e2sam._wire import LineBuffer

__all__ = ["Training"]

_PROGRAM = ("-m", "napari_e2sam._training")


class Training(QObject):
    """One training run in a child process that writes a JSON line for each step; killing it harms nothing else."""

    stepped = Signal(dict)
    finished = Signal(dict)
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._printed = LineBuffer()
        self._result: dict[str, Any] | None = None
        self._error = ""
        self._is_cancelled = False
        self._out: Path | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return self._process is not None

    def start(self, task: Mapping[str, Any]) -> None:
        """Start a run described as in `napari_e2sam._training`."""
        if self._process is not None:
            self.failed.emit("A training run is under way: wait for it, or cancel it.")
            return
        self._printed, self._result, self._error, self._is_cancelled = LineBuffer(), None, "", False
        self._out = Path(task["out"]) if "out" in task else None
        process = QProcess(self)
        process.readyReadStandardOutput.connect(self._on_output)
        process.finished.connect(self._on_finished)
        process.errorOccurred.connect(self._on_error)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
        self._process = process
        process.start(sys.executable, list(_PROGRAM))
        process.write(json.dumps(dict(task)).encode() + b"\n")
        process.closeWriteChannel()

    def cancel(self) -> None:
        """Stop the run; what it has written so far goes, as nothing here goes on with it."""
        if self._process is not None:
            self._is_cancelled = True
            self._process.kill()

    def close(self) -> None:
        """End the run with the window; no callback follows."""
        process, self._process = self._process, None
        if process is not None:
            process.readyReadStandardOutput.disconnect(self._on_output)
            process.finished.disconnect(self._on_finished)
            process.errorOccurred.disconnect(self._on_error)
            process.kill()
            process.waitForFinished(2000)
            self._remove_rest()

    def _on_output(self) -> None:
        if self._process is None:
            return
        for line in self._printed.take(bytes(self._process.readAllStandardOutput())):
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._error = message["error"]
        elif "out" in message:
            self._result = message
        else:
            self.stepped.emit(message)

    def _on_error(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._error = "The training process could not be started."
            self._on_finished()

    def _on_finished(self, *_: Any) -> None:
        if self._process is None:
            return
        self._on_output()
        process, self._process = self._process, None
        process.deleteLater()
        self._remove_rest()
        if self._is_cancelled:
            self.failed.emit("Training was cancelled.")
        elif self._result is not None:
            self.finished.emit(self._result)
        else:
            self.failed.emit(self._error or "The training process ended without a result; the session is unharmed.")

    def _remove_rest(self) -> None:
        """Remove what lies beside the result of a run that has ended, however it did."""
        if self._out is None:
            return
        name, stem = glob.escape(self._out.name), glob.escape(self._out.stem)
        for pattern in (f"{name}.*", f"{stem}.candidate*", f"{stem}.twin*", f".{stem}.*"):
            for path in self._out.parent.glob(pattern):
                with suppress(OSError):
                    path.unlink()
