"""Stacks in every shape, wrong input, sessions that go on, and several viewers in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Window
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._convert import STACK_KEY
from napari_e2sam._reader import read
from napari_e2sam.widgets.export import ExportRequest

pytestmark = pytest.mark.only_on("pyqt5")


def test_layers_of_any_kind_become_stacks(window: Any) -> None:
    rng = np.random.default_rng(0)
    viewer = window.viewer
    # Channels last: the layer is turned so that the viewer shows the scene.
    layer = viewer.add_image(rng.uniform(0, 1, (60, 70, 7)), name="cube", rgb=False)
    window.wait(lambda: window.state.is_encoded)
    assert layer.data.shape == (7, 60, 70)
    assert window.state.scene.size == (60, 70)
    assert window.panels.channels.table.rowCount() == 7

    # No channel is a line in the panel, and the next tick goes on.
    table = window.panels.channels.table
    table.tick(range(7), False)
    assert "at least 1 selected channel" in window.widget.status.text()
    table.tick([2], True)
    window.wait(lambda: window.state.is_encoded and window.state.selection == (2,))

    # A recipe changes the encoding, a preset and the filter work on many channels.
    window.panels.channels.recipe_chosen.emit(2, "range")
    window.wait(lambda: window.state.is_encoded and window.state.recipes[2].kind == "range")
    assert window.session.record.recipes[2].kind == "range"
    window.panels.channels.filter.setText("3-5")
    assert window.panels.channels._proxy.rowCount() == 3
    window.panels.channels.all.click()
    window.wait(lambda: window.state.is_encoded and len(window.state.selection) == 4)

    # The user takes the image away and opens a series.
    viewer.layers.remove(layer)
    series = viewer.add_image(rng.uniform(0, 1, (5, 3, 60, 70)), name="series", rgb=False)
    window.wait(lambda: window.state.layer is series and window.state.is_encoded)
    window.panels.stack.axis_chosen.emit(0)
    window.wait(lambda: window.state.is_encoded and window.state.scene.stack.leading == "T")
    assert window.session.plane == (window.viewer.dims.current_step[0],)
    window.click(20, 20)
    window.controller.do("accept")
    plane = window.session.plane
    window.panels.stack.plane_asked.emit(1)
    window.wait(lambda: window.session.plane == (plane[0] + 1,) and window.state.is_encoded)
    assert window.session.objects == ()
    assert not window.canvas.objects_layer.data.any()
    window.panels.stack.plane_asked.emit(-1)
    window.wait(lambda: window.session.plane == plane and window.state.is_encoded)
    assert len(window.session.objects) == 1
    assert window.canvas.objects_layer.data[20, 20] == 1

    # With the layers the sliders go; the session goes on at the plane that was seen, and no picture of it comes late.
    viewer.dims.set_current_step(0, 3)
    assert window.session.plane == (3,)
    active = window.session.file.active
    late: list[str] = []
    viewer.layers.clear()
    viewer.layers.events.inserted.connect(lambda event: late.append(event.value.name))
    window.wait(lambda: not window.session.has_stack)
    assert window.session.file.active == active
    assert late == []


def test_a_click_without_a_channel_says_what_is_missing(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.tick("red", "nir")
    asked: list[str] = []
    request = window.controller.work.engine.request
    window.controller.work.engine.request = lambda one: (asked.append(one.what), request(one))[1]
    table = window.panels.channels.table
    table.tick(range(5), False)
    missing = "Expected at least 1 selected channel, got 0: tick one in Channels."
    assert window.widget.status.text() == missing
    window.widget.say("", "info")
    window.canvas.points_layer.add([[30, 30]])
    assert window.widget.status.text() == missing
    window.widget.say("", "info")
    window.controller.objects.everything()
    assert window.widget.status.text() == missing
    assert asked == [], "the engine is not asked for anything"
    # The next tick encodes, and the click that was made has its mask.
    table.tick([2], True)
    window.wait(lambda: window.session.draft.candidates and window.state.is_encoded)
    assert window.session.draft.conditions.channels == ("nir",)
    assert window.widget.status.text() == ""


def test_an_unclear_channel_axis_is_asked_for(window: Any, tmp_path: Path) -> None:
    path = tmp_path / "unclear.npy"
    np.save(path, np.random.default_rng(0).uniform(0, 1, (4, 6, 60, 70)))
    for data, settings, _ in read(str(path)):
        window.viewer.add_image(data, **settings)
    window.wait(lambda: window.state.is_encoded)
    panel = window.panels.stack
    assert "is a guess" in panel.warning.text()
    texts = [panel.axis.itemText(position) for position in range(panel.axis.count())]
    panel.axis_chosen.emit(texts.index("axis 1: 6 channels"))
    window.wait(lambda: window.state.is_encoded and len(window.state.rows) == 6)
    assert panel.warning.text() == ""
    # One who knows says so at once.
    (layer,) = read(str(path), channel_axis=0)
    assert layer[1]["metadata"][STACK_KEY].num_channels == 4


def test_a_session_goes_on_in_another_viewer(
    make_napari_viewer: Any, qtbot: Any, stack: ChannelStack, tmp_path: Path
) -> None:
    path = tmp_path / "work.e2sam"
    first = Window(make_napari_viewer(show=True), qtbot, session=path)
    second_viewer = make_napari_viewer(show=True)
    turned = np.stack([stack.data, stack.data[:, ::-1]])
    first.open(replace(stack, data=turned, leading="T"))
    first.viewer.dims.set_current_step(0, 1)
    first.wait(lambda: first.session.plane == (1,) and first.state.is_encoded)
    first.controller.models.choose("other")
    first.tick("red", "thermal")
    first.panels.channels.save_preset.click()
    first.wait(lambda: first.state.model["name"] == "other" and first.state.is_encoded)
    first.click(30, 30)
    first.controller.do("accept")
    first.click(60, 50)

    # A second window on the same session only looks, and says so; it has its own layers.
    second = Window(second_viewer, qtbot, session=path)
    assert "open in" in second.widget.status.text()
    second.wait(lambda: second.state.is_encoded)
    assert second.canvas.objects_layer is not first.canvas.objects_layer
    second.wait(lambda: second.canvas.objects_layer is not None and second.canvas.objects_layer.data[30, 30] == 1)
    second.wait(lambda: second.widget.status.text().endswith("opened read-only. Close it there to work on it here."))
    second.canvas.points_layer.add([[10, 10]])
    assert "read-only" in second.widget.status.text()
    assert len(second.canvas.points_layer.data) == 1
    second.tick("green")
    assert "read-only" in second.widget.status.text(), "it is said whenever there is nothing else to say"
    second.close()

    # Closed and opened again, everything is there: stack, channels, objects, and the object under way.
    first.close()
    first.viewer.layers.clear()
    again = Window(first.viewer, qtbot, session=path)
    again.wait(lambda: again.state.is_encoded)
    assert again.session.plane == (1,)
    assert again.viewer.dims.current_step[0] == 1
    assert np.array_equal(again.state.scene.stack.plane(1).read(), turned[1], equal_nan=True)
    assert again.state.model["name"] == "other"
    assert again.state.names == ("red", "thermal")
    assert again.panels.channels.presets.currentText() == "red, thermal (Alt+1)"
    assert len(again.session.objects) == 1
    assert again.session.draft.prompts.points.tolist() == [[60.0, 50.0]]
    again.wait(lambda: len(again.canvas.points_layer.data) == 1 and again.canvas.objects_layer is not None)
    assert [again.canvas.objects_layer.data[place] for place in ((30, 30), (50, 60))] == [1, 0]
    assert [again.canvas.mask_layer.data[place] for place in ((30, 30), (50, 60))] == [0, 1]
    again.close()


def test_an_unused_session_leaves_no_file(window: Any, own_sessions: Path) -> None:
    assert len(list(own_sessions.glob("*.e2sam"))) == 1
    # A layer without a file has its pixels kept beside the session, and they go with it.
    window.viewer.add_image(np.random.default_rng(0).uniform(0, 1, (3, 60, 70)), rgb=False)
    window.wait(lambda: window.state.is_encoded)
    assert len(list(own_sessions.glob("*.stacks/*.npz"))) == 1
    window.close()
    assert list(own_sessions.iterdir()) == []


@pytest.mark.parametrize("what", ["preset", "done", "alignment", "training"])
def test_a_session_of_settings_alone_is_kept(window: Any, own_sessions: Path, what: str) -> None:
    window.viewer.add_image(np.random.default_rng(0).uniform(0, 1, (3, 60, 70)), rgb=False)
    window.wait(lambda: window.state.is_encoded)
    file, (stack_id, _) = window.session.file, window.session.place
    if what == "preset":
        window.panels.channels.save_preset.click()
    elif what == "done":
        file.set_done(stack_id)
    elif what == "alignment":
        file.set_alignment(stack_id, {window.session.record.channels[0].name: (1.0, 0.0)})
    else:
        file.begin_training("inherit", {}, "tiny")
    window.close()
    assert len(list(own_sessions.glob("*.e2sam"))) == 1


def test_shifted_channels_are_found_and_corrected(window: Any) -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    base = gaussian_filter(rng.uniform(0, 1, (140, 160)), 2)
    unlike = gaussian_filter(rng.uniform(0, 1, (140, 160)), 2)
    data = np.stack([base, 1 - np.roll(base, 6, axis=1), base**2, unlike]).astype(np.float32)
    names = ("visible", "thermal", "other", "unlike")
    stack = ChannelStack(data[:, 10:130, 10:150], tuple(map(ChannelSpec, names)))
    window.open(stack)
    window.tick(*names)
    panel = window.panels.stack
    panel.align.click()
    window.wait(lambda: panel.alignment.text() == "thermal lies 6.0 px off visible. Too unlike to tell: unlike.")
    assert panel.correct.isVisibleTo(panel)
    panel.correct.click()
    assert not panel.correct.isVisibleTo(panel), "a second click would shift twice"
    window.wait(lambda: "Corrected: thermal" in panel.alignment.text() and window.state.is_encoded)
    dx, dy = window.session.record.alignment["thermal"]
    assert abs(dx + 6) < 0.5
    assert abs(dy) < 0.5

    # In turns: the channel that lay off, as it lies now, and the first one, each in its own range.
    def turn() -> str:
        """Which channel is shown over the image, if any."""
        shown = [layer.data for layer in window.viewer.layers if layer.name == "channel"]
        if not shown:
            return ""
        (pixels,) = shown
        normalized = [
            recipe.apply(plane, np.isfinite(plane))
            for recipe, plane in zip(window.state.recipes, window.state.scene.stack.read(), strict=True)
        ]
        (index,) = (index for index in range(4) if np.abs(pixels - 255 * normalized[index][..., None]).max() < 1)
        return stack.names[index]

    window.controller.stack.alignment._blinking.setInterval(20)
    panel.blink.click()
    for name in ("thermal", "visible", "thermal"):
        window.wait(lambda name=name: turn() == name)
    panel.blink.click()
    assert turn() == ""
    panel.align.click()
    window.wait(lambda: panel.alignment.text().startswith("No channel lies more than 2 px off visible."))


def test_layers_of_unlike_scale_become_one_stack(window: Any, tmp_path: Path) -> None:
    viewer, panel, state = window.viewer, window.panels.stack, window.state
    fine = np.random.default_rng(3).uniform(0, 1, (2, 50, 60)).astype(np.float32)
    stack = ChannelStack(fine, (ChannelSpec("left"), ChannelSpec("right")))
    window.open(stack, scale=(1, 0.5, 0.5), translate=(0, 4, 10))
    blinking = window.controller.stack.alignment._blinking
    blinking.setInterval(20)
    panel.align.click()
    window.wait(panel.alignment.text)
    panel.blink.click()
    window.wait(lambda: "channel" in viewer.layers)

    rows, columns = np.mgrid[:40, :48].astype(np.float32)
    viewer.add_image(100 * rows + columns, name="coarse")
    window.wait(lambda: panel.layers.count() == 2)
    assert [panel.layers.item(row).checkState() for row in range(2)] == [Qt.CheckState.Checked, Qt.CheckState.Unchecked]
    panel.layers.item(1).setCheckState(Qt.CheckState.Checked)
    window.wait(lambda: len(state.rows) == 3 and state.is_encoded)
    assert panel.warning.text() == "Resampled to 60 x 50 pixels: coarse."
    assert tuple(row.name for row in state.rows) == ("left", "right", "coarse")
    scene, objects = state.scene, window.canvas.objects_layer
    assert (scene.size, scene.scale, scene.translate) == ((50, 60), (0.5, 0.5), (4, 10))
    rows, columns = np.mgrid[:50, :60]
    np.testing.assert_allclose(scene.stack.read()[2], 100 * (4 + rows / 2) + 10 + columns / 2, atol=1e-3)
    np.testing.assert_array_equal(scene.stack.read()[:2], fine)
    assert objects.data.shape == (50, 60)
    assert (tuple(objects.scale), tuple(objects.translate)) == ((0.5, 0.5), (4, 10))
    # What was measured on one stack is not said of the next, and nothing of it is shown over that.
    assert panel.alignment.text() == ""
    assert not panel.blink.isChecked()
    assert not blinking.isActive()
    assert "channel" not in viewer.layers

    # A click at row 18 and column 26 of the viewer makes an object there, in the file too.
    viewer.reset_view()
    QApplication.processEvents()
    native, camera = viewer.window._qt_viewer.canvas.native, window.canvas.camera
    right, down = (np.array([26, 18]) - np.array(camera.center)[[2, 1]]) * camera.zoom
    where = QPoint(round(native.width() / 2 + right), round(native.height() / 2 + down))
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, where)
    window.wait(lambda: window.session.draft.candidates)
    np.testing.assert_allclose(window.session.draft.prompts.points, [[32.5, 28.5]], atol=0.3)
    window.controller.do("accept")
    assert objects.get_value((18, 26), world=True) == 1
    path = tmp_path / "objects.tif"
    window.controller.exchange.export(ExportRequest("tiff", path, False, "objects", False))
    window.wait(lambda: "Wrote 1 object" in window.widget.status.text())
    labels = tifffile.imread(path)
    assert labels.shape == (50, 60)
    np.testing.assert_allclose(np.argwhere(labels == 1).mean(axis=0), (28, 32), atol=0.3)
