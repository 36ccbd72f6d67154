"""Export and import of objects: the forms, and the work in a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from qtpy.QtWidgets import QFileDialog, QWidget

from e2sam.errors import E2SamError, SessionError
from napari_e2sam._state import Workplace

__all__ = ["ExchangeControl"]

_FORMATS = {
    "Label TIFF (*.tif)": "tiff",
    "Label PNG (*.png)": "png",
    "COCO JSON (*.json)": "coco",
    "GeoJSON (*.geojson)": "geojson",
}
_SUFFIXES = {"tiff": ".tif", "png": ".png", "coco": ".json", "geojson": ".geojson"}


class ExchangeControl:
    """Writes the objects of the session to files, and takes objects from files."""

    def __init__(self, panel: QWidget, work: Workplace) -> None:
        self._panel = panel
        self._work = work

    def ask(self, what: str) -> None:
        """Ask for a file and export or import."""
        if what == "export":
            name, chosen = QFileDialog.getSaveFileName(self._panel, "Export objects", "", ";;".join(_FORMATS))
            if name:
                self.export(Path(name), _FORMATS[chosen])
            return
        name, _ = QFileDialog.getOpenFileName(
            self._panel, "Import objects", "", "Labels (*.tif *.tiff *.png *.npy);;COCO (*.json)"
        )
        if name:
            self.take(Path(name))

    def export(self, path: Path, kind: str) -> None:
        """Write the objects of the stack in front of the user."""
        work = self._work
        if not work.session.objects:
            work.fail("Expected at least 1 object to export, got 0: accept one first.")
            return
        target = path if path.suffix else path.with_suffix(_SUFFIXES[kind])
        session, stack_id = work.session.file, work.session.place[0]

        def write() -> Path:
            from e2sam.data.export import export_session

            export_session(session, kind, target, stack_id=stack_id)
            return target

        work.say(f"Writing {target.name}", "busy")
        work.tasks.run(write, lambda done: work.say(f"Wrote {done}", "info"), work.fail)

    def take(self, path: Path) -> None:
        """Take objects from a label image or a COCO file."""
        work = self._work
        place, size, class_id = work.session.place, work.session.record.size, work.session.class_id

        def read() -> Callable[[], int]:
            return _reading(path, size, work, place, class_id)

        def add(finish: Callable[[], int]) -> None:
            try:
                count = finish()
            except E2SamError as error:
                work.fail(str(error))
                return
            work.say(f"{count} objects taken from {path.name}", "info")

        work.tasks.run(read, add, work.fail)


def _reading(
    path: Path, size: tuple[int, int], work: Workplace, place: tuple[int, tuple[int, ...]], class_id: int
) -> Callable[[], int]:
    from dataclasses import replace

    from napari_e2sam._object_control import objects_of

    if path.suffix.lower() == ".json":
        from e2sam.data.export import read_coco

        objects = read_coco(path, size)
    else:
        from e2sam import read_stack

        stack = read_stack(path)
        if stack.num_channels != 1 or stack.leading or stack.size != size:
            raise SessionError(
                f"Expected one label image of {size[1]} x {size[0]} pixels, got {stack.data.shape}: choose another file."
            )
        labels = stack.read()[0]
        if labels.dtype.kind not in "iub":
            raise SessionError(f"Expected whole numbers as labels, got {labels.dtype}: choose a label image.")
        objects = objects_of(np.asarray(labels, np.int32), None, class_id)
    new = [replace(one, origin="import", is_reviewed=False) for one in objects]
    return lambda: len(work.session.file.accept_many(*place, new, verb="import"))
