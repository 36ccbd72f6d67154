"""Outlines along pixel edges: exact area, valid rings, and the same mask back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import points_in_poly

from e2sam.data.masks import MaskCrop
from e2sam.data.polygons import mask_of_polygons, polygons_of, signed_area


def test_a_ring_with_a_hole_by_hand() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:5, 2:6] = True
    mask[2:4, 3:5] = False
    ((outer, hole),) = polygons_of(MaskCrop.of(mask))
    assert sorted(outer.tolist()) == [[2, 1], [2, 5], [6, 1], [6, 5]]
    assert sorted(hole.tolist()) == [[3, 2], [3, 4], [5, 2], [5, 4]]
    assert (signed_area(outer), signed_area(hole)) == (16, -4)


def test_parts_that_touch_at_a_corner_are_two_polygons() -> None:
    polygons = polygons_of(MaskCrop.of(np.array([[1, 0], [0, 1]])))
    assert [len(polygon) for polygon in polygons] == [1, 1]
    assert [signed_area(polygon[0]) for polygon in polygons] == [1, 1]


def test_a_ring_that_would_meet_itself_is_parted() -> None:
    """A loop closed by a corner only: the outline passes that corner twice and must become outer ring and hole."""
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    (polygon,) = polygons_of(MaskCrop.of(mask))
    assert sum(signed_area(ring) for ring in polygon) == mask.sum()
    for ring in polygon:
        assert len({tuple(corner) for corner in ring}) == len(ring)


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10)))
def test_every_mask(mask: np.ndarray) -> None:
    if not mask.any():
        return
    polygons = polygons_of(MaskCrop.of(np.pad(mask, 2)))
    parts, count = ndimage.label(mask)
    assert len(polygons) == count
    areas = sorted(sum(signed_area(ring) for ring in polygon) for polygon in polygons)
    assert areas == sorted(np.bincount(parts.ravel())[1:].tolist())
    centres = np.argwhere(np.ones(np.pad(mask, 2).shape))[:, ::-1] + 0.5
    filled = np.zeros(len(centres), int)
    for outer, *holes in polygons:
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert len({tuple(corner) for corner in ring}) == len(ring)  # no ring meets itself
            inside = points_in_poly(centres, ring)
            filled += inside if ring is outer else -inside.astype(int)
    np.testing.assert_array_equal(filled.reshape(np.pad(mask, 2).shape), np.pad(mask, 2).astype(int))


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10)))
def test_outlines_fill_to_the_same_mask(mask: np.ndarray) -> None:
    filled = ndimage.binary_fill_holes(mask)
    if not filled.any():
        return
    rings = [polygon[0] for polygon in polygons_of(MaskCrop.of(filled))]
    found = mask_of_polygons(rings, filled.shape)
    assert found is not None
    np.testing.assert_array_equal(found.full(filled.shape), filled)


def test_polygons_outside_the_image_give_nothing() -> None:
    assert mask_of_polygons([[(20, 20), (30, 20), (30, 30)]], (10, 10)) is None
    assert mask_of_polygons([[(2.1, 2.1), (2.2, 2.1), (2.2, 2.2)]], (10, 10)) is None
