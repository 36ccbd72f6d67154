"""Form for the preferences of every window."""

from __future__ import annotations

from magicgui.widgets import CheckBox, Container, Label, PushButton
from psygnal import Signal

from napari_e2sam._preferences import Preferences

__all__ = ["PreferencesForm"]


class PreferencesForm(Container):
    """Asks what is on in a new window.

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
        about = Label(name="keys", value="Keys are in napari's own preferences, under Shortcuts.")
        self._error = Label(name="error", value="")
        self._save = PushButton(name="save", text="Save", tooltip="Keep them for every window.")
        super().__init__(widgets=[self._hovers, self._input, about, self._error, self._save], labels=False)
        self._save.clicked.connect(lambda: self.asked.emit(self.preferences))

    @property
    def preferences(self) -> Preferences:
        """What the form says, which is nothing of keys."""
        return Preferences(bool(self._hovers.value), bool(self._input.value))

    def fail(self, text: str) -> None:
        """Say what is wrong with what was asked for."""
        self._error.value = text
