"""Our layers in the user's hands: hidden, deleted, or beside layers of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject
from e2sam.data.stack import ChannelStack

pytestmark = pytest.mark.only_on("pyqt5")


def _click(window: Any, x: float, y: float) -> None:
    native, camera = window.viewer.window._qt_viewer.canvas.native, window.canvas.camera
    offset = (np.array([y - 0.5, x - 0.5]) - np.array(camera.center[-2:])) * camera.zoom
    at = QPoint(round(native.width() / 2 + offset[1]), round(native.height() / 2 + offset[0]))
    QTest.mouseMove(native, at)
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)


def _hint(window: Any) -> str:
    return str(window.widget.sections["prompts"].heading.text())


def test_deleted_objects_come_back_when_one_is_chosen(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    objects, status = window.panels.objects, window.widget.status
    window.viewer.layers.remove(window.canvas.objects_layer)
    assert status.text() == "", "there was nothing to see"
    for x in (20, 60):
        window.click(x, 30)
        window.controller.do("accept")
    labels = np.array(window.canvas.objects_layer.data)
    for ask in (lambda: objects.view.selectRow(0), lambda: window.controller.do("next")):
        objects.view.clearSelection()
        window.session.file.set_reviewed([1], False)
        window.viewer.layers.remove(window.canvas.objects_layer)
        assert status.text() == "The objects are safe in the session: choose one in Objects to see them again."
        assert window.canvas.objects_layer is None and len(objects.table.rows) == 2
        ask()
        np.testing.assert_array_equal(window.canvas.objects_layer.data, labels)

    # With its image closed, none is left to choose.
    for layer in [layer for layer in window.viewer.layers if not window.canvas.is_ours(layer)]:
        window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    assert "Image closed" in status.text()


def test_prompts_under_way_come_back_with_their_layer(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    for x in (40, 45):
        window.click(x, 40)
    window.viewer.layers.remove(window.canvas.points_layer)
    window.controller.do("tool points")
    assert len(window.canvas.points_layer.data) == 2
    window.click(50, 40)
    assert len(window.session.draft.prompts.points) == 3


def test_a_stroke_changes_what_it_touches_alone(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    file, place, layer = window.session.file, window.session.place, window.canvas.objects_layer
    # Not drawn yet, as while the results of a search are written.
    window.controller.objects._draw_waiting = lambda seconds: None
    square = MaskCrop(np.ones((20, 20), bool), 10, 10)
    file.accept_many(*place, [NewObject(square, origin="automatic"), NewObject(square.moved(40, 30))])
    assert not layer.data.any()
    layer.data_setitem((np.arange(8, 62), np.arange(8, 62)), 9)
    assert [file.object(number).area for number in (1, 2, 9)] == [380, 390, 54]


def test_numbers_past_16_bits_are_drawn_as_they_are(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    file, place = window.session.file, window.session.place
    file.paint(*place, (0, 0, 2, 2), np.zeros((2, 2), int), np.full((2, 2), 65_536))
    for x in (20, 60):
        window.click(x, 40)
        window.controller.do("accept")
    assert [record.id for record in window.session.objects] == [65_536, 65_537, 65_538]
    np.testing.assert_array_equal(window.canvas.objects_layer.data, file.labels(*place))


def test_hidden_prompts_say_so_and_show_with_the_tool(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.viewer.reset_view()
    points, buttons = window.canvas.points_layer, window.panels.prompts.tools
    assert buttons["points"].isChecked()
    points.visible = False
    assert not any(button.isChecked() for button in buttons.values())
    assert "hidden, click Points here to show it" in _hint(window)
    buttons["points"].click()
    assert points.visible and buttons["points"].isChecked() and "left click inside" in _hint(window)
    _click(window, 30, 30)
    window.wait(lambda: len(window.session.draft.prompts.points) == 1 and window.session.draft.candidates)

    # Shown again by its own eye, it takes clicks as before.
    points.visible = False
    points.visible = True
    assert buttons["points"].isChecked() and points.mode == "add"

    # The box as well; and a hidden mask of what was accepted is no riddle.
    window.controller.do("tool box")
    box = window.viewer.layers.selection.active
    box.visible = False
    assert "hidden" in _hint(window)
    window.controller.do("tool box")
    assert box.visible and box.mode == "add_rectangle"
    window.canvas.objects_layer.visible = False
    window.controller.do("accept")
    assert window.widget.status.text() == "Accepted; the layer of the objects is hidden."
    assert not window.canvas.objects_layer.visible


def test_on_a_layer_of_the_user_the_hint_is_true(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.viewer.reset_view()
    mine = window.viewer.add_points([[10, 10]], name="mine")
    labels = window.viewer.add_labels(np.zeros((80, 96), int), name="mine, too")
    QApplication.processEvents()
    for layer in (mine, labels):
        window.viewer.layers.selection.active = layer
        assert "another layer is active, click Points here to go on" in _hint(window)
        # napari's own keys are those of the user's layer.
        QTest.keyClick(window.viewer.window._qt_viewer.canvas.native, Qt.Key.Key_P)
        assert window.viewer.layers.selection.active is layer
        window.panels.prompts.tools["points"].click()
        assert window.viewer.layers.selection.active is window.canvas.points_layer
        _click(window, 30, 30)
        window.wait(lambda: window.session.draft.candidates)
        assert len(mine.data) == 1 and not labels.data.any()
        window.controller.do("clear")
