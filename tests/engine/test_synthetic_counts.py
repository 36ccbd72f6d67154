from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from e2sam.data.synthetic import SceneOptions, make_scene
from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.counts import counting, paint_counts
from e2sam.data.synthetic.counts.grid import enlarge

COUNTS = SceneOptions(kind="counts", smallest=1)


@pytest.mark.parametrize(
    ("size", "num_extras"),
    [((64, 64), 0), ((100, 160), 1), ((64, 64), 3), ((100, 160), 8), ((32, 32), 2), ((37, 90), 1)],
)
def test_counts_of_any_size_and_number_of_channels(size: tuple[int, int], num_extras: int) -> None:
    for seed in range(5):
        scene, again = (make_scene(np.random.default_rng(seed), size, num_extras, COUNTS) for _ in range(2))
        assert np.array_equal(scene.planes, again.planes) and np.array_equal(scene.labels, again.labels)
        assert scene.planes.shape == (3 + num_extras, *size) and np.isfinite(scene.planes).all()
        assert scene.planes.min() >= 0 and scene.planes.max() <= 1
        assert scene.labels.shape == size
        assert set(np.unique(scene.labels)) <= set(range(len(scene.parents)))
        assert scene.visible.shape == (len(scene.parents), 1 + num_extras)
        assert scene.visible[1:].any(1).all() and not scene.visible[0].any()
        # A part is a part of something that is no part itself.
        assert not scene.parents[scene.parents].any()
        for label in range(1, len(scene.parents)):
            assert scene.mask(label).any()


def test_cells_and_nuclei_are_about_as_many_and_as_large_as_in_tissue() -> None:
    wholes, parts, sizes = [], [], []
    for seed in range(12):
        scene = make_scene(np.random.default_rng(seed), (320, 320), 3, SceneOptions(kind="counts"))
        is_part = scene.parents[1:] > 0
        wholes.append(int((~is_part).sum()))
        parts.append(int(is_part.sum()))
        areas = np.bincount(scene.labels.ravel())[1:]
        sizes.append(np.sqrt(np.median(areas[~is_part])))
    assert min(wholes) >= 1 and max(wholes) < 800
    assert 30 < np.median(wholes) < 500
    # Some scenes have nuclei as parts, most have none.
    assert 1 <= sum(number > 0 for number in parts) <= 8
    assert 8 < np.median(sizes) < 70


def test_nuclei_lie_within_their_cells() -> None:
    in_one_piece = []
    for seed in range(12):
        scene = make_scene(np.random.default_rng(seed), (128, 128), 1, COUNTS)
        for whole in scene.parents[scene.parents > 0]:
            in_one_piece.append(ndimage.label(scene.mask(int(whole)), np.ones((3, 3)))[1] == 1)
    assert len(in_one_piece) > 50
    # A nucleus apart from its cell would make two.
    assert np.mean(in_one_piece) > 0.95


def test_noise_falls_as_more_is_counted_and_clean_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = np.full((2, 64, 64), 1.0)
    relative = []
    for expected in (2.0, 20.0, 200.0):
        rng = np.random.default_rng(3)
        drawn = counting.add_noise(rng, rate * expected)
        relative.append(float(np.median(np.abs(drawn - expected)) / expected))
    assert relative[0] > 1.5 * relative[1] > 2.25 * relative[2] > 0

    def forbidden(*arguments: object) -> None:
        raise AssertionError("Noise in a clean scene.")

    monkeypatch.setattr(counting, "add_noise", forbidden)
    for seed in range(4):
        canvas = Canvas.empty(2, (96, 96))
        paint_counts(np.random.default_rng(seed), canvas, True)
        assert np.ptp(canvas.planes[:3]) > 0.5
    with pytest.raises(AssertionError, match="clean"):
        paint_counts(np.random.default_rng(0), Canvas.empty(2, (96, 96)))


def test_expected_counts_show_in_the_planes_and_noise_adds_to_neighbours_differences() -> None:
    steps = []
    for seed in range(8):
        pair = []
        for is_clean in (True, False):
            canvas = Canvas.empty(0, (112, 112))
            paint_counts(np.random.default_rng(seed), canvas, is_clean)
            pair.append(float(np.abs(np.diff(canvas.planes, axis=2)).mean()))
        steps.append(pair)
    clean, noisy = np.array(steps).T
    assert noisy.mean() > 1.3 * clean.mean()


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_enlarging_keeps_places_and_levels(method: str) -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (1, 12, 20))
    large = enlarge(ramp, (30, 50), method)
    truth = (np.arange(50) + 0.5) * 20 / 50 - 0.5
    assert large.shape == (1, 30, 50)
    inner = slice(6, -6)
    assert np.abs(large[0, 7, inner] - truth[inner]).max() < (0.51 if method == "nearest" else 1e-4)
    assert enlarge(np.ones((1, 7, 9), np.float32), (21, 20), method) == pytest.approx(1.0, abs=1e-5)
