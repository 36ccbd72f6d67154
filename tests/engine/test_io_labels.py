"""Label images, out and in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from e2sam.data.io import read_labels, read_stack, write_labels
from e2sam.data.stack import GeoReference
from e2sam.errors import StackError

GEO = GeoReference(
    tags=(
        (33550, 12, 3, (0.5, 0.5, 0.0)),
        (33922, 12, 6, (0.0, 0.0, 0.0, 12.25, 47.125, 0.0)),
        (34735, 3, 8, (1, 1, 0, 1, 2048, 0, 1, 4326)),
        (34737, 2, 8, "WGS 84|"),
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st_numpy.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 65535)),
    suffix=st.sampled_from([".tif", ".png"]),
)
def test_round_trip(labels: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = write_labels(tmp_path / f"labels{suffix}", labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == suffix] == [path.name]


def test_geo_reference_is_kept(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.tif", np.eye(20, dtype=bool), GEO)
    stack = read_stack(path)
    assert stack.geo is not None
    assert stack.geo.tags == GEO.tags
    assert stack.geo.epsg == 4326
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE


def test_large_ids_need_a_tiff(tmp_path: Path) -> None:
    labels = np.array([[0, 70_000]])
    assert read_labels(write_labels(tmp_path / "a.tif", labels)).tolist() == [[0, 70_000]]
    with pytest.raises(StackError, match="write a TIFF"):
        write_labels(tmp_path / "a.png", labels)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 3, 4), int), np.zeros((3, 4)), np.array([[-1, 2]]), np.zeros((0, 4), int)]
)
def test_what_is_no_label_image(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="Expected labels"):
        write_labels(tmp_path / "a.tif", labels)
    assert list(tmp_path.iterdir()) == []


def test_wrong_targets(tmp_path: Path) -> None:
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(StackError, match=r"ending in \.tif or \.png"):
        write_labels(tmp_path / "a.bmp", labels)
    with pytest.raises(StackError, match="Expected a folder"):
        write_labels(tmp_path / "absent" / "a.tif", labels)


@pytest.mark.parametrize("wrong", [{"path": None}, {"path": 3}, {"geo": "x"}])
def test_arguments_of_another_type(wrong: dict[str, Any], tmp_path: Path) -> None:
    given: dict[str, Any] = {"path": tmp_path / "a.tif", "labels": np.eye(4, dtype=int), **wrong}
    with pytest.raises(StackError, match=r"Expected .*got (None|3|'x')"):
        write_labels(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_labels(tmp_path / "a.tif", np.full((4, 4), 3))

    def fail(part: Path, *_: object, **__: object) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("e2sam.data.io.labels.tifffile.imwrite", fail)
    with pytest.raises(StackError, match=r"a\.tif, got: No space"):
        write_labels(path, np.full((4, 4), 4))
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    assert (read_labels(path) == 3).all()


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
    (tmp_path / "text.png").write_text("no image")
    for name in ("missing.png", "float.tif", "text.png"):
        with pytest.raises(StackError, match=name):
            read_labels(tmp_path / name)
    with pytest.raises(StackError, match="path of a label image, got list"):
        read_labels([1, 2])  # type: ignore[arg-type]


def test_indexed_colours_are_labels_by_their_index(tmp_path: Path) -> None:
    """As in PASCAL VOC: colours 128,0,0 and 0,128,0 stand for the classes 1 and 2."""
    labels = np.array([[0, 1, 2], [2, 2, 3]], np.uint8)
    picture = Image.fromarray(labels)
    for bits in (2, 4):
        path = tmp_path / f"indexed{bits}.png"
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] * (1 if bits == 2 else 4))
        picture.save(path, bits=bits)
        assert path.read_bytes()[24:26] == bytes([bits, 3])
        np.testing.assert_array_equal(read_labels(path), labels)
    (tmp_path / "cut.png").write_bytes((tmp_path / "indexed4.png").read_bytes()[:60])
    with pytest.raises(StackError, match=r"cut\.png"):
        read_labels(tmp_path / "cut.png")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_are_labels_only_where_their_planes_agree(tmp_path: Path, suffix: str) -> None:
    labels = np.array([[0, 1, 2], [2, 2, 3]], np.uint8)
    path = tmp_path / f"colour{suffix}"
    colours = np.stack([labels, labels, labels, np.full_like(labels, 255)], axis=-1)
    for planes in (colours, colours[..., :3]):
        Image.fromarray(planes).save(path)
        np.testing.assert_array_equal(read_labels(path), labels)
    colours[0, 0, 1] = 9
    Image.fromarray(colours).save(path)
    with pytest.raises(StackError, match="labels in one plane, got a colour picture"):
        read_labels(path)
