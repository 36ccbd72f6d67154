"""TIFFs of several images: positions, thumbnails, and images that differ; and pictures with a palette."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from e2sam.data.io import read_labels, read_stack
from e2sam.errors import AxisError, StackError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 5000, shape).astype(np.uint16)


def write(path: Path, images: list[tuple[np.ndarray, str]], ome: bool = True, **more: Any) -> Path:
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for number, (data, axes) in enumerate(images):
            names = [f"{number}{letter}" for letter in "abcdefgh"[: data.shape[axes.index("C")] if "C" in axes else 1]]
            facts = {"axes": axes, "Channel": {"Name": names}} if axes else {}
            writer.write(data, photometric="rgb" if "S" in axes else "minisblack", metadata=facts, **more)
    return path


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("axes", "leading"), [("YX", "T"), ("CYX", "T"), ("ZCYX", "TZ"), ("TCYX", "TZ")])
def test_positions_of_one_shape_are_planes(
    axes: str,
    leading: str,
    compression: str | None,
    is_large: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_large:
        monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    fields = pixels(3, *(2, 4, 20, 30)[4 - len(axes) :])
    path = write(tmp_path / "fields.ome.tif", [(field, axes) for field in fields], compression=compression)
    stack = read_stack(path)
    assert (stack.leading, stack.num_channels) == (leading, 4 if "C" in axes else 1)
    assert isinstance(stack.data, np.ndarray) != is_large
    if "C" in axes:
        assert stack.names == ("0a", "0b", "0c", "0d")
    for position, field in enumerate(fields):
        for index in range(2) if len(leading) == 2 else [None]:
            # A series keeps its T; positions then lie along Z.
            at = [position] if index is None else [index, position] if "T" in axes else [position, index]
            expected = (field if index is None else field[index]).reshape(-1, 20, 30)
            np.testing.assert_array_equal(stack.plane(*at).read(), expected)
            window = stack.plane(*at).read(slice(3, 17), slice(5, 25), [0], step=2)
            np.testing.assert_array_equal(window, expected[[0], 3:17:2, 5:25:2])
    np.testing.assert_array_equal(np.asarray(stack.data[1:3])[..., 4, 5], np.asarray(stack.data[...])[1:3, ..., 4, 5])


def test_positions_beside_time_and_depth_are_too_many(tmp_path: Path) -> None:
    path = write(tmp_path / "all.ome.tif", [(pixels(2, 3, 4, 20, 30), "TZCYX")] * 2)
    with pytest.raises(StackError, match="at most two axes before the channels"):
        read_stack(path)


def test_images_without_axes_are_as_open_as_any_array(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.tif", [(pixels(4, 20, 30), ""), (pixels(4, 20, 30), "")], ome=False)
    with pytest.raises(AxisError, match=r"shape \(2, 4, 20, 30\)"):
        read_stack(path)
    assert read_stack(path, "TCYX").num_planes == (2,)


def test_images_that_differ_are_listed(tmp_path: Path) -> None:
    images = [(pixels(4, 20, 30), "CYX"), (pixels(4, 22, 30), "CYX"), (pixels(4, 20, 30), "CYX")]
    with pytest.raises(StackError) as caught:
        read_stack(write(tmp_path / "fields.ome.tif", images))
    said = str(caught.value)
    assert "got 3: " in said and "(4, 20, 30) uint16" in said and "(4, 22, 30) uint16" in said
    assert "\n" not in said and "fields.ome.tif" in said and "file of its own" in said


@pytest.mark.parametrize("is_first", [False, True])
def test_a_picture_of_the_label_is_left_out(is_first: bool, tmp_path: Path) -> None:
    main, label = pixels(4, 60, 80), RNG.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    images = [(main, "CYX"), (label, "YXS")]
    stack = read_stack(write(tmp_path / "slide.ome.tif", images[::-1] if is_first else images))
    np.testing.assert_array_equal(stack.read(), main)
    assert stack.names == (("1a", "1b", "1c", "1d") if is_first else ("0a", "0b", "0c", "0d"))
    # A position that is as large as the others by a tenth is no thumbnail.
    many = [(pixels(4, 20, 30), "CYX") for _ in range(12)]
    with pytest.raises(StackError, match="got 13"):
        read_stack(write(tmp_path / "fields.ome.tif", [*many, (pixels(4, 20, 12), "CYX")]))
    assert read_stack(write(tmp_path / "small.ome.tif", [*many, (pixels(4, 5, 6), "CYX")])).num_planes == (12,)


def test_reduced_copies_and_masks_are_left_out(tmp_path: Path) -> None:
    main = pixels(60, 80)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(main, metadata=None)
        writer.write(main[:, ::2][:37], subfiletype=1, metadata=None)
        writer.write(np.ones((60, 80), bool), subfiletype=4, photometric=4, metadata=None)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif").read()[0], main)


def test_every_image_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    path = write(tmp_path / "cut.tif", [(pixels(30, 40), "YX")] * 2, ome=False)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StackError, match="cut short"):
        read_stack(path)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_gives_colours(scale: int, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_large:
        monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    numbers = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    path = tmp_path / "map.tif"
    tifffile.imwrite(path, numbers, photometric="palette", colormap=colours * scale)
    stack = read_stack(path)
    assert (stack.names, stack.read().dtype) == (("R", "G", "B"), np.uint8)
    np.testing.assert_array_equal(stack.read(), colours[:, numbers])
    window = stack.read(slice(3, 17), slice(5, 25), [2, 0], step=2)
    np.testing.assert_array_equal(window, colours[[2, 0]][:, numbers[3:17:2, 5:25:2]])
    # Labels are numbers, whatever the colours they are shown in.
    np.testing.assert_array_equal(read_labels(path), numbers)


def test_pages_and_measurements_with_a_palette_stay_as_stored(tmp_path: Path) -> None:
    pages = RNG.integers(0, 256, (4, 20, 30)).astype(np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="palette", colormap=colours, metadata={"axes": "ZYX"})
    stack = read_stack(tmp_path / "pages.tif")
    assert (stack.leading, stack.num_channels) == ("Z", 1)
    np.testing.assert_array_equal(stack.plane(2).read()[0], pages[2])
    # ImageJ writes the colours that a measurement is shown in as a palette.
    facts: dict[str, Any] = {"description": "ImageJ=1.54f\n", "metadata": None}
    tifffile.imwrite(tmp_path / "fire.tif", pages[0], photometric="palette", colormap=colours, **facts)
    np.testing.assert_array_equal(read_stack(tmp_path / "fire.tif").read(), pages[:1])


@pytest.mark.parametrize("shape", [(300, 300), (300, 300, 3)])
def test_a_jpeg_that_is_cut_short_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    encoded = imagecodecs.jpeg8_encode(RNG.integers(0, 255, shape).astype(np.uint8), level=90)
    path = tmp_path / "a.jpg"
    # A thumbnail in the head brings an end marker of its own.
    thumbnail = imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8))
    head = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    for whole in (encoded, encoded[:2] + head + encoded[2:]):
        for more in (b"", b"\0\0\n", b"after the end" * 900):
            path.write_bytes(whole + more)
            assert read_stack(path).size == (300, 300)
        for kept in (len(whole) // 2, len(whole) - 2, len(whole) - 1):
            for filled in (b"", b"\0" * 5000):
                path.write_bytes(whole[:kept] + filled)
                with pytest.raises(StackError, match=r"whole JPEG, got .*a\.jpg, which is cut short"):
                    read_stack(path)


def test_bands_are_no_colours_whatever_the_writer_calls_them(tmp_path: Path) -> None:
    bands = RNG.integers(0, 256, (4, 20, 30)).astype(np.uint8)
    bands[3] = np.where(RNG.random((20, 30)) < 0.05, 99, 0)
    path = tmp_path / "a.tif"
    # What tifffile writes where its caller says nothing of colours.
    planes: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    for metadata in ({"axes": "CYX"}, {}, None):
        tifffile.imwrite(path, bands, metadata=metadata, **planes)
        stack = read_stack(path)
        assert stack.names == ("ch0", "ch1", "ch2", "ch3")
        np.testing.assert_array_equal(stack.read(), bands)
    tifffile.imwrite(path, np.moveaxis(bands, 0, -1), photometric="rgb", metadata={"axes": "YXC"})
    assert read_stack(path).num_channels == 4
    tifffile.imwrite(path, bands[:3].astype(np.float32), metadata=None, **planes)
    assert [spec.kind for spec in read_stack(path).channels] == [""] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_photograph_has_colours(name: str, samples: int, dtype: type, tmp_path: Path) -> None:
    photograph = RNG.integers(0, 256, (20, 30, samples)).astype(dtype)
    photograph[..., 3:] = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / name, photograph, photometric="rgb", metadata={"axes": "YXS"})
    stack = read_stack(tmp_path / name)
    assert [(spec.name, spec.kind) for spec in stack.channels] == [(letter, "colour") for letter in "RGB"]
    np.testing.assert_array_equal(stack.read(), np.moveaxis(photograph, -1, 0)[:3])
    # Bands of a photograph beside each other, as geographic tools write them.
    facts: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(photograph[..., :3], -1, 0), **facts)
    assert read_stack(tmp_path / "a.tif").names == ("R", "G", "B")


DAMAGED = """
import sys
from pathlib import Path
import e2sam.data.io.tiff
from e2sam import read_stack
from e2sam.errors import StackError
e2sam.data.io.tiff._MAX_LOADED_BYTES = 0
stack = read_stack(sys.argv[1])
stack.read(slice(32, 64))
try:
    stack.read()
except StackError as error:
    print(error)
"""


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
def test_a_damaged_tile_is_one_line(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    facts: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(path, pixels(4, 512, 512), tile=(32, 32), compression=compression, **facts)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[1].dataoffsets[3], file.pages[1].databytecounts[3]
    encoded = bytearray(path.read_bytes())
    encoded[start : start + count] = b"\xfa" * count
    path.write_bytes(encoded)
    done = subprocess.run([sys.executable, "-c", DAMAGED, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Expected a readable image, got {path}, which is damaged")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
