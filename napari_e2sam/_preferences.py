"""What a user prefers in every window: a small JSON file in the user's configuration directory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from e2sam.errors import E2SamError

__all__ = ["Preferences", "preferences_path", "read_preferences", "write_preferences"]


@dataclass(frozen=True)
class Preferences:
    """Preferences of one user.

    Attributes
    ----------
    hovers
        Whether the preview under the pointer is on in a new window.
    shows_model_input
        Whether what the model sees is shown as a layer in a new window.
    keys
        Keys that the user has given to actions of the shortcut table, by the action's name.
    """

    hovers: bool = False
    shows_model_input: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)


def preferences_path() -> Path:
    """Where the preferences lie: in the user's configuration directory, or at `E2SAM_PREFERENCES`."""
    named = os.environ.get("E2SAM_PREFERENCES")
    return Path(named) if named else Path(platformdirs.user_config_dir("e2sam")) / "window.json"


def read_preferences() -> Preferences:
    """The user's preferences; those of a new user where there is no file.

    Raises
    ------
    E2SamError
        If the file holds anything else.
    """
    path = preferences_path()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Preferences()
    except (OSError, ValueError) as error:
        raise E2SamError(f"Expected preferences in {path}, got a file that cannot be read: {error}.") from error
    _check(values, path)
    return Preferences(**values)


def write_preferences(preferences: Preferences) -> None:
    """Keep preferences for every window that opens from now on; the file appears whole or not at all.

    Raises
    ------
    E2SamError
        If the file cannot be written.
    """
    path = preferences_path()
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(preferences), indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise E2SamError(f"Expected a place for preferences at {path}, got: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


def _check(values: Any, path: Path) -> None:
    kinds = {"hovers": bool, "shows_model_input": bool, "keys": dict}
    known = {one.name for one in fields(Preferences)}
    if not isinstance(values, dict) or not set(values) <= known:
        raise E2SamError(f"Expected preferences of {', '.join(sorted(known))} in {path}, got {values!r:.200}.")
    for name, value in values.items():
        if not isinstance(value, kinds[name]):
            raise E2SamError(f"Expected {name} in {path} as {kinds[name].__name__}, got {value!r}.")
    if not all(isinstance(key, str) for key in values.get("keys", {}).values()):
        raise E2SamError(f"Expected keys in {path} as text by action, got {values['keys']!r:.200}.")
