"""Click to mask on screen, accepting an object, and the longest stall of the event loop, in the real window.

Run under a display, or ``xvfb-run -a -s "-screen 0 1600x1200x24" python -m benchmarks.window``. Drawing is by software
there, so that the figures include what a graphics card would do in no time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, at_most, parser_for
from e2sam.data.stack import ChannelStack
from e2sam.data.synthetic.stack import synthetic_stack

_TILE = 512


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


def _scene(side: int) -> ChannelStack:
    stack, _ = synthetic_stack(3, num_channels=4, size=(_TILE, _TILE))
    repeats = max(1, side // _TILE)
    data = np.tile(np.asarray(stack.data), (1, repeats, repeats))[:, :side, :side]
    # Stored as sensors store it; distances keep a tenth of a metre.
    return ChannelStack((data * 10).astype(np.uint16), stack.channels)


def measure(side: int, clicks: int) -> dict[str, float]:
    """Figures for an image of `side` x `side` pixels, milliseconds."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_e2sam._convert import STACK_KEY
    from napari_e2sam.widgets.main import SegmentWidget

    began = time.perf_counter()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
    QApplication.processEvents()
    figures = {"window_ms": 1000 * (time.perf_counter() - began)}
    controller = widget.controller
    _wait(lambda: controller.work.state.model)
    heart = Heartbeat()
    stack = _scene(side)
    began = time.perf_counter()
    viewer.add_image(stack.data, name="scene", rgb=False, metadata={STACK_KEY: stack})
    _wait(lambda: controller.work.state.is_encoded)
    figures["open_ms"] = 1000 * (time.perf_counter() - began)
    _idle(3.0)
    figures["stall_open_ms"] = heart.take()
    rng = np.random.default_rng(0)
    shown, accepted = [], []
    for number in range(clicks + 3):
        # A click, as napari's own tool sets it, to the mask on the screen.
        where = rng.uniform(0.1 * side, 0.9 * side, 2)
        began = time.perf_counter()
        controller.work.canvas.points_layer.add([where])
        _wait(lambda: controller.session.draft.candidates)
        QApplication.processEvents()
        shown.append(1000 * (time.perf_counter() - began))
        _idle(0.1)
        began = time.perf_counter()
        controller.do("accept")
        QApplication.processEvents()
        accepted.append(1000 * (time.perf_counter() - began))
        _idle(0.1)
        if number == 2:
            heart.take()
    for name, values in (("click", shown[3:]), ("accept", accepted[3:])):
        figures |= {
            f"{name}_median_ms": float(np.median(values)),
            f"{name}_p95_ms": float(np.percentile(values, 95)),
            f"{name}_max_ms": float(np.max(values)),
        }
    figures["stall_clicks_ms"] = heart.take()
    controller.encoding.encode()
    controller.objects.everything()
    _wait(lambda: not controller.work.engine.is_busy)
    figures["stall_everything_ms"] = heart.take()
    _idle(1.0)
    viewer.close()
    QApplication.processEvents()
    return figures


def main() -> int:
    """Measure and hold against DESIGN.md's bars."""
    parser = parser_for(__doc__ or "")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--clicks", type=int, default=100)
    options = parser.parse_args()
    report = Report("window")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["E2SAM_SESSION_DIR"] = folder
        os.environ.setdefault("E2SAM_CACHE_DIR", str(Path(folder) / "cache"))
        for side in options.sides:
            report.figures[f"{side} px"] = figures = measure(side, options.clicks)
            large = side > 4096
            bars = (
                (f"click to mask on screen at {side} px, p95, ms", 150 if large else 100, "click_p95_ms"),
                (f"slowest of {options.clicks} clicks at {side} px, ms", 300, "click_max_ms"),
                (f"accepting an object at {side} px, p95, ms", 150 if large else 50, "accept_p95_ms"),
                (
                    f"longest stall while encoding and segmenting everything at {side} px, ms",
                    100,
                    "stall_everything_ms",
                ),
            )
            for what, bar, key in bars:
                report.bar(what, bar, figures[key], at_most)
    report.show(options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
