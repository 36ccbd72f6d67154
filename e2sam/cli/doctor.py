"""What `e2sam doctor` looks at; the window's parts are tried in an interpreter of their own, as they may end it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finding", "examine"]

_GIB = 2**30
_PROBE_TIMEOUT_S = 60.0
# Encoding with ViT-B peaks at 1.5 GB, with tiny at less; below 2 GB of memory nothing else would fit beside it.
_LEAST_MEMORY = 2 * _GIB
_LEAST_DISK = 1 * _GIB

# Runs in the interpreter that is tried: names the binding, then opens an application, then an OpenGL context.
_PROBE = """
import json
from qtpy import API_NAME, QT_VERSION
print(json.dumps({"binding": API_NAME, "version": QT_VERSION}), flush=True)
from qtpy.QtGui import QOffscreenSurface, QOpenGLContext
from qtpy.QtWidgets import QApplication
app = QApplication([])
print(json.dumps({"platform": app.platformName()}), flush=True)
surface = QOffscreenSurface()
surface.create()
context = QOpenGLContext()
opened = context.create() and context.makeCurrent(surface)
version = context.format().version() if opened else (0, 0)
print(json.dumps({"opengl": list(version) if opened else None}), flush=True)
"""

# Shared libraries that Qt and OpenGL name when they are missing, and the Debian packages that hold them.
_PACKAGES = {
    "libGL.so": "libgl1",
    "libEGL.so": "libegl1",
    "libxcb-cursor": "libxcb-cursor0",
    "libxcb-icccm": "libxcb-icccm4",
    "libxcb-image": "libxcb-image0",
    "libxcb-keysyms": "libxcb-keysyms1",
    "libxcb-render-util": "libxcb-render-util0",
    "libxcb-shape": "libxcb-shape0",
    "libxcb-xinerama": "libxcb-xinerama0",
    "libxkbcommon-x11": "libxkbcommon-x11-0",
    "libdbus-1": "libdbus-1-3",
    "libfontconfig": "libfontconfig1",
    "libglib-2.0": "libglib2.0-0",
    "libgthread-2.0": "libglib2.0-0",
}
_EVERY_PACKAGE = " ".join(dict.fromkeys(_PACKAGES.values()))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name
        What.
    state
        "ok", "note" (works, but could be better or is optional) or "missing".
    detail
        What was found.
    advice
        What to do, exactly; empty where there is nothing to do.
    """

    name: str
    state: str
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything that e2sam needs on this machine."""
    return [
        _python(),
        *_devices(),
        _memory(),
        *_folders(),
        *_models(),
        *_window(),
    ]


def _python() -> Finding:
    import torch

    from e2sam._version import __version__

    detail = (
        f"e2sam {__version__}, Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}"
    )
    return Finding("software", "ok", detail)


def _devices() -> list[Finding]:
    import torch

    from e2sam.modeling.packed import fastest_dtype

    cpu_type = str(fastest_dtype(torch.device("cpu"))).removeprefix("torch.")
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if cpu_type == "bfloat16":
        processor = Finding("processor", "ok", f"{threads}, multiplies bfloat16: SAM encodes in it")
    else:
        processor = Finding(
            "processor", "note", f"{threads}, no bfloat16: SAM encodes in float32", "Use the model tiny for quick work."
        )
    if not torch.cuda.is_available():
        return [processor, Finding("GPU", "note", "no CUDA device: everything runs on the processor")]
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        processor,
        Finding("GPU", "ok", "; ".join(f"{card.name}, {card.total_memory / _GIB:.0f} GiB" for card in cards)),
    ]


def _memory() -> Finding:
    total = _total_memory()
    if total is None:
        return Finding("memory", "note", "cannot be asked on this system")
    if total < _LEAST_MEMORY:
        advice = "Use the model tiny, or a machine with at least 2 GiB."
        return Finding("memory", "missing", f"{total / _GIB:.1f} GiB in all", advice)
    return Finding("memory", "ok", f"{total / _GIB:.1f} GiB in all")


def _total_memory() -> int | None:
    """Bytes of memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _folders() -> list[Finding]:
    from e2sam.inference.embeddings import cache_directory
    from e2sam.weights.zoo import model_folder

    return [
        _folder("cache folder", cache_directory(), "E2SAM_CACHE_DIR"),
        _folder("model folder", model_folder(), "E2SAM_MODEL_DIR"),
    ]


