"""Zarr stores: OME images with little or odd metadata, images in groups, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from e2sam.data.io import read_stack
from e2sam.errors import StackError

CUBE = np.random.default_rng(0).integers(0, 5000, (3, 40, 48)).astype(np.uint16)
IMAGE: dict[str, Any] = {"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "0"}]}


def write_image(group: Any, facts: dict[str, Any]) -> None:
    group.create_array("0", data=CUBE, chunks=(1, 16, 16))
    group.attrs.update(facts)


@pytest.mark.parametrize(
    ("omero", "names"),
    [
        ({"channels": [{"label": "a"}, {"label": None}, {}]}, ("a", "ch1", "ch2")),
        ({"channels": [{"label": "a"}, None, {"label": 0}]}, ("a", "ch1", "0")),
        ({"channels": None}, ("ch0", "ch1", "ch2")),
        ([{"label": "a"}], ("ch0", "ch1", "ch2")),
        (None, ("ch0", "ch1", "ch2")),
    ],
)
def test_labels_that_are_not_there(omero: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    write_image(group, {"multiscales": [IMAGE], "omero": omero})
    assert read_stack(tmp_path / "a.zarr").names == names


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_image_in_a_group_of_its_own(zarr_format: Any, tmp_path: Path) -> None:
    def facts(**given: Any) -> dict[str, Any]:
        return {"ome": given} if zarr_format == 3 else given

    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    root.attrs.update(facts(**{"bioformats2raw.layout": 3}))
    root.create_group("OME")
    write_image(root.create_group("0"), facts(multiscales=[IMAGE]))
    np.testing.assert_array_equal(read_stack(path).read(), CUBE)
    for name in ("10", "2"):
        write_image(root.create_group(name), facts(multiscales=[IMAGE]))
    with pytest.raises(StackError, match=r"one image, got the images 0, 2, 10 in the groups of .*a\.zarr.*zarr/0\.$"):
        read_stack(path)
    np.testing.assert_array_equal(read_stack(path / "2").read(), CUBE)


def test_a_group_of_images_that_does_not_say_so_names_them(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(StackError, match="a group of 0 arrays"):
        read_stack(tmp_path / "a.zarr")
    write_image(root.create_group("raw"), {"ome": {"multiscales": [IMAGE]}})
    with pytest.raises(StackError, match="got the images raw in the groups"):
        read_stack(tmp_path / "a.zarr")


def test_a_damaged_chunk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=CUBE, chunks=(1, 40, 48))
    (path / "c" / "1" / "0" / "0").write_bytes(b"\x55" * 30)
    stack = read_stack(path)
    np.testing.assert_array_equal(stack.read(channels=[0, 2]), CUBE[[0, 2]])
    with pytest.raises(StackError, match=r"readable image, got .*a\.zarr, which is damaged") as caught:
        stack.read(channels=[1])
    assert "\n" not in str(caught.value)
