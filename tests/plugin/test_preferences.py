"""Keys of one's own and what is on in a new window: asked for in a form, kept in a file, true in the next window."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from conftest import Window
from napari._qt.widgets.qt_keyboard_settings import ShortcutEditor
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from qtpy.QtWidgets import QMessageBox

from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError
from napari_e2sam._preferences import Preferences, preferences_path, read_preferences, write_preferences
from napari_e2sam._shortcuts import SHORTCUTS, same_key, shortcut_table, shortcuts_with


def test_preferences_come_back_from_their_file() -> None:
    assert read_preferences() == Preferences()
    write_preferences(Preferences(True, False, {"carry": "G"}))
    assert read_preferences() == Preferences(True, False, {"carry": "G"})
    assert [path.name for path in preferences_path().parent.glob("window*")] == ["window.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"colour": 1}', '{"hovers": 1}', '{"keys": {"carry": 3}}'])
def test_a_file_that_holds_anything_else_is_refused(text: str) -> None:
    preferences_path().write_text(text)
    with pytest.raises(E2SamError, match=r"window\.json"):
        read_preferences()


def test_keys_of_ones_own() -> None:
    assert shortcuts_with({}) == tuple(SHORTCUTS)
    keys = {one.action: one.key for one in shortcuts_with({"carry": "G"})}
    assert keys["carry"] == "G"
    assert keys["accept"] == "A"
    assert "<b>G</b>" in shortcut_table(shortcuts_with({"carry": "G"}))
    assert "<b>Ctrl+1 ... 9</b>&nbsp;&nbsp;</td><td>Classes</td>" in shortcut_table()
    table = shortcut_table(shortcuts_with({"preset 0": "", "class 4": "Q"}))
    assert "<b>none</b>&nbsp;&nbsp;</td><td>Channel preset 1</td>" in table
    assert "<b>Q</b>&nbsp;&nbsp;</td><td>Class 5</td>" in table
    assert table.count("1 ... 9") == 2
    assert same_key("Ctrl-Shift-Z", "Control-Shift-Z") and same_key("", "") and not same_key("", "A")
    with pytest.raises(E2SamError, match="another key"):
        shortcuts_with({"carry": "A"})
    with pytest.raises(E2SamError, match="another key"):
        shortcuts_with({"carry": "Ctrl+Z"})
    with pytest.raises(E2SamError, match="fly"):
        shortcuts_with({"fly": "A"})


@pytest.mark.parametrize("key", ["Nokey-Q", "Shift-", "far", "Control", "Shift", "A A"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(E2SamError, match="such as X"):
        shortcuts_with({"carry": key})


def _bound(window: Any) -> set[str]:
    return {str(key) for key, action in window.viewer.keymap.items() if action is not None}


def _type_key(editor: Any, text: str, key: str) -> None:
    """Give an action another key in napari's own table of shortcuts, as a user types it there."""
    table = editor._table
    (row,) = (row for row in range(table.rowCount()) if table.item(row, editor._action_name_col).text() == text)
    table.item(row, editor._shortcut_col).setText(key)


def test_what_is_preferred_holds_here_and_in_the_next_window(
    window: Any, stack: ChannelStack, make_napari_viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.widget.prefer.click()
    form = window.widget.form
    form["hovers"].value = True
    form["shows_model_input"].value = False
    form["save"].native.click()
    assert not form.native.isVisible()

    # Keys are those of napari's own table, where the user changes them.
    assert {"T", "G"} & _bound(window) == {"T"}
    dialog = window.viewer.window._open_preferences_dialog()
    editor = dialog.findChild(ShortcutEditor)
    _type_key(editor, "E2SAM: Carry the object to the next plane", "G")
    _type_key(editor, "E2SAM: Channel preset 3", "")
    window.wait(lambda: {"T", "G", "Alt+3"} & _bound(window) == {"G"})
    window.open(stack)
    assert {"T", "G"} & {str(key) for key in window.canvas.points_layer.keymap} == {"G"}
    assert window.panels.objects.carry.toolTip().endswith("from this one (G).")
    kept = json.loads(preferences_path().read_text())
    assert kept == {"hovers": True, "shows_model_input": False, "keys": {"carry": "G", "preset 2": ""}}
    # napari would complain at its next start about actions that are not there yet.
    assert not [name for name in get_settings().shortcuts.shortcuts if name.startswith("napari-e2sam")]
    # What is another action's stays with it; what is given back is ours again.
    window.widget.prefer.click()
    _type_key(editor, "E2SAM: Channel preset 3", "Alt+3")
    window.wait(lambda: "Alt+3" in _bound(window))
    # A form that was open meanwhile says nothing of keys.
    window.widget.form["save"].native.click()
    assert json.loads(preferences_path().read_text())["keys"] == {"carry": "G"}
    dialog.close()
    shown: list[str] = []
    monkeypatch.setattr(QMessageBox, "exec", lambda box: shown.append(box.text()))
    window.widget.keys.click()
    assert "<b>G</b>&nbsp;&nbsp;</td><td>Carry" in shown[0]

    other = Window(make_napari_viewer(show=True), qtbot)
    assert other.panels.prompts.hover.isChecked()
    assert not other.panels.channels.composite.isChecked()
    assert {"T", "G"} & _bound(other) == {"G"}
    # What one window keeps, the other does not take back with the next key.
    window.controller.prefer(replace(window.controller.preferences, hovers=False))
    action_manager.unbind_shortcut("napari-e2sam:carry")
    action_manager.bind_shortcut("napari-e2sam:carry", "Shift-G")
    for one in (window, other):
        one.wait(lambda one=one: {"G", "Shift+G"} & _bound(one) == {"Shift+G"})
    kept = json.loads(preferences_path().read_text())
    assert kept == {"hovers": False, "shows_model_input": False, "keys": {"carry": "Shift-G"}}
    other.close()
    assert "Shift+G" in _bound(window)


def test_a_broken_file_is_a_line_in_the_panel(viewer: Any, qtbot: Any) -> None:
    preferences_path().write_text("{")
    made = Window(viewer, qtbot)
    assert {shortcut.action: shortcut.key for shortcut in made.controller.shortcuts}["carry"] == "T"
    made.close()
