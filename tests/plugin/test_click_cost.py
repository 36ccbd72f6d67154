"""What napari is spared at each click, and what it still hears of."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components.layerlist import LayerList
from qtpy.QtCore import QTimer
from vispy.visuals.line import dash_atlas

from e2sam.data.stack import ChannelStack
from napari_e2sam import __main__ as application
from napari_e2sam._own_layers import prepare


class _Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thawed() -> Iterator[None]:
    """What a test has frozen is collected again after it."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_window_is_left_out_of_collections_and_garbage_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before, frozen = _Cycle(), gc.get_freeze_count()
    gone, counts = weakref.ref(before), []
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr(application, "open_window", lambda *arguments, **_: opened.append(arguments))
    monkeypatch.setattr(application.napari, "run", lambda: counts.append(gc.get_freeze_count()))
    del before
    assert application.main(["a.tif", "--session", "s.e2sam"]) == 0
    assert opened == [([Path("a.tif")], Path("s.e2sam"), "tiny")]
    # Frozen before the event loop begins, and nothing that was garbage already.
    assert counts[0] > frozen + 10_000 and gone() is None
    after = _Cycle()
    gone = weakref.ref(after)
    del after
    gc.collect()
    assert gone() is None


def test_a_click_is_one_change_that_moves_nothing_else(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(stack)
    window.wait(lambda: window.canvas.composite_layer is not None)
    layer = window.canvas.points_layer
    listed: list[str] = []
    drawn: list[int] = []
    measured: list[int] = []
    ranges = LayerList._ranges.fget
    monkeypatch.setattr(LayerList, "_ranges", property(lambda layers: measured.append(1) or ranges(layers)))
    window.viewer.layers.events.connect(lambda event: listed.append(event.type))
    layer.events.set_data.connect(lambda: drawn.append(len(layer.data)))

    window.click(40, 30)
    # Drawn once, with the point, as napari drew it each time: its place, its colour and that it is chosen.
    assert drawn == [1]
    assert len(layer._view_data) == len(layer._view_size) == 1
    assert layer.selected_data == {0}
    window.controller.do("accept")
    assert drawn == [1, 0]
    assert len(layer._view_data) == 0
    assert np.count_nonzero(window.canvas.objects_layer.data) > 0
    assert not listed
    assert not measured

    # The list still shows what it shows.
    layer.name, layer.visible = "mine", False
    assert {"name", "visible"} <= set(listed)
    window.viewer.layers.remove(layer)
    assert measured


def test_the_window_answers_between_one_new_layer_and_the_next(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    make_one = window.canvas.make_one

    def made() -> bool:
        happened.append("layer")
        QTimer.singleShot(0, lambda: happened.append("turn"))
        return bool(make_one())

    monkeypatch.setattr(window.canvas, "make_one", made)
    window.open(stack)
    window.wait(lambda: happened.count("turn") == 3)
    assert happened == ["layer", "turn"] * 3


def test_patterns_of_lines_are_there_before_the_first_layer_of_labels() -> None:
    dash_atlas._make_pattern.cache_clear()
    prepare()
    known = dash_atlas._make_pattern.cache_info().misses
    assert known > 0
    dash_atlas.DashAtlas()
    assert dash_atlas._make_pattern.cache_info().misses == known
