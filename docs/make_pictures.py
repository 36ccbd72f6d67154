"""Make the pictures of the documentation from the real window, on the sample, with the embedded model.

``xvfb-run -a -s "-screen 0 1600x1200x24" python docs/make_pictures.py [OUT]`` where there is no display.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Clicks on the photograph, pixel (x, y) and 1 inside or 0 outside: seat, tank, headlight, door panel.
OBJECTS = (
    ((237, 195, 1),),
    ((390, 205, 1), (300, 190, 0)),
    ((545, 155, 1),),
    ((232, 50, 1),),
)


def _wait(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not condition():
        QApplication.processEvents()
        time.sleep(0.005)
        if time.perf_counter() > end:
            raise TimeoutError("the window did not answer")


def _idle(seconds: float) -> None:
    end = time.perf_counter() + seconds
    _wait(lambda: time.perf_counter() > end)


def _click(controller: Any, x: float, y: float, label: int) -> None:
    layer = controller.work.canvas.points_layer
    count = len(controller.session.draft.prompts.points)
    layer.feature_defaults = {"label": label}
    layer.add([[y - 0.5, x - 0.5]])
    _wait(lambda: len(controller.session.draft.prompts.points) == count + 1 and controller.session.draft.candidates)


def _save(viewer: Any, path: Path) -> None:
    _idle(1.0)
    viewer.screenshot(str(path), canvas_only=False, flash=False)


def make(out: Path) -> None:
    """Walk through the main job and save the window at each step."""
    import napari
    from napari.settings import get_settings

    from napari_e2sam import _sample_data
    from napari_e2sam.widgets.main import SegmentWidget

    get_settings().appearance.theme = "dark"
    viewer = napari.Viewer(show=True, title="E2SAM")
    viewer.window.resize(1280, 800)
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
    controller = widget.controller
    _wait(lambda: controller.work.state.model)
    _save(viewer, out / "window-empty.png")
    for data, settings, _ in _sample_data.motorcycle():
        viewer.add_image(data, **settings)
    _wait(lambda: controller.work.state.is_encoded and controller.work.canvas.objects_layer is not None)
    _idle(2.0)
    _click(controller, *OBJECTS[0][0])
    _save(viewer, out / "window-first-mask.png")
    controller.do("accept")
    for clicks in OBJECTS[1:]:
        for click in clicks:
            _click(controller, *click)
        controller.do("accept")
    _save(viewer, out / "window.png")
    get_settings().appearance.theme = "light"
    _click(controller, *OBJECTS[2][0])
    widget.sections["channels"].set_open(False)
    widget.sections["learning"].set_open(True)
    _save(viewer, out / "window-light.png")
    get_settings().appearance.theme = "dark"
    viewer.close()


def main() -> int:
    """Make all pictures."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["E2SAM_SESSION_DIR"] = folder
        os.environ["E2SAM_CACHE_DIR"] = folder
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        make(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
