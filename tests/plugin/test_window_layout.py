"""The panels lie within the dock, whatever they show."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractItemView, QApplication, QComboBox, QPushButton, QWidget

from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._shortcuts import SHORTCUTS, readable
from napari_e2sam._tooltips import TOOLTIPS
from napari_e2sam.widgets._channel_table import Column
from napari_e2sam.widgets.main import LearnWidget, SegmentWidget


def _right_edges(column: QWidget) -> dict[str, int]:
    kinds = (QPushButton, QComboBox, QAbstractItemView)
    shown = [widget for kind in kinds for widget in column.findChildren(kind) if widget.isVisible()]
    return {widget.objectName(): widget.mapTo(column, QPoint(widget.width(), 0)).x() for widget in shown}


def test_nothing_is_cut_off_when_there_are_objects(window: Any, stack: ChannelStack) -> None:
    window.viewer.window.resize(1280, 800)
    window.open(stack)
    scroll = window.widget.scroll
    column, seen = scroll.widget(), scroll.viewport()
    QApplication.processEvents()
    channels = window.panels.channels.view
    # No channel of this stack has a unit, one has pixels that were not measured.
    assert [channels.isColumnHidden(at) for at in (Column.UNIT, Column.INVALID)] == [True, False]
    assert channels.columnWidth(Column.NAME) >= 60
    wanted = column.minimumSizeHint().width()
    window.controller.classes.add("a class whose name is longer than any list has room for")
    for x, y in ((20, 20), (60, 20), (60, 60), (20, 60)):
        window.click(x, y)
        window.controller.do("accept")
    window.click(40, 40)
    window.wait(lambda: column.minimumSizeHint().width() == wanted)
    window.wait(lambda: column.width() == seen.width())
    edges = _right_edges(column)
    assert {"save_preset", "next_click", "remove_class", "channels", "objects"} <= set(edges)
    assert {name: edge for name, edge in edges.items() if edge > seen.width()} == {}
    for table in (window.panels.channels.view, window.panels.objects.view):
        assert table.horizontalHeader().length() <= table.viewport().width()

    # In a dock that the user's screen leaves no room for, the panels still follow it.
    scroll.setMinimumWidth(0)
    scroll.setMaximumWidth(300)
    window.wait(lambda: seen.width() <= 300 and column.width() == seen.width())


def test_a_panel_that_the_user_unfolds_comes_into_sight(window: Any, stack: ChannelStack) -> None:
    window.viewer.window.resize(1280, 640)
    window.open(stack)
    scroll, learning = window.widget.scroll, window.widget.sections["learning"]

    def is_in_sight() -> bool:
        top = learning.mapTo(scroll.viewport(), QPoint(0, 0)).y()
        return bool(top >= 0 and top + learning.height() <= scroll.viewport().height() and learning.height() > 60)

    # What the window unfolds by itself does not move what the user looks at.
    learning.set_open(True)
    QApplication.processEvents()
    assert not is_in_sight() and scroll.verticalScrollBar().value() == 0
    learning.set_open(False)
    QTest.mouseClick(learning.heading, Qt.MouseButton.LeftButton)
    window.wait(is_in_sight)
    QTest.mouseClick(learning.heading, Qt.MouseButton.LeftButton)
    assert not learning.content.isVisible()


def test_the_whole_flow_is_in_sight_on_a_small_screen(window: Any) -> None:
    window.viewer.window.resize(1280, 800)
    data = np.random.default_rng(0).uniform(0, 1, (156, 40, 44)).astype(np.float32)
    names = [f"{400 + 3 * band}.0nm" for band in range(156)]
    window.open(ChannelStack(data, tuple(ChannelSpec(name) for name in names)))
    window.tick(*names[:3])
    window.click(20, 20)
    bars = window.panels.prompts.bars
    # Equal shares are said and not drawn; they have their room.
    window.wait(lambda: "alike" in bars._title)
    assert bars._rows == () and bars.isVisible()
    assert bars.fontMetrics().horizontalAdvance(bars._title) <= bars.width()
    window.controller.do("accept")
    QApplication.processEvents()
    scroll = window.widget.scroll
    assert not scroll.verticalScrollBar().isVisible()
    seen, column = scroll.viewport(), scroll.widget()
    panels = window.panels
    for widget in (panels.channels.filter, panels.prompts.accept, panels.objects.view, *panels.objects.buttons):
        assert widget.mapTo(column, QPoint(0, widget.height())).y() <= seen.height(), widget.objectName()
    assert panels.channels.view.viewport().height() >= 4 * panels.channels.view.rowHeight(0)
    assert panels.objects.view.viewport().height() >= 3 * panels.objects.view.rowHeight(0)

    # Where there is room, the tables have it.
    low = panels.channels.view.height(), panels.objects.view.height()
    window.viewer.window.resize(1280, 1100)
    window.wait(lambda: panels.channels.view.height() > low[0] and panels.objects.view.height() > low[1] + 60)


def test_the_dock_is_as_narrow_as_its_panels_allow(window: Any, stack: ChannelStack) -> None:
    window.viewer.window.resize(1280, 800)
    # Before a stack is there the table of channels has all of its columns.
    least = window.widget.minimumSizeHint().width()
    window.open(stack)
    window.widget.sections["prompts"].set_summary("a summary that is much longer than a dock may ever be wide" * 3)
    QApplication.processEvents()
    assert window.widget.width() <= least + 2 < 420


def test_no_panel_moves_between_clicks(window: Any, stack: ChannelStack) -> None:
    window.viewer.window.resize(1280, 800)
    window.open(stack)
    window.tick("nir", "red")

    def places() -> dict[str, Any]:
        QApplication.processEvents()
        sections = {name: section.geometry().getRect() for name, section in window.widget.sections.items()}
        return sections | {button.objectName(): button.geometry().getRect() for button in shown}

    prompts = window.panels.prompts
    assert prompts.no_mask.isVisible()
    assert prompts.no_mask.width() >= max(prompts.no_mask.sizeHint().width(), prompts.accept.width())
    shown = [button for button in prompts.findChildren(QPushButton) if button.objectName() != "candidates"]
    bars = window.panels.prompts.bars
    before = places()
    for x in (20, 60):
        window.click(x, 20)
        window.wait(lambda: len(bars._rows) == 2)
        assert not prompts.no_mask.isVisible()
        assert places() == before
        window.controller.do("accept")
        assert places() == before
        assert bars._rows == ()


def test_layers_of_a_new_image_are_made_one_a_turn(window: Any, stack: ChannelStack, monkeypatch: Any) -> None:
    canvas = window.canvas
    made: list[str] = []
    turns: list[int] = []
    make_one, on_made = canvas.make_one, canvas._own._made

    def in_a_turn() -> bool:
        before = len(made)
        is_last = bool(make_one())
        turns.append(len(made) - before)
        return is_last

    monkeypatch.setattr(canvas, "make_one", in_a_turn)
    monkeypatch.setattr(canvas._own, "_made", lambda name, layer: (made.append(name), on_made(name, layer)))
    told: list[Any] = []
    window.viewer.layers.selection.events.active.connect(lambda event: told.append(event.value))
    window.panels.channels.composite.setChecked(False)
    image = window.open(stack)
    window.wait(lambda: len(turns) == 3)
    assert made == ["points", "mask", "objects"]
    assert turns == [1, 1, 0]
    # Each of ours would be shown as the active one for a moment; only the tool's is.
    assert [layer for layer in told if layer not in (None, image, canvas.points_layer)] == []
    assert list(window.viewer.layers.selection) == [canvas.points_layer]
    assert canvas.points_layer.mode == "add"


def _num_seen(grabbed: QPixmap) -> int:
    """Pixels whose grey value is far from that of the ground, which most pixels show."""
    image = grabbed.toImage().convertToFormat(QImage.Format.Format_Grayscale8)
    grey = np.array([[image.pixelColor(x, y).red() for x in range(image.width())] for y in range(image.height())], int)
    return int(np.count_nonzero(np.abs(grey - np.bincount(grey.ravel()).argmax()) > 60))


def test_what_is_in_the_dock_can_be_read(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    window.tick("nir", "red")
    window.click(20, 20)
    bars, view = window.panels.prompts.bars, window.panels.channels.view
    window.wait(lambda: len(bars._rows) == 2)
    below_title = bars.rect().adjusted(0, bars._ROW, 0, 0)
    histograms = [view.visualRect(view.model().index(row, Column.HISTOGRAM)) for row in range(5)]
    for theme in ("light", "dark"):
        window.viewer.theme = theme
        text = get_theme(theme).text.as_hex(format="long")
        for widget in (window.widget, window.widget.status, window.panels.stack.summary, bars, view):
            window.wait(lambda widget=widget, text=text: widget.palette().text().color().name() == text)
        assert _num_seen(bars.grab(below_title)) > 500, theme
        assert [_num_seen(view.viewport().grab(cell)) > 100 for cell in histograms] == [True] * 5, theme

    # One table has every tooltip; these say what it is now that they choose, undo and redo.
    named = [widget for widget in window.widget.findChildren(QWidget) if widget.objectName()]
    ours = [widget for widget in named if not widget.objectName().startswith(("qt_", "magicgui."))]
    own = {"candidates", "undo", "redo"}
    assert [widget.objectName() for widget in ours if not widget.toolTip()] == []
    said = {widget.objectName(): widget.toolTip() for widget in ours if widget.objectName() not in own}
    keys = {one.action.replace(" ", "_"): readable(one.key) for one in SHORTCUTS}
    wanted = {name: text for name, text in TOOLTIPS.items() if not name.startswith(("batch_", "range", "candidates"))}
    assert said == {name: text.format_map(keys) for name, text in wanted.items()}
    assert said["accept"] == "Keep the mask as an object (A)."
    assert window.panels.prompts.accept.text() == "Accept (A)"


def test_a_long_message_has_the_width_of_the_panel(window: Any) -> None:
    window.viewer.window.resize(1280, 800)
    QApplication.processEvents()
    widget = window.widget
    widget.say("Encoding 4 channels", "busy")
    QApplication.processEvents()
    assert widget.status.y() + widget.status.height() > widget.keys.y(), "beside the buttons"
    one_line = widget.status.height()
    widget.say(
        "Expected 4 channels, got 3: choose another model in Model, or tick another channel in Channels.", "error"
    )
    QApplication.processEvents()
    assert widget.status.y() + widget.status.height() <= widget.keys.y(), "over the buttons"
    assert widget.status.width() > 0.9 * widget.width()
    assert widget.status.height() >= widget.status.heightForWidth(widget.status.width()), "all of it is seen"
    widget.say("", "info")
    QApplication.processEvents()
    assert widget.status.y() + widget.status.height() > widget.keys.y()
    assert widget.status.height() == one_line


def test_learn_opens_the_panels_that_are_there(window: Any, qtbot: Any) -> None:
    shown = LearnWidget(window.viewer)
    assert not isinstance(shown, SegmentWidget)
    dock = window.viewer.window.add_dock_widget(shown, name="Learn (E2SAM)")
    assert window.widget.sections["learning"].heading.isChecked()
    gone = []
    dock.destroyed.connect(lambda: gone.append(True))
    qtbot.waitUntil(lambda: bool(gone), timeout=10_000)
    assert window.widget.isVisible()


def test_a_small_window_leaves_room_for_the_picture(window: Any, stack: ChannelStack) -> None:
    window.viewer.window.resize(1000, 700)
    window.open(stack)
    assert window.viewer.window._qt_viewer.canvas.native.width() > 230
