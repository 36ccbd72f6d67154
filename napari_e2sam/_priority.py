"""Priority of work that nobody waits for."""

from __future__ import annotations

import os
import sys

__all__ = ["lower_process_priority", "lower_thread_priority"]

_NICENESS = 10


def lower_process_priority() -> None:
    """Have this process leave the processor to others; called before it starts threads. Does nothing on Windows."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)


def lower_thread_priority() -> None:
    """Have this thread, and those that it will start, leave the processor to others; only Linux has that."""
    if sys.platform == "linux":
        os.nice(_NICENESS)
