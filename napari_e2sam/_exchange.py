"""Export and import of objects: the forms, and the work in a thread."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QWidget

from e2sam.data.export import export
from e2sam.data.importing import import_coco, import_labels
from e2sam.errors import E2SamError
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

        def write() -> str:
            exported = export(session, kind, target, stack_id=stack_id)
            return f"Wrote {exported.num_objects} objects to {', '.join(path.name for path in exported.paths[:3])}"

        work.say(f"Writing {target.name}", "busy")
        work.tasks.run(write, lambda text: work.say(text, "info"), work.fail)

    def take(self, path: Path) -> None:
        """Take objects from a label image or a COCO file; one step that can be undone."""
        session = self._work.session
        try:
            stack_id, plane = session.place
            if path.suffix.lower() == ".json":
                taken = import_coco(session.file, path)
            else:
                taken = import_labels(session.file, stack_id, path, plane=plane, class_id=session.class_id)
        except (E2SamError, OSError) as error:
            self._work.fail(str(error))
            return
        self._work.say(f"{len(taken)} objects taken from {path.name}; they wait for your review.", "info")
