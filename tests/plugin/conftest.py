"""A real viewer with the plugin docked, over a small engine in a thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._convert import STACK_KEY
from napari_e2sam._jobs import start_thread

sys.path.insert(0, str(Path(__file__).parent))
from fake import fake_engine

from napari_e2sam.widgets.main import SegmentWidget


@pytest.fixture(autouse=True)
def own_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own folder for new sessions."""
    folder = tmp_path / "sessions"
    monkeypatch.setenv("E2SAM_SESSION_DIR", str(folder))
    monkeypatch.setenv("E2SAM_PREFERENCES", str(tmp_path / "window.json"))
    return folder


@pytest.fixture
def stack() -> ChannelStack:
    """Five channels of 80 x 96 pixels, the last one partly not measured."""
    rng = np.random.default_rng(5)
    data = rng.uniform(0, 1, (5, 80, 96)).astype(np.float32)
    data[4, :20] = np.nan
    names = ("red", "green", "nir", "thermal", "depth")
    return ChannelStack(data, tuple(ChannelSpec(name) for name in names))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is to run under the other Qt only: tests of what is not Qt's, so that both suites end in time."""
    here = os.environ.get("QT_API", "pyqt5")
    chosen = [(item, item.get_closest_marker("only_on")) for item in items]
    left = [item for item, mark in chosen if mark is not None and mark.args[0] != here]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A viewer on the virtual screen."""
    return make_napari_viewer(show=True)


class Window:
    """A docked plugin and the means to wait for it."""

    def __init__(self, viewer: Any, qtbot: Any, **settings: Any) -> None:
        self.viewer, self._qtbot = viewer, qtbot
        self.widget = SegmentWidget(viewer, start_engine=lambda: start_thread(fake_engine()), **settings)
        self.dock = viewer.window.add_dock_widget(self.widget, name="E2SAM Segment", area="right")
        self.controller = self.widget.controller
        self.panels = self.widget.panels
        self.session = self.controller.session
        self.state = self.controller.work.state
        self.canvas = self.controller.work.canvas

    def wait(self, condition: Callable[[], Any], timeout: int = 60_000) -> None:
        """Wait until `condition` holds."""
        self._qtbot.waitUntil(lambda: bool(condition()), timeout=timeout)

    def open(self, stack: ChannelStack, **settings: Any) -> Any:
        """Open a stack as our reader does, and wait until it is encoded."""
        layer = self.viewer.add_image(stack.data, metadata={STACK_KEY: stack}, rgb=False, name="scene", **settings)
        self.wait(lambda: self.state.is_encoded)
        self.wait(lambda: self.canvas.objects_layer is not None)
        return layer

    def tick(self, *names: str) -> None:
        """Tick exactly these channels in the table, as a user does, and wait until they are encoded."""
        table = self.panels.channels.table
        order = [row.name for row in table.rows]
        table.tick(range(len(order)), False)
        for name in names:
            table.tick([order.index(name)], True)
        self.wait(lambda: self.state.is_encoded and self.state.names == names)

    def click(self, x: float, y: float, *, outside: bool = False) -> None:
        """Set a point, as a click in the canvas does, and wait for the mask."""
        layer = self.canvas.points_layer
        layer.feature_defaults = {"label": 0 if outside else 1}
        before = len(self.session.draft.prompts.points)
        layer.add([[y - 0.5, x - 0.5]])
        self.wait(lambda: len(self.session.draft.prompts.points) == before + 1 and self.session.draft.candidates)

    def close(self) -> None:
        """Take the dock away."""
        self.controller.close()
        self.viewer.window.remove_dock_widget(self.widget)


@pytest.fixture
def window(viewer: Any, qtbot: Any) -> Iterator[Window]:
    """The plugin in a viewer without layers."""
    made = Window(viewer, qtbot)
    yield made
    made.controller.close()
