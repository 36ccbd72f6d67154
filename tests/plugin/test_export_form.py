"""The forms of export and import say what the engine's functions take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.export import FORMATS, export
from e2sam.data.importing import import_labels
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam.widgets.export import ExportForm, ExportRequest, ImportForm, ImportRequest


def test_the_name_follows_the_format(tmp_path: Path, qtbot: Any) -> None:
    form = ExportForm(tmp_path, "scene")
    qtbot.addWidget(form.native)
    assert form.request == ExportRequest("tiff", tmp_path / "scene.tif", False, "objects", False)
    for kind, suffix in FORMATS.items():
        form["format"].value = kind
        assert form.request.out == tmp_path / f"scene{suffix}"
        assert form["values"].enabled == (kind in ("tiff", "png"))
    form["format"].value = "png"
    form["images"].value = "all images of the session"
    assert form.request.out == tmp_path / "scene"


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_what_the_form_says_can_be_written(tmp_path: Path, qtbot: Any, kind: str) -> None:
    form = ExportForm(tmp_path)
    qtbot.addWidget(form.native)
    asked: list[ExportRequest] = []
    form.asked.connect(asked.append)
    form["format"].value = kind
    form["export"].native.click()
    (request,) = asked
    with Session.open(tmp_path / "a.e2sam") as session:
        session.add_stack(ChannelStack(np.zeros((1, 9, 9), np.uint8), (ChannelSpec("a"),)))
        session.accept(1, (), NewObject(MaskCrop(np.ones((2, 2), bool), 3, 3)))
        written = export(
            session, request.format, request.out, values=request.values, only_reviewed=request.only_reviewed
        )
        assert written.paths == (request.out,)
        if kind == "png":
            session.undo()
            importing = ImportForm(tmp_path, ["object", "cell"])
            qtbot.addWidget(importing.native)
            importing["path"].value = request.out
            taken: list[ImportRequest] = []
            importing.asked.connect(taken.append)
            importing["take"].native.click()
            assert taken == [ImportRequest(request.out, "object", False)]
            (record,) = import_labels(session, 1, taken[0].path).objects
            assert record.area == 4


def test_a_coco_file_brings_its_classes(tmp_path: Path, qtbot: Any) -> None:
    form = ImportForm(tmp_path, ["object"])
    qtbot.addWidget(form.native)
    form["path"].value = tmp_path / "a.json"
    assert not form["object_class"].enabled
    form["path"].value = tmp_path / "a.png"
    assert form["object_class"].enabled


def test_export_and_import_in_the_window(window: Any, stack: ChannelStack, tmp_path: Path) -> None:
    window.open(stack)
    exchange = window.controller.exchange
    window.click(30, 30)
    window.controller.do("accept")
    area = window.session.objects[0].area
    exchange.ask("export")
    exchange.form["out"].value = tmp_path / "scene.tif"
    exchange.form["export"].native.click()
    window.wait(lambda: window.widget.status.text() == "Wrote 1 object to scene.tif")
    window.session.file.delete([1])
    exchange.ask("import")
    exchange.form["path"].value = tmp_path / "scene.tif"
    exchange.form["take"].native.click()
    window.wait(lambda: window.widget.status.text() == "1 object taken from scene.tif; 1 waits for your review.")
    assert [record.area for record in window.session.objects] == [area]

    # A second time brings only what is new, and says so.
    window.click(60, 50)
    window.controller.do("accept")
    exchange.export(ExportRequest("coco", tmp_path / "both.json", False, "objects", False))
    window.wait(lambda: (tmp_path / "both.json").exists() and "Wrote 2" in window.widget.status.text())
    window.session.file.delete([window.session.objects[-1].id])
    exchange.take(tmp_path / "both.json")
    window.wait(lambda: window.widget.status.text() == "1 object taken from both.json; 1 skipped, it is here already.")
    assert len(window.session.objects) == 2
    assert len(window.panels.objects.table.rows) == 2
    content = json.loads((tmp_path / "both.json").read_text())
    content["annotations"].append({**content["annotations"][0], "id": 99, "segmentation": []})
    (tmp_path / "more.json").write_text(json.dumps(content))
    exchange.take(tmp_path / "more.json")
    window.wait(lambda: "2 skipped, they are here already; 1 without a usable" in window.widget.status.text())
    exchange.take(tmp_path / "both.json")
    window.wait(lambda: "0 objects taken from both.json; 2 skipped" in window.widget.status.text())
    window.controller.do("undo")
    assert len(window.session.objects) == 1, "an import that brings nothing is no step"
    exchange.take(tmp_path / "nothing.png")
    window.wait(lambda: "nothing.png" in window.widget.status.text())
