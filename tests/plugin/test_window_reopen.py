"""A session goes on with its image as it was, moved, or changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Window
from qtpy.QtWidgets import QFileDialog

from e2sam.data.alignment import shifted
from e2sam.data.io import read_stack, write_stack
from e2sam.data.stack import ChannelStack
from napari_e2sam._jobs import Request

pytestmark = pytest.mark.only_on("pyqt6")


def test_an_image_that_moved_or_changed_is_asked_for(
    make_napari_viewer: Any, qtbot: Any, stack: ChannelStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image = tmp_path / "work.e2sam", tmp_path / "images" / "scene.tif"
    image.parent.mkdir()
    write_stack(image, stack)
    viewer = make_napari_viewer(show=True)
    window = Window(viewer, qtbot, session=path)
    window.open(read_stack(image))
    window.click(30, 30)
    window.controller.do("accept")
    window.session.file.set_alignment(1, {"nir": (3.0, 0.0)})
    camera = window.canvas.camera
    camera.center, camera.zoom = (0.0, 20.0, 25.0), 7.0
    window.close()
    viewer.layers.clear()

    # Where it was: the channels that were aligned are shifted once.
    window = Window(viewer, qtbot, session=path)
    asked: list[Request] = []
    request = window.controller.work.engine.request
    monkeypatch.setattr(window.controller.work.engine, "request", lambda one: (asked.append(one), request(one)))
    window.wait(lambda: window.state.is_encoded)
    assert viewer.dims.axis_labels == ("channel", "row", "column"), "the slider says what it is for"
    once = shifted(stack, {"nir": (3.0, 0.0)})
    assert np.array_equal(window.state.scene.stack.read(), once.read(), equal_nan=True)
    assert np.allclose(camera.center, (0.0, 20.0, 25.0))
    assert np.isclose(camera.zoom, 7.0)
    view = window.canvas.view
    assert view is not None and view != (0, 0, stack.size[1], stack.size[0])
    window.wait(lambda: asked[-1].what == "look" and asked[-1].body["view"] == window.canvas.view)
    window.close()
    viewer.layers.clear()

    # Moved: the panel says so and asks; another image is refused.
    moved = image.rename(tmp_path / "scene.tif")
    other = write_stack(tmp_path / "other.tif", replace(stack, data=stack.data + 1))
    window = Window(viewer, qtbot, session=path)
    panel = window.panels.stack
    window.wait(lambda: panel.find.isVisibleTo(panel))
    assert "no longer where it was" in panel.lost.text()
    assert not panel.accept.isVisibleTo(panel)
    answers = ["", str(other), str(moved)]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (answers.pop(0), ""))
    panel.find.click()
    assert "no longer where it was" in window.widget.status.text()
    panel.find.click()
    assert "another content" in window.widget.status.text()
    panel.find.click()
    window.wait(lambda: window.state.is_encoded and len(window.session.objects) == 1)
    assert not panel.find.isVisibleTo(panel)
    window.close()
    viewer.layers.clear()

    # Changed: it is used only when the user says so, with the objects that were made on it.
    write_stack(moved, replace(stack, data=stack.data * 2))
    window = Window(viewer, qtbot, session=path)
    panel = window.panels.stack
    window.wait(lambda: panel.accept.isVisibleTo(panel))
    assert "has changed" in panel.lost.text()
    panel.accept.click()
    window.wait(lambda: window.state.is_encoded)
    assert [record.id for record in window.session.objects] == [1]
    window.close()
