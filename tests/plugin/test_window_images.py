"""One image after another in a real viewer: ours lies on top, the work goes where the image is, and leaves with it."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Window
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from e2sam.data.stack import ChannelStack
from napari_e2sam import _stack_control
from napari_e2sam._convert import STACK_KEY
from napari_e2sam._reader import read

pytestmark = pytest.mark.only_on("pyqt6")


def _write(path: Path, seed: int, size: tuple[int, int] = (60, 72)) -> Path:
    pixels = np.random.default_rng(seed).random((3, *size)).astype(np.float32)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX", "channels": ["a", "b", "c"]})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of one size."""
    place = tmp_path / "images"
    place.mkdir()
    for seed in range(3):
        _write(place / f"b{seed}.tif", seed)
    return place


def _open_folder(window: Any, qtbot: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(folder))
    window.widget.sections["worklist"].set_open(True)
    panel = window.panels.worklist
    qtbot.mouseClick(panel.open, Qt.MouseButton.LeftButton)
    return panel


def _open_file(window: Any, path: Path) -> Any:
    ((data, settings, _),) = read(str(path))
    return window.viewer.add_image(data, **settings)


def _wait_for(window: Any, path: Path) -> None:
    """Until an image is in front of the user, with all layers of ours."""

    def is_shown() -> bool:
        scene, canvas = window.state.scene, window.canvas
        return (
            scene is not None
            and scene.stack.source == path
            and window.state.is_encoded
            and canvas.mask_layer is not None
            and canvas.composite_layer is not None
            and canvas.composite_layer.visible
        )

    window.wait(is_shown)


def _native(window: Any) -> Any:
    return window.viewer.window._qt_viewer.canvas.native


def _click(window: Any, x: float, y: float) -> None:
    native, camera = _native(window), window.canvas.camera
    world = np.array([y - 0.5, x - 0.5]) * window.state.scene.scale + window.state.scene.translate
    offset = (world - np.array(camera.center[-2:])) * camera.zoom
    at = QPoint(round(native.width() / 2 + offset[1]), round(native.height() / 2 + offset[0]))
    QTest.mouseMove(native, at)
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)


def _make_object(window: Any) -> None:
    before = len(window.session.objects)
    _click(window, 30, 30)
    window.wait(lambda: window.session.draft.candidates)
    assert window.canvas.mask_layer.data[30, 30] == 1
    QTest.keyClick(_native(window), Qt.Key.Key_A)
    assert len(window.session.objects) == before + 1


def _assert_order(window: Any) -> None:
    canvas, layers = window.canvas, window.viewer.layers
    wanted = [canvas.composite_layer, canvas.objects_layer, canvas.mask_layer, canvas.points_layer]
    places = [layers.index(layer) for layer in (window.state.layer, *wanted)]
    assert places == sorted(places), [layer.name for layer in layers]
    assert places[-1] == len(layers) - 1


