"""Peak memory of this process, for benchmarks that run what they measure in a process of its own."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["file_memory_gb", "peak_memory_gb"]


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, GB.

    On Linux from /proc: `getrusage` there starts a child at its parent's peak, so that a small child of a large
    benchmark would be charged with the parent.
    """
    peak = _status_gb("VmHWM")
    if peak is not None:
        return peak
    # Kilobytes on other systems, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def file_memory_gb() -> float | None:
    """Resident pages of files, mostly of libraries, GB; None where the system does not say.

    How many of them count depends on how the files lie in the system's cache, not on what this process does.
    """
    return _status_gb("RssFile")


def _status_gb(field: str) -> float | None:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 / 1e9
    return None
