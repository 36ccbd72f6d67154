"""An export never takes the place of what is to stay: images, the session, files that nobody agreed to overwrite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtWidgets import QApplication, QMessageBox

from e2sam.data.io import read_stack, write_stack
from e2sam.data.session import Session
from e2sam.data.stack import ChannelStack
from napari_e2sam._exchange import is_protected
from napari_e2sam.widgets.export import ExportRequest, ImportForm

pytestmark = pytest.mark.only_on("pyqt5")


@pytest.fixture
def image(window: Any, stack: ChannelStack, tmp_path: Path) -> Path:
    """The file of the image in front, on which there is an object."""
    path = Path(write_stack(tmp_path / "scene.tif", stack))
    window.open(read_stack(path))
    window.click(30, 30)
    window.controller.do("accept")
    return path


def _type(form: Any, path: Path) -> None:
    """Type a name, as the user does, and ask for the file."""
    form["out"].line_edit.value = str(path)
    form["export"].native.click()


def test_the_image_is_not_overwritten_by_its_labels(window: Any, image: Path, tmp_path: Path) -> None:
    before, exchange = image.read_bytes(), window.controller.exchange
    link = tmp_path / "link.tif"
    link.symlink_to(image)
    exchange.ask("export")
    for typed in (image, link, tmp_path / "x" / ".." / "scene.tif"):
        (tmp_path / "x").mkdir(exist_ok=True)
        _type(exchange.form, typed)
        assert "Expected another file than those of the session and its images" in exchange.form["error"].value
        assert exchange.dialog.isVisible(), "it can be named anew"
        exchange.export(ExportRequest("tiff", typed, False, "objects", False, may_overwrite=True))
        assert "Expected another file" in window.widget.status.text()
    QApplication.processEvents()
    assert image.read_bytes() == before

    # Nor is one that waits in the worklist.
    waiting = tmp_path / "waiting.tif"
    waiting.write_bytes(b"pixels")
    window.session.file.set_worklist([waiting])
    _type(exchange.form, waiting)
    assert exchange.dialog.isVisible() and waiting.read_bytes() == b"pixels"
    _type(exchange.form, tmp_path / "labels.tif")
    window.wait(lambda: window.widget.status.text() == "Wrote 1 object to labels.tif")


def test_what_was_typed_is_overwritten_only_where_the_user_agrees(
    window: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, status = window.controller.exchange, window.widget.status
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    asked: list[str] = []
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *given: (asked.append(given[2]), answers.pop(0))[1])
    exchange.ask("export")
    exchange.form["format"].value = "coco"
    _type(exchange.form, kept)
    assert asked == [f"kept.json is in {tmp_path} already. Overwrite?"]
    assert kept.read_text() == "mine" and exchange.dialog.isVisible()
    _type(exchange.form, kept)
    window.wait(lambda: status.text() == "Wrote 1 object to kept.json")
    assert len(asked) == 2 and kept.read_text() != "mine"

    # The dialog of files has asked already.
    kept.write_text("mine")
    exchange.ask("export")
    form = exchange.form
    form["format"].value = "coco"
    monkeypatch.setattr(form["out"], "_show_file_dialog", lambda *_, **__: str(kept))
    form["out"].choose_btn.native.click()
    assert Path(form["out"].value) == kept
    form["export"].native.click()
    window.wait(lambda: kept.read_text() != "mine")
    assert len(asked) == 2

    # A folder of labels is asked for where it holds some of these names.
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "other_labels.tif").write_bytes(b"")
    (folder / "scene_labels.tif").write_bytes(b"mine")
    exchange.ask("export")
    exchange.form["images"].value = "all images of the session"
    answers.append(QMessageBox.StandardButton.No)
    _type(exchange.form, folder)
    assert asked[2:] == [f"scene_labels.tif is in {folder} already. Overwrite?"]
    assert (folder / "scene_labels.tif").read_bytes() == b"mine"
    exchange.dialog.close()


def test_files_of_the_session_are_protected_by_any_name(tmp_path: Path, stack: ChannelStack) -> None:
    store = tmp_path / "planes.zarr"
    store.mkdir()
    with Session.open(tmp_path / "work.e2sam") as session:
        session.add_stack(stack, paths=[store], name="planes")
        os.link(session.path, tmp_path / "hard.tif")
        names = ("work.e2sam", "work.e2sam-wal", "work.e2sam-shm", "work.e2sam.lock", "work.stacks/a.npz", "hard.tif")
        for name in (*names, "work.models/m.safetensors", "planes.zarr", "planes.zarr/0/labels.tif"):
            assert is_protected(session, [tmp_path / "free.tif", tmp_path / name]), name
        # An image that is away keeps its place.
        store.rmdir()
        assert is_protected(session, [store])
        assert not is_protected(session, [tmp_path / "free.tif", tmp_path / "work2.e2sam", tmp_path])


def test_a_long_class_name_makes_no_wide_dialog(tmp_path: Path, qtbot: Any) -> None:
    form = ImportForm(tmp_path, ["object", "x" * 300])
    qtbot.addWidget(form.native)
    assert form.native.sizeHint().width() < 700
    form["object_class"].value = "x" * 300
    assert form.request.class_name == "x" * 300
