"""Corrections as training data: from sessions and from labelled sets."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from e2sam.data.corrections import CorrectionSet
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.session import Conditions, NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import SessionError

SIZE = (12, 10)
CONDITIONS = Conditions(("b",), (ChannelRecipe("percentile", 1.5, 9.25),), "f00d")


def write_image(path: Path, seed: int = 0) -> ChannelStack:
    pixels = np.random.default_rng(seed).integers(0, 255, (2, *SIZE), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    return ChannelStack(pixels, (ChannelSpec("a"), ChannelSpec("b")), source=path)


def block(x0: int, y0: int, x1: int, y1: int) -> MaskCrop:
    return MaskCrop(np.ones((y1 - y0, x1 - x0), bool), x0, y0)


@pytest.fixture
def session_file(tmp_path: Path) -> Path:
    """Two images; one object clicked, one found by itself and waiting, one imported and reviewed."""
    prompts = Prompts(np.array([[2.5, 3.5]], np.float32), np.ones(1, np.int32))
    with Session.open(tmp_path / "a.e2sam") as session:
        one = session.add_stack(write_image(tmp_path / "one.tif"))
        two = session.add_stack(write_image(tmp_path / "two.tif", 1))
        cell = session.add_class("cell")
        session.accept(one.id, (), NewObject(block(1, 2, 4, 5), cell.id, 0.9, prompts, CONDITIONS))
        session.accept(one.id, (), NewObject(block(6, 6, 8, 9), origin="automatic", is_reviewed=False))
        session.accept(two.id, (), NewObject(block(0, 0, 2, 2), origin="import"))
    return tmp_path / "a.e2sam"


def test_a_session_gives_what_a_person_made_or_looked_at(session_file: Path) -> None:
    corrections = CorrectionSet.open(session_file)
    assert [(one.class_name, one.mask.box) for one in corrections] == [
        ("cell", (1, 2, 4, 5)),
        ("object", (0, 0, 2, 2)),
    ]
    first = corrections.corrections[0]
    assert (first.conditions, first.prompts.points.tolist(), first.is_reviewed) == (CONDITIONS, [[2.5, 3.5]], True)
    assert first.image.size == SIZE
    np.testing.assert_array_equal(first.image.load().read(), tifffile.imread(session_file.parent / "one.tif"))
    with Session.open(session_file) as session:
        assert len(CorrectionSet.from_session(session, with_unreviewed=True)) == 3


def test_unlabelled_pixels_are_zero_and_keys_are_stable(session_file: Path) -> None:
    corrections = CorrectionSet.open(session_file)
    again = CorrectionSet.open(session_file)
    assert [one.key for one in corrections] == [one.key for one in again]
    first, second = corrections.images
    labels = corrections.labels(first.key)
    expected = np.zeros(SIZE, np.int32)
    expected[2:5, 1:4] = 1
    np.testing.assert_array_equal(labels, expected)
    assert corrections.labels(second.key).max() == 2
    assert len(corrections.of_image(second.key)) == 1
    assert [one.key for one in corrections.chosen([again.corrections[1].key])] == [corrections.corrections[1].key]
    with pytest.raises(SessionError, match="image with corrections"):
        corrections.labels("nothing")


def test_an_image_keeps_its_key_when_it_moves(session_file: Path) -> None:
    before = CorrectionSet.open(session_file).images[0].key
    folder = session_file.parent / "new"
    folder.mkdir()
    (session_file.parent / "one.tif").rename(folder / "one.tif")
    with Session.open(session_file) as session:
        session.find_missing(folder)
    image = CorrectionSet.open(session_file).images[0]
    assert image.key == before
    assert image.load().size == SIZE


def test_pairs_give_every_instance(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_image(tmp_path / split / "one.tif")
        labels = np.zeros(SIZE, np.uint16)
        labels[0:2, 0:3], labels[5:9, 4:6], labels[11, 9] = 3, 700, 3
        imagecodecs.imwrite(tmp_path / split / "one_labels.png", labels)
    corrections = CorrectionSet.open(tmp_path)
    assert [(one.split, one.mask.area) for one in corrections] == [
        ("train", 7),
        ("train", 8),
        ("val", 7),
        ("val", 8),
    ]
    assert len(corrections.of_split("val")) == 2
    assert len(corrections.images) == 2
    assert corrections.corrections[0].prompts.is_empty
    assert corrections.corrections[0].image.load().data.shape == (2, *SIZE)


def test_classes_give_their_regions(tmp_path: Path) -> None:
    from e2sam.data.io.datasets import open_dataset

    write_image(tmp_path / "one.tif")
    labels = np.zeros(SIZE, np.uint8)
    labels[0:2, 0:3], labels[5:9, 4:6], labels[11, 9] = 1, 2, 1
    imagecodecs.imwrite(tmp_path / "one_labels.png", labels)
    found = CorrectionSet.from_dataset(open_dataset(tmp_path, kind="classes"), minimum_area=2)
    assert [(one.class_name, one.mask.area) for one in found] == [("1", 6), ("2", 8)]
    assert len({one.key for one in found}) == 2
