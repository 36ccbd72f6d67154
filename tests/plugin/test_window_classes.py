"""The list of classes, in a real viewer: rename and remove, undone and reopened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Window
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QInputDialog

from e2sam.data.stack import ChannelStack

pytestmark = pytest.mark.only_on("pyqt6")


def _shown(panel: Any) -> list[str]:
    return [panel.classes.itemText(at) for at in range(panel.classes.count())]


def test_a_class_is_renamed_and_removed_and_stays_so(
    make_napari_viewer: Any, qtbot: Any, stack: ChannelStack, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "work.e2sam"
    window = Window(make_napari_viewer(show=True), qtbot, session=path)
    window.open(stack)
    panel, do = window.panels.objects, window.controller.do
    assert not panel.remove_class.isEnabled(), "the only class stays"
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: (" cell ", True))
    panel.add_class.click()
    assert _shown(panel) == ["object", "cell"]
    # A new class is that of the next objects, as is one that is chosen by its key.
    canvas = window.viewer.window._qt_viewer.canvas.native
    for key, name in ((None, "cell"), (Qt.Key.Key_1, "object"), (Qt.Key.Key_3, "object"), (Qt.Key.Key_2, "cell")):
        if key is not None:
            QTest.keyClick(canvas, key, Qt.KeyboardModifier.ControlModifier)
        assert panel.classes.currentText() == window.controller.classes.current.name == name
    window.click(20, 20)
    do("accept")

    # Renamed: the object shows it, a name that is taken is one line.
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("nucleus", True))
    panel.rename_class.click()
    assert _shown(panel) == ["object", "nucleus"]
    assert panel.classes.currentText() == "nucleus"
    assert [row.class_name for row in panel.table.rows] == ["nucleus"]
    assert "Rename class cell to nucleus" in panel.undo.toolTip()
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("object", True))
    panel.rename_class.click()
    assert "Expected a new class name" in window.widget.status.text()
    assert _shown(panel) == ["object", "nucleus"]

    # Not removed when the user does not say where its object goes; else in one step with it.
    asked: list[Any] = []

    def answer(*arguments: Any) -> tuple[str, bool]:
        asked.append(arguments[2:4])
        return "object", len(asked) > 1

    monkeypatch.setattr(QInputDialog, "getItem", answer)
    panel.remove_class.click()
    assert asked == [("1 object is of the class nucleus. New class:", ["object"])]
    assert _shown(panel) == ["object", "nucleus"]
    panel.remove_class.click()
    assert _shown(panel) == ["object"]
    assert [row.class_name for row in panel.table.rows] == ["object"]
    do("undo")
    assert _shown(panel) == ["object", "nucleus"]
    assert [row.class_name for row in panel.table.rows] == ["nucleus"]
    do("undo")
    assert [row.class_name for row in panel.table.rows] == ["cell"]
    do("redo")
    do("redo")
    assert [row.class_name for row in panel.table.rows] == ["object"]

    # One without objects goes without a question.
    window.controller.classes.add("empty")
    panel.remove_class.click()
    assert len(asked) == 2
    do("undo")
    assert _shown(panel) == ["object", "empty"]

    # The key gives its class to the chosen objects too.
    panel.choose([1])
    QTest.keyClick(canvas, Qt.Key.Key_2, Qt.KeyboardModifier.ControlModifier)
    assert [row.class_name for row in panel.table.rows] == ["empty"]
    do("undo")
    panel.choose([])

    # Where two objects overlap, the pixel shows the one that the box says, also after reopening.
    window.click(28, 20)
    do("accept")
    shown = []
    for key in (None, Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Down):
        if key is not None:
            QTest.keyClick(panel.overlap, key)
        shown.append((panel.overlap.currentText(), window.canvas.objects_layer.data[20, 24]))
    assert shown == [("new on top", 2), ("old on top", 1)] * 2
    window.close()
    window.viewer.layers.clear()
    again = Window(window.viewer, qtbot, session=path)
    assert _shown(again.panels.objects) == ["object", "empty"]
    assert again.panels.objects.overlap.currentText() == "old on top"
    again.wait(lambda: [row.class_name for row in again.panels.objects.table.rows] == ["object", "empty"])
    again.wait(lambda: again.canvas.objects_layer is not None and again.canvas.objects_layer.data.any())
    assert again.canvas.objects_layer.data[20, 24] == 1
    again.close()


def test_a_class_name_is_one_short_line(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    classes, status = window.controller.classes, window.widget.status
    for name in ("x" * 101, "two\nlines", "two\u2028lines"):
        for ask in (classes.add, classes.rename):
            ask(name)
            assert "Expected a class name of one line and at most 100 characters" in status.text()
            assert "\n" not in status.text()
    assert _shown(window.panels.objects) == ["object"]
    classes.add("Zélle <b> 🚀")
    classes.rename("x" * 100)
    assert _shown(window.panels.objects) == ["object", "x" * 100] and status.text() == ""


def test_the_class_of_the_last_object_goes_on_in_the_next_window(
    make_napari_viewer: Any, qtbot: Any, stack: ChannelStack, tmp_path: Path
) -> None:
    path = tmp_path / "work.e2sam"
    window = Window(make_napari_viewer(show=True), qtbot, session=path)
    window.open(stack)
    for name, x in (("cell", 20), ("leaf", 60)):
        window.controller.classes.add(name)
        window.click(x, 30)
        window.controller.do("accept")
    window.controller.classes.add("unused")
    window.close()
    window.viewer.layers.clear()
    again = Window(window.viewer, qtbot, session=path)
    assert again.panels.objects.classes.currentText() == "leaf"
    again.wait(lambda: again.state.is_encoded)
    again.click(40, 60)
    again.controller.do("accept")
    assert [row.class_name for row in again.panels.objects.table.rows] == ["cell", "leaf", "leaf"]
    again.close()
