"""Labelled sets in the layouts that `e2sam finetune` takes, written small by these tests."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from e2sam.data.corrections import CorrectionSet
from e2sam.data.io import read_labels
from e2sam.data.io.datasets import SHIFT_CLASSES, decode_depth, open_dataset
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import StackError


def write_pair(folder: Path, name: str, labels_suffix: str = ".png", size: tuple[int, int] = (12, 10)) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (5, *size), dtype=np.uint8)
    tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", metadata={"axes": "CYX"})
    labels = np.zeros(size, np.uint16)
    labels[2:5, 3:9], labels[7:9, 1:4] = 7, 300
    if labels_suffix == ".png":
        imagecodecs.imwrite(folder / f"{name}_labels.png", labels)
    else:
        tifffile.imwrite(folder / f"{name}_labels{labels_suffix}", labels)
    return labels


def write_shift(folder: Path, frames: list[str], size: tuple[int, int] = (10, 16)) -> None:
    """Frames as SHIFT's release lays them out: depth in 24 bits over R, G, B; the class id in R of `semseg`."""
    for number, frame in enumerate(frames):
        for kind in ("imgRGB", "depth", "semseg"):
            (folder / kind / frame).parent.mkdir(parents=True, exist_ok=True)
        colour = np.full((*size, 3), (200, 100, 50), np.uint8)
        imagecodecs.imwrite(folder / "imgRGB" / f"{frame}_img_front.jpg", colour, level=98)
        depth = np.zeros((*size, 3), np.uint8)
        depth[:5] = (1, 2, 3)
        imagecodecs.imwrite(folder / "depth" / f"{frame}_depth_front.png", depth)
        classes = np.zeros((*size, 4), np.uint8)
        classes[..., 0] = 7 + number
        classes[..., 1:] = 99
        imagecodecs.imwrite(folder / "semseg" / f"{frame}_semseg_front.png", classes)


