"""Brings back the stack of a session that goes on, and asks about an image that has moved or changed meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtWidgets import QFileDialog

from e2sam.data.content import hash_pixels
from e2sam.data.session import StackRecord
from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError
from napari_e2sam._convert import AXIS_KEY, STACK_KEY, axis_labels
from napari_e2sam._reader import layer_of
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.stack import StackPanel

__all__ = ["ReopenControl", "keep_pixels"]

_KEPT_BYTES = 1 << 28


class ReopenControl:
    """Shows the stack that was in front of the user when the session was closed."""

    def __init__(self, panel: StackPanel, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        self._stack_id = 0
        panel.find_asked.connect(self._on_find_asked)
        panel.accept_asked.connect(self.accept_changed)
        work.state.scene_changed.connect(lambda: panel.set_lost(""))

    def start(self, beside_others: bool) -> bool:
        """Open the session's stack, where no image is open or also beside others; whether it does."""
        active = self._work.session.file.active
        has_others = any(isinstance(layer, Image) for layer in self._work.viewer.layers)
        if active is None or (has_others and not beside_others):
            return False
        self._stack_id = active[0]
        self._open()
        return True

    def find(self, path: Path) -> None:
        """Say where the image is now: its file or folder, or the folder that holds its several files."""
        file = self._work.session.file
        try:
            if len(file.stack(self._stack_id).paths) == 1:
                file.relocate(self._stack_id, path)
            # What moved was often moved together.
            file.find_missing(path if path.is_dir() else path.parent)
        except E2SamError as error:
            self._work.fail(str(error))
            return
        self._open()

    def accept_changed(self) -> None:
        """Take the image as it is now; the objects stay where they are."""
        try:
            self._work.session.file.accept_changed(self._stack_id)
        except E2SamError as error:
            self._work.fail(str(error))
            return
        self._open()

    def _on_find_asked(self) -> None:
        record = self._work.session.file.stack(self._stack_id)
        title = f"Where is {record.name} now?"
        if len(record.paths) > 1 or record.paths[0].suffix.lower() in ("", ".zarr"):
            path = QFileDialog.getExistingDirectory(self._panel, title, str(Path.home()))
        else:
            path, _ = QFileDialog.getOpenFileName(self._panel, title, str(Path.home()))
        if path:
            self.find(Path(path))

    def _open(self) -> None:
        file, stack_id = self._work.session.file, self._stack_id

        def load() -> tuple[StackRecord, ChannelStack | None, bool]:
            record = file.stack(stack_id)
            if any(one.id == stack_id for one in file.missing_stacks()):
                return record, None, False
            if any(one.id == stack_id for one in file.changed_stacks()) and not file.is_read_only:
                return record, None, True
            # The Stack panel applies the alignment, to this as to every other layer.
            return record, file.load_stack(stack_id, aligned=False), False

        self._work.tasks.run(load, self._on_loaded, self._work.fail)

    def _on_loaded(self, loaded: tuple[StackRecord, ChannelStack | None, bool]) -> None:
        record, stack, is_changed = loaded
        if stack is not None:
            metadata: dict[str, Any] = {STACK_KEY: stack, AXIS_KEY: record.reading.get("channel_axis")}
            given = {"name": record.name, "metadata": metadata, "rgb": False, "axis_labels": axis_labels(stack)}
            data, settings, _ = layer_of(stack.data, given)
            self._work.viewer.add_image(data, **settings)
            self._restore_view()
            return
        what = "has changed since its objects were made" if is_changed else "is no longer where it was"
        self._panel.set_lost(f"{record.name} {what}: {record.paths[0]}", can_accept=is_changed)
        self._work.fail(f"{record.name} {what}: see Stack.")

    def _restore_view(self) -> None:
        view, session, viewer = self._work.session.file.view, self._work.session.file, self._work.viewer
        active = session.active
        if active is not None:
            for axis, position in enumerate(active[1]):
                viewer.dims.set_current_step(axis, position)
        if "centre" in view and "zoom" in view:
            camera = self._work.canvas.camera
            camera.center, camera.zoom = tuple(view["centre"]), view["zoom"]


def keep_pixels(stack: ChannelStack, session: Path) -> Path | None:
    """Pixels that stand in no file, kept beside the session: to reopen it, and to learn from it. None if too large."""
    size = int(np.prod(stack.data.shape, dtype=np.int64)) * np.dtype(stack.data.dtype).itemsize
    if size > _KEPT_BYTES:
        return None
    path = session.with_suffix(".stacks") / f"{hash_pixels(stack).split(':')[1]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, data=np.asarray(stack.data[...]), channels=np.array(stack.names))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path
