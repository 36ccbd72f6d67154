from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from e2sam.data.synthetic import Material, Scene, SceneOptions, make_scene
from e2sam.data.synthetic.land.fields import cut, raster_tiles
from e2sam.data.synthetic.land.place import Place, raster_line

LAND = SceneOptions(kind="land", clean=True)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Twelve places."""
    return [make_scene(np.random.default_rng(seed), (192, 192), 3, LAND) for seed in range(12)]


@pytest.fixture
def material() -> Material:
    """A white silhouette and a photograph of stripes."""
    rgba = np.full((24, 24, 4), 255, np.uint8)
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[::2] = 200
    shapes = np.array([[24, 24]], np.int32), np.array([[64, 64]], np.int32)
    return Material(rgba.ravel(), shapes[0], photo.ravel(), shapes[1])


@pytest.mark.parametrize(
    ("size", "num_extras", "has_material"),
    [((64, 64), 0, False), ((200, 320), 1, True), ((33, 120), 3, True), ((64, 64), 8, False)],
)
def test_land_of_any_size_and_number_of_channels(
    size: tuple[int, int], num_extras: int, has_material: bool, material: Material
) -> None:
    for seed in range(4):
        scene, again = (
            make_scene(np.random.default_rng(seed), size, num_extras, LAND, material if has_material else None)
            for _ in range(2)
        )
        assert np.array_equal(scene.planes, again.planes) and np.array_equal(scene.labels, again.labels)
        assert scene.planes.shape == (3 + num_extras, *size) and np.isfinite(scene.planes).all()
        assert scene.planes.min() >= 0 and scene.planes.max() <= 1
        assert set(np.unique(scene.labels)) - {0} == set(range(1, len(scene.visible)))
        assert scene.visible.shape == (len(scene.parents), 1 + num_extras)
        assert scene.visible[1:].any(1).all() and not scene.visible[0].any() and not scene.parents.any()


def test_regions_cover_the_land_and_are_connected(scenes: list[Scene]) -> None:
    assert np.mean([(scene.labels > 0).mean() for scene in scenes]) > 0.95
    for scene in scenes:
        for label in range(1, len(scene.visible)):
            # A cloud that carries no label may cut one.
            assert ndimage.label(scene.labels == label)[1] <= (1 if scene.labels.all() else 9)


def test_places_differ(scenes: list[Scene]) -> None:
    counts = np.array([scene.labels.max() for scene in scenes])
    assert counts.min() >= 2 and counts.max() <= 260
    assert counts.max() > 5 * counts.min()
    shares = [np.bincount(scene.labels.ravel())[1:] / scene.labels.size for scene in scenes]
    assert max(share.max() for share in shares) > 0.3
    assert min(share.max() for share in shares) < 0.3
    # In some, colours alone do not tell all regions, and further planes tell some of them.
    assert sum(scene.visible[1:, 2:].any() for scene in scenes) >= 8
    assert np.std([scene.planes[:3].mean() for scene in scenes]) > 0.05


def test_planes_differ_between_regions_more_than_within(scenes: list[Scene]) -> None:
    ratios = []
    for scene in scenes:
        across = np.abs(np.diff(scene.planes[:3], axis=2)).max(0)
        border = scene.labels[:, 1:] != scene.labels[:, :-1]
        ratios.append(across[border].mean() / across[~border].mean())
    assert np.median(ratios) > 1.4


def test_water_is_dark_in_infrared_flat_and_low() -> None:
    rng = np.random.default_rng(0)
    terrain = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    place = Place(rng, (64, 64), 20.0, (0.0, 1.0), terrain, 0.1, np.zeros((64, 64), np.int32))
    place.units[:] = place.nature("broadleaf")
    place.units[:, :20] = place.nature("water")
    place.render()
    water = place.is_of(("water",))
    assert place.bands[3][water].max() < 0.3 * place.bands[3][~water].mean()
    assert not place.tall[water].any() and place.tall[~water].all()


@pytest.mark.parametrize("jitter", [0.0, 0.9])
def test_cuts_tile_the_frame(jitter: float) -> None:
    parts, cuts = cut(np.random.default_rng(1), (80, 120), 150.0, 0.4, 2.0, jitter)
    index = raster_tiles((80, 120), parts)
    assert len(cuts) >= len(parts) - 2
    # No gap is filled from afar: each part is one piece.
    assert all(ndimage.label(index == number, np.ones((3, 3)))[1] <= 1 for number in range(len(parts)))
    areas = np.bincount(index.ravel())
    assert 50 < np.median(areas[areas > 0]) < 300


def test_line_is_as_wide_as_asked() -> None:
    points = np.array([[-5.0, 20.0], [30.0, 20.0], [65.0, 20.0]])
    cover = raster_line((40, 60), points, np.full(3, 6.0))
    assert float(cover.sum()) == pytest.approx(6 * 60, rel=0.08)
    assert cover[20].min() == 1 and not cover[:14].any()
