"""Channels in a real viewer: found, ticked, suggested and kept, and what the model is given of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake import FakePredictor
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from e2sam.data.channels import suggest_selections
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._statistics import presets_of
from napari_e2sam.widgets._channel_table import Column

pytestmark = pytest.mark.only_on("pyqt5")

CONTROL, ALT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.AltModifier


def _bands() -> ChannelStack:
    """Nine channels, five of them with wavelengths, the last one measured on a quarter of the image."""
    waves = {"blue": 480.0, "green": 560.0, "red": 660.0, "nir": 840.0, "swir": 1610.0}
    names = (*waves, "thermal", "height", "slope", "radar")
    data = np.random.default_rng(7).uniform(0, 1, (9, 60, 72)).astype(np.float32)
    data[8, 15:] = np.nan
    return ChannelStack(data, tuple(ChannelSpec(name, wavelength_nm=waves.get(name)) for name in names))


def _presets(window: Any) -> list[str]:
    presets = window.panels.channels.presets
    return [presets.itemText(position) for position in range(presets.count())]


def test_channels_are_found_and_ticked(window: Any, qtbot: Any) -> None:
    stack = _bands()
    window.open(stack)
    panel, state = window.panels.channels, window.state
    assert window.panels.stack.warning.text() == "Mostly invalid: radar."
    cell = panel.table.index(8, Column.INVALID)
    assert cell.data() == "75%"
    assert cell.data(Qt.ItemDataRole.ForegroundRole).name() == "#e05050"

    # Suggested, with the reason, which goes with the first channel that is ticked by hand.
    best = suggest_selections(stack)[0]
    panel.none.click()
    panel.suggest.click()
    window.wait(lambda: state.names == best.names)
    assert best.reason and best.reason in panel.count.text()
    other = next(index for index, name in enumerate(stack.names) if name not in best.names)
    panel.table.tick([other], True)
    assert state.names == (*best.names, stack.names[other])
    assert best.reason not in panel.count.text()

    # By name; All and None mean the rows that are shown.
    panel.none.click()
    assert panel.table.selection == ()
    panel.filter.setText("e")
    shown = [panel._proxy.index(row, Column.NAME).data() for row in range(panel._proxy.rowCount())]
    assert shown == [name for name in stack.names if "e" in name]
    panel.all.click()
    assert state.names == tuple(shown)
    panel.filter.setText("th")
    panel.none.click()
    assert state.names == tuple(name for name in shown if name != "thermal")
    panel.filter.setText("")
    panel.none.click()

    # Rows are highlighted, from one to another and one by one, and Space ticks them all.
    def click(row: int, modifiers: Any = Qt.KeyboardModifier.NoModifier) -> None:
        where = panel.view.visualRect(panel._proxy.index(row, Column.HISTOGRAM)).center()
        qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, modifiers, where)

    click(1)
    click(3, Qt.KeyboardModifier.ShiftModifier)
    click(6, CONTROL)
    qtbot.keyClick(panel.view, Qt.Key.Key_Space)
    assert sorted(state.names) == sorted(("green", "red", "nir", "height"))
    qtbot.keyClick(panel.view, Qt.Key.Key_Space)
    assert panel.table.selection == ()


def test_presets_are_kept_and_the_model_sees_what_they_name(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each plane is one channel, so that their order is seen.
    view = property(
        lambda self: (SimpleNamespace(name="plain", channels=self.channels, matrix=np.eye(3, len(self.selection))),)
    )
    monkeypatch.setattr(FakePredictor, "views", view)
    stack = _bands()
    window.open(stack)
    panel, state, canvas = window.panels.channels, window.state, window.canvas

    def is_drawn(*names: str) -> bool:
        """Whether the layer of the model input shows these channels, stretched as their recipes say."""
        if state.names != names or not state.is_encoded or canvas.composite_layer is None:
            return False
        shown = np.zeros((60, 72, 3))
        for plane, index in enumerate(stack.indices(names)):
            low, high = state.recipes[index].value_range
            shown[..., plane] = 255 * np.clip((stack.data[index] - low) / (high - low), 0, 1)
        return bool(np.abs(canvas.composite_layer.data - shown).max() < 1)

    # False colour by wavelength.
    kept = ["True colour (Alt+1)", "Colour infrared (Alt+2)", "Short-wave infrared (Alt+3)"]
    assert _presets(window)[:3] == kept
    panel.none.click()
    assert panel.presets.currentIndex() == -1
    for key, names in (
        (Qt.Key.Key_Home, ("red", "green", "blue")),
        (Qt.Key.Key_Down, ("nir", "red", "green")),
        (Qt.Key.Key_Down, ("swir", "nir", "red")),
    ):
        qtbot.keyClick(panel.presets, key)
        window.wait(lambda names=names: is_drawn(*names))
    panel.composite.click()
    assert canvas.composite_layer is None
    panel.composite.click()
    window.wait(lambda: is_drawn("swir", "nir", "red"))

    # One's own: kept once, taken by its key.
    window.tick("slope", "thermal")
    panel.save_preset.click()
    panel.save_preset.click()
    kept.append("slope, thermal (Alt+4)")
    assert _presets(window)[:4] == kept
    assert panel.presets.currentText() == kept[3]
    assert window.session.file.presets == (("slope", "thermal"),)
    window.tick("red")
    QTest.keyClick(window.viewer.window._qt_viewer.canvas.native, Qt.Key.Key_4, ALT)
    window.wait(lambda: is_drawn("slope", "thermal"))

    # It stays when the stack is made anew. None is kept of no channel.
    state.scene_changed.emit()
    assert _presets(window)[:4] == kept
    panel.table.tick(range(9), False)
    panel.save_preset.click()
    assert "Expected at least 1 channel for a preset" in window.widget.status.text()


def test_presets_of_a_session_are_offered_where_their_channels_are() -> None:
    stack = _bands()
    kept = [("slope", "thermal"), ("red", "depth"), ("red", "green", "blue")]
    assert presets_of(stack, kept, [("slope", "thermal"), ("radar",)]) == (
        ("True colour", (2, 1, 0)),
        ("Colour infrared", (3, 2, 1)),
        ("Short-wave infrared", (4, 3, 2)),
        ("slope, thermal", (7, 5)),
        ("Suggested: radar", (8,)),
    )
    few = ChannelStack(stack.data[4:8], stack.channels[4:8])
    assert presets_of(few, kept, []) == (("slope, thermal", (3, 1)),)