def write_h8(folder: Path, size: int = 16) -> None:
    generator = np.random.default_rng(1)
    for split, name, mask_name in (
        ("train_all", "a", "conn_a_300_sp.png"),
        ("val_2021", "b", "b.png"),
        ("val_2021", "unlabelled", ""),
    ):
        (folder / split).mkdir(parents=True, exist_ok=True)
        bands = generator.integers(0, 255, (size, size, 17), dtype=np.uint8)
        np.save(folder / split / f"{name}.npy", bands)
        mask = np.zeros((size // 2, size // 2), np.uint8)
        mask[:, size // 4 :] = 255
        if mask_name:
            imagecodecs.imwrite(folder / split / mask_name, mask)


def test_depth_is_decoded_as_the_release_says() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [1, 2, 3], [0, 0, 128]]], np.uint8)
    expected = [0.0, 1000.0, (1 + 2 * 256 + 3 * 65536) / 16777215 * 1000, 128 * 65536 / 16777215 * 1000]
    np.testing.assert_allclose(decode_depth(pixels)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pairs_keep_labels_above_255(tmp_path: Path, suffix: str) -> None:
    labels = write_pair(tmp_path, "one", suffix)
    found = open_dataset(tmp_path)
    stack, read = found.items[0].load()
    assert (found.kind, found.ignore_index, len(found), found.items[0].name) == ("instances", 0, 1, "one")
    assert stack.data.shape == (5, 12, 10)
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.int32


def test_pairs_in_split_folders(tmp_path: Path) -> None:
    write_pair(tmp_path / "train", "one")
    write_pair(tmp_path / "val", "one")
    found = open_dataset(tmp_path, kind="classes")
    assert [(item.name, item.split) for item in found] == [("train/one", "train"), ("val/one", "val")]
    assert found.kind == "classes"
    assert [item.name for item in found.of_split("val")] == ["val/one"]


def test_every_kind_of_image_is_paired_and_labels_alone_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planes = np.arange(2 * 12 * 16, dtype=np.uint8).reshape(2, 12, 16)
    tifffile.imwrite(tmp_path / "a.btf", planes, photometric="minisblack", metadata={"axes": "CYX"})
    store = zarr.create_array(tmp_path / "b.zarr", shape=planes.shape, dtype="uint8")
    store[:] = planes
    (tmp_path / "S2A.SAFE").mkdir()
    for band, plane in zip(("B02", "B03"), planes, strict=True):
        tifffile.imwrite(tmp_path / "S2A.SAFE" / f"{band}.tif", plane)
    for name in ("a", "b", "S2A.SAFE", "away", "afar"):
        imagecodecs.imwrite(tmp_path / f"{name}_labels.png", np.ones((12, 16), np.uint8))
    found = open_dataset(tmp_path)
    assert [item.name for item in found] == ["S2A.SAFE", "a", "b"]
    assert "No image beside 2 of the labels" in caplog.text and "afar_labels.png, away_labels.png" in caplog.text
    for item in found:
        np.testing.assert_array_equal(item.load()[0].read(), planes)
    np.save(tmp_path / "a.npy", planes)
    with pytest.raises(StackError, match="several named a"):
        open_dataset(tmp_path)


def test_labels_of_planes_are_paired_as_they_are_exported_and_predicted(tmp_path: Path) -> None:
    volume = np.arange(2 * 3 * 2 * 12 * 16).reshape(2, 3, 2, 12, 16).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", volume, photometric="minisblack", metadata={"axes": "TZCYX"})
    names = {
        "cells_labels.tif": (0, 0),
        "cells_T001_Z002_labels.tif": (1, 2),
        "cells_labels_0000_0001.tif": (0, 1),
    }
    for number, name in enumerate(names, 1):
        tifffile.imwrite(tmp_path / name, np.full((12, 16), number, np.uint8))
    found = {item.name: item for item in open_dataset(tmp_path)}
    assert set(found) == {"cells", "cells_0001_0002", "cells_0000_0001"}
    assert {item.series for item in found.values()} == {"cells"}
    for number, at in enumerate(names.values(), 1):
        name = "cells" if number == 1 else f"cells_{at[0]:04d}_{at[1]:04d}"
        stack, labels = found[name].load()
        np.testing.assert_array_equal(stack.read(), volume[at])
        assert labels[0, 0] == number
    assert {one.image.group for one in CorrectionSet.from_dataset(open_dataset(tmp_path))} == {"cells"}
    tifffile.imwrite(tmp_path / "cells_labels_0007_0000.tif", np.ones((12, 16), np.uint8))
    with pytest.raises(StackError, match=r"one of 2 x 3 planes of cells.tif, got labels of \(7, 0\)"):
        [item.load() for item in open_dataset(tmp_path)]


def test_labels_of_several_pages_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for number in (1, 2):
            writer.write(np.full((6, 7), number, np.uint8))
    with pytest.raises(StackError, match=r"Expected one label image in .*, got 2"):
        read_labels(tmp_path / "pages.tif")


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "one")
    imagecodecs.imwrite(tmp_path / "one_labels.png", np.ones((3, 4), np.uint8))
    with pytest.raises(StackError, match=r"labels of one as \(12, 10\)"):
        open_dataset(tmp_path).items[0].load()


def test_labels_in_colour_are_read_by_index_or_refused(tmp_path: Path) -> None:
    labels = write_pair(tmp_path, "one").clip(0, 9).astype(np.uint8)
    picture = Image.fromarray(labels)
    picture.putpalette([200, 10, 10] + 9 * [30, 40, 50])
    picture.save(tmp_path / "one_labels.png")
    np.testing.assert_array_equal(open_dataset(tmp_path).items[0].load()[1], labels)
    picture.convert("RGB").save(tmp_path / "one_labels.png")
    with pytest.raises(StackError, match="one plane, got a colour picture"):
        open_dataset(tmp_path).items[0].load()


def test_shift_reads_rgb_depth_and_classes(tmp_path: Path) -> None:
    write_shift(tmp_path, ["seq1/00000001", "seq2/00000001"])
    found = open_dataset(f"shift:{tmp_path}")
    stack, labels = found.items[1].load()
    assert (found.kind, found.ignore_index, found.classes) == ("classes", 0, SHIFT_CLASSES)
    assert [item.name for item in found] == ["seq1/00000001", "seq2/00000001"]
    assert stack.names == ("R", "G", "B", "depth")
    np.testing.assert_allclose(stack.data[:3, 0, 0], (200, 100, 50), atol=3)  # R, G, B, not B, G, R
    assert stack.channels[3].unit == "m"
    np.testing.assert_allclose(stack.data[3, :5], (1 + 512 + 196608) / 16777215 * 1000, rtol=1e-6)
    assert np.unique(labels).tolist() == [8]


