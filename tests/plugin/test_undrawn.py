"""What lies under the model's input is not drawn, and nobody sees a difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer

from e2sam.data.stack import ChannelStack

pytestmark = pytest.mark.only_on("pyqt6")


def _is_drawn(window: Any, layer: Layer) -> bool:
    visual = window.viewer.window._qt_viewer.canvas.layer_to_visual[layer]
    return bool(visual.node.visible)


@pytest.fixture
def image(window: Any, stack: ChannelStack) -> Layer:
    """The user's image, with the model's input over it."""
    layer = window.open(stack)
    window.wait(lambda: window.canvas.composite_layer is not None)
    return layer


def test_image_and_empty_mask_cost_no_frame_and_every_pixel_is_as_before(window: Any, image: Layer) -> None:
    window.click(30, 30)
    assert not _is_drawn(window, image) and image.visible
    assert _is_drawn(window, window.canvas.mask_layer)
    window.controller.do("accept")
    assert not _is_drawn(window, window.canvas.mask_layer) and window.canvas.mask_layer.visible
    window.click(34, 30)
    assert _is_drawn(window, window.canvas.mask_layer)

    # Drawn in full, as when the plugin has let go of the viewer.
    window.controller.do("clear")
    shown = window.viewer.screenshot(flash=False)
    window.canvas._undrawn.close()
    assert _is_drawn(window, image) and _is_drawn(window, window.canvas.mask_layer)
    assert np.array_equal(window.viewer.screenshot(flash=False), shown)


def _move_below(window: Any, cover: Layer) -> None:
    window.viewer.layers.move(window.viewer.layers.index(cover), 0)


@pytest.mark.parametrize(
    ("uncover", "cover_again"),
    [
        (lambda window, cover: setattr(cover, "visible", False), lambda window, cover: setattr(cover, "visible", True)),
        (lambda window, cover: setattr(cover, "opacity", 0.5), lambda window, cover: setattr(cover, "opacity", 1.0)),
        (
            lambda window, cover: setattr(cover, "blending", "additive"),
            lambda window, cover: setattr(cover, "blending", "opaque"),
        ),
        (
            lambda window, cover: setattr(cover, "scale", (0.5, 0.5)),
            lambda window, cover: setattr(cover, "scale", (1, 1)),
        ),
        (lambda window, cover: setattr(cover, "rotate", 30), lambda window, cover: setattr(cover, "rotate", 0)),
        (
            lambda window, cover: setattr(window.canvas._undrawn._grid, "enabled", True),
            lambda window, cover: setattr(window.canvas._undrawn._grid, "enabled", False),
        ),
        (
            lambda window, cover: setattr(window.viewer.dims, "ndisplay", 3),
            lambda window, cover: setattr(window.viewer.dims, "ndisplay", 2),
        ),
        (_move_below, lambda window, cover: window.viewer.layers.move(0, 2)),
        (
            lambda window, cover: window.viewer.layers.remove(cover),
            lambda window, cover: window.panels.channels.composite.click() or window.panels.channels.composite.click(),
        ),
        (
            lambda window, cover: window.panels.channels.composite.click(),
            lambda window, cover: window.panels.channels.composite.click(),
        ),
    ],
    ids=["hidden", "faint", "added", "smaller", "turned", "grid", "volume", "below", "deleted", "switched off"],
)
def test_image_is_drawn_as_soon_as_it_can_be_seen(
    window: Any, image: Layer, uncover: Callable[..., Any], cover_again: Callable[..., Any]
) -> None:
    assert not _is_drawn(window, image)
    uncover(window, window.canvas.composite_layer)
    assert _is_drawn(window, image)
    cover_again(window, window.canvas.composite_layer)
    window.wait(lambda: not _is_drawn(window, image))


def test_what_reaches_out_from_under_it_is_drawn(window: Any, image: Layer) -> None:
    height, width = image.data.shape[-2:]
    larger = window.viewer.add_image(np.ones((height + 1, width)))
    small = window.viewer.add_image(np.ones((height // 2, width // 2)))
    window.viewer.layers.move_multiple([window.viewer.layers.index(one) for one in (larger, small)], 0)
    assert _is_drawn(window, larger) and not _is_drawn(window, small)

    # The user's own choice is kept.
    image.visible = False
    window.canvas.composite_layer.visible = False
    assert not _is_drawn(window, image) and _is_drawn(window, small)
    window.controller.close()
    assert all(_is_drawn(window, one) is one.visible for one in window.viewer.layers)
