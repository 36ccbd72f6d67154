"""Our actions in napari's own table of shortcuts: seen there, and given other keys there.

napari keeps the keys of every action that it knows. Of actions that are not there yet when it starts next time, as
those of plugins, it would complain one by one: ours are taken out of its settings again and kept in our preferences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import KeymapProvider
from qtpy.QtCore import QObject, QTimer, Signal

from napari_e2sam._shortcuts import Shortcut

__all__ = ["NapariKeys"]

_PREFIX = "napari-e2sam:"


class _Ours(KeymapProvider):
    """What napari's table lists our actions under; keys bound to it reach no viewer."""


def _nothing(ours: _Ours) -> None:
    """Stands in for an action, which needs a window."""


class NapariKeys(QObject):
    """Shows the keys of one window in napari's table, and tells what the user makes of them there."""

    # Keys by action; "" where the user has taken an action's key away.
    changed = Signal(dict)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._is_publishing = False
        self._made: dict[str, str] = {}
        self._telling = QTimer(self)
        self._telling.setSingleShot(True)
        self._telling.timeout.connect(self._tell)
        action_manager.events.shortcut_changed.connect(self._on_changed)
        get_settings().shortcuts.events.shortcuts.connect(self._on_kept)

    def publish(self, shortcuts: Sequence[Shortcut]) -> None:
        """Show these in napari's table."""
        with self._publishing():
            for shortcut in shortcuts:
                name = _PREFIX + shortcut.action.replace(" ", "_")
                action_manager.register_action(name, _nothing, f"E2SAM: {shortcut.text}", _Ours)
                action_manager.unbind_shortcut(name)
                if shortcut.key:
                    action_manager.bind_shortcut(name, shortcut.key)

    def close(self) -> None:
        """Listen to napari no more."""
        self._telling.stop()
        action_manager.events.shortcut_changed.disconnect(self._on_changed)
        get_settings().shortcuts.events.shortcuts.disconnect(self._on_kept)

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        self._is_publishing = True
        try:
            yield
        finally:
            self._is_publishing = False

    def _on_changed(self, event: Any) -> None:
        """Collect what the user does: napari takes all keys of an action away and gives it the new ones."""
        if self._is_publishing or not event.name.startswith(_PREFIX):
            return
        self._made[event.name.removeprefix(_PREFIX).replace("_", " ")] = str(event.shortcut)
        self._telling.start()

    def _tell(self) -> None:
        made, self._made = self._made, {}
        self.changed.emit(made)

    def _on_kept(self, event: Any) -> None:
        kept: Mapping[str, Any] = event.value
        others = {name: keys for name, keys in kept.items() if not name.startswith(_PREFIX)}
        if len(others) < len(kept):
            get_settings().shortcuts.shortcuts = others
