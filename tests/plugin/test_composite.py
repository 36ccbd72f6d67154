"""What the model sees is drawn at every pixel where the user looks, however large the image is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from e2sam.data.normalize import fit_recipes
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam import _composite, _pyramid
from napari_e2sam._composite import Composite, step_of

pytestmark = pytest.mark.only_on("pyqt5")


def _noise(*shape: int) -> ChannelStack:
    channels = tuple(ChannelSpec(f"band {index}") for index in range(shape[0]))
    return ChannelStack(np.random.default_rng(0).random(shape, np.float32), channels)


@pytest.fixture
def small_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pictures of 32 pixels were all that is drawn."""
    monkeypatch.setattr(_composite, "_SHOWN_SIDE", 32)
    monkeypatch.setattr(_pyramid, "_COARSEST_SIDE", 32)


@pytest.fixture
def noise() -> ChannelStack:
    """Four channels in which no pixel is like its neighbours."""
    return _noise(4, 90, 120)


@pytest.mark.usefixtures("small_screen")
def test_a_large_image_is_finer_where_the_user_looks(noise: ChannelStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_full_resolution() -> np.ndarray:
        with monkeypatch.context() as patched:
            patched.setattr(_composite, "_SHOWN_SIDE", 1000)
            return np.asarray(Composite(noise, (0, 1, 3), recipes, None).levels)

    recipes, view = fit_recipes(noise), (40, 50, 70, 75)
    full, picture = at_full_resolution(), Composite(noise, (0, 1, 3), recipes, None)
    everywhere = (slice(None), slice(None), slice(None))
    step = step_of(noise)
    assert step == 4 and full.shape == picture.shape == picture.levels[0].shape
    coarse = full[::step, ::step].repeat(step, 0).repeat(step, 1)[:90, :120]
    assert np.array_equal(picture[everywhere], coarse)
    assert picture.is_coarse_in(view) and not picture.is_coarse_in((0, 0, 120, 90))
    picture.look_closer(view)
    assert not picture.is_coarse_in(view) and picture.is_coarse_in((0, 50, 30, 75))
    inside = slice(50, 75), slice(40, 70)
    shown = picture[everywhere]
    assert np.array_equal(shown[inside], full[inside])
    assert np.array_equal(shown[:40], coarse[:40]) and np.array_equal(shown[:, 80:], coarse[:, 80:])
    # As the viewer asks for levels.
    assert np.array_equal(np.asarray(picture.levels[1]), shown[::2, ::2])
    assert np.array_equal(Composite(noise, (0, 1, 3), recipes, None, view)[everywhere], shown)


def test_a_strip_of_one_row_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_composite, "_SHOWN_SIDE", 32)
    strip = _noise(3, 1, 100)
    assert np.shape(Composite(strip, (0, 1, 2), fit_recipes(strip), None).levels) == (1, 25, 3)


@pytest.mark.usefixtures("small_screen")
def test_zooming_in_shows_every_pixel_of_the_model_input(window: Any, noise: ChannelStack) -> None:
    window.open(noise)
    canvas = window.canvas
    window.wait(lambda: canvas.composite_layer is not None)
    layer, place = canvas.composite_layer, (slice(32, 48), slice(56, 64), slice(None))
    recipes, selection = window.state.recipes, window.state.selection
    wanted = Composite(noise, selection, recipes, window.state.matrix, (50, 30, 70, 50))[place]
    assert not np.array_equal(layer.data[0][place], wanted)
    canvas.camera.zoom *= 5
    canvas.camera.center = (0.0, 40.0, 60.0)
    window.wait(lambda: np.array_equal(layer.data[0][place], wanted))
    assert layer is canvas.composite_layer and layer.data_level == 0
    # Taken away by hand, it is not wanted any more.
    box = window.panels.channels.composite
    window.viewer.layers.remove(layer)
    window.wait(lambda: not box.isChecked())
    box.click()
    window.wait(lambda: canvas.composite_layer is not None)
    layer = canvas.composite_layer
    # The next selection begins where the user looks.
    window.panels.channels.none.click()
    window.panels.channels.all.click()
    other = tuple(range(noise.num_channels))
    window.wait(
        lambda: (
            window.state.is_encoded
            and window.state.selection == other
            and np.array_equal(
                layer.data[0][place], Composite(noise, other, recipes, window.state.matrix, (50, 30, 70, 50))[place]
            )
        )
    )
