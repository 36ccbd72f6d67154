"""Peak memory of this process, for benchmarks that run what they measure in a process of its own."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_memory_gb"]


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, GB.

    On Linux from /proc: `getrusage` there starts a child at its parent's peak, so that a small child of a large
    benchmark would be charged with the parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    # Kilobytes on other systems, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
