"""Undo takes back what is on view, not what was accepted on another image; another session spares the user's layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Window
from qtpy.QtWidgets import QApplication, QFileDialog

from e2sam.data.io import read_stack, write_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.stack import ChannelStack
from napari_e2sam._convert import STACK_KEY
from napari_e2sam.widgets.main import SegmentWidget

pytestmark = pytest.mark.only_on("pyqt6")


def _open(window: Any, stack: ChannelStack, name: str) -> Any:
    """Open one more image and bring it to the front."""
    layer = window.viewer.add_image(stack.data, metadata={STACK_KEY: stack}, rgb=False, name=name)
    QApplication.processEvents()
    _show(window, layer)
    return layer


def _show(window: Any, layer: Any) -> None:
    window.controller.stack.choose((layer,))
    window.wait(lambda: window.state.layer is layer and window.state.is_encoded)


def _accept(window: Any, x: float, y: float) -> None:
    window.click(x, y)
    window.controller.do("accept")


def _ids(window: Any) -> list[int]:
    return [record.id for record in window.session.file.objects()]


def test_undo_leaves_what_was_accepted_on_another_image(window: Any, stack: ChannelStack) -> None:
    do, panel, status = window.controller.do, window.panels.objects, window.widget.status
    first = window.open(stack)
    _accept(window, 20, 20)
    _accept(window, 60, 60)
    assert panel.undo.isEnabled() and "Undo Accept object" in panel.undo.toolTip()

    second = _open(window, replace(stack, data=stack.data[:, ::-1].copy()), "B")
    why = "The last step, 'accept object', was made on scene: open scene to undo it."
    assert not panel.undo.isEnabled() and panel.undo.toolTip() == why
    do("undo")
    assert _ids(window) == [1, 2] and status.text() == why

    # What is done here is undone here, and no further.
    _accept(window, 40, 40)
    assert panel.undo.isEnabled()
    for _ in range(5):
        do("undo")
    assert _ids(window) == [1, 2] and window.session.draft.is_empty and status.text() == why
    assert panel.redo.isEnabled() and not panel.undo.isEnabled()

    # There, what was undone here is not done again.
    _show(window, first)
    assert panel.undo.isEnabled() and not panel.redo.isEnabled()
    do("redo")
    assert "was made on B: open B to do it again." in status.text() and _ids(window) == [1, 2]
    do("undo")
    assert _ids(window) == [1]
    do("redo")
    assert _ids(window) == [1, 2]
    _show(window, second)
    do("redo")
    do("redo")
    assert _ids(window) == [1, 2, 3]

    # Without any image, too.
    for layer in (first, second):
        window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    assert not panel.undo.isEnabled()
    do("undo")
    assert _ids(window) == [1, 2, 3] and "open B to undo it" in status.text()


def test_a_step_on_several_images_or_on_none_is_undone_where_it_shows(window: Any, stack: ChannelStack) -> None:
    do, file = window.controller.do, window.session.file
    window.open(stack)
    other = replace(stack, data=stack.data[:, ::-1].copy())
    file.add_stack(other, name="B")
    disc = NewObject(MaskCrop(np.ones((5, 5), bool), 10, 10))
    file.import_objects([((1, ()), "cell", disc), ((2, ()), "cell", disc)])
    do("undo")
    assert _ids(window) == []
    do("redo")
    assert len(_ids(window)) == 2

    # The list of classes shows with any image; a new class that came with an object does not make its step of here.
    file.import_objects([((2, ()), "leaf", disc)])
    do("undo")
    assert len(_ids(window)) == 3 and "open B" in window.widget.status.text()
    window.controller.classes.add("tree")
    do("undo")
    assert [one.name for one in file.classes()] == ["object", "cell", "leaf"]


def test_planes_of_one_series_share_their_steps(window: Any, stack: ChannelStack) -> None:
    window.open(replace(stack, data=np.stack([stack.data, stack.data[:, ::-1]]), leading="T"))
    _accept(window, 20, 20)
    window.viewer.dims.set_current_step(0, 1)
    window.wait(lambda: window.session.plane == (1,) and window.state.is_encoded)
    window.controller.do("undo")
    assert _ids(window) == []


def test_an_older_session_knows_where_its_steps_were_made(
    make_napari_viewer: Any, qtbot: Any, stack: ChannelStack, tmp_path: Path
) -> None:
    path, image = tmp_path / "work.e2sam", write_stack(tmp_path / "a.tif", stack)
    with Session.open(path) as session:
        session.add_stack(stack, name="a", paths=[image])
        session.add_stack(replace(stack, data=stack.data * 0.5), name="b")
        session.set_active(1, ())
        cell = session.add_class("cell")
        disc = NewObject(MaskCrop(np.ones((5, 5), bool), 10, 10), class_id=cell.id)
        session.accept(2, (), disc)
    window = Window(make_napari_viewer(show=True), qtbot, session=path)
    # New objects go on in the class of the last one.
    assert window.panels.objects.classes.currentText() == "cell" and window.session.class_id == cell.id
    window.wait(lambda: window.state.is_encoded)
    window.controller.do("undo")
    assert _ids(window) == [1] and "was made on b" in window.widget.status.text()
    window.close()


def test_another_session_brings_its_image_beside_one_of_the_user(
    window: Any, stack: ChannelStack, tmp_path: Path
) -> None:
    write_stack(tmp_path / "scene.tif", stack)
    other = tmp_path / "other.e2sam"
    with Session.open(other) as session:
        record = session.add_stack(read_stack(tmp_path / "scene.tif"))
        session.set_active(record.id, ())
    window.open(replace(stack, data=stack.data + 1))
    mine = window.viewer.add_image(np.zeros((7, 9)), name="mine")
    before = window.widget
    before.go_on_with(other)
    (dock,) = (one for one in window.viewer.window._wrapped_dock_widgets.values() if one is not before)
    after = dock.inner_widget()
    window.wait(lambda: after.controller.work.state.is_encoded)
    assert mine in window.viewer.layers
    assert after.controller.session.stack_id == record.id
    assert after.controller.work.state.scene.stack.num_channels == stack.num_channels
    after.controller.close(remove_layers=True)


def test_another_session_leaves_the_layers_of_the_user(
    window: Any, stack: ChannelStack, tmp_path: Path, monkeypatch: Any
) -> None:
    viewer = window.viewer
    window.controller.models.choose("other")
    layer = window.open(stack)
    window.wait(lambda: window.state.model["name"] == "other" and window.state.is_encoded)
    mine = (
        viewer.add_labels(np.ones((80, 96), int), name="objects"),
        viewer.add_points([[10, 10]], name="mine"),
        viewer.add_image(np.zeros((7, 9)), name="unread"),
    )
    QApplication.processEvents()
    before = window.widget
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *_, **__: (str(tmp_path / "plate1.2024"), "Sessions (*.e2sam)")
    )
    before.session.click()
    assert (tmp_path / "plate1.2024.e2sam").exists() and not (tmp_path / "plate1.e2sam").exists()
    assert [one for one in viewer.layers if one in mine] == list(mine)
    assert layer in viewer.layers
    (dock,) = (one for one in viewer.window._wrapped_dock_widgets.values() if one is not before)
    after = dock.inner_widget()
    assert isinstance(after, SegmentWidget) and after is not before
    assert after.controller.session.path == tmp_path / "plate1.2024.e2sam"
    window.wait(lambda: after.controller.work.state.model.get("name") == "other")
    after.controller.close(remove_layers=True)
