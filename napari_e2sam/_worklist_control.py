"""Joins the Worklist panel with session and viewer: shows the current image, prepares its neighbours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from napari.layers import Image
from qtpy.QtCore import QCoreApplication, QProcess, QProcessEnvironment

from e2sam.data.session import Change
from e2sam.errors import E2SamError
from napari_e2sam import _prefetch
from napari_e2sam._convert import STACK_KEY
from napari_e2sam._reader import read
from napari_e2sam._state import Workplace
from napari_e2sam._worklist import Worklist
from napari_e2sam.widgets.worklist import WorklistPanel

__all__ = ["WorklistControl"]


class WorklistControl:
    """Works through a folder of images.

    Parameters
    ----------
    panel, work
        The panel, and what every controller is given.
    prefetches
        Whether neighbours are encoded in the background.
    """

    def __init__(self, panel: WorklistPanel, work: Workplace, prefetches: bool = True) -> None:
        self._panel = panel
        self._work = work
        self._prefetches = prefetches
        self._process: QProcess | None = None
        self._prepared: tuple[Any, ...] = ()
        self._layer: Image | None = None
        self.worklist = Worklist(work.session.file)
        panel.folder_chosen.connect(self.open_folder)
        panel.step_asked.connect(self.step)
        panel.item_chosen.connect(self._on_item_chosen)
        panel.done_changed.connect(self.set_done)
        panel.next_to_do_asked.connect(self.done_and_next)
        self.worklist.changed.connect(self._update)
        work.session.changed.connect(self._on_change)
        work.state.encoded.connect(self._on_encoded)
        self._update()

    def close(self) -> None:
        """End the background encoding."""
        if self._process is not None:
            process, self._process = self._process, None
            process.finished.disconnect(self._on_finished)
            # Qt must not take down an object whose process still runs: it goes when the process has.
            process.setParent(QCoreApplication.instance())
            process.finished.connect(process.deleteLater)
            process.kill()
            process.waitForFinished(2000)

    def open_folder(self, folder: Path) -> None:
        """Take a folder as the worklist and show its first image that is not done."""
        try:
            self.worklist.open(folder)
        except E2SamError as error:
            self._work.fail(str(error))
            return
        self.show()

    def step(self, direction: int) -> None:
        """Show the next or previous image."""
        if self.worklist.step(direction) is not None:
            self.show()

    def set_done(self, is_done: bool = True) -> bool:
        """Tick the current image off; whether that went well."""
        try:
            self.worklist.set_done(is_done)
        except E2SamError as error:
            self._work.fail(str(error))
            self._update()
            return False
        return True

    def done_and_next(self) -> None:
        """Tick the current image off and show the next one that is not done."""
        if self.set_done():
            if self.worklist.next_to_do() is None:
                self._work.say("Every image of the worklist is done.", "info")
            else:
                self.show()

    def show(self) -> None:
        """Open the current image in place of the one shown before."""
        path = self.worklist.current
        if path is None:
            return
        self._work.say(f"Opening {path.name}", "busy")
        self._work.tasks.run(lambda: read(str(path)), self._on_read, self._work.fail, lane="worklist")

    def _on_read(self, layers: list[tuple[Any, dict[str, Any], str]]) -> None:
        viewer = self._work.viewer
        before = self._layer
        data, settings, _ = layers[0]
        self._layer = None
        if before is not None and before in viewer.layers:
            viewer.layers.remove(before)
        self._layer = viewer.add_image(data, **settings)
        self._work.say("", "info")

    def _on_item_chosen(self, position: int) -> None:
        if position != self.worklist.position and self.worklist.go_to(position) is not None:
            self.show()

    def _on_change(self, change: Change) -> None:
        # An image counts as begun with its first object and as new again without one.
        if change.objects or change.kind == "refresh" or change.verb in ("stack", "done"):
            self._update()

    def _on_encoded(self) -> None:
        work = self._work
        scene = work.state.scene
        if scene is not None and scene.stack.source is not None:
            self.worklist.find(Path(scene.stack.source))
        self._prefetch()

    def _prefetch(self) -> None:
        """Encode the neighbours of the current image with the model and the channels in use, for the next step."""
        work = self._work
        paths = self.worklist.neighbours()
        layer = work.state.layer
        is_ours = layer is not None and layer.metadata.get(STACK_KEY) is not None
        wanted = (work.state.model.get("name", ""), work.state.names, paths)
        if not self._prefetches or not is_ours or not all(wanted) or wanted == self._prepared:
            return
        self._prepared = wanted
        self.close()
        process = QProcess()
        environment = QProcessEnvironment.systemEnvironment()
        for name, value in _prefetch.environment().items():
            environment.insert(name, value)
        process.setProcessEnvironment(environment)
        process.finished.connect(self._on_finished)
        self._process = process
        process.start(sys.executable, _prefetch.command(*wanted))

    def _on_finished(self, *_: object) -> None:
        if self._process is not None:
            self._process.deleteLater()
            self._process = None

    def _update(self) -> None:
        self._panel.set_items(self.worklist.items, self.worklist.position)
