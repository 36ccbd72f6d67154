"""Geo-references: kept through files, shared by several of them, and left out where they do not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from e2sam.data.io import read_labels, read_stack, read_with_notes, write_labels, write_stack
from e2sam.data.stack import GeoReference
from e2sam.errors import StackError


def write(path: Path, east: float = 500000.0, epsg: int = 32633, text: bytes = b"", shape: Any = (20, 24)) -> Path:
    keys = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0)),
        (33922, 12, 6, (0.0, 0.0, 0.0, east, 5100000.0, 0.0)),
        (34735, 3, len(keys), keys),
        *([(34737, 2, 0, text)] if text else []),
    ]
    facts: dict[str, Any] = {"planarconfig": "separate"} if len(shape) > 2 else {}
    tifffile.imwrite(
        path,
        np.random.default_rng(0).integers(0, 99, shape).astype(np.uint16),
        photometric="minisblack",
        metadata=None,
        extratags=[(*tag, True) for tag in tags],
        **facts,
    )
    return path


@pytest.mark.parametrize("facts", [{"east": 500010.0}, {"east": 500000.2}, {"epsg": 32634}])
def test_files_from_different_places_are_refused(facts: dict[str, Any], tmp_path: Path) -> None:
    files = [write(tmp_path / "s_a.tif"), write(tmp_path / "s_b.tif"), write(tmp_path / "s_c.tif", **facts)]
    for given in (files, tmp_path):
        with pytest.raises(StackError, match=r"one place on the ground, got .*s_a\.tif and .*s_c\.tif") as caught:
            read_stack(given)
        assert "\n" not in str(caught.value)


def test_files_from_one_place_share_their_reference(tmp_path: Path) -> None:
    picture = tmp_path / "rgb.png"
    picture.write_bytes(imagecodecs.png_encode(np.zeros((20, 24, 3), np.uint8)))
    files = [picture, write(tmp_path / "s_a.tif"), write(tmp_path / "s_b.tif", 500000.0000001)]
    assert read_stack(files).geo == read_stack(files[1]).geo
    assert read_stack([picture, picture]).geo is None


@pytest.mark.parametrize("text", ["Réunion|WGS 84|".encode(), "Réunion|WGS 84|".encode("cp1252"), b"WGS 84|"])
def test_a_text_of_any_bytes_is_kept(text: bytes, tmp_path: Path) -> None:
    stack = read_stack(write(tmp_path / "a.tif", text=text))
    assert stack.geo is not None
    for path in (
        write_stack(tmp_path / "b.tif", stack),
        write_labels(tmp_path / "c.tif", np.eye(4, dtype=int), stack.geo),
    ):
        with tifffile.TiffFile(path) as file:
            tag = file.pages[0].tags[34737]
            file.filehandle.seek(tag.valueoffset)
            assert file.filehandle.read(tag.valuebytecount) == text + b"\0"
        assert read_stack(path).geo == stack.geo


def test_a_text_that_is_no_ascii_is_written_without_what_is_not(tmp_path: Path) -> None:
    """As sessions of the first version hold it."""
    labels = np.eye(4, dtype=int)
    path = write_labels(tmp_path / "a.tif", labels, GeoReference(tags=((34737, 2, 9, "Réunion|"),)))
    np.testing.assert_array_equal(read_labels(path), labels)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].tags[34737].value == "R?union|"


@pytest.mark.parametrize("axis", ["CXY", 1, 2])
def test_other_rows_and_columns_lose_the_reference(axis: str | int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", shape=(3, 20, 24))
    stack, notes = read_with_notes(path, axis)
    assert stack.geo is None
    assert [note for note in notes if note.startswith("The geo-reference of a.tif was left out")] == notes != []
    for same in ("CYX", 0, None):
        kept, notes = read_with_notes(path, same)
        assert (kept.geo is not None, notes) == (True, [])
    write_stack(tmp_path / "b.tif", kept)
    assert read_stack(tmp_path / "b.tif").geo == kept.geo
