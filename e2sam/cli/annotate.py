"""`e2sam annotate`: opens the window. The engine knows no Qt, so the window runs as its own program."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e2sam.cli.output import emit
from e2sam.cli.stacks import add_reading_arguments
from e2sam.errors import E2SamError

__all__ = ["add_commands", "window_command"]

_QT = ("PyQt5", "PyQt6", "PySide2", "PySide6")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `annotate` to the command line."""
    parser = commands.add_parser(
        "annotate",
        parents=[common],
        help="open the napari window on stacks, ready to click",
        description="Open napari with the panels docked, the stacks loaded and the points tool armed. "
        "Without a stack it opens the session's, or the sample.",
        epilog="example: e2sam annotate scene.tif --session scene.e2sam --model tiny",
    )
    parser.add_argument("stacks", nargs="*", metavar="STACK", type=Path, help="files or folders to open")
    parser.add_argument("--session", type=Path, metavar="F", help="the .e2sam file to go on with, or to begin")
    parser.add_argument("--model", metavar="M", help="name of a model, or a weights file (default: tiny)")
    add_reading_arguments(parser)
    parser.set_defaults(run=_run_annotate)


def window_command(options: argparse.Namespace) -> list[str]:
    """Command line of the window's own program."""
    command = [sys.executable, "-m", "napari_e2sam", *(str(path.absolute()) for path in options.stacks)]
    if options.session is not None:
        command += ["--session", str(options.session.absolute())]
    if options.model is not None:
        command += ["--model", options.model]
    for name in ("channel_axis", "channel_names", "nodata"):
        value = getattr(options, name)
        if value is not None:
            command.append(f"--{name.replace('_', '-')}={value}")
    return command


def _run_annotate(options: argparse.Namespace) -> None:
    _check(options)
    code = subprocess.run(window_command(options), check=False).returncode
    if code == 2:
        # The window has said what was wrong with its input, on its own standard error.
        raise SystemExit(2)
    if code != 0:
        sys.stderr.write(f"e2sam: the window ended with code {code}: `e2sam doctor` says what Qt and OpenGL need\n")
        raise SystemExit(1)
    emit({"session": None if options.session is None else str(options.session)}, options.json, [])


def _check(options: argparse.Namespace) -> None:
    """What can be said before a window is started, in one line."""
    for path in options.stacks:
        if not path.exists():
            raise E2SamError(f"Expected a stack, got nothing at {path}: check the name.")
    if options.session is not None and options.session.exists():
        from e2sam.data.session import Session

        # A damaged session is told here, where a message on the terminal is seen.
        Session.open(options.session, create=False, read_only=True).close()
    if find_spec("napari") is None or not any(find_spec(name) for name in _QT):
        raise E2SamError(
            "Expected napari with a Qt binding, got none: pip install 'napari-e2sam[pyqt5]', "
            "then `e2sam doctor` says what else is missing."
        )
