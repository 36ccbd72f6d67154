"""The main job in a real viewer: open, tick, click, see, accept, undo, close."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Window
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from e2sam.data.stack import ChannelSpec, ChannelStack


def _canvas_widget(viewer: Any) -> Any:
    from vispy.app.backends._qt import QtBaseCanvasBackend

    found = [
        widget for widget in QApplication.allWidgets() if isinstance(widget, QtBaseCanvasBackend) and widget.isVisible()
    ]
    assert len(found) == 1
    return found[0]


def _place(window: Any, x: float, y: float) -> tuple[Any, QPoint]:
    """The canvas, and where on it a pixel (x, y) of the image lies."""
    native = _canvas_widget(window.viewer)
    camera = window.viewer.scene.camera
    offset = (np.array([y - 0.5, x - 0.5]) - np.array(camera.center[-2:])) * camera.zoom
    return native, QPoint(round(native.width() / 2 + offset[1]), round(native.height() / 2 + offset[0]))


def _click(window: Any, x: float, y: float, button: Any = Qt.MouseButton.LeftButton) -> None:
    native, at = _place(window, x, y)
    QTest.mouseMove(native, at)
    QTest.mouseClick(native, button, Qt.KeyboardModifier.NoModifier, at)


def test_main_job_with_the_mouse(window: Any, stack: ChannelStack, qtbot: Any) -> None:
    assert window.panels.stack.sample.isVisibleTo(window.widget)
    window.open(stack)
    window.viewer.reset_view()
    QApplication.processEvents()
    window.tick("nir", "thermal", "depth", "red")
    assert window.session.record.selection == ("nir", "thermal", "depth", "red")
    assert window.viewer.layers.selection.active is window.canvas.points_layer
    assert str(window.canvas.points_layer.mode) == "add"
    # napari asks the active layer for a key before the viewer, and a points layer takes A for itself.
    assert "A" in {str(key) for key in window.canvas.points_layer.keymap}

    _click(window, 40.5, 30.5)
    window.wait(lambda: window.session.draft.candidates)
    assert np.allclose(window.session.draft.prompts.points, [[40.5, 30.5]], atol=1.0)
    assert window.canvas.mask_layer.data[30, 40] == 1
    assert [button.isVisibleTo(window.widget) for button in window.panels.prompts.candidates] == [True] * 3
    bars = window.panels.prompts.bars
    window.wait(lambda: bars._rows)
    assert bars._title == "Share in the mask"
    shown = {row.name: round(row.share, 6) for row in bars._rows}
    assert shown == {"red": 0.4, "depth": 0.3, "thermal": 0.2, "nir": 0.1}
    # Drawn three in a row: the first row has nine times the length of the second.
    drawn = bars.grab().toImage()
    lengths = [sum(drawn.pixelColor(x, y).name() == "#3f9fd8" for x in range(drawn.width())) for y in (24, 39)]
    assert lengths[0] > 5 * lengths[1] > 0

    _click(window, 46.5, 30.5, Qt.MouseButton.RightButton)
    window.wait(lambda: len(window.session.draft.prompts.labels) == 2 and window.session.draft.candidates)
    assert window.session.draft.prompts.labels.tolist() == [1, 0]
    assert window.canvas.mask_layer.data[30, 46] == 0

    qtbot.mouseClick(window.panels.prompts.accept, Qt.MouseButton.LeftButton)
    assert len(window.session.objects) == 1
    accepted = window.session.objects[0]
    assert window.canvas.objects_layer.data[30, 33] == accepted.id
    assert not window.canvas.mask_layer.data.any()
    assert window.session.file.labels(*window.session.place)[30, 33] == accepted.id
    assert accepted.conditions.channels == window.state.names

    qtbot.mouseClick(window.panels.objects.undo, Qt.MouseButton.LeftButton)
    assert len(window.session.objects) == 0
    assert not window.canvas.objects_layer.data.any()
    assert len(window.session.draft.prompts.points) == 2
    assert window.canvas.mask_layer.data[30, 33] == 1
    window.controller.do("redo")
    assert window.session.objects == (accepted,)
    assert window.canvas.objects_layer.data[30, 33] == accepted.id
    assert window.session.draft.is_empty and not window.canvas.mask_layer.data.any()
    window.controller.do("undo")

    # A scribble: clicks along the object, and a double-click at its end.
    window.controller.do("clear")
    window.controller.do("tool scribble")
    for x, y in ((20.5, 50.5), (30.5, 56.5), (44.5, 50.5)):
        _click(window, x, y)
        qtbot.wait(50)
    native, at = _place(window, 44.5, 50.5)
    QTest.mouseDClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
    window.wait(lambda: len(window.session.draft.prompts.points) == 8 and window.session.draft.candidates)
    assert np.allclose(window.session.draft.prompts.points[0], (20.5, 50.5), atol=1.0)
    assert len(window.viewer.layers.selection.active.data) == 0
    window.controller.do("undo")
    assert window.session.draft.is_empty
    assert len(window.canvas.points_layer.data) == 0 and not window.canvas.mask_layer.data.any()
    window.controller.do("redo")
    assert len(window.canvas.points_layer.data) == 8 and window.canvas.mask_layer.data[50, 20] == 1


def test_a_script_may_end_with_its_window_open(tmp_path: Path) -> None:
    lines = (
        "import napari",
        "from qtpy.QtWidgets import QApplication",
        "from napari_e2sam._jobs import start_thread",
        "from napari_e2sam.widgets.main import SegmentWidget",
        "from tests.plugin.fake import fake_engine",
        "def script():",
        "    viewer = napari.Viewer(show=True)",
        "    widget = SegmentWidget(viewer, start_engine=lambda: start_thread(fake_engine()))",
        "    viewer.window.add_dock_widget(widget)",
        "    while not widget.controller.work.state.model:",
        "        QApplication.processEvents()",
        "    raise ValueError('of the script')",
        "script()",
    )
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, "E2SAM_SESSION_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "ValueError: of the script" in ended.stderr
    assert "RuntimeError" not in ended.stderr
    assert ended.returncode == 1


def test_a_model_that_cannot_be_loaded_leaves_the_one_before_at_work(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.click(30, 30)
    window.controller.models.choose("broken.safetensors")
    window.wait(lambda: "got 'broken.safetensors'" in window.widget.status.text() and window.state.is_encoded)
    assert window.state.model["name"] == "tiny"
    window.click(34, 34)
    assert window.session.draft.candidates

    # One that can, and back: what is gone back from is not gone back to.
    window.controller.models.choose("other")
    window.wait(lambda: window.state.model["name"] == "other" and window.state.is_encoded)
    assert "Expected" not in window.widget.status.text()
    window.controller.models.roll_back()
    window.wait(lambda: window.state.model["name"] == "tiny" and window.state.is_encoded)
    assert not window.controller.models.can_roll_back


def test_the_x_of_the_dock_ends_what_is_in_it(window: Any, viewer: Any, stack: ChannelStack, qtbot: Any) -> None:
    image = window.open(stack)
    window.click(30, 30)
    window.controller.do("accept")
    path = window.session.path
    qtbot.mouseClick(window.dock.title.close_button, Qt.MouseButton.LeftButton)
    window.wait(lambda: list(viewer.layers) == [image])
    # Nobody holds the session any more, and the window can be opened on it again.
    again = Window(viewer, qtbot, session=path)
    try:
        window.wait(lambda: again.state.is_encoded and len(again.session.objects) == 1)
        assert not again.session.file.is_read_only
        again.click(50, 50)
        again.controller.do("accept")
        assert len(again.session.objects) == 2
    finally:
        again.controller.close()


def test_masks_as_channels_are_a_stack_like_any_other(window: Any) -> None:
    rng = np.random.default_rng(0)
    window.open(ChannelStack(rng.random((3, 40, 50)) > 0.5, tuple(ChannelSpec(name) for name in "abc")))
    window.click(20, 20)
    assert window.session.draft.candidates
