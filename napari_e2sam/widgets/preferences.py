"""Form for the preferences of every window."""

from __future__ import annotations

from magicgui.widgets import CheckBox, Container, Label, LineEdit, PushButton
from psygnal import Signal

from napari_e2sam._preferences import Preferences
from napari_e2sam._shortcuts import SHORTCUTS, Shortcut

__all__ = ["PreferencesForm"]


class PreferencesForm(Container):
    """Asks what is on in a new window, and for the key of each action.

    Parameters
    ----------
    preferences
        What holds now.
    """

    asked = Signal(Preferences)

    def __init__(self, preferences: Preferences) -> None:
        self._hovers = CheckBox(name="hovers", text="Hover preview in a new window", value=preferences.hovers)
        self._input = CheckBox(
            name="shows_model_input", text="Model input in a new window", value=preferences.shows_model_input
        )
        self._keys = {
            shortcut.action: LineEdit(
                name=shortcut.action.replace(" ", "_"),
                label=shortcut.text,
                value=preferences.keys.get(shortcut.action, shortcut.key),
                tooltip=f"As napari writes keys: X, Shift-X or Control-Shift-X. It was {shortcut.key}.",
            )
            for shortcut in SHORTCUTS
            if not _is_numbered(shortcut)
        }
        self._error = Label(name="error", label="", value="")
        self._save = PushButton(name="save", text="Save", tooltip="Keep them for every window.")
        super().__init__(
            widgets=[self._hovers, self._input, *self._keys.values(), self._error, self._save],
            labels=True,
            scrollable=True,
        )
        self._save.clicked.connect(lambda: self.asked.emit(self.preferences))

    @property
    def preferences(self) -> Preferences:
        """What the form says; only keys that differ from ours are kept."""
        ours = {shortcut.action: shortcut.key for shortcut in SHORTCUTS}
        keys = {action: str(line.value).strip() for action, line in self._keys.items()}
        changed = {action: key for action, key in keys.items() if key and key != ours[action]}
        return Preferences(bool(self._hovers.value), bool(self._input.value), changed)

    def fail(self, text: str) -> None:
        """Say what is wrong with what was asked for."""
        self._error.value = text


def _is_numbered(shortcut: Shortcut) -> bool:
    return shortcut.action.startswith(("preset", "class"))