def test_the_next_image_of_the_same_size_lies_below_ours(
    window: Any, folder: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = _open_folder(window, qtbot, folder, monkeypatch)
    _wait_for(window, folder / "b0.tif")
    _assert_order(window)
    mask = window.canvas.mask_layer
    seen: list[bool] = []
    window.state.scene_changed.connect(lambda: seen.append(window.canvas.composite_layer.visible))
    for name in ("b1.tif", "b2.tif"):
        qtbot.mouseClick(panel.following, Qt.MouseButton.LeftButton)
        _wait_for(window, folder / name)
        _assert_order(window)
        _make_object(window)
        _assert_order(window)
    assert window.canvas.mask_layer is mask, "layers of one size are made once"
    assert seen == [False, False], "what the model saw of the image before is not shown over the next"
    for is_done in (True, False):
        qtbot.mouseClick(panel.done, Qt.MouseButton.LeftButton)
        assert window.session.record.is_done == is_done
        assert panel.items.item(2).text().startswith("\N{CHECK MARK}" if is_done else "\N{MIDDLE DOT}")
    QTest.keyClick(_native(window), Qt.Key.Key_D)
    assert "Comparing the candidate masks of 2 images" in window.widget.status.text()
    for name, doubt in (("b0.tif", 0.5), ("b1.tif", 0.25)):
        window.controller.worklist._prefetching.prepared.emit(folder / name, doubt)
    _wait_for(window, folder / "b0.tif")

    # An image that is closed, and another one of its size.
    window.viewer.layers.remove(window.state.layer)
    other = _write(folder.parent / "other.tif", 9)
    _open_file(window, other)
    _wait_for(window, other)
    _assert_order(window)


def test_a_worklist_goes_to_its_first_image_though_another_is_open(
    window: Any, folder: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _write(folder.parent / "l.tif", 7, (50, 90))
    layer = _open_file(window, first)
    _wait_for(window, first)
    panel = _open_folder(window, qtbot, folder, monkeypatch)
    _wait_for(window, folder / "b0.tif")
    _assert_order(window)
    assert window.session.record.paths == (folder / "b0.tif",)
    assert not layer.visible
    assert layer in window.viewer.layers, "what the user opened stays"
    window.viewer.reset_view()
    _make_object(window)
    qtbot.mouseClick(panel.to_do, Qt.MouseButton.LeftButton)
    _wait_for(window, folder / "b1.tif")
    assert panel.items.item(0).text().startswith("\N{CHECK MARK}")
    assert [record.is_done for record in window.session.file.stacks()] == [False, True, False]
    _assert_order(window)
    window.viewer.layers.remove(window.state.layer)
    _wait_for(window, first)
    assert layer.visible, "the one that is left is shown again"


def test_a_worklist_does_not_open_a_second_time_what_is_open(
    window: Any, folder: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _open_file(window, folder / "b0.tif")
    _wait_for(window, folder / "b0.tif")
    panel = _open_folder(window, qtbot, folder, monkeypatch)
    assert window.state.layer is layer
    qtbot.mouseClick(panel.following, Qt.MouseButton.LeftButton)
    _wait_for(window, folder / "b1.tif")
    assert layer not in window.viewer.layers, "one image is shown at a time"


def test_the_window_leaves_an_image_that_is_closed(window: Any, stack: ChannelStack, qtbot: Any) -> None:
    layer = window.open(stack)
    window.viewer.reset_view()
    window.tick("red", "nir")
    # The user's own name for the layer is the one in the list, and changes nothing else.
    layer.name = "street"
    shown = window.panels.stack.layers
    assert [shown.item(row).text() for row in range(shown.count())] == ["street"]
    assert shown.item(0).checkState() == Qt.CheckState.Checked
    assert window.state.layer is layer and window.state.is_encoded
    _make_object(window)
    _click(window, 60, 50)
    window.wait(lambda: window.session.draft.candidates)
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    assert window.widget.status.text() == "Image closed; its objects stay in the session."
    assert window.panels.stack.summary.text().startswith("Open an image")
    assert list(window.viewer.layers) == []
    assert window.session.draft.is_empty
    assert window.panels.objects.table.rows == ()
    assert window.panels.channels.table.rowCount() == 0
    assert not window.panels.prompts.accept.isEnabled()

    # Neither a key nor a button goes on with it, and each says what is missing.
    asked: list[str] = []
    request = window.controller.work.engine.request
    window.controller.work.engine.request = lambda one: (asked.append(one.what), request(one))[1]
    QTest.keyClick(_native(window), Qt.Key.Key_A)
    assert "Expected a stack, got none" in window.widget.status.text()
    for action in ("clear", "preset 0", "edit", "carry", "candidate 1", "hover", "next click", "review"):
        window.controller.do(action)
    for name in ("everything", "everything_here"):
        window.panels.objects.action_asked.emit(name)
    window.panels.prompts.leave_one_out_asked.emit()
    window.panels.channels.suggestion_asked.emit()
    window.panels.channels.preset_chosen.emit(0)
    qtbot.wait(50)
    assert asked == []
    assert len(window.session.file.objects()) == 1
    window.controller.do("undo")
    window.controller.do("redo")
    assert len(window.session.file.objects()) == 1

    # The image is opened again, and with it comes what was made on it.
    window.open(stack)
    window.wait(lambda: window.canvas.objects_layer.data[30, 30] == 1)
    window.wait(lambda: window.canvas.composite_layer is not None and window.canvas.mask_layer is not None)
    assert len(window.session.objects) == 1
    _assert_order(window)


def test_an_image_that_is_closed_while_it_is_worked_on(
    window: Any, stack: ChannelStack, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = window.open(stack)
    window.viewer.reset_view()
    _click(window, 30, 30)
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    qtbot.wait(200)
    assert window.canvas.mask_layer is None
    # And while it is read.
    goes_on, opened = Event(), _stack_control._opened
    monkeypatch.setattr(_stack_control, "_opened", lambda *given: goes_on.wait(30) and opened(*given))
    layer = window.viewer.add_image(np.zeros((3, 60, 70)), rgb=False)
    window.wait(lambda: window.widget.status.text() == "Reading the stack")
    window.viewer.layers.remove(layer)
    goes_on.set()
    qtbot.wait(200)
    assert not window.session.has_stack
    assert window.widget.status.text() == ""


@pytest.mark.parametrize(
    "turn",
    [{"rotate": 20.0}, {"shear": [0.2]}, {"affine": [[0.9, -0.4, 0], [0.4, 0.9, 0], [0, 0, 1]]}],
    ids=["rotated", "sheared", "affine"],
)
def test_a_turned_layer_is_refused(window: Any, stack: ChannelStack, turn: dict[str, Any]) -> None:
    text = "Expected an image layer without rotation or shear, got turned with one: reset its transform."
    layer = window.viewer.add_image(stack.data[0], name="turned", **turn)
    window.wait(lambda: window.widget.status.text() == text)
    assert list(window.viewer.layers) == [layer]
    # The next image is taken as if it were the first.
    window.open(stack)
    assert window.state.layer is not layer


def test_a_turned_layer_in_place_of_another_leaves_that(window: Any, stack: ChannelStack) -> None:
    window.viewer.layers.remove(window.open(stack))
    window.viewer.add_image(stack.data, rgb=False, name="turned", rotate=30)
    window.wait(lambda: "without rotation or shear" in window.widget.status.text())
    assert not window.session.has_stack
    assert window.canvas.points_layer is None


def test_a_layer_placed_by_an_affine_transform_is_where_it_is_seen(window: Any, stack: ChannelStack) -> None:
    layer = window.open(stack, scale=(1, 2, 2), affine=[[1, 0, 0, 0], [0, 3, 0, 10], [0, 0, 3, 20], [0, 0, 0, 1]])
    assert (window.state.scene.scale, window.state.scene.translate) == ((6.0, 6.0), (10.0, 20.0))
    assert np.allclose(window.canvas.points_layer.data_to_world((5, 5)), layer.data_to_world((0, 5, 5))[1:])


def test_only_a_known_suffix_is_cut_off_an_export(window: Any, tmp_path: Path) -> None:
    window.viewer.add_image(np.random.default_rng(0).random((40, 48)), name="field_1.5um")
    window.wait(lambda: window.state.is_encoded)
    exchange = window.controller.exchange
    exchange.ask("export")
    form = exchange.form
    assert form.request.out.name == "field_1.5um_labels.tif"
    form["out"].value = tmp_path / "field_1.5um_labels.tif"
    seen = []
    for images in ("all images of the session", "this image"):
        form["images"].value = images
        seen.append(form.request.out.name)
    form["format"].value = "geojson"
    seen.append(form.request.out.name)
    form["format"].value = "tiff"
    seen.append(form.request.out.name)
    form["out"].value = ""
    form["format"].value = "png"
    exchange.dialog.close()
    stem = "field_1.5um_labels"
    assert seen == [stem, f"{stem}.tif", f"{stem}.geojson", f"{stem}.tif"]


def test_two_viewers_have_a_session_each(window: Any, make_napari_viewer: Any, stack: ChannelStack, qtbot: Any) -> None:
    other = Window(make_napari_viewer(show=True), qtbot)
    assert other.session.path != window.session.path
    # Both at once: neither waits for the other.
    for one in (window, other):
        one.panels.channels.composite.setChecked(False)
        one.viewer.add_image(stack.data, metadata={STACK_KEY: stack}, rgb=False)
    for one in (window, other):
        one.wait(lambda one=one: one.state.is_encoded and one.canvas.objects_layer is not None)
    window.click(20, 30)
    other.click(70, 60)
    for one in (window, other):
        one.controller.do("accept")
    for one, (x, y), (there_x, there_y) in ((window, (20, 30), (70, 60)), (other, (70, 60), (20, 30))):
        (record,) = one.session.objects
        for labels in (one.canvas.objects_layer.data, one.session.file.labels(*one.session.place)):
            assert (labels[y, x], labels[there_y, there_x]) == (record.id, 0)
        assert [row.id for row in one.panels.objects.table.rows] == [record.id]
        assert one.canvas.objects_layer in one.viewer.layers
    other.close()
