"""Prompts in a real viewer, with the mouse and the keyboard: what is drawn is what the session holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from threading import Event
from typing import Any

import numpy as np
import pytest
from fake import FakePrediction, FakePredictor
from napari.utils.colormaps.standardize_color import transform_color
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._convert import xy_of_points
from napari_e2sam._jobs import Request
from napari_e2sam._own_layers import PROMPT_COLOURS

LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
NONE, CONTROL = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier


def _native(window: Any) -> Any:
    return window.viewer.window._qt_viewer.canvas.native


def _place(window: Any, x: float, y: float) -> QPoint:
    """Where on the canvas a pixel (x, y) of the image lies."""
    native, camera = _native(window), window.canvas.camera
    offset = (np.array([y - 0.5, x - 0.5]) - np.array(camera.center[-2:])) * camera.zoom
    return QPoint(round(native.width() / 2 + offset[1]), round(native.height() / 2 + offset[0]))


def _click(window: Any, x: float, y: float, button: Any = LEFT) -> None:
    native, at = _native(window), _place(window, x, y)
    QTest.mouseMove(native, at)
    QTest.mouseClick(native, button, NONE, at)


def _drag(window: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    native = _native(window)
    QTest.mouseMove(native, _place(window, *start))
    QTest.mousePress(native, LEFT, NONE, _place(window, *start))
    for share in (0.3, 0.6, 1.0):
        x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
        QTest.mouseMove(native, _place(window, x, y))
        QTest.qWait(20)
    QTest.mouseRelease(native, LEFT, NONE, _place(window, *end))


def _key(window: Any, key: Any, modifiers: Any = NONE) -> None:
    QTest.keyClick(_native(window), key, modifiers)


def _undo(window: Any) -> None:
    _key(window, Qt.Key.Key_Z, CONTROL)


def _redo(window: Any) -> None:
    _key(window, Qt.Key.Key_Z, CONTROL | SHIFT)


def _open(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.wait(lambda: window.canvas.mask_layer is not None)
    window.viewer.reset_view()
    # Room around the image for a click that misses it.
    window.canvas.camera.zoom *= 0.8
    QApplication.processEvents()


def _clicked(window: Any, *points: tuple[float, float]) -> None:
    """Click, and wait for the mask after each click."""
    for x, y in points:
        before = len(window.session.draft.prompts.points)
        _click(window, x, y)
        window.wait(lambda n=before: len(window.session.draft.prompts.points) == n + 1)
        window.wait(lambda: window.session.draft.candidates)


def _agree(window: Any) -> None:
    """The layers show the draft: its points in their colours, as napari has sliced them, and its mask."""
    draft, layer = window.session.draft, window.canvas.points_layer
    np.testing.assert_allclose(xy_of_points(layer.data), draft.prompts.points, atol=1e-3)
    assert layer.features["label"].tolist() == draft.prompts.labels.tolist()
    expected = transform_color([PROMPT_COLOURS[label] for label in (0, 1)])[draft.prompts.labels]
    np.testing.assert_array_equal(layer.face_color, expected)
    assert len(layer._view_data) == len(layer._view_size) == len(layer.data)
    shown = np.asarray(window.canvas.mask_layer.data) > 0
    mask = draft.candidates[draft.chosen].mask if draft.candidates else None
    expected_mask = np.zeros(shown.shape, bool) if mask is None else mask.window((0, 0, *shown.shape[::-1]))
    np.testing.assert_array_equal(shown, expected_mask)


def _watch(window: Any, monkeypatch: pytest.MonkeyPatch, note: Callable[[Request], Any]) -> list[Any]:
    """What `note` says of each request for masks from now on."""
    sent: list[Any] = []
    request = window.controller.work.engine.request

    def seen(asked: Request) -> None:
        if asked.what == "predict":
            sent.append(note(asked))
        request(asked)

    monkeypatch.setattr(window.controller.work.engine, "request", seen)
    return sent


def _watch_masks(window: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request for masks from now on brings a mask prompt along."""
    return _watch(window, monkeypatch, lambda asked: "mask_input" in asked.arrays)