def _folder(name: str, path: Path, variable: str) -> Finding:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(name, "missing", f"{path} cannot be written", f"Set {variable} to a folder that can be.")
    free = shutil.disk_usage(existing).free
    if free < _LEAST_DISK:
        return Finding(name, "note", f"{path}, {free / _GIB:.1f} GiB free", f"Make room, or set {variable}.")
    return Finding(name, "ok", f"{path}, {free / _GIB:.1f} GiB free")


def _models() -> list[Finding]:
    from e2sam.weights.zoo import ZOO, state_of, weights_file

    findings = []
    for entry in ZOO.values():
        state = state_of(entry)
        if state in ("here", "embedded"):
            findings.append(Finding(f"model {entry.name}", "ok", f"{state}, {weights_file(entry)}"))
        elif not entry.address:
            advice = "Install napari-e2sam again: its package is incomplete."
            findings.append(Finding(f"model {entry.name}", "missing", "its weights are not in the package", advice))
        else:
            advice = (
                f"e2sam models fetch {entry.name}, or put {entry.file} ({entry.size / 1e6:.0f} MB, {entry.licence}) "
                f"from {entry.address} at {weights_file(entry)}"
            )
            findings.append(Finding(f"model {entry.name}", "note", f"{state}, optional", advice))
    return findings


def _window(run: Callable[[], tuple[dict[str, object], str]] | None = None) -> list[Finding]:
    """Qt and OpenGL, by what the probe said before it ended, and how it ended."""
    told, error = (run or _probe)()
    if "binding" not in told:
        advice = "pip install 'napari-e2sam[pyqt5]'"
        libraries = _missing_packages(error)
        if libraries:
            advice = f"sudo apt-get install {libraries}"
        return [Finding("Qt", "missing", _last_line(error) or "no binding", advice)]
    binding = f"{told['binding']} with Qt {told['version']}"
    if "platform" not in told:
        return [_no_window(binding, error)]
    found = [Finding("Qt", "ok", f"{binding}, platform {told['platform']}")]
    opengl = told.get("opengl")
    if isinstance(opengl, list) and len(opengl) == 2:
        return [*found, Finding("OpenGL", "ok", f"{opengl[0]}.{opengl[1]}")]
    packages = _missing_packages(error) or "libgl1 libegl1 libgl1-mesa-dri"
    detail = "no context" + (f": {_last_line(error)}" if error else "")
    return [*found, Finding("OpenGL", "missing", detail, f"sudo apt-get install {packages}")]


def _no_window(binding: str, error: str) -> Finding:
    has_display = not sys.platform.startswith("linux") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    )
    packages = _missing_packages(error)
    if not has_display:
        advice = "Commands work without one; for the window use a desktop session, or: xvfb-run -a e2sam annotate"
        return Finding("Qt", "note", f"{binding}, no display here", advice)
    advice = f"sudo apt-get install {packages or _EVERY_PACKAGE}"
    return Finding("Qt", "missing", f"{binding} opens no window: {_last_line(error)}", advice)


def _missing_packages(error: str) -> str:
    return " ".join(dict.fromkeys(package for library, package in _PACKAGES.items() if library in error))


def _last_line(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _probe() -> tuple[dict[str, object], str]:
    """What the probe printed, and what it wrote to standard error."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"the window's libraries did not answer within {_PROBE_TIMEOUT_S:.0f} s"
    told: dict[str, object] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    return told, done.stderr
