"""Click to mask on screen, accepting an object, and the longest stall of the event loop, in the real window.

Run under a display, or ``xvfb-run -a -s "-screen 0 1600x1200x24" python -m benchmarks.window``. Drawing is by software
there, so that the figures include what a graphics card would do in no time. Beside them stands what napari takes
without us, in a process of its own: to show the same image, and to draw a window again in which nothing has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, at_most, parser_for
from e2sam.data.synthetic.stack import synthetic_stack

_TILE = 512
# Of larger images a part is looked at by itself, where the user has zoomed to it.
_LARGE = 4096
_VIEW = 500


class Heartbeat:
    """Beats in the event loop; the longest pause between two beats is the longest stall."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self._last = time.perf_counter()
        self._longest = 0.0
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(5)

    def _beat(self) -> None:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def take(self) -> float:
        """Longest stall since the last call, milliseconds."""
        longest, self._longest = self._longest, 0.0
        return 1000 * longest


def _wait(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not condition():
        QApplication.processEvents()
        time.sleep(0.0005)
        if time.perf_counter() > end:
            raise TimeoutError("the window did not answer")


def _idle(seconds: float) -> None:
    end = time.perf_counter() + seconds
    _wait(lambda: time.perf_counter() > end)


def _write_scene(folder: Path, side: int, channels: int) -> Path:
    """A scene of `channels` channels on disk, stored as sensors store it: distances keep a tenth of a metre."""
    stack, _ = synthetic_stack(3, num_channels=min(channels, 16), size=(_TILE, _TILE))
    tile = (np.asarray(stack.data) * 10).astype(np.uint16)
    repeats = -(-side // _TILE)
    folder.mkdir(parents=True)
    path = folder / "scene.npy"
    data = np.lib.format.open_memmap(path, "w+", np.uint16, (channels, side, side))
    for channel in range(channels):
        plane = tile[channel % len(tile)] + channel // len(tile)
        data[channel] = np.tile(plane, (repeats, repeats))[:side, :side]
    data.flush()
    return path


def _repaint_ms(viewer: Any, count: int = 25) -> float:
    """Median time to draw the canvas again, milliseconds."""
    from qtpy.QtWidgets import QApplication

    canvas = viewer.window._qt_viewer.canvas.native
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        canvas.update()
        QApplication.processEvents()
        taken.append(1000 * (time.perf_counter() - began))
        _idle(0.05)
    return float(np.median(taken))


def measure_bare(path: Path) -> dict[str, float]:
    """Figures of napari alone with the same image, milliseconds."""
    import napari

    data = np.load(path, mmap_mode="r")
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    heart = Heartbeat()
    _idle(1.0)
    heart.take()
    viewer.add_image(data)
    _idle(2.0)
    figures = {"bare_stall_open_ms": heart.take(), "bare_repaint_ms": _repaint_ms(viewer)}
    viewer.close()
    return figures


def _bare_of(path: Path) -> dict[str, float]:
    """`measure_bare` in a process of its own: what one window has loaded, the next one would find."""
    command = [sys.executable, "-m", "benchmarks.window", "--bare", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Bench:
    """One window, and the figures that are taken of it, milliseconds."""

    def __init__(self, folder: Path) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        from napari_e2sam.__main__ import spare_collections
        from napari_e2sam.widgets.main import SegmentWidget

        began = time.perf_counter()
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1280, 800)
        widget = SegmentWidget(self.viewer, session=folder / "bench.e2sam")
        self.viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
        # As `e2sam annotate` opens it.
        spare_collections()
        QApplication.processEvents()
        self.figures = {"window_ms": 1000 * (time.perf_counter() - began)}
        self.controller = widget.controller
        self.heart = Heartbeat()
        _wait(lambda: self.controller.work.state.model)
        _idle(1.0)
        self.figures["stall_start_ms"] = self.heart.take()

    @property
    def is_busy(self) -> bool:
        """Whether the window still works on something."""
        return self.controller.work.engine.is_busy or self.controller.work.tasks.is_busy

    def settle(self, seconds: float = 1.0) -> None:
        """Wait until nothing more happens."""
        _wait(lambda: not self.is_busy)
        _idle(seconds)
        _wait(lambda: not self.is_busy)

    def open(self, path: Path) -> None:
        """Open an image as the worklist does, and wait until it can be clicked."""
        self.heart.take()
        began = time.perf_counter()
        self.controller.worklist.open_folder(path.parent)
        _wait(lambda: self.controller.work.state.is_encoded)
        self.figures["open_ms"] = 1000 * (time.perf_counter() - began)
        self.settle(2.0)
        self.figures["stall_open_ms"] = self.heart.take()

    def add_objects(self, count: int) -> None:
        """Accept many objects at once, each of 12 x 12 pixels, on a grid."""
        from e2sam.data.masks import MaskCrop
        from e2sam.data.session import NewObject

        session = self.controller.session
        side = session.record.size[0]
        columns = int(np.ceil(count**0.5))
        pitch = side // columns
        pixels = np.ones((min(12, pitch - 1),) * 2, bool)
        found = [
            NewObject(MaskCrop(pixels, pitch * (n % columns), pitch * (n // columns)), origin="automatic")
            for n in range(count)
        ]
        session.file.accept_many(*session.place, found)
        self.settle()
        self.heart.take()

    def click(self, count: int) -> None:
        """Click, correct by a second click nearby, and accept; the first three of each are left out."""
        from qtpy.QtWidgets import QApplication

        controller = self.controller
        side = controller.session.record.size[0]
        rng = np.random.default_rng(0)
        shown, corrected, accepted = [], [], []
        for number in range(count + 3):
            where = rng.uniform(0.1 * side, 0.9 * side, 2)
            shown.append(self._point(where))
            # Nobody sees a mask and clicks again within half a second.
            _idle(0.5)
            corrected.append(self._point(where + rng.uniform(-4, 4, 2)))
            _idle(0.2)
            began = time.perf_counter()
            controller.do("accept")
            QApplication.processEvents()
            accepted.append(1000 * (time.perf_counter() - began))
            _idle(0.2)
            if number == 2:
                self.heart.take()
        for name, values in (("click", shown[3:]), ("correction", corrected[3:]), ("accept", accepted[3:])):
            self._summarize(name, values)
        self.figures["stall_clicks_ms"] = self.heart.take()
        self.figures["repaint_ms"] = _repaint_ms(self.viewer)

    def visit(self, count: int) -> None:
        """Zoom to another part of the image, look at it, and click there; the first three are left out."""
        canvas = self.controller.work.canvas
        native = self.viewer.window._qt_viewer.canvas.native
        side = self.controller.session.record.size[0]
        rng = np.random.default_rng(1)
        canvas.camera.zoom = min(native.width(), native.height()) / _VIEW
        shown = []
        for _ in range(count + 3):
            centre = rng.uniform(_VIEW, side - _VIEW, 2)
            canvas.camera.center = (0, *centre)
            # Nobody finds an object there sooner.
            _idle(0.8)
            shown.append(self._point(centre + rng.uniform(-_VIEW / 3, _VIEW / 3, 2)))
            _idle(0.5)
            self.controller.do("accept")
            _idle(0.2)
        self._summarize("zoomed", shown[3:])

    def _summarize(self, name: str, values: list[float]) -> None:
        self.figures |= {
            f"{name}_median_ms": float(np.median(values)),
            f"{name}_p95_ms": float(np.percentile(values, 95)),
            f"{name}_max_ms": float(np.max(values)),
        }

    def _point(self, where: Any) -> float:
        """A click at (row, column), as napari's own tool sets it, to the mask on the screen: milliseconds."""
        from qtpy.QtWidgets import QApplication

        session = self.controller.session
        before = session.draft.candidates
        began = time.perf_counter()
        self.controller.work.canvas.points_layer.add([where])
        _wait(lambda: session.draft.candidates and session.draft.candidates is not before)
        QApplication.processEvents()
        return 1000 * (time.perf_counter() - began)

    def everything(self) -> None:
        """Encode again and segment everything, until the objects are accepted and drawn."""
        self.heart.take()
        self.controller.encoding.encode()
        self.controller.objects.everything()
        self.settle()
        self.figures["objects"] = len(self.controller.session.objects)
        self.figures["stall_everything_ms"] = self.heart.take()

    def train(self, steps: int) -> None:
        """Inherit for a few steps in the child process."""
        self.heart.take()
        self.controller.learning.begin("inherit", {"steps": steps})
        _wait(lambda: not self.controller.learning.is_running)
        _idle(0.5)
        self.figures["stall_training_ms"] = self.heart.take()

    def close(self) -> None:
        """Take the window down."""
        from qtpy.QtWidgets import QApplication

        self.viewer.close()
        QApplication.processEvents()


def measure(folder: Path, side: int, options: argparse.Namespace) -> dict[str, float]:
    """Figures for an image of `side` x `side` pixels, milliseconds."""
    path = _write_scene(folder / "images", side, options.channels)
    bare = _bare_of(path)
    bench = Bench(folder)
    bench.open(path)
    if options.objects:
        bench.add_objects(options.objects)
    bench.click(options.clicks)
    if side > _LARGE:
        bench.visit(options.clicks)
    if not options.objects:
        bench.everything()
    if options.steps:
        bench.train(options.steps)
    bench.close()
    return bench.figures | bare


def _bars(report: Report, title: str, large: bool, figures: dict[str, float]) -> None:
    bars = {
        "click_p95_ms": ("click to mask on screen, p95", 150 if large else 100),
        "click_max_ms": ("slowest click", 300),
        "correction_p95_ms": ("second click to mask on screen, p95", 150 if large else 100),
        "correction_max_ms": ("slowest second click", 300),
        "zoomed_p95_ms": ("first click in another part of the image, zoomed, p95", 150),
        "zoomed_max_ms": ("slowest first click in another part of the image, zoomed", 300),
        "accept_p95_ms": ("accepting an object, p95", 150 if large else 50),
        "stall_open_ms": ("longest stall while opening", 100),
        "stall_everything_ms": ("longest stall while encoding and segmenting everything", 100),
        "stall_training_ms": ("longest stall while training", 100),
    }
    for key, (what, bar) in bars.items():
        if key in figures:
            report.bar(f"{what}, {title}, ms", bar, figures[key], at_most)


def main() -> int:
    """Measure and hold against DESIGN.md's bars."""
    parser = parser_for(__doc__ or "")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--clicks", type=int, default=100)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--objects", type=int, default=0, help="objects that are there before the first click")
    parser.add_argument("--steps", type=int, default=3, help="steps of training; 0 leaves it out")
    parser.add_argument("--bare", type=Path, help="only napari alone with this image (.npy), as JSON")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(measure_bare(options.bare)))
        return 0
    report = Report("window")
    for side in options.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["E2SAM_SESSION_DIR"] = name
            os.environ["E2SAM_CACHE_DIR"] = str(folder / "cache")
            title = f"{side} px, {options.channels} channels, {options.objects} objects"
            # napari says on standard output what it thinks of PyQt5; with --json, nothing but the report stands there.
            with redirect_stdout(sys.stderr):
                report.figures[title] = figures = measure(folder, side, options)
            _bars(report, title, side > _LARGE, figures)
    report.show(options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
