"""The forms of export and import say what the engine's functions take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.export import FORMATS, export
from e2sam.data.importing import import_labels
from e2sam.data.io import read_labels, read_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack, GeoReference
from napari_e2sam.widgets.export import ExportForm, ExportRequest, ImportForm, ImportRequest

pytestmark = pytest.mark.only_on("pyqt5")

GEO = GeoReference(
    (
        (33550, 12, 3, (10.0, 10.0, 0.0)),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5100000.0, 0.0)),
        (34735, 3, 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633)),
    ),
    ((10.0, 0.0, 500000.0), (0.0, -10.0, 5100000.0)),
    32633,
)


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


def _colour(widget: Any) -> str:
    return str(widget.palette().color(widget.foregroundRole()).name())


def _export(window: Any, kind: str, out: Path) -> str:
    """Write a file through the form, and wait for the line that says so; its text."""
    exchange, status = window.controller.exchange, window.widget.status
    exchange.ask("export")
    exchange.form["format"].value = kind
    exchange.form["out"].value = out
    exchange.form["export"].native.click()
    assert status.text() == f"Writing {out.name}"
    assert _colour(status) == "#3f9fd8", "that it is busy"
    window.wait(lambda: status.text().startswith("Wrote"))
    assert _colour(status) != "#3f9fd8"
    return str(status.text())


def test_export_and_import_in_the_window(window: Any, stack: ChannelStack, tmp_path: Path) -> None:
    window.open(replace(stack, geo=GEO))
    exchange = window.controller.exchange
    window.click(30, 30)
    window.controller.do("accept")
    area = window.session.objects[0].area
    labels = window.session.file.labels(*window.session.place)
    for kind, suffix in (("png", ".png"), ("tiff", ".tif")):
        out = tmp_path / f"scene{suffix}"
        assert _export(window, kind, out) == f"Wrote 1 object to {out.name}"
        np.testing.assert_array_equal(read_labels(out), labels)
    assert read_stack(tmp_path / "scene.tif").geo == GEO
    assert _export(window, "geojson", tmp_path / "scene.geojson") == "Wrote 1 object to scene.geojson"
    (feature,) = json.loads((tmp_path / "scene.geojson").read_text())["features"]
    centre = np.mean(feature["geometry"]["coordinates"][0], axis=0)
    assert np.allclose(centre, (500300, 5099700), rtol=0, atol=20), "where it lies on the ground"
    window.session.file.delete([1])
    assert not window.canvas.objects_layer.data.any()
    exchange.ask("import")
    exchange.form["path"].value = tmp_path / "scene.tif"
    exchange.form["take"].native.click()
    window.wait(lambda: window.widget.status.text() == "1 object taken from scene.tif; 1 waits for your review.")
    assert [record.area for record in window.session.objects] == [area]
    np.testing.assert_array_equal(window.canvas.objects_layer.data > 0, labels > 0)

    # A second time brings only what is new, and says so.
    window.click(60, 50)
    window.controller.do("accept")
    assert _export(window, "coco", tmp_path / "both.json") == "Wrote 2 objects to both.json"
    window.session.file.delete([window.session.objects[-1].id])
    exchange.take(tmp_path / "both.json")
    window.wait(lambda: window.widget.status.text() == "1 object taken from both.json; 1 skipped, it is here already.")
    assert len(window.session.objects) == 2
    assert len(window.panels.objects.table.rows) == 2
    assert window.canvas.objects_layer.data[50, 60] == window.session.objects[-1].id
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
