"""Stacks in every shape, wrong input, sessions that go on, and several viewers in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import Window

from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._convert import STACK_KEY
from napari_e2sam._reader import read


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
    first.open(stack)
    first.tick("red", "thermal")
    first.click(30, 30)
    first.controller.do("accept")
    first.click(60, 50)

    # A second window on the same session only looks, and says so; it has its own layers.
    second = Window(second_viewer, qtbot, session=path)
    assert "open in" in second.widget.status.text()
    second.wait(lambda: second.state.is_encoded)
    assert second.canvas.objects_layer is not first.canvas.objects_layer
    second.wait(lambda: second.canvas.objects_layer is not None and second.canvas.objects_layer.data[30, 30] == 1)
    second.canvas.points_layer.add([[10, 10]])
    assert "read-only" in second.widget.status.text()
    assert len(second.canvas.points_layer.data) == 1
    second.close()

    # Closed and opened again, everything is there: stack, channels, objects, and the object under way.
    first.close()
    first.viewer.layers.clear()
    again = Window(first.viewer, qtbot, session=path)
    again.wait(lambda: again.state.is_encoded)
    assert again.state.names == ("red", "thermal")
    assert len(again.session.objects) == 1
    assert again.session.draft.prompts.points.tolist() == [[60.0, 50.0]]
    again.wait(lambda: len(again.canvas.points_layer.data) == 1)
    again.close()


def test_an_unused_session_leaves_no_file(window: Any, own_sessions: Path) -> None:
    assert len(list(own_sessions.glob("*.e2sam"))) == 1
    # A layer without a file has its pixels kept beside the session, and they go with it.
    window.viewer.add_image(np.random.default_rng(0).uniform(0, 1, (3, 60, 70)), rgb=False)
    window.wait(lambda: window.state.is_encoded)
    assert len(list(own_sessions.glob("*.stacks/*.npz"))) == 1
    window.close()
    assert list(own_sessions.iterdir()) == []


def test_shifted_channels_are_found_and_corrected(window: Any) -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    base = gaussian_filter(rng.uniform(0, 1, (140, 160)), 2)
    data = np.stack([base, 1 - np.roll(base, 6, axis=1), base**2]).astype(np.float32)
    stack = ChannelStack(data[:, 10:130, 10:150], tuple(ChannelSpec(name) for name in ("visible", "thermal", "other")))
    window.open(stack)
    window.tick("visible", "thermal", "other")
    window.panels.stack.align.click()
    window.wait(lambda: "thermal lies" in window.panels.stack.alignment.text())
    assert "other lies" not in window.panels.stack.alignment.text()
    window.panels.stack.correct.click()
    window.wait(lambda: "Corrected" in window.panels.stack.alignment.text() and window.state.is_encoded)
    dx, dy = window.session.record.alignment["thermal"]
    assert abs(dx + 6) < 0.5
    assert abs(dy) < 0.5
    window.controller.stack.alignment.check()
    window.wait(lambda: "No channel lies" in window.panels.stack.alignment.text())
