"""Keys of one's own and what is on in a new window: asked for in a form, kept in a file, true in the next window."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Window

from e2sam.errors import E2SamError
from napari_e2sam._preferences import Preferences, preferences_path, read_preferences, write_preferences
from napari_e2sam._shortcuts import SHORTCUTS, shortcut_table, shortcuts_with


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
    assert "<td>Classes</td>" in shortcut_table()
    with pytest.raises(E2SamError, match="another key"):
        shortcuts_with({"carry": "A"})
    with pytest.raises(E2SamError, match="another key"):
        shortcuts_with({"carry": "Ctrl+Z"})
    with pytest.raises(E2SamError, match="fly"):
        shortcuts_with({"fly": "A"})


@pytest.mark.parametrize("key", ["Nokey-Q", "", "Shift-", "far", "Control", "Shift", "A A"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(E2SamError, match="such as X"):
        shortcuts_with({"carry": key})


def test_the_form_changes_this_window_and_the_next(window: Any, make_napari_viewer: Any, qtbot: Any) -> None:
    bound = [str(key) for key in window.viewer.keymap]
    assert "T" in bound
    window.widget.prefer.click()
    form = window.widget.form
    form["carry"].value = "A"
    form["save"].native.click()
    assert "another key" in form["error"].value
    assert not preferences_path().exists()
    form["carry"].value = "G"
    form["hovers"].value = True
    form["shows_model_input"].value = False
    form["save"].native.click()
    assert not form.native.isVisible()
    assert json.loads(preferences_path().read_text())["keys"] == {"carry": "G"}
    assert {shortcut.action: shortcut.key for shortcut in window.controller.shortcuts}["carry"] == "G"
    bound = [str(key) for key, action in window.viewer.keymap.items() if action is not None]
    assert "G" in bound
    assert "T" not in bound

    other = Window(make_napari_viewer(show=True), qtbot)
    assert other.panels.prompts.hover.isChecked()
    assert not other.panels.channels.composite.isChecked()
    assert {shortcut.action: shortcut.key for shortcut in other.controller.shortcuts}["carry"] == "G"
    other.close()


def test_a_broken_file_is_a_line_in_the_panel(viewer: Any, qtbot: Any) -> None:
    preferences_path().write_text("{")
    made = Window(viewer, qtbot)
    assert {shortcut.action: shortcut.key for shortcut in made.controller.shortcuts}["carry"] == "T"
    made.close()
