"""Every shortcut of the window, in one place: bound in the viewer and shown in the panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SHORTCUTS", "Shortcut", "shortcut_table"]


@dataclass(frozen=True)
class Shortcut:
    """A key of the viewer, as napari writes it, the action it runs, and what that does."""

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
    *(Shortcut(f"Alt-{number}", f"preset {number - 1}", f"Channel preset {number}") for number in range(1, 10)),
    *(Shortcut(f"Control-{number}", f"class {number - 1}", f"Class {number}") for number in range(1, 10)),
)


def shortcut_table() -> str:
    """The shortcuts as an HTML table; numbered ones in one row."""
    rows = []
    for shortcut in SHORTCUTS:
        number = shortcut.key[-1]
        if shortcut.action.startswith(("preset", "class")):
            if number != "1":
                continue
            key, text = f"{shortcut.key[:-1]}1 ... 9", shortcut.text[:-2] + "s"
        else:
            key, text = shortcut.key, shortcut.text
        rows.append(
            f"<tr><td><b>{key.replace('Control', 'Ctrl').replace('-', '+')}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>"
        )
    return "<table>" + "".join(rows) + "</table>"