def _point_at(window: Any, x: float, y: float) -> None:
    """Move the pointer, and wait until napari has heard of it."""
    at = _place(window, x, y)
    # Qt tells of no move to where the pointer is, and vispy of none that comes too soon after another.
    places = cycle((at, at + QPoint(2, 2)))

    def is_there() -> bool:
        QTest.mouseMove(_native(window), next(places))
        return np.allclose(window.viewer.cursor.position[-2:], (y - 0.5, x - 0.5), atol=1)

    window.wait(is_there)


def _shown(window: Any) -> MaskCrop:
    """The candidate that the session says is shown."""
    draft = window.session.draft
    return draft.candidates[draft.chosen].mask


def _is_drawn(window: Any, x: float, y: float) -> bool:
    return bool(window.canvas.mask_layer.data[int(y), int(x)])


def test_points_come_and_go_by_any_number(window: Any, stack: ChannelStack) -> None:
    _open(window, stack)
    layer, rng = window.canvas.points_layer, np.random.default_rng(2)
    for step, number in enumerate((0, 4, 1, 3, 2, 0, 1, 5, 0)):
        for mode in ("add", "select"):
            layer.mode = mode
            if mode == "select" and len(layer.data):
                # The last one is chosen, and the pointer over it.
                layer.selected_data = {len(layer.data) - 1}
                layer._value = len(layer.data) - 1
                layer._set_highlight(force=True)
            points = rng.uniform(5, 70, (number, 2)).astype(np.float32)
            labels = ((np.arange(number) + step) % 2).astype(np.int32)
            window.canvas.show_prompts(Prompts(points, labels))
            np.testing.assert_allclose(xy_of_points(layer.data), points, atol=1e-3)
            assert layer.features["label"].tolist() == labels.tolist()
            assert len(layer._view_data) == number
            assert not layer.selected_data


@pytest.mark.parametrize("tool", [Qt.Key.Key_P, Qt.Key.Key_V])
def test_undo_and_redo_of_clicks_draw_what_the_session_holds(window: Any, stack: ChannelStack, tool: Any) -> None:
    _open(window, stack)
    _clicked(window, (30.5, 30.5), (50.5, 30.5))
    _click(window, 40.5, 50.5, RIGHT)
    window.wait(lambda: len(window.session.draft.prompts.points) == 3 and window.session.draft.candidates)
    _key(window, tool)
    # The pointer rests on the point that goes first.
    QTest.mouseMove(_native(window), _place(window, 40.5, 50.5))
    objects = window.panels.objects
    _agree(window)
    for left in (2, 1, 0):
        _undo(window)
        assert len(window.session.draft.prompts.points) == left
        _agree(window)
        assert objects.redo.isEnabled()
        assert objects.undo.isEnabled() == (left > 0)
    for there in (1, 2, 3):
        _redo(window)
        assert len(window.session.draft.prompts.points) == there
        _agree(window)
    assert not objects.redo.isEnabled()
    # A click inside after one outside was taken back.
    _undo(window)
    _key(window, Qt.Key.Key_P)
    _clicked(window, (60.5, 60.5))
    assert window.session.draft.prompts.labels.tolist() == [1, 1, 1]
    _agree(window)
    _key(window, Qt.Key.Key_A)
    assert len(window.session.objects) == 1
    _agree(window)


def test_an_undo_to_a_click_without_an_answer_asks_again(window: Any, stack: ChannelStack) -> None:
    _open(window, stack)
    first, second = _place(window, 30.5, 30.5), _place(window, 50.5, 30.5)
    for at in (first, second):
        QTest.mouseClick(_native(window), LEFT, NONE, at)
    window.wait(lambda: window.session.draft.candidates)
    assert len(window.session.draft.prompts.points) == 2
    for _ in range(2):
        _undo(window)
        assert len(window.session.draft.prompts.points) == 1
        # No mask of the other click in the meantime.
        _agree(window)
        window.wait(lambda: window.session.draft.candidates)
        _agree(window)
        assert window.panels.objects.redo.isEnabled()
        _redo(window)
        assert len(window.session.draft.prompts.points) == 2
        window.wait(lambda: window.session.draft.candidates)
        _agree(window)
    _undo(window)
    window.wait(lambda: window.session.draft.candidates)
    _key(window, Qt.Key.Key_A)
    assert len(window.session.objects) == 1
    assert window.canvas.objects_layer.data[30, 30] == 1
    assert window.canvas.objects_layer.data[30, 50] == 0


