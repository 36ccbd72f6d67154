"""What an annotator does all day with objects, in a real viewer; every step can be taken back."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject
from e2sam.data.stack import ChannelStack
from napari_e2sam import _object_control
from napari_e2sam._object_control import squares_of
from napari_e2sam.widgets._object_table import ObjectColumn
from napari_e2sam.widgets.export import ExportRequest

pytestmark = pytest.mark.only_on("pyqt5")


def _labels(window: Any) -> np.ndarray:
    return np.asarray(window.canvas.objects_layer.data)


def _agree(window: Any) -> None:
    """The layer shows what the session holds."""
    np.testing.assert_array_equal(_labels(window), window.session.file.labels(*window.session.place))


def test_a_day_of_objects(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.tick("red", "nir", "depth")
    do, objects = window.controller.do, window.panels.objects

    # Three objects, of which the first is made of the third candidate; no more than its box is drawn.
    window.click(20, 20)
    do("candidate 2")
    assert window.session.draft.chosen == 2
    assert np.count_nonzero(window.canvas.mask_layer.data) > 700
    drawn: list[tuple[int, ...]] = []
    window.canvas.objects_layer.events.labels_update.connect(
        lambda event: drawn.append((*event.offset, *event.data.shape))
    )
    do("accept")
    x0, y0, x1, y1 = window.session.objects[0].box
    assert drawn == [(y0, x0, y1 - y0, x1 - x0)] == [(4, 4, 32, 32)]
    for x, y in ((60, 20), (60, 60)):
        window.click(x, y)
        do("accept")
    assert [row.id for row in objects.table.rows] == [1, 2, 3]
    assert [row.channels for row in objects.table.rows] == [("red", "nir", "depth")] * 3
    _agree(window)

    # What the table says of the first one; its tick goes with a click on it.
    cells = [objects.table.index(0, column) for column in range(objects.table.columnCount())]
    area = np.count_nonzero(_labels(window) == 1)
    assert [cell.data() for cell in cells] == ["1", "object", "0.70", f"{area} px", "red, nir, depth", None]
    tick = cells[ObjectColumn.REVIEWED]
    at = objects.view.visualRect(tick)
    QTest.mouseClick(objects.view.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(at.left() + 10, at.center().y()))
    assert [record.is_reviewed for record in window.session.objects] == [False, True, True]
    assert Qt.CheckState(tick.data(Qt.ItemDataRole.CheckStateRole)) == Qt.CheckState.Unchecked
    objects.table.setData(tick, Qt.CheckState.Checked, Qt.ItemDataRole.CheckStateRole)
    assert window.session.file.object(1).is_reviewed
    assert Qt.CheckState(tick.data(Qt.ItemDataRole.CheckStateRole)) == Qt.CheckState.Checked

    # Merge, class, review, delete; then everything back, and again.
    objects.choose([2, 3])
    do("merge")
    assert [row.id for row in objects.table.rows] == [1, 2]
    assert _labels(window)[60, 60] == 2
    window.controller.classes.add("cell")
    colours = [objects.classes.itemData(at, Qt.ItemDataRole.DecorationRole).name() for at in range(2)]
    assert colours == [record.colour.lower() for record in window.session.file.classes()]
    objects.choose([2])
    window.controller.classes.choose("cell")
    assert {row.id: row.class_name for row in objects.table.rows} == {1: "object", 2: "cell"}
    objects.choose([1])
    do("delete")
    assert not (_labels(window) == 1).any()
    state = window.session.file.state()
    for _ in range(4):
        do("undo")
    assert [row.id for row in objects.table.rows] == [1, 2, 3]
    _agree(window)
    for _ in range(4):
        do("redo")
    assert window.session.file.state() == state
    _agree(window)

    # Take an object back into its prompts and improve it.
    objects.choose([2])
    do("edit")
    assert len(window.session.draft.prompts.points) == 2
    window.click(40, 60)
    do("accept")
    assert window.session.file.object(2).class_id == 2 != window.session.class_id, "its class stays too"
    assert _labels(window)[60, 40] == 2

    # Split gives one object for each part.
    before = len(window.session.objects)
    objects.choose([2])
    objects.action_asked.emit("split")
    assert len(window.session.objects) == before + 1
    split = _labels(window).copy()
    _agree(window)
    do("undo")
    assert len(window.session.objects) == before and not np.array_equal(_labels(window), split)
    _agree(window)
    do("redo")
    np.testing.assert_array_equal(_labels(window), split)


def test_strokes_are_actions_too(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    do = window.controller.do
    window.click(20, 20)
    do("accept")

    # What a script writes.
    layer = window.canvas.objects_layer
    layer.data_setitem((np.array([70, 70]), np.array([5, 6])), 9)
    assert window.session.file.object(9).area == 2
    do("undo")
    assert not (_labels(window) == 9).any()
    _agree(window)

    # What the brush and the bucket do.
    layer.brush_size = 5
    layer.paint((74, 74), 11)
    assert window.session.file.object(11).area == np.count_nonzero(_labels(window) == 11) > 10
    layer.fill((74, 74), 12)
    assert window.session.file.object(12).area == np.count_nonzero(_labels(window) == 12) > 10
    _agree(window)
    painted = _labels(window).copy()
    do("undo")
    do("undo")
    assert not np.isin(_labels(window), (11, 12)).any()
    _agree(window)
    do("redo")
    assert (_labels(window) == 11).any() and not (_labels(window) == 12).any()
    do("redo")
    np.testing.assert_array_equal(_labels(window), painted)
    _agree(window)


def test_objects_are_accepted_while_their_layer_is_hidden(window: Any, stack: ChannelStack) -> None:
    """napari keeps no picture of a hidden layer, or one of another view."""
    window.open(stack)
    window.wait(lambda: window.canvas.mask_layer is not None)
    canvas, rows = window.canvas, window.panels.objects.table
    for layer in (canvas.objects_layer, canvas.mask_layer):
        layer.visible = False
    for count in (3, 2):
        window.viewer.dims.ndisplay = count
    for number, x in enumerate((20, 60), 1):
        window.click(x, 30)
        window.controller.do("accept")
        assert len(rows.rows) == number
    assert window.widget.status.text() == "Accepted; the layer of the objects is hidden."
    for layer in (canvas.objects_layer, canvas.mask_layer):
        layer.visible = True
    shown = np.asarray(canvas.objects_layer._slice.image.view)
    np.testing.assert_array_equal(shown, window.session.file.labels(*window.session.place))
    assert {20, 60} <= set(np.nonzero(shown[30])[0]) and not canvas.mask_layer.data.any()


def test_everything_next_and_layers_that_go_away(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    do, objects = window.controller.do, window.panels.objects
    window.controller.objects.everything()
    # They are written on another thread; the table is told when all of them are.
    window.wait(lambda: len(objects.table.rows) == 4)
    assert not any(record.is_reviewed for record in window.session.objects)
    do("next")
    assert objects.chosen_ids == [1]
    do("review")
    assert window.session.file.object(1).is_reviewed
    assert objects.chosen_ids == [2]
    _agree(window)

    # The user renames one of our layers, and deletes others: nothing is lost, what is needed comes back.
    window.canvas.objects_layer.name = "mine"
    window.click(70, 70)
    for layer in (window.canvas.mask_layer, window.canvas.objects_layer, window.canvas.points_layer):
        window.viewer.layers.remove(layer)
    assert window.canvas.objects_layer is None
    do("accept")
    _agree(window)
    do("tool points")
    window.click(10, 60)
    assert window.canvas.mask_layer.data[60, 10] == 1
    do("clear")
    assert not window.canvas.mask_layer.data.any()

    # Where to click next: doubt is shown where candidates disagree, and goes with the prompts.
    window.click(50, 40)
    do("next click")
    assert "disagree most" in window.widget.status.text()
    assert any(layer.name == "next click" for layer in window.viewer.layers)
    do("next click")
    assert not any(layer.name == "next click" for layer in window.viewer.layers)

    # A box, as drawn.
    do("clear")
    do("tool box")
    assert "drag a box" in window.widget.sections["prompts"].heading.text()
    shapes = window.viewer.layers.selection.active
    shapes.add_rectangles(np.array([[10.0, 20.0], [10.0, 50.0], [40.0, 50.0], [40.0, 20.0]]))
    window.wait(lambda: window.session.draft.candidates)
    assert window.session.draft.prompts.box.tolist() == [20.5, 10.5, 50.5, 40.5]
    assert window.canvas.mask_layer.data[30, 30] == 1
    assert "left click" in window.widget.sections["prompts"].heading.text()
    do("undo")
    assert window.session.draft.is_empty and not window.canvas.mask_layer.data.any() and len(shapes.data) == 0
    do("redo")
    assert len(shapes.data) == 1 and window.canvas.mask_layer.data[30, 30] == 1
    np.testing.assert_allclose(shapes.data[0].min(axis=0), (10, 20))

    # Which channel matters.
    window.panels.prompts.leave_one_out.click()
    bars = window.panels.prompts.bars
    window.wait(lambda: "without" in bars._title)
    assert {row.name: round(row.share, 6) for row in bars._rows} == dict.fromkeys(window.state.names, 0.1)

    # The last object gone, the panel offers no export.
    window.session.file.delete([record.id for record in window.session.objects])
    assert not objects.actions_by_name["export"].isEnabled()
    window.controller.exchange.export(ExportRequest("tiff", Path("x.tif"), False, "objects", False))
    assert "at least 1" in window.widget.status.text()


def test_many_objects_at_once_are_all_drawn(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    pixels = np.ones((2, 2), bool)
    new = [NewObject(MaskCrop(pixels, 3 * x, 3 * y), origin="automatic") for y in range(26) for x in range(32)]
    thread = Thread(target=lambda: window.session.file.accept_many(*window.session.place, new))
    thread.start()
    thread.join()
    # What another thread did shows when the window is told.
    assert not window.canvas.objects_layer.data.any()
    window.session.tell()
    labels = window.session.file.labels(*window.session.place)
    window.wait(lambda: np.array_equal(window.canvas.objects_layer.data, labels))
    assert labels.max() == len(new)
    assert window.panels.objects.table.rowCount() == len(new)
    assert squares_of([(0, 0, 9, 9), (5, 5, 20, 7), (600, 0, 610, 5), (0, 0, 900, 9)]) == [
        (0, 0, 900, 9),
        (0, 0, 20, 9),
        (600, 0, 610, 5),
    ]


def test_one_object_more_is_drawn_as_the_session_holds_it(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    file, place = window.session.file, window.session.place
    disc = np.hypot(*np.mgrid[-9:10, -9:10]) < 9
    for policy in ("newest", "oldest"):
        window.panels.objects.overlap_chosen.emit(policy)
        for x in (10, 18, 26):
            # Only its own pixels are asked for: beside thousands of objects, all labels of its box take long.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(file), "labels_in", lambda *_: pytest.fail("all objects were drawn"))
                last = file.accept(*place, NewObject(MaskCrop(disc, x, 12)))
            _agree(window)
        # The same object again, smaller in the same box, is no object more.
        ring = disc & (np.hypot(*np.mgrid[-9:10, -9:10]) > 5)
        file.replace(last.id, NewObject(MaskCrop(ring, 26, 12)))
        _agree(window)
        file.undo()
        _agree(window)


def test_drawing_goes_on_after_a_mask_that_is_waited_for(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(stack)
    monkeypatch.setattr(_object_control, "_SQUARE", 8)
    monkeypatch.setattr(_object_control, "_DRAWING_S", 0.0)
    monkeypatch.setattr(_object_control, "_DRAWING_FIRST_S", 0.0)
    asked: list[str] = []
    monkeypatch.setattr(window.controller.work.engine, "is_asked", lambda lane: not asked.append(lane))
    disc = MaskCrop(np.ones((5, 5), bool), 8, 8)
    new = [NewObject(disc.moved(16 * step, 0), origin="automatic") for step in range(4)]
    window.session.file.accept_many(*window.session.place, new)
    window.wait(lambda: len(asked) > 5)
    # The first turn was at once; no other one has come.
    assert np.unique(_labels(window)).size == 2 and "predict" in asked
    monkeypatch.setattr(window.controller.work.engine, "is_asked", lambda lane: False)
    window.wait(lambda: _labels(window).max() == 4)
    _agree(window)


def test_a_large_object_is_drawn_in_strips() -> None:
    box = (5, 10, 2500, 1900)
    strips = squares_of([box])
    assert len(strips) == 5
    assert max((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in strips) <= 1 << 20
    covered = np.zeros((2000, 2600), np.uint8)
    for x0, y0, x1, y1 in strips:
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == 1 and covered.sum() == covered[10:1900, 5:2500].sum() == 2495 * 1890


def test_the_candidate_of_the_size_of_the_objects_before_is_shown(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    chosen = []
    for number, (x, y) in enumerate(((20, 20), (60, 20), (20, 60), (60, 60))):
        window.click(x, y)
        chosen.append(window.session.draft.chosen)
        window.controller.do("candidate 0")
        window.controller.do("accept")
        assert len(window.session.objects) == number + 1
    # Three small ones were accepted, though the middle size is the best each time.
    assert chosen == [1, 1, 1, 0]
    # Objects of another class say nothing.
    window.controller.classes.add("cell")
    window.controller.classes.choose("cell")
    window.click(40, 40)
    assert window.session.draft.chosen == 1


def test_ids_of_any_length_can_be_read(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    view, table, file = window.panels.objects.view, window.panels.objects.table, window.session.file
    disc = NewObject(MaskCrop(np.ones((3, 3), bool), 5, 5))
    for count, last in ((1, 1), (98, 99), (1, 100), (900, 1000)):
        file.accept_many(*window.session.place, [disc] * count)
        index = table.index(table.rowCount() - 1, ObjectColumn.ID)
        assert table.rows[-1].id == last
        assert view.columnWidth(ObjectColumn.ID) >= view.sizeHintForIndex(index).width()
    assert view.horizontalHeader().length() <= view.viewport().width()
