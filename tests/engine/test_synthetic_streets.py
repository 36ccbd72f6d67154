from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from e2sam.data.synthetic import Material, SceneOptions, make_scene
from e2sam.data.synthetic.canvas import Canvas
from e2sam.data.synthetic.street import layout
from e2sam.data.synthetic.street.figures import paint_person
from e2sam.data.synthetic.street.vehicles import paint_vehicle
from e2sam.data.synthetic.street.view import Light, Points, Sketch, Street, View, capsule, disc

STREET = SceneOptions(kind="street", clean=True, smallest=20)


@pytest.fixture
def material() -> Material:
    """A red disc and a grey photograph."""
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[np.hypot(*(np.mgrid[:24, :24] - 11.5)) < 10] = (255, 0, 0, 255)
    photo = np.full((64, 64, 3), 128, np.uint8)
    shapes = np.array([[24, 24]], np.int32), np.array([[64, 64]], np.int32)
    return Material(rgba.ravel(), shapes[0], photo.ravel(), shapes[1])


def empty_street(num_extras: int = 3, size: tuple[int, int] = (200, 300)) -> Street:
    """A street with nothing on it, under an overcast sky, seen from 1.5 m."""
    view = View(size, 300.0, 150.0, 80.0, 1.5, 0.0, 0.0, 0.0, 0.5)
    light = Light(np.ones(3, np.float32), np.full(3, 0.8, np.float32), 0.0, False, None, 0.0)
    return Street.begin(np.random.default_rng(0), Canvas.empty(num_extras, size), None, view, light)


@pytest.mark.parametrize(
    ("size", "num_extras", "has_material"),
    [((32, 32), 0, False), ((100, 37), 1, True), ((33, 120), 5, False), ((96, 128), 5, True), ((96, 96), 0, True)],
)
def test_street_of_any_size_and_number_of_channels(
    size: tuple[int, int], num_extras: int, has_material: bool, material: Material
) -> None:
    for seed in range(2):
        made = [
            make_scene(np.random.default_rng(seed), size, num_extras, STREET, material if has_material else None)
            for _ in range(2)
        ]
        scene = made[0]
        assert np.array_equal(scene.planes, made[1].planes) and np.array_equal(scene.labels, made[1].labels)
        assert scene.planes.shape == (3 + num_extras, *size) and np.isfinite(scene.planes).all()
        assert scene.planes.min() >= 0 and scene.planes.max() <= 1
        assert set(np.unique(scene.labels)) - {0} == set(range(1, len(scene.visible)))
        assert scene.visible.shape == (len(scene.parents), 1 + num_extras)
        assert scene.visible[1:].any(1).all() and not scene.visible[0].any()


def test_streets_have_vehicles_and_most_things_have_borders_in_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def counted(*arguments: object) -> int:
        found.append(paint_vehicle(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(layout, "paint_vehicle", counted)
    steps = []
    for seed in range(6):
        scene = make_scene(np.random.default_rng(seed), (128, 128), 2, STREET)
        across = np.abs(np.diff(scene.planes[3], axis=1))
        border = scene.labels[:, 1:] != scene.labels[:, :-1]
        steps.append((across[border].mean(), across[~border].mean()))
    assert sum(label > 0 for label in found) >= 16
    borders, elsewhere = np.array(steps).mean(0)
    assert borders > 5 * elsewhere


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("heading", [0.0, 0.8, np.pi / 2, np.pi])
def test_vehicle_stands_where_the_perspective_says_and_is_one_thing(kind: int, heading: float) -> None:
    heights = []
    for distance in (15.0, 30.0):
        scene = empty_street()
        label = paint_vehicle(scene, (0.0, distance), heading, kind)
        assert label == 1
        rows, columns = np.nonzero(scene.canvas.labels == label)
        nearest = distance - 6.5
        assert rows.max() <= 80 + 300 * 1.5 / nearest
        assert rows.max() >= 80 + 300 * 1.5 / (distance + 2) - 1
        assert abs(columns.mean() - 150) < 40
        mask = scene.canvas.labels == label
        # One piece, without seams between its parts.
        assert ndimage.label(mask)[1] == 1
        assert ndimage.binary_fill_holes(mask).sum() <= 1.01 * mask.sum()
        assert scene.canvas.visible[label][:2].all()
        heights.append(np.ptp(rows) + 1)
    assert 1.5 < heights[0] / heights[1] < 3.5


def test_person_is_as_high_as_the_distance_says_and_warm() -> None:
    for distance in (6.0, 12.0):
        scene = empty_street()
        scene.canvas.planes[4] = 0.4
        scene.values["person"][1] = 0.9
        label = paint_person(scene, (0.0, distance))
        rows, _ = np.nonzero(scene.canvas.labels == label)
        assert 0.95 < (np.ptp(rows) + 1) * distance / 300 < 2.05
        assert abs(rows.max() - (80 + 300 * 1.5 / distance)) < 0.12 * 300 / distance + 2
        inside = scene.canvas.labels == label
        assert scene.canvas.planes[4][inside].mean() > 0.7 and scene.canvas.visible[label][2]


def test_outline_that_comes_too_near_is_cut() -> None:
    view = empty_street().view
    behind = np.array([(-1.0, 0.0, -2.0), (1.0, 0.0, -2.0), (1.0, 0.0, 10.0), (-1.0, 0.0, 10.0)])
    cut = view.project(behind)
    assert len(cut) == 4 and np.isfinite(cut).all()
    assert cut[:, 1].min() == pytest.approx(80 + 300 * 1.5 / 10)
    assert not len(view.project(behind - (0, 0, 20)))


@pytest.mark.parametrize(
    ("outline", "area"),
    [
        (np.array([(3.0, 4.0), (13.0, 4.0), (13.0, 24.0), (3.0, 24.0)]), 200.0),
        (disc((20.0, 20.0), 8.0, 40), np.pi * 64),
        (capsule((10.0, 20.0), (30.0, 20.0), (5.0, 5.0)), 200 + np.pi * 25),
    ],
)
def test_filled_outline_covers_its_area(outline: Points, area: float) -> None:
    sketch = Sketch((40, 40), outline)
    sketch.fill(outline, np.array([1.0, 0.5, 0.0], np.float32))
    assert float(sketch.coverage.sum()) == pytest.approx(area, rel=0.06)
    edge = (sketch.coverage > 0) & (sketch.coverage < 1)
    # A pixel that is covered in part has the colour of the thing, not a share of black.
    assert np.allclose(sketch.colour[:, edge | (sketch.coverage == 1)].T, (1.0, 0.5, 0.0), atol=1e-5)


def test_label_of_what_is_in_front_wins() -> None:
    scene = empty_street()
    far = paint_vehicle(scene, (0.0, 20.0), np.pi / 2, 0)
    near = paint_vehicle(scene, (0.0, 10.0), np.pi / 2, 0)
    both = [np.argwhere(scene.canvas.labels == label) for label in (far, near)]
    assert near > far and len(both[1]) > len(both[0])
    assert scene.canvas.planes[3][scene.canvas.labels == near].mean() > 0.5
