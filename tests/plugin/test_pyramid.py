"""Large images are shown at several resolutions, and clicked like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_e2sam import _pyramid
from napari_e2sam._pyramid import Decimated, levels_of


@pytest.mark.parametrize("step", [2, 4, 8])
def test_a_level_is_every_nth_row_and_column(step: int) -> None:
    data = np.arange(3 * 37 * 50).reshape(3, 37, 50)
    level, wanted = Decimated(data, step), data[:, ::step, ::step]
    assert level.shape == wanted.shape
    assert np.array_equal(level, wanted)
    assert np.array_equal(level[1, 1:4, 2:], wanted[1, 1:4, 2:])
    assert np.array_equal(level[..., 2], wanted[..., 2])
    assert level[2, 3:3].size == 0
    colours = np.moveaxis(data, 0, -1)
    assert np.array_equal(Decimated(colours, step, is_rgb=True)[:5, 1:3], colours[::step, ::step][:5, 1:3])


def test_only_large_images_have_levels() -> None:
    assert levels_of(np.zeros((4, 2048, 2048), np.uint8)) is None
    levels = levels_of(np.broadcast_to(np.uint8(0), (4, 5000, 9000)))
    assert levels is not None
    assert [level.shape[-1] for level in levels] == [9000, 4500, 2250, 1125, 563]


def test_a_large_image_is_opened_and_clicked(window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pyramid, "_WHOLE_SIDE", 64)
    monkeypatch.setattr(_pyramid, "_COARSEST_SIDE", 32)
    data = np.random.default_rng(0).integers(0, 255, (4, 80, 96), dtype=np.uint16)
    np.save(tmp_path / "scene.npy", data)
    window.controller.worklist.open_folder(tmp_path)
    window.wait(lambda: window.state.is_encoded)
    window.wait(lambda: window.canvas.objects_layer is not None)
    assert [level.shape for level in window.state.layer.data] == [(4, 80, 96), (4, 40, 48), (4, 20, 24)]
    window.click(40, 30)
    window.controller.do("accept")
    assert window.canvas.objects_layer.data[30, 40] == 1
