"""Export and import of objects: the forms, and the work in a thread."""

from __future__ import annotations

from collections.abc import Iterable
from glob import escape
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QMessageBox, QVBoxLayout, QWidget

from e2sam.data.export import FORMATS, export
from e2sam.data.importing import Imported, import_coco, import_labels
from e2sam.data.io import STACK_SUFFIXES
from e2sam.data.session import Session
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.export import ExportForm, ExportRequest, ImportForm, ImportRequest

__all__ = ["ExchangeControl", "is_protected"]

_PROTECTED = "Expected another file than those of the session and its images, got {}: choose another name."
# Of a session's own files, beside itself, and of its folders.
_BESIDE, _FOLDERS = ("-wal", "-shm", ".lock"), (".stacks", ".models")


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
            name = Path(self._work.session.record.name)
            # What follows the last dot of a layer's name is part of it.
            stem = name.stem if name.suffix.lower() in (*STACK_SUFFIXES, ".zarr") else name.name
            form: ExportForm | ImportForm = ExportForm(Path.home(), f"{stem}_labels")
        else:
            classes = [record.name for record in self._work.session.file.classes()]
            form = ImportForm(Path.home(), classes)
        self.dialog = QDialog(self._panel)
        self.dialog.setWindowTitle(f"{what.capitalize()} objects")
        self.dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        QVBoxLayout(self.dialog).addWidget(form.native)
        self.form = form
        form.asked.connect(self._on_export if isinstance(form, ExportForm) else self._on_import)
        self.dialog.open()

    def _on_export(self, request: ExportRequest) -> None:
        """Write, unless that would overwrite what is to stay: then the form does, too."""
        assert isinstance(self.form, ExportForm) and self.dialog is not None
        there = _overwritten(self._work.session.file, request)
        if is_protected(self._work.session.file, [request.out, *there]):
            self.form.fail(_PROTECTED.format(request.out.name))
        elif self._may_overwrite(request, there):
            self.dialog.accept()
            self.export(request)

    def _may_overwrite(self, request: ExportRequest, there: list[Path]) -> bool:
        if not there or (request.may_overwrite and there == [request.out]):
            return True
        what = f"{there[0].name} is" if len(there) == 1 else f"{len(there)} of its label images are"
        answer = QMessageBox.question(
            self.dialog,
            "Export objects",
            f"{what} in {request.out.parent if there == [request.out] else request.out} already. Overwrite?",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
            QMessageBox.StandardButton.No,
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _on_import(self, request: ImportRequest) -> None:
        assert self.dialog is not None
        self.dialog.accept()
        numbers = {record.name: record.id for record in self._work.session.file.classes()}
        self.take(request.path, numbers.get(request.class_name), request.is_reviewed)

    def export(self, request: ExportRequest) -> None:
        """Write objects in a thread."""
        work = self._work
        if not request.all_stacks and not work.session.file.objects(work.session.place[0]):
            work.fail("Expected at least 1 object to export, got 0: accept one first.")
            return
        session, stack_id = work.session.file, work.session.place[0]
        if is_protected(session, [request.out, *_overwritten(session, request)]):
            work.fail(_PROTECTED.format(request.out.name))
            return

        def write() -> str:
            exported = export(
                session,
                request.format,
                request.out,
                stack_id=None if request.all_stacks else stack_id,
                values=request.values,
                only_reviewed=request.only_reviewed,
            )
            count = exported.num_objects
            names = ", ".join(path.name for path in exported.paths[:3])
            return f"Wrote {count} object{'' if count == 1 else 's'} to {names}"

        work.say(f"Writing {request.out.name}", "busy")
        work.tasks.run(write, lambda text: work.say(text, "info"), work.fail)

    def take(self, path: Path, class_id: int | None = None, is_reviewed: bool = False) -> None:
        """Take objects from a label image or a COCO file, in a thread; one step that can be undone."""
        work, session = self._work, self._work.session
        # The form opens only over a stack.
        stack_id, plane = session.place
        chosen = session.class_id if class_id is None else class_id

        def read() -> Imported:
            if path.suffix.lower() == ".json":
                return import_coco(session.file, path, is_reviewed=is_reviewed or None)
            return import_labels(session.file, stack_id, path, plane=plane, class_id=chosen, is_reviewed=is_reviewed)

        def show(imported: Imported) -> None:
            session.tell()
            work.say(_imported_text(imported, path.name), "info")

        work.say(f"Reading {path.name}", "busy")
        work.tasks.run(read, show, work.fail)


def _imported_text(imported: Imported, name: str) -> str:
    count, unusable = len(imported.objects), imported.num_unusable
    skipped = imported.num_skipped - unusable
    parts = [f"{count} object{'' if count == 1 else 's'} taken from {name}"]
    if skipped:
        parts.append(f"{skipped} skipped, {'it is' if skipped == 1 else 'they are'} here already")
    if unusable:
        parts.append(f"{unusable} without a usable outline left out")
    waiting = sum(not record.is_reviewed for record in imported.objects)
    if waiting:
        parts.append(f"{waiting} wait{'s' if waiting == 1 else ''} for your review")
    return "; ".join(parts) + "."


def is_protected(session: Session, targets: Iterable[Path]) -> bool:
    """Whether one of these is a file of the session or of its images, by whatever name, or lies in a folder of them."""
    path = session.path
    kept = [path, *(Path(f"{path}{end}") for end in _BESIDE), *(path.with_suffix(end) for end in _FOLDERS)]
    kept += [source for record in session.stacks() for source in record.paths]
    kept += session.worklist
    names = {str(one.absolute()) for one in kept}
    files = {known for one in kept if (known := _identity(one)) is not None}
    for target in targets:
        whole = target.expanduser().absolute()
        if any(str(one) in names or _identity(one) in files for one in (whole, *whole.parents)):
            return True
    return False


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file is, by whatever link or spelling of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _overwritten(session: Session, request: ExportRequest) -> list[Path]:
    """What is there, where an export would write."""
    out = request.out
    if not out.is_dir():
        return [out] if out.exists() else []
    end = f"_labels{FORMATS[request.format]}"
    stems = {Path(record.name).stem for record in session.stacks()}
    return sorted({found for stem in stems for found in out.glob(f"{escape(stem)}*{end}")})
