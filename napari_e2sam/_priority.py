"""Priority of work that nobody waits for."""

from __future__ import annotations

import os

__all__ = ["lower_process_priority"]

_NICENESS = 10


def lower_process_priority() -> None:
    """Have this process leave the processor to others; called before it starts threads. Does nothing on Windows."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
