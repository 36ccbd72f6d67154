"""What the canvas writes into its layers, and what napari draws of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from e2sam.data.masks import MaskCrop
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam import _canvas, _own_layers
from napari_e2sam._canvas import Canvas
from napari_e2sam._convert import Scene

SIZE = (40, 56)


def scene(scale: tuple[float, float] = (1.0, 1.0)) -> Scene:
    return Scene(ChannelStack(np.zeros((2, *SIZE), np.uint8), (ChannelSpec("red"), ChannelSpec("depth"))), scale=scale)


@pytest.mark.parametrize("first", [1, 70_000])
def test_the_box_of_what_changed_is_drawn_and_no_more(first: int) -> None:
    canvas = Canvas(ViewerModel())
    canvas.open(scene())
    while not canvas.make_one():
        pass
    layer = canvas.objects_layer
    assert layer is not None and layer.data.dtype == np.uint16
    # The first number that 16 bits do not hold makes room for itself.
    canvas.draw_labels((0, 0, 1, 1), np.array([[first]]))
    assert layer.data[0, 0] == first
    canvas.draw_labels((0, 0, 1, 1), np.array([[0]]))
    texture, drawn = layer._slice.image.view.copy(), []

    def draw(event: Any) -> None:
        (top, left), (height, width) = event.offset, event.data.shape
        texture[top : top + height, left : left + width] = event.data
        drawn.append(height * width)

    layer.events.labels_update.connect(draw)
    rng = np.random.default_rng(0)
    expected = np.zeros(SIZE, int)
    for number in range(first, first + 8):
        y0, x0 = (int(rng.integers(0, length - 9)) for length in SIZE)
        labels = rng.integers(0, 2, (9, 7)) * number
        canvas.draw_labels((x0, y0, x0 + 7, y0 + 9), labels)
        expected[y0 : y0 + 9, x0 : x0 + 7] = labels
        assert np.array_equal(layer.data, expected)
        assert np.array_equal(texture, layer._slice.image.view)
    assert max(drawn) <= 63
    canvas.close()


def test_masks_of_every_shape_replace_each_other() -> None:
    canvas = Canvas(ViewerModel())
    canvas.open(scene())
    for box in ((0, 0, 56, 40), (3, 5, 4, 6), (10, 0, 11, 40), (0, 39, 56, 40)):
        mask = MaskCrop(np.ones((box[3] - box[1], box[2] - box[0]), bool), box[0], box[1])
        canvas.show_mask(mask)
        assert canvas.mask_layer is not None
        assert np.array_equal(canvas.mask_layer.data, mask.window((0, 0, 56, 40)))
    canvas.show_mask(None)
    assert not canvas.mask_layer.data.any()
    canvas.close()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_in_a_huge_image_a_large_mask_is_drawn_thinned_and_in_its_place(
    monkeypatch: pytest.MonkeyPatch, scale: tuple[float, float]
) -> None:
    monkeypatch.setattr(_own_layers, "_HUGE_IMAGE", 100)
    monkeypatch.setattr(_canvas, "_LARGEST_TEXTURE", 8)
    canvas = Canvas(ViewerModel())
    canvas.open(scene(scale))
    for side, step in ((6, 1), (24, 3), (16, 2), (5, 1)):
        canvas.show_mask(MaskCrop(np.ones((side, side), bool), 9, 4))
        layer = canvas.mask_layer
        assert layer is not None and layer.data.shape == (side // step,) * 2 and layer.data.all()
        # The layer's pixels cover the mask's, edge to edge.
        corners = np.array([[-0.5, -0.5], [side // step - 0.5] * 2])
        world = [layer.data_to_world(corner) for corner in corners]
        expected = (np.array([[4 - 0.5, 9 - 0.5], [4 + side - 0.5, 9 + side - 0.5]])) * scale
        np.testing.assert_allclose(world, expected)
    canvas.show_mask(None)
    assert canvas.mask_layer is not None and not canvas.mask_layer.data.any()
    canvas.close()


def test_objects_are_light_and_neighbours_in_number_unlike() -> None:
    own = _own_layers.OwnLayers(ViewerModel(), lambda *_: None, lambda *_: None, lambda *_: None)
    own.open(scene())
    colours = np.array([own.objects().get_color(label) for label in range(1, 120)])[:, :3]
    # Relative luminance of sRGB, roughly; napari's first colour has 0.2.
    assert (colours @ (0.2126, 0.7152, 0.0722)).min() > 0.35
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 0.3
    mask = np.array(own.mask().get_color(1))[:3]
    assert np.abs(colours - mask).sum(1).min() > 0.15