def test_shift_lists_choose_frames_and_time_of_day(tmp_path: Path) -> None:
    write_shift(tmp_path, ["seq1/00000001", "seq1/00000002", "seq2/00000001"])
    (tmp_path / "train.txt").write_text("seq1/00000001,night\nimgRGB/seq1/00000002_img_front.jpg,day\n\n")
    (tmp_path / "val.txt").write_text("seq2/00000001,night\n")
    everything = open_dataset(f"shift:{tmp_path}")
    assert [item.split for item in everything] == ["train", "train", "val"]
    night = open_dataset(f"shift:{tmp_path}?time=night")
    assert [item.name for item in night] == ["seq1/00000001", "seq2/00000001"]
    (tmp_path / "mine.txt").write_text("seq1/00000002\n")
    assert [item.name for item in open_dataset(f"shift:{tmp_path}?list=mine.txt")] == ["seq1/00000002"]
    night.items[0].load()


def test_h8_takes_sixteen_bands_and_resizes_the_mask(tmp_path: Path) -> None:
    write_h8(tmp_path)
    found = open_dataset(f"h8:{tmp_path}")
    assert [(item.name, item.split) for item in found] == [("train_all/a", "train"), ("val_2021/b", "val")]
    assert (found.ignore_index, found.classes) == (None, ("clear", "fog"))
    stack, labels = found.items[0].load()
    stored = np.load(tmp_path / "train_all" / "a.npy")
    np.testing.assert_array_equal(stack.read(), np.moveaxis(stored[..., :16], -1, 0))
    assert stack.channels[0].wavelength_nm == 470
    expected = np.zeros((16, 16), np.int32)
    expected[:, 8:] = 1
    np.testing.assert_array_equal(labels, expected)


def test_a_session_gives_instances_and_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, "one")
    pixels = tifffile.imread(tmp_path / "one.tif")
    stack = ChannelStack(pixels, tuple(ChannelSpec(f"c{i}") for i in range(5)), source=tmp_path / "one.tif")
    mask = np.zeros((12, 10), bool)
    mask[1:4, 2:5] = True
    with Session.open(tmp_path / "a.e2sam") as session:
        record = session.add_stack(stack)
        cell = session.add_class("cell")
        session.accept(record.id, (), NewObject(MaskCrop.of(mask)))
        session.accept(record.id, (), NewObject(MaskCrop.of(np.roll(mask, 5, axis=0)), class_id=cell.id))
    instances = open_dataset(tmp_path / "a.e2sam").items[0].load()[1]
    assert np.unique(instances).tolist() == [0, 1, 2]
    found = open_dataset(tmp_path / "a.e2sam", kind="classes")
    loaded, classes = found.items[0].load()
    np.testing.assert_array_equal(loaded.read(), pixels)
    assert classes[1, 2] == 1
    assert classes[6, 2] == cell.id
    assert found.classes == ("unlabelled", "object", "cell")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "Expected a session .* shift:DIR or h8:DIR, got nothing"),
        ("", "Expected pairs NAME.tif"),
        ("shift:", "Expected a folder, got nothing at .*imgRGB"),
        ("h8:", r"Expected <split>/<id>.npy"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path: Path, spec: str, message: str) -> None:
    prefix, _, rest = spec.rpartition(":")
    place = f"{prefix}:{tmp_path / rest}" if prefix else str(tmp_path / rest)
    with pytest.raises(StackError, match=message) as caught:
        open_dataset(place)
    assert "\n" not in str(caught.value)


def test_a_broken_cube_is_named(tmp_path: Path) -> None:
    write_h8(tmp_path)
    (tmp_path / "val_2021" / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(StackError, match=r"b\.npy"):
        open_dataset(f"h8:{tmp_path}").items[1].load()
