"""Export and import of objects: the forms, and the work in a thread."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QVBoxLayout, QWidget

from e2sam.data.export import export
from e2sam.data.importing import import_coco, import_labels
from e2sam.errors import E2SamError
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.export import ExportForm, ExportRequest, ImportForm, ImportRequest

__all__ = ["ExchangeControl"]


class ExchangeControl:
    """Writes the objects of the session to files, and takes objects from files."""

    def __init__(self, panel: QWidget, work: Workplace) -> None:
        self._panel = panel
        self._work = work
        self.form: ExportForm | ImportForm | None = None
        self.dialog: QDialog | None = None

    def ask(self, what: str) -> None:
        """Show the form of "export" or "import"; the window stays usable beside it."""
        if not self._work.session.has_stack:
            self._work.fail("Expected a stack, got none: open an image, or take the sample in Stack.")
            return
        if what == "export":
            stem = Path(self._work.session.record.name).stem
            form: ExportForm | ImportForm = ExportForm(Path.home(), f"{stem}_labels")
            form.asked.connect(self._on_export)
        else:
            classes = [record.name for record in self._work.session.file.classes()]
            form = ImportForm(Path.home(), classes)
            form.asked.connect(self._on_import)
        self.dialog = QDialog(self._panel)
        self.dialog.setWindowTitle(f"{what.capitalize()} objects")
        self.dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        QVBoxLayout(self.dialog).addWidget(form.native)
        self.form = form
        form.asked.connect(self.dialog.accept, max_args=0, check_nargs=False)
        self.dialog.open()

    def _on_export(self, request: ExportRequest) -> None:
        self.export(request)

    def _on_import(self, request: ImportRequest) -> None:
        numbers = {record.name: record.id for record in self._work.session.file.classes()}
        self.take(request.path, numbers.get(request.class_name), request.is_reviewed)

    def export(self, request: ExportRequest) -> None:
        """Write objects in a thread."""
        work = self._work
        if not request.all_stacks and not work.session.file.objects(work.session.place[0]):
            work.fail("Expected at least 1 object to export, got 0: accept one first.")
            return
        session, stack_id = work.session.file, work.session.place[0]

        def write() -> str:
            exported = export(
                session,
                request.format,
                request.out,
                stack_id=None if request.all_stacks else stack_id,
                values=request.values,
                only_reviewed=request.only_reviewed,
            )
            return f"Wrote {exported.num_objects} objects to {', '.join(path.name for path in exported.paths[:3])}"

        work.say(f"Writing {request.out.name}", "busy")
        work.tasks.run(write, lambda text: work.say(text, "info"), work.fail)

    def take(self, path: Path, class_id: int | None = None, is_reviewed: bool = False) -> None:
        """Take objects from a label image or a COCO file; one step that can be undone."""
        session = self._work.session
        try:
            stack_id, plane = session.place
            if path.suffix.lower() == ".json":
                taken = import_coco(session.file, path, is_reviewed=is_reviewed or None)
            else:
                chosen = session.class_id if class_id is None else class_id
                taken = import_labels(
                    session.file, stack_id, path, plane=plane, class_id=chosen, is_reviewed=is_reviewed
                )
        except (E2SamError, OSError) as error:
            self._work.fail(str(error))
            return
        waiting = sum(not record.is_reviewed for record in taken)
        told = f"; {waiting} wait for your review" if waiting else ""
        self._work.say(f"{len(taken)} objects taken from {path.name}{told}.", "info")
