"""Every shortcut of the window, in one place: bound in the viewer and shown in the panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app_model.types import KeyBinding, KeyCode
from napari.utils.key_bindings import coerce_keybinding

from e2sam.errors import E2SamError

__all__ = ["SHORTCUTS", "Shortcut", "readable", "same_key", "shortcut_table", "shortcuts_with"]


@dataclass(frozen=True)
class Shortcut:
    """A key of the viewer, as napari writes it ("" for none), the action it runs, and what that does."""

    key: str
    action: str
    text: str


SHORTCUTS: Sequence[Shortcut] = (
    Shortcut("A", "accept", "Accept the mask as an object"),
    Shortcut("C", "clear", "Clear points, box and mask"),
    Shortcut("1", "candidate 0", "First candidate mask"),
    Shortcut("2", "candidate 1", "Second candidate mask"),
    Shortcut("3", "candidate 2", "Third candidate mask"),
    Shortcut("P", "tool points", "Points"),
    Shortcut("B", "tool box", "Box"),
    Shortcut("L", "tool scribble", "Scribble"),
    Shortcut("V", "tool move", "Edit points"),
    Shortcut("H", "hover", "Preview under the pointer on or off"),
    Shortcut("Control-Z", "undo", "Undo"),
    Shortcut("Control-Shift-Z", "redo", "Redo"),
    Shortcut("E", "edit", "Edit the chosen object from its prompts"),
    Shortcut("Control-Delete", "delete", "Delete the chosen objects"),
    Shortcut("M", "merge", "Merge the chosen objects"),
    Shortcut("R", "review", "Mark as reviewed and go to the next"),
    Shortcut("U", "next", "Next object that is not reviewed"),
    Shortcut("T", "carry", "Carry the object to the next plane"),
    Shortcut("N", "next click", "Where to click next"),
    Shortcut("D", "most doubt", "Image of the worklist whose masks disagree most"),
    *(Shortcut(f"Alt-{number}", f"preset {number - 1}", f"Channel preset {number}") for number in range(1, 10)),
    *(Shortcut(f"Control-{number}", f"class {number - 1}", f"Class {number}") for number in range(1, 10)),
)


_NO_KEYS = (None, KeyCode.UNKNOWN, KeyCode.Ctrl, KeyCode.Shift, KeyCode.Alt, KeyCode.Meta)
_PLURALS = {"Channel preset": "Channel presets", "Class": "Classes"}


def shortcuts_with(keys: Mapping[str, str]) -> tuple[Shortcut, ...]:
    """The shortcuts with a user's own keys, by the action's name.

    Raises
    ------
    E2SamError
        If an action is not known, a key is none of napari's, or two actions have the same key.
    """
    unknown = sorted(set(keys) - {shortcut.action for shortcut in SHORTCUTS})
    if unknown:
        raise E2SamError(f"Expected keys for actions of the shortcut table, got {', '.join(unknown)}.")
    shortcuts = tuple(replace(one, key=keys.get(one.action, one.key)) for one in SHORTCUTS)
    taken: dict[KeyBinding, Shortcut] = {}
    for shortcut in shortcuts:
        if not shortcut.key:
            continue
        binding = _binding(shortcut.key)
        if binding in taken:
            other = taken[binding]
            raise E2SamError(
                f"Expected another key for each action, got {shortcut.key} for {other.text!r} and {shortcut.text!r}."
            )
        taken[binding] = shortcut
    return shortcuts


def _binding(key: str) -> KeyBinding:
    binding = coerce_keybinding(key)
    # One key: the first of two would be another action's.
    if len(binding.parts) != 1 or binding.parts[0].key in _NO_KEYS:
        raise E2SamError(f"Expected a key such as X or Control-Shift-X, got {key!r}.")
    return binding


def same_key(one: str, other: str) -> bool:
    """Whether two spellings ("Ctrl-Z", "Control-Z", "" for none) are of one key."""
    if not one or not other:
        return one == other
    return bool(coerce_keybinding(one) == coerce_keybinding(other))


def readable(key: str) -> str:
    """A key as the window shows it: Ctrl+Shift+Z; "none" for no key."""
    return key.replace("Control", "Ctrl").replace("-", "+") or "none"


def shortcut_table(shortcuts: Sequence[Shortcut] = SHORTCUTS) -> str:
    """The shortcuts as an HTML table; numbered ones that have their own keys in one row."""
    rows: dict[str, str] = {}
    for shortcut in shortcuts:
        key, text = readable(shortcut.key), shortcut.text
        if shortcut in SHORTCUTS and text[:-2] in _PLURALS:
            key, text = f"{key[:-1]}1 ... 9", _PLURALS[text[:-2]]
        rows.setdefault(text, key)
    lines = (f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>" for text, key in rows.items())
    return "<table>" + "".join(lines) + "</table>"