def test_a_mask_of_other_channels_or_of_another_model_is_not_sent_along(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(window, stack)
    window.tick("red", "nir")
    sent = _watch_masks(window, monkeypatch)
    _clicked(window, (30.5, 30.5), (50.5, 30.5))
    assert sent == [False, True]
    window.tick("nir", "depth")
    window.wait(lambda: window.session.draft.conditions.channels == ("nir", "depth"))
    assert sent[2:] and not any(sent[2:])
    assert window.session.draft.prompts.mask is None
    # From there on, masks of these channels.
    del sent[:]
    _clicked(window, (40.5, 40.5))
    assert sent == [True]
    # Not that of a click during the encoding either.
    del sent[:]
    table = window.panels.channels.table
    table.tick([0], True)
    assert not window.state.is_encoded
    _click(window, 60.5, 40.5)
    window.wait(lambda: len(window.session.draft.prompts.points) == 4 and window.session.draft.candidates)
    assert sent and not any(sent)
    # And that of another model.
    _clicked(window, (60.5, 50.5))
    assert sent[-1]
    del sent[:]
    window.controller.models.choose("other")
    window.wait(lambda: window.session.draft.conditions.model == "fake-other")
    assert sent and not any(sent)


def test_a_mask_prompt_of_an_object_stays_its_own(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(window, stack)
    window.tick("red", "nir")
    _clicked(window, (30.5, 30.5), (50.5, 30.5))
    _key(window, Qt.Key.Key_A)
    sent = _watch_masks(window, monkeypatch)
    window.panels.objects.choose([1])
    _key(window, Qt.Key.Key_E)
    assert window.session.draft.prompts.mask is not None
    # Under the channels that it was made with it is sent, under others not.
    window.controller.prompts.predict()
    window.wait(lambda: len(sent) == 1)
    window.tick("nir", "depth")
    window.wait(lambda: window.session.draft.conditions.channels == ("nir", "depth"))
    assert sent[0] and not any(sent[1:])


def test_a_mask_carried_from_another_plane_is_sent_under_any_channels(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(3).uniform(0, 1, (2, 2, 80, 96)).astype(np.float32)
    _open(window, ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b")), leading="T"))
    window.viewer.dims.set_current_step(0, 0)
    window.wait(lambda: window.session.plane == (0,) and window.state.is_encoded)
    window.tick("a", "b")
    _clicked(window, (40.5, 30.5))
    _key(window, Qt.Key.Key_A)
    sent = _watch_masks(window, monkeypatch)
    _key(window, Qt.Key.Key_T)
    window.wait(lambda: window.session.plane == (1,) and window.session.draft.candidates)
    window.tick("b")
    window.wait(lambda: window.session.draft.conditions.channels == ("b",))
    assert len(sent) >= 2 and all(sent)
    assert window.session.draft.prompts.mask is not None


def test_a_click_or_box_beside_the_image_is_taken_off_at_once(window: Any, stack: ChannelStack) -> None:
    _open(window, stack)
    status, layer = window.widget.status, window.canvas.points_layer
    _click(window, -5, 30)
    assert "inside the image of 96 x 80 pixels" in status.text()
    assert len(layer.data) == len(layer._view_data) == 0
    assert window.session.draft.is_empty
    assert window.session.file.next_undo() is None

    # A mask stays as it is, and the message goes with the next click.
    _clicked(window, (30.5, 30.5), (50.5, 30.5))
    assert status.text() == ""
    before = window.session.draft
    _click(window, 40, -4, RIGHT)
    assert "inside the image" in status.text()
    assert window.session.draft is before
    _agree(window)
    assert not layer.selected_data
    _clicked(window, (40.5, 40.5))
    _agree(window)

    # A point that is dragged out goes back to where it was.
    _key(window, Qt.Key.Key_V)
    _drag(window, (40.5, 40.5), (40.5, -6))
    assert "inside the image" in status.text()
    _agree(window)
    _drag(window, (40.5, 40.5), (44.5, 44.5))
    window.wait(lambda: np.allclose(window.session.draft.prompts.points[2], (44.5, 44.5), atol=1))
    window.wait(lambda: window.session.draft.candidates)
    _agree(window)

    _key(window, Qt.Key.Key_B)
    _drag(window, (20, -9), (60, -3))
    assert "Expected a box over the image of 96 x 80 pixels" in status.text()
    boxes = window.viewer.layers.selection.active
    assert len(boxes.data) == 0 and str(boxes.mode) == "add_rectangle"
    _agree(window)
    _drag(window, (20, 20), (60, 60))
    window.wait(lambda: window.session.draft.prompts.box is not None and window.session.draft.candidates)
    assert status.text() == "" and len(boxes.data) == 1

    # A line of one place, which napari drops, takes nothing from the box.
    box = window.session.draft.prompts.box
    _key(window, Qt.Key.Key_L)
    _click(window, 40.5, 40.5)
    QTest.mouseDClick(_native(window), LEFT, NONE, _place(window, 40.5, 40.5))
    QTest.qWait(50)
    assert window.session.draft.prompts.box is box and len(boxes.data) == 1 and not boxes._is_creating


def test_an_error_goes_with_the_next_action_that_succeeds(window: Any, stack: ChannelStack) -> None:
    _open(window, stack)
    status, objects = window.widget.status, window.panels.objects
    for x, y in ((20.5, 20.5), (60.5, 20.5)):
        _clicked(window, (x, y))
        _key(window, Qt.Key.Key_A)

    def fail() -> None:
        objects.choose([1])
        objects.action_asked.emit("split")
        assert status.text() and "color" in status.styleSheet()

    for key, modifiers in ((Qt.Key.Key_E, NONE), (Qt.Key.Key_C, NONE), (Qt.Key.Key_Delete, CONTROL)):
        fail()
        _key(window, key, modifiers)
        assert (status.text(), status.styleSheet()) == ("", "")
    _undo(window)
    fail()
    _undo(window)
    assert (status.text(), status.styleSheet()) == ("", "")
    # What is no error stays, and so does that of one among several.
    window.controller.work.say("Comparing", "busy")
    _redo(window)
    assert status.text() == "Comparing"
    window.session.file.undo()
    objects.choose([1, 2])
    objects.action_asked.emit("split")
    assert status.text()


def test_the_mask_under_the_pointer_is_a_preview_and_no_more(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(window, stack)
    asked = _watch(window, monkeypatch, lambda request: request.lane)
    box, mask = window.panels.prompts.hover, window.canvas.mask_layer
    _point_at(window, 20.5, 20.5)
    assert not asked
    _key(window, Qt.Key.Key_H)
    assert box.isChecked()
    for x, y in ((30.5, 30.5), (70.5, 40.5)):
        _point_at(window, x, y)
        window.wait(lambda x=x, y=y: _is_drawn(window, x, y))
    assert not _is_drawn(window, 30.5, 30.5)
    assert window.session.draft.is_empty and window.session.file.next_undo() is None
    _key(window, Qt.Key.Key_A)
    assert not window.session.objects

    # It goes when the pointer leaves the image, or the canvas.
    _point_at(window, -5, 30)
    assert not mask.data.any()
    _point_at(window, 50.5, 30.5)
    window.wait(lambda: _is_drawn(window, 50.5, 30.5))
    window.viewer.mouse_over_canvas = True
    QApplication.sendEvent(_native(window), QEvent(QEvent.Type.Leave))
    assert not mask.data.any()

    # Beside a mask of clicks there is none.
    _clicked(window, (30.5, 30.5))
    del asked[:]
    _point_at(window, 70.5, 60.5)
    assert not asked
    _agree(window)
    _key(window, Qt.Key.Key_C)
    _point_at(window, 60.5, 50.5)
    window.wait(lambda: _is_drawn(window, 60.5, 50.5))
    assert set(asked) == {"hover"}

    # Switched off, it goes at once and nothing is asked.
    box.click()
    assert not mask.data.any()
    del asked[:]
    _point_at(window, 40.5, 40.5)
    assert not asked


def test_another_candidate_and_a_closer_look(window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch) -> None:
    _open(window, stack)
    panel, session = window.panels.prompts, window.session
    sizes = []
    _clicked(window, (40.5, 40.5))
    for position, key in enumerate((Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_3)):
        _key(window, key)
        assert session.draft.chosen == position and panel.candidates[position].isChecked()
        _agree(window)
        sizes.append(np.count_nonzero(window.canvas.mask_layer.data))
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    QTest.mouseClick(panel.candidates[1], LEFT)
    assert session.draft.chosen == 1
    _agree(window)
    _undo(window)
    assert session.draft.chosen == 2
    _agree(window)

    # The fake's closer look fills the box of the mask that is shown; each click is looked at closer.
    around = _watch(window, monkeypatch, lambda request: request.body.get("around"))
    box = list(_shown(window).box)
    panel.window.click()
    window.wait(lambda: _shown(window).pixels.all())
    assert around == [box] and list(_shown(window).box) == box
    _agree(window)
    _clicked(window, (60.5, 40.5))
    window.wait(lambda: _shown(window).pixels.all())
    assert around[1:] == [None, list(_shown(window).box)]
    _agree(window)
    panel.window.click()
    window.wait(lambda: not _shown(window).pixels.all())
    assert around[3:] == [None]
    _agree(window)


def test_a_candidate_chosen_while_another_one_is_looked_at_closer_is_looked_at_instead(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(window, stack)
    panel, session = window.panels.prompts, window.session
    around = _watch(window, monkeypatch, lambda request: request.body.get("around"))
    panel.window.click()
    may_answer = Event()
    look = FakePredictor.refine

    def wait_and_look(predictor: FakePredictor, *asked: Any) -> FakePrediction:
        may_answer.wait(10)
        return look(predictor, *asked)

    monkeypatch.setattr(FakePredictor, "refine", wait_and_look)
    _click(window, 40.5, 40.5)
    window.wait(lambda: session.draft.candidates)
    _key(window, Qt.Key.Key_3)
    box = list(_shown(window).box)
    may_answer.set()
    window.wait(lambda: _shown(window).pixels.all())
    assert around[2:] == [box] != around[1:2] and list(_shown(window).box) == box


def test_the_newest_of_three_clicks_wins(window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """During the first one's prediction: one more is made, of all three."""
    _open(window, stack)
    session = window.session
    may_answer, started = Event(), []
    predict = FakePredictor.predict_prompts

    def wait_and_predict(predictor: FakePredictor, prompts: Prompts, *settings: Any) -> FakePrediction:
        started.append(len(prompts.points))
        may_answer.wait(10)
        return predict(predictor, prompts, *settings)

    monkeypatch.setattr(FakePredictor, "predict_prompts", wait_and_predict)
    _click(window, 20.5, 30.5)
    # Asked for before there is a mask, and forgotten with the next point.
    _key(window, Qt.Key.Key_A)
    for x in (45.5, 70.5):
        _click(window, x, 30.5)
    assert len(session.draft.prompts.points) == 3
    window.wait(lambda: "looks at this part" in window.widget.status.text())
    window.controller.do("clear")
    assert window.widget.status.text() == ""
    window.controller.do("undo")
    may_answer.set()
    window.wait(lambda: session.draft.candidates)
    assert started == [1, 3] and not session.objects
    assert all(_is_drawn(window, x, 30.5) for x in (20.5, 45.5, 70.5))
    _agree(window)
    may_answer.clear()
    _click(window, 30.5, 60.5)
    _key(window, Qt.Key.Key_A)
    assert "as soon as" in window.widget.status.text() and not session.objects
    may_answer.set()
    window.wait(lambda: session.objects)
    assert (
        len(session.file.prompts_of(session.objects[0].id).points) == 4
        and session.draft.is_empty
        and window.widget.status.text() == ""
    )
