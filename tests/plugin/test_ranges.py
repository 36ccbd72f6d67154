"""Ranges as a person reads and types them, and in the Channels panel of a real viewer."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QLineEdit

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelStack
from e2sam.errors import ChannelError
from napari_e2sam._ranges import full_range, range_text, read_range
from napari_e2sam._rows import area_text
from napari_e2sam.widgets._channel_table import Column


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (312, "312 px"),
        (9_999, "9999 px"),
        (41_230, "41.2 kpx"),
        (99_960, "100 kpx"),
        (109_700, "110 kpx"),
        (999_600, "1.00 Mpx"),
        (123_456_789, "123 Mpx"),
    ],
)
def test_area_has_three_digits_and_fits_its_column(pixels: int, text: str) -> None:
    assert area_text(pixels) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 255, "0 to 255"),
        (0.01234, 0.98765, "0.0123 to 0.988"),
        (126.4, 203.9, "126 to 204"),
        (-30.5, 1200.7, "-30.5 to 1201"),
        (0, 65535, "0 to 65535"),
        (1e-5, 1.234e6, "1e-5 to 1.23e6"),
        (1000.1, 1000.2, "1000.1 to 1000.2"),
        (2, 2, "2 to 2"),
    ],
)
def test_a_range_is_short_and_its_ends_differ(low: float, high: float, text: str) -> None:
    assert range_text(low, high) == text
    assert read_range(full_range(low, high)) == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0 to 255", (0, 255)),
        ("0 255", (0, 255)),
        (" 0-255 ", (0, 255)),
        ("1 - 2", (1, 2)),
        ("-3 -1.5", (-3, -1.5)),
        ("-3--1", (-3, -1)),
        (".5, 1e3", (0.5, 1000)),
        ("0 .. 1", (0, 1)),
        ("auto", None),
        ("  ", None),
    ],
)
def test_what_is_typed_is_understood(text: str, values: tuple[float, float] | None) -> None:
    assert read_range(text) == values


@pytest.mark.parametrize("text", ["5", "a b", "1 2 3", "nan inf", "0,5 to 1,5", "1 to"])
def test_what_is_no_range_is_one_line(text: str) -> None:
    with pytest.raises(ChannelError, match="Expected two numbers such as 0 to 255, or auto, got"):
        read_range(text)


def test_a_range_is_set_by_hand_and_the_mask_follows(window: Any, stack: ChannelStack, qtbot: Any) -> None:
    window.open(stack)
    window.tick("red", "nir")
    window.click(30, 30)
    panel, state = window.panels.channels, window.state
    opened = state.recipes[2]

    def cell() -> Any:
        return panel.table.index(2, Column.RANGE)

    # Readable: what is shown fits its column, the rest is in the tooltip.
    metrics = panel.view.fontMetrics()
    for column in (Column.RANGE, Column.INVALID):
        texts = [panel.table.index(row, column).data() for row in range(5)]
        assert any(texts)
        assert all(metrics.horizontalAdvance(text) + 6 <= panel.view.columnWidth(column) for text in texts)
    assert texts == ["", "", "", "", "25%"], "of the last channel, a quarter is not measured"
    tooltip = cell().data(Qt.ItemDataRole.ToolTipRole)
    assert full_range(*opened.value_range) in tooltip
    assert "Double-click" in tooltip

    # As the user does it: double-click, type, Enter.
    where = panel.view.visualRect(panel._proxy.mapFromSource(cell())).center()
    qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, pos=where)
    qtbot.mouseDClick(panel.view.viewport(), Qt.MouseButton.LeftButton, pos=where)
    editor = panel.view.findChild(QLineEdit)
    assert editor.text() == full_range(*opened.value_range)
    assert editor.width() >= metrics.horizontalAdvance(editor.text())
    assert panel.view.viewport().rect().contains(editor.geometry().topLeft() + QPoint(editor.width() - 1, 0))
    editor.setText("0.2 to 0.6")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    window.wait(lambda: [one.value_range for one in window.session.draft.conditions.recipes][1:] == [(0.2, 0.6)])
    assert cell().data() == "0.2 to 0.6"
    assert window.session.record.recipes[2] == state.recipes[2]
    assert state.recipes[2].kind == "range"
    assert window.session.draft.candidates
    QApplication.processEvents()

    # Wrong input is one line, and nothing changes.
    for text, told in (("0.6 to 0.2", "the lower one first"), ("much", "Expected two numbers")):
        panel.table.setData(cell(), text)
        window.wait(lambda told=told: told in window.widget.status.text())
        assert cell().data() == "0.2 to 0.6"
    panel.table.setData(cell(), "auto")
    window.wait(lambda: state.recipes[2] == opened and state.is_encoded)
    assert window.session.record.recipes[2] == opened
    window.wait(lambda: window.session.draft.conditions.recipes[1] == opened)
    assert window.widget.status.text() == ""


def test_a_range_that_was_typed_is_undone_and_done_again(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.tick("red", "nir")
    panel, state = window.panels.channels, window.state
    opened = state.recipes

    def drawn() -> list[str]:
        return [panel.table.index(row, Column.RANGE).data() for row in range(5)]

    before = drawn()
    panel.table.setData(panel.table.index(2, Column.RANGE), "0.2 to 0.6")
    window.wait(lambda: drawn()[2] == "0.2 to 0.6" and state.is_encoded)
    panel.table.setData(panel.table.index(0, Column.RECIPE), "none")
    window.wait(lambda: state.recipes[0].kind == "none" and state.is_encoded)
    assert window.panels.objects.undo.toolTip() == "Undo Normalize red (Ctrl+Z)"
    window.controller.do("undo")
    assert state.recipes[0] == opened[0]
    assert drawn()[2] == "0.2 to 0.6"
    # The first step back leads to what the stack was opened with, of which the session knows nothing.
    window.controller.do("undo")
    window.wait(lambda: drawn() == before)
    assert state.recipes == opened
    assert window.session.record.recipes is None
    assert panel.table.selection == (0, 2)
    window.wait(lambda: state.is_encoded)
    window.controller.do("redo")
    assert drawn()[2] == "0.2 to 0.6"
    window.wait(lambda: state.is_encoded)


def test_a_student_takes_no_recipe_and_says_so(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    panel, state = window.panels.channels, window.state
    before = state.recipes
    state.model = {**state.model, "channels": list(stack.names)}
    panel.table.set_trained(True)
    for column, value in ((Column.RANGE, "0.2 to 0.6"), (Column.RANGE, "auto"), (Column.RECIPE, "none")):
        window.controller.work.say("", "info")
        panel.table.setData(panel.table.index(2, column), value)
        assert "normalizes as it was trained" in window.widget.status.text()
        assert state.recipes == before
        assert window.session.file.next_undo() is None
    tooltip = panel.table.index(2, Column.RANGE).data(Qt.ItemDataRole.ToolTipRole)
    assert "normalizes as it was trained" in tooltip
    assert "The model sees" not in tooltip


def test_what_a_student_saw_is_kept_with_its_object(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    state = window.state
    trained = ChannelRecipe("range", 0.1, 0.7, 0.0)
    state.model = {
        **state.model,
        "channels": list(reversed(stack.names)),
        "recipes": [trained.to_json(), *(recipe.to_json() for recipe in reversed(state.recipes[:-1]))],
    }
    assert state.selection[-1] == len(stack.names) - 1
    assert state.recipes[-1] != trained
    window.click(20, 20)
    window.controller.do("accept")
    kept = window.session.objects[0].conditions
    assert kept.recipes == (*(state.recipes[index] for index in state.selection[:-1]), trained)
