"""Entry point of the command `e2sam`: finds the command, answers errors with one line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from e2sam._version import __version__
from e2sam.cli.wording import in_command_words
from e2sam.errors import E2SamError

__all__ = ["main"]

# Each group's module has `add_commands(commands, common)`, which adds its parsers and sets `run` on each; torch and the
# engine's heavier wings are imported only when a command runs.
_GROUPS = ("stacks", "segment", "models", "learn", "evaluate", "export", "annotate", "demo")

_OPTION = re.compile(r"--[a-z][a-z0-9-]*")
_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


class _Parser(argparse.ArgumentParser):
    """Answers wrong use with one line instead of the whole usage; knows an option by its whole name only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown here, where the help is that names what there is."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = _Parser(
        prog="e2sam",
        description="Click-to-segment for images with more than three channels.",
    )
    parser.add_argument("--version", action="version", version=f"e2sam {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    common.add_argument("--verbose", action="store_true", help="log details and show tracebacks")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for group in _GROUPS:
        import_module(f"e2sam.cli.{group}").add_commands(commands, common)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on wrong use or input, 1 on a failure of ours, 128 + signal where stopped."""
    is_verbose = False
    _open_closed_streams()
    stopping = _Stopping()
    try:
        with stopping.on_sigterm():
            # Within the guard: Ctrl-C during imports is answered too.
            from e2sam.cli.output import set_up_logging

            options = build_parser().parse_args(_with_negative_values(sys.argv[1:] if arguments is None else arguments))
            is_verbose = options.verbose
            set_up_logging(is_verbose)
            options.run(options)
        return 0
    except E2SamError as error:
        return _fail(2, in_command_words(str(error)), is_verbose)
    except KeyboardInterrupt:
        return _fail(128 + stopping.by, "stopped", False)
    except BrokenPipeError:
        # Whoever read our output has left; point standard output elsewhere so that the interpreter's flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(
            2 if error.filename else 1,
            f"{error.strerror or error}: {error.filename or ''}".rstrip(": "),
            is_verbose,
        )
    except Exception as error:  # noqa: BLE001 - the last line of defence: a failure of ours is one line too
        return _fail(1, f"internal error: {type(error).__name__}: {error} (--verbose shows more)", is_verbose)


def _open_closed_streams() -> None:
    """Where the caller has closed an output (`>&-`), what is written there goes nowhere instead of failing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8", errors="replace"))  # noqa: SIM115 - to the end


class _Stopping:
    """Makes SIGTERM do what Ctrl-C does at that moment, and knows which of them came."""

    def __init__(self) -> None:
        self.by = int(signal.SIGINT)

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Answer SIGTERM as long as the block runs; where the caller has decided otherwise about it, that stands."""
        usual = signal.getsignal(signal.SIGTERM)
        if usual is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGTERM, self._stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, usual)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.by = number
        as_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(as_ctrl_c):
            raise KeyboardInterrupt
        as_ctrl_c(signal.SIGINT, frame)


def _with_negative_values(arguments: Sequence[str]) -> list[str]:
    """`--point -1,5` as `--point=-1,5`: the parser takes most of what begins with a minus for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and _OPTION.fullmatch(joined[-1]) and _NEGATIVE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _fail(code: int, message: str, verbose: bool) -> int:
    if verbose:
        logging.getLogger("e2sam").exception("Traceback")
    sys.stderr.write("e2sam: " + " ".join(message.split()) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
