"""Layers of a real viewer that change while they are a stack: moved, given other pixels, closed, split or turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from e2sam.data.stack import ChannelStack
from napari_e2sam._convert import STACK_KEY

pytestmark = pytest.mark.only_on("pyqt6")


def _click(window: Any, x: float, y: float) -> None:
    """As a user does, where the image is seen."""
    native, camera, layer = window.viewer.window._qt_viewer.canvas.native, window.canvas.camera, window.state.layer
    world = np.array(layer.data_to_world([0] * (layer.ndim - 2) + [y - 0.5, x - 0.5]))[-2:]
    offset = (world - np.array(camera.center[-2:])) * camera.zoom
    at = QPoint(round(native.width() / 2 + offset[1]), round(native.height() / 2 + offset[0]))
    QTest.mouseMove(native, at)
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)


def _ours(window: Any) -> list[Any]:
    canvas = window.canvas
    return [canvas.composite_layer, canvas.objects_layer, canvas.mask_layer, canvas.points_layer]


def _is_over(window: Any, layer: Any) -> bool:
    """Whether all of ours is there, in order and where the image is."""
    ours, layers = _ours(window), window.viewer.layers
    if None in ours:
        return False
    places = [layers.index(one) for one in (layer, *ours)]
    same = [np.allclose(one.data_to_world((7, 9)), layer.data_to_world((0, 7, 9))[1:]) for one in ours]
    return places == sorted(places) and all(same)


def test_ours_follow_a_layer_that_is_moved(window: Any, stack: ChannelStack) -> None:
    layer = window.open(stack)
    window.viewer.reset_view()
    _click(window, 30, 30)
    window.wait(lambda: window.session.draft.candidates)
    window.controller.do("accept")
    _click(window, 70, 40)
    window.wait(lambda: window.session.draft.candidates)
    window.wait(lambda: _is_over(window, layer))
    passes: list[str] = []
    request = window.controller.work.engine.request
    window.controller.work.engine.request = lambda one: (passes.append(one.what), request(one))[1]

    layer.scale, layer.translate = (1, 0.5, 0.5), (0, 50, 60)
    window.wait(lambda: window.state.scene.scale == (0.5, 0.5))
    window.wait(lambda: _is_over(window, layer))
    assert window.state.scene.translate == (50, 60)
    assert (window.canvas.objects_layer.data[30, 30], window.canvas.mask_layer.data[40, 70]) == (1, 1)
    assert window.session.draft.prompts.points.round().tolist() == [[70, 40]]
    assert "prepare" not in passes, "the same pixels are not encoded again"
    window.controller.do("clear")
    window.viewer.reset_view()
    _click(window, 20, 60)
    window.wait(lambda: window.session.draft.candidates)
    np.testing.assert_allclose(window.session.draft.prompts.points, [[20, 60]], atol=0.5)

    # With napari's own tool for it, which stays in the user's hand.
    window.viewer.layers.selection.active = layer
    layer.mode = "transform"
    layer.affine = [[1, 0, 0, 0], [0, 2, 0, 5], [0, 0, 2, 5], [0, 0, 0, 1]]
    window.wait(lambda: window.state.scene.translate == (105, 125) and _is_over(window, layer))
    assert window.viewer.layers.selection.active is layer
    layer.mode = "pan_zoom"


def test_a_layer_that_is_turned_while_in_use_says_so(window: Any, stack: ChannelStack) -> None:
    layer = window.open(stack)
    window.viewer.reset_view()
    before = layer.rotate
    layer.rotate = 20
    window.wait(lambda: "without rotation or shear" in window.widget.status.text())
    assert str(window.canvas.points_layer.mode) == "pan_zoom", "a click would go elsewhere"
    layer.rotate = before
    window.wait(lambda: window.widget.status.text() == "")
    _click(window, 30, 30)
    window.wait(lambda: window.session.draft.candidates)
    window.controller.do("clear")
    # One that was refused is read when it lies straight.
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    layer = window.viewer.add_image(stack.data, rgb=False, name="turned", rotate=30)
    window.wait(lambda: "without rotation or shear" in window.widget.status.text())
    assert window.panels.stack.summary.text().startswith("No stack was made of turned")
    layer.rotate = before
    window.wait(lambda: window.state.is_encoded)
    assert window.state.layer is layer


def test_other_pixels_of_a_layer_are_read(window: Any, stack: ChannelStack) -> None:
    layer = window.open(stack)
    window.tick("nir", "red")
    window.click(30, 30)
    window.controller.do("accept")
    panel, first = window.panels.stack, window.session.stack_id
    layer.data = stack.data + 1
    window.wait(lambda: window.session.stack_id != first and window.state.is_encoded)
    assert np.array_equal(window.state.scene.stack.read(), stack.data + 1, equal_nan=True)
    assert (
        panel.warning.text() == "New pixels in scene: read again. The session keeps the 1 object of the stack before."
    )
    assert window.session.objects == ()
    assert not window.canvas.objects_layer.data.any()
    assert window.state.names == ("nir", "red"), "channels keep their names and ticks"

    # Of another size, and of another number of channels at another place.
    layer.data = stack.data[:, :50, :60]
    window.wait(lambda: window.state.scene.size == (50, 60) and window.state.is_encoded)
    window.wait(lambda: window.canvas.objects_layer is not None)
    assert window.canvas.objects_layer.data.shape == (50, 60)
    assert panel.summary.text().startswith("5 channels, 60 x 50 px")
    layer.data = np.random.default_rng(1).uniform(0, 1, (70, 90, 4))
    window.wait(lambda: window.state.scene.size == (70, 90) and window.state.is_encoded)
    assert window.panels.channels.table.rowCount() == 4

    # What was made on the pixels before comes back with them.
    layer.data = stack.data
    window.wait(lambda: window.session.stack_id == first and window.state.is_encoded)
    window.wait(lambda: window.canvas.objects_layer is not None and window.canvas.objects_layer.data[30, 30] == 1)


def test_a_stack_goes_on_without_a_layer_that_is_closed(window: Any, stack: ChannelStack) -> None:
    layers = [window.viewer.add_image(stack.data[index], name=name) for index, name in enumerate("abcd")]
    window.wait(lambda: window.state.is_encoded and len(window.state.rows) == 4)
    window.wait(lambda: window.canvas.objects_layer is not None)
    window.click(30, 30)
    window.controller.do("accept")
    window.viewer.layers.remove(layers[1])
    window.wait(lambda: len(window.state.rows) == 3 and window.state.is_encoded)
    assert window.state.scene.stack.names == ("a", "c", "d")
    assert [row.name for row in window.panels.channels.table.rows] == ["a", "c", "d"]
    panel = window.panels.stack
    assert panel.warning.text() == (
        "Closed: b. The stack is made of the others. The session keeps the 1 object of the stack before."
    )
    # The first of them, of which the window took its place.
    window.viewer.layers.remove(layers[0])
    window.wait(lambda: window.state.layer is layers[2] and window.state.is_encoded)
    assert panel.summary.text().startswith("2 channels")
    assert panel.warning.text() == "Closed: a. The stack is made of the others."
    window.click(50, 40)
    window.controller.do("accept")
    assert len(window.session.objects) == 1
    # One is moved: the other is brought to its pixels.
    layers[3].translate = (3, 0)
    moved = "Layers were moved: read again. The session keeps the 1 object of the stack before. "
    window.wait(lambda: panel.warning.text() == f"{moved}Resampled to 96 x 80 pixels: d." and window.state.is_encoded)
    window.viewer.layers.clear()
    window.wait(lambda: not window.session.has_stack)


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_channels_split_from_a_series_are_one_series(window: Any, leading: tuple[int, ...]) -> None:
    series = np.random.default_rng(4).uniform(0, 1, (4, *leading, 60, 70))
    names = ["m1", "m2", "m3", "m4"]
    layers = window.viewer.add_image(series, channel_axis=0, name=names)
    window.wait(lambda: window.state.is_encoded)
    stack, panel = window.state.scene.stack, window.panels.stack
    assert (stack.leading, stack.num_planes, stack.names) == ("TZ"[: len(leading)], leading, tuple(names))
    assert panel.warning.text() == ""
    plane = window.session.plane
    np.testing.assert_array_equal(window.state.plane_of(plane).read(), series[:, *plane])
    window.wait(lambda: window.canvas.objects_layer is not None)
    window.click(20, 20)
    window.controller.do("accept")
    other = 0 if plane[0] else 1
    window.viewer.dims.set_current_step(0, other)
    window.wait(lambda: window.session.plane[0] == other and window.state.is_encoded)
    assert window.session.objects == ()
    # Who means each frame as a channel says so.
    texts = [panel.axis.itemText(position) for position in range(panel.axis.count())]
    panel.axis_chosen.emit(texts.index(f"axis 0: {leading[0]} channels of each layer"))
    window.wait(lambda: len(window.state.rows) == 4 * leading[0] and window.state.is_encoded)
    assert window.state.scene.stack.names[0] == "m1: 0"
    assert [layer.data.shape[-3] for layer in layers] == [leading[0]] * 4


def test_an_axis_that_is_a_guess_is_said_to_be_one(window: Any) -> None:
    series = np.random.default_rng(4).uniform(0, 1, (3, 60, 70))
    panel, viewer = window.panels.stack, window.viewer
    split = viewer.add_image(series, name="m1", colormap="green", blending="additive")
    window.wait(lambda: window.state.is_encoded)
    assert panel.warning.text() == "Which axis holds the channels is a guess: choose above."
    texts = [panel.axis.itemText(position) for position in range(panel.axis.count())]
    panel.axis_chosen.emit(texts.index("no axis: 1 channel, 3 planes"))
    window.wait(lambda: window.state.scene.stack.leading == "T" and window.state.is_encoded)
    assert (window.state.names, panel.warning.text()) == (("m1",), "")
    np.testing.assert_array_equal(window.state.plane_of((1,)).read()[0], series[1])

    # Two of one shape may be a series, and may be two stacks: it is asked.
    viewer.layers.remove(split)
    window.wait(lambda: not window.session.has_stack)
    layers = [viewer.add_image(series + number, name=f"s{number}", rgb=False) for number in range(2)]
    window.wait(lambda: window.state.is_encoded)
    assert len(window.state.rows) == 3
    assert panel.warning.text() == ""
    window.controller.stack.choose(tuple(layers))
    window.wait(lambda: len(window.state.rows) == 2 and window.state.is_encoded)
    assert panel.warning.text() == "That each layer is one channel of a series is a guess: choose above."
    # That was of both of them, and not of one alone.
    window.controller.stack.choose((layers[0],))
    window.wait(lambda: len(window.state.rows) == 3 and window.state.is_encoded)


def test_axes_keep_the_numbers_that_they_came_with(window: Any) -> None:
    series = np.random.default_rng(4).uniform(0, 1, (4, 5, 3, 60, 70))
    layer = window.viewer.add_image(series, name="series")
    panel = window.panels.stack

    def texts() -> list[str]:
        return [panel.axis.itemText(position) for position in range(panel.axis.count())][:3]

    given = ["axis 2: 3 channels", "axis 0: 4 channels", "axis 1: 5 channels"]
    window.wait(lambda: window.state.is_encoded)
    for axis, planes in ((0, (5, 3)), (1, (4, 3)), (2, (4, 5)), (0, (5, 3))):
        position = given.index(f"axis {axis}: {series.shape[axis]} channels")
        panel.axis_chosen.emit(position)
        window.wait(lambda planes=planes: window.state.scene.stack.num_planes == planes and window.state.is_encoded)
        assert texts() == given
        assert panel.axis.currentIndex() == position
        np.testing.assert_array_equal(layer.data, np.moveaxis(series, axis, 2))
    assert panel.warning.text() == ""

    # It is known when the layer is taken again.
    other = window.viewer.add_image(np.zeros((5, 60, 70)) + np.arange(70), name="other", rgb=False)
    window.controller.stack.choose((other,))
    window.wait(lambda: window.state.layer is other and window.state.is_encoded)
    window.controller.stack.choose((layer,))
    window.wait(lambda: window.state.layer is layer and window.state.is_encoded)
    assert window.state.scene.stack.num_planes == (5, 3)
    assert panel.axis.currentText() == "axis 0: 4 channels"


def test_lines_say_what_there_is(window: Any) -> None:
    window.controller.do("most doubt")
    assert window.widget.status.text() == "Expected a worklist, got none: open a folder in Worklist."
    window.viewer.add_image(np.zeros((2, 2, 2, 3, 32, 32)), name="six")
    window.wait(lambda: "at most T, Z, channel, row and column" in window.widget.status.text())
    summary = window.panels.stack.summary
    assert summary.text() == "No stack was made of six: tick another layer, or open another image."


def test_pixels_of_a_file_are_read_where_the_layer_shows_others(window: Any, stack: ChannelStack) -> None:
    layer = window.open(stack)
    layer.data = stack.data[:3] * 2
    window.wait(lambda: len(window.state.rows) == 3 and window.state.is_encoded)
    assert STACK_KEY not in layer.metadata
    assert window.state.names == ("0", "1", "2")
