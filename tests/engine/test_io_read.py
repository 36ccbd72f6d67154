"""Files that a stack is read from: pixels, axes, names, missing values, and what is refused."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from e2sam.data.io import read_stack
from e2sam.data.io.source import LazyView
from e2sam.errors import ChannelError, E2SamError, StackError

CHANNELS, HEIGHT, WIDTH = 5, 24, 33


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5000, (CHANNELS, HEIGHT, WIDTH)).astype(np.uint16)


def _write_pyramid(path: Path, cube: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(cube, subifds=1, metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write(cube[:, ::2, ::2], subfiletype=1, photometric="minisblack")


WRITERS = {
    "plain": lambda path, cube: tifffile.imwrite(path, cube, photometric="minisblack"),
    "no metadata": lambda path, cube: tifffile.imwrite(path, cube, photometric="minisblack", metadata=None),
    "compressed": lambda path, cube: tifffile.imwrite(path, cube, compression="zlib", photometric="minisblack"),
    "bigtiff": lambda path, cube: tifffile.imwrite(path, cube, bigtiff=True, photometric="minisblack"),
    "big endian": lambda path, cube: tifffile.imwrite(path, cube, byteorder=">", photometric="minisblack"),
    "tiled": lambda path, cube: tifffile.imwrite(path, cube, tile=(16, 16), photometric="minisblack"),
    "planar": lambda path, cube: tifffile.imwrite(path, cube, planarconfig="separate", photometric="minisblack"),
    "interleaved": lambda path, cube: tifffile.imwrite(
        path, np.moveaxis(cube, 0, -1), planarconfig="contig", photometric="minisblack"
    ),
    "pages of rows": lambda path, cube: tifffile.imwrite(path, np.moveaxis(cube, 0, -1), photometric="minisblack"),
    "imagej": lambda path, cube: tifffile.imwrite(path, cube, imagej=True, metadata={"axes": "CYX"}),
    "ome": lambda path, cube: tifffile.imwrite(path, cube, ome=True, metadata={"axes": "CYX"}),
    "pyramid": _write_pyramid,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("is_large", [False, True])
def test_tiff_of_every_kind(
    kind: str, is_large: bool, cube: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    path = tmp_path / "cube.tif"
    WRITERS[kind](path, cube)
    stack = read_stack(path)
    assert stack.data.shape == cube.shape
    assert isinstance(stack.data, np.ndarray) != is_large
    np.testing.assert_array_equal(stack.read(), cube)
    window = stack.read(slice(3, 20), slice(5, 31), channels=[4, 1], step=3)
    np.testing.assert_array_equal(window, cube[[4, 1], 3:20:3, 5:31:3])
    assert window.dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13, 16])
@pytest.mark.parametrize("order", ["CYX", "YXC"])
def test_npy_of_every_number_of_channels(channels: int, order: str, dtype: type, tmp_path: Path) -> None:
    cube = np.random.default_rng(1).integers(0, 200, (channels, 40, 48)).astype(dtype)
    path = tmp_path / "cube.npy"
    np.save(path, cube if order == "CYX" else np.moveaxis(cube, 0, -1))
    stack = read_stack(path)
    np.testing.assert_array_equal(stack.read(), cube)
    assert stack.read().dtype == dtype


def test_a_plain_image_is_one_channel(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "depth.tif", np.ones((20, 30), np.float32))
    stack = read_stack(tmp_path / "depth.tif")
    assert stack.data.shape == (1, 20, 30)
    assert stack.names == ("depth",)


def test_bands_are_never_frames_and_frames_are_never_bands(tmp_path: Path) -> None:
    bands = np.zeros((16, 40, 44), np.uint8)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", metadata=None)
    assert read_stack(tmp_path / "bands.tif").leading == ""
    tifffile.imwrite(tmp_path / "frames.ome.tif", bands, ome=True, metadata={"axes": "TYX"})
    frames = read_stack(tmp_path / "frames.ome.tif")
    assert (frames.leading, frames.num_channels, frames.num_planes) == ("T", 1, (16,))
    assert read_stack(tmp_path / "frames.ome.tif", channel_axis=0).num_channels == 16


def test_series_and_volume(tmp_path: Path) -> None:
    data = np.random.default_rng(2).integers(0, 9, (2, 3, 4, 20, 22)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "tz.ome.tif", data, ome=True, metadata={"axes": "TZCYX"})
    stack = read_stack(tmp_path / "tz.ome.tif")
    assert (stack.leading, stack.num_planes) == ("TZ", (2, 3))
    np.testing.assert_array_equal(stack.plane(1, 2).read(), data[1, 2])


def test_names_units_and_wavelengths(tmp_path: Path) -> None:
    cube = np.zeros((3, 20, 24), np.uint16)
    tifffile.imwrite(
        tmp_path / "stains.ome.tif",
        cube,
        ome=True,
        metadata={"axes": "CYX", "Channel": {"Name": ["DNA", "ER", "ER"], "EmissionWavelength": [460, 520, 600]}},
    )
    ome = read_stack(tmp_path / "stains.ome.tif")
    assert ome.names == ("DNA", "ER", "ER 2")
    assert [channel.wavelength_nm for channel in ome.channels] == [460, 520, 600]
    facts = [{"name": "a", "unit": "m", "wavelength_nm": 500, "kind": "depth", "nodata": -1}, "SAR_HH_dB", "0.65 um"]
    tifffile.imwrite(tmp_path / "json.tif", cube, photometric="minisblack", metadata={"axes": "CYX", "channels": facts})
    first, second, third = read_stack(tmp_path / "json.tif").channels
    assert (first.unit, first.wavelength_nm, first.kind, first.nodata) == ("m", 500, "depth", -1)
    assert (second.kind, second.unit) == ("sar", "dB")
    assert third.wavelength_nm == pytest.approx(650)


def test_kinds_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((6, 30, 30), np.uint16))
    names = ["R", "G", "B", "depth_raw", "disparity_px", "thermal"]
    stack = read_stack(tmp_path / "a.npy", channel_names=names)
    assert [spec.kind for spec in stack.channels] == ["colour"] * 3 + ["depth", "disparity", "thermal"]
    assert [spec.nodata for spec in stack.channels] == [None, None, None, 0.0, None, None]
    np.save(tmp_path / "b.npy", np.ones((2, 30, 30), np.uint8))
    picture = read_stack(tmp_path / "b.npy", channel_names=["B", "depth_vis"])
    assert [(spec.kind, spec.nodata) for spec in picture.channels] == [("", None), ("depth", None)]
    bands = read_stack(tmp_path / "b.npy", channel_names=["B04", "B8A"])
    assert [spec.wavelength_nm for spec in bands.channels] == [664.6, 864.7]
    himawari = read_stack(tmp_path / "b.npy", channel_names=["B03", "B04"])
    assert [spec.wavelength_nm for spec in himawari.channels] == [None, None]


GDAL_XML = """<GDALMetadata>
  <Item name="DESCRIPTION" sample="0" role="description">red</Item>
  <Item name="DESCRIPTION" sample="1" role="description">elevation</Item>
  <Item name="UNITTYPE" sample="1" role="unittype">m</Item>
  <Item name="AREA">elsewhere</Item>
</GDALMetadata>"""


def _write_geotiff(path: Path, data: np.ndarray) -> list[tuple[int, int, int, object]]:
    keys = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0)),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5100000.0, 0.0)),
        (34735, 3, len(keys), keys),
    ]
    texts = [(42112, 2, 0, GDAL_XML), (42113, 2, 0, "-9999")]
    tifffile.imwrite(
        path,
        data,
        planarconfig="separate",
        photometric="minisblack",
        metadata=None,
        extratags=[(*tag, True) for tag in (*tags, *texts)],
    )
    return tags


def test_geotiff(tmp_path: Path) -> None:
    data = np.arange(2 * 20 * 24, dtype=np.float32).reshape(2, 20, 24)
    data[1, 3, 4] = -9999
    data[0, 0, 0] = np.nan
    tags = _write_geotiff(tmp_path / "geo.tif", data)
    stack = read_stack(tmp_path / "geo.tif")
    assert stack.names == ("red", "elevation")
    assert [(spec.unit, spec.nodata) for spec in stack.channels] == [("", -9999), ("m", -9999)]
    assert stack.geo is not None
    assert [tuple(tag) for tag in stack.geo.tags] == tags
    assert stack.geo.epsg == 32633
    assert stack.geo.pixel_to_world == ((10.0, 0.0, 500000.0), (0.0, -10.0, 5100000.0))
    assert np.argwhere(~stack.valid).tolist() == [[0, 0, 0], [1, 3, 4]]


def test_nodata_of_the_user(tmp_path: Path) -> None:
    data = np.ones((2, 20, 24), np.int16)
    data[0, 1, 1] = -7
    np.save(tmp_path / "a.npy", data)
    assert np.argwhere(~read_stack(tmp_path / "a.npy", nodata=-7).valid).tolist() == [[0, 1, 1]]


def test_alpha_is_no_band_of_a_photograph_but_a_fourth_plane_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    colour = rng.integers(0, 256, (20, 24, 4)).astype(np.uint8)
    opaque = colour.copy()
    opaque[..., 3] = 255
    tifffile.imwrite(tmp_path / "rgba.tif", opaque, photometric="rgb")
    assert read_stack(tmp_path / "rgba.tif").names == ("R", "G", "B")
    # tifffile and others tag any four 8-bit planes so.
    tifffile.imwrite(tmp_path / "rgbd.tif", colour, photometric="rgb")
    assert read_stack(tmp_path / "rgbd.tif").num_channels == 4
    named = read_stack(tmp_path / "rgba.tif", channel_names=["R", "G", "B", "depth"])
    assert named.names == ("R", "G", "B", "depth")
    (tmp_path / "rgba.png").write_bytes(imagecodecs.png_encode(colour))
    np.testing.assert_array_equal(read_stack(tmp_path / "rgba.png").read(), np.moveaxis(colour, -1, 0)[:3])
    tifffile.imwrite(tmp_path / "four.tif", colour, photometric="minisblack", planarconfig="contig")
    assert read_stack(tmp_path / "four.tif").num_channels == 4


def test_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    deep = rng.integers(0, 65536, (20, 24, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    np.testing.assert_array_equal(read_stack(tmp_path / "deep.png").read(), np.moveaxis(deep, -1, 0))
    (tmp_path / "grey.jpg").write_bytes(imagecodecs.jpeg8_encode(np.full((20, 24), 77, np.uint8)))
    grey = read_stack(tmp_path / "grey.jpg")
    assert grey.data.shape == (1, 20, 24)
    assert abs(int(grey.read()[0, 5, 5]) - 77) <= 2
    (tmp_path / "colour.jpeg").write_bytes(imagecodecs.jpeg8_encode(np.zeros((20, 24, 3), np.uint8)))
    assert read_stack(tmp_path / "colour.jpeg").names == ("R", "G", "B")


def test_npz(tmp_path: Path) -> None:
    planes = np.random.default_rng(5).random((2, 20, 24)).astype(np.float32)
    np.savez(tmp_path / "planes.npz", red=planes[0], nir=planes[1])
    stack = read_stack(tmp_path / "planes.npz")
    assert stack.names == ("red", "nir")
    np.testing.assert_array_equal(stack.read(), planes)
    np.savez(tmp_path / "named.npz", image=planes, channels=np.array(["a", "b"]))
    assert read_stack(tmp_path / "named.npz").names == ("a", "b")
    np.savez(tmp_path / "two.npz", a=planes, b=planes[:, :5])
    with pytest.raises(StackError, match="save the one that is meant"):
        read_stack(tmp_path / "two.npz")
    with pytest.raises(StackError, match="got None"):
        read_stack(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_ome_zarr(zarr_format: int, tmp_path: Path) -> None:
    cube = np.random.default_rng(6).integers(0, 99, (3, 4, 20, 24)).astype(np.uint16)
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("0", data=cube, chunks=(1, 1, 16, 16))
    group.create_array("1", data=cube[..., ::2, ::2], chunks=(1, 1, 16, 16))
    axes = [{"name": name} for name in "zcyx"]
    facts = {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}],
        "omero": {"channels": [{"label": label} for label in "abcd"]},
    }
    group.attrs.update({"ome": facts} if zarr_format == 3 else facts)
    stack = read_stack(tmp_path / "image.zarr")
    assert (stack.leading, stack.names) == ("Z", tuple("abcd"))
    np.testing.assert_array_equal(stack.plane(2).read(slice(1, 9), slice(2, 20), [3, 0]), cube[2, [3, 0], 1:9, 2:20])


def test_plain_zarr_array(tmp_path: Path) -> None:
    cube = np.arange(20 * 24 * 5, dtype=np.float32).reshape(20, 24, 5)
    zarr.create_array(tmp_path / "a.zarr", data=cube)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.zarr").read(), np.moveaxis(cube, -1, 0))


def test_folder_and_list_of_single_channels(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        tifffile.imwrite(tmp_path / f"scene_B{number}.tif", np.full((20, 24), number, np.uint16))
    stack = read_stack(tmp_path)
    assert stack.names == ("B1", "B9", "B10")
    assert stack.read()[:, 0, 0].tolist() == [1, 9, 10]
    (tmp_path / "colour.png").write_bytes(imagecodecs.png_encode(np.zeros((20, 24, 3), np.uint8)))
    np.save(tmp_path / "depth_m.npy", np.ones((20, 24), np.float32))
    mixed = read_stack([tmp_path / "colour.png", tmp_path / "depth_m.npy"])
    assert mixed.names == ("R", "G", "B", "depth_m")
    assert mixed.data.dtype == np.float32
    assert (mixed.channels[3].kind, mixed.channels[3].unit) == ("depth", "m")
    tifffile.imwrite(tmp_path / "scene_B2.tif", np.zeros((20, 25), np.uint16))
    with pytest.raises(StackError, match=r"24 x 20 in .* 25 x 20 in scene_B2.tif"):
        read_stack(sorted(tmp_path.glob("*.tif")))


def test_folder_of_large_files_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    planes = np.random.default_rng(7).integers(0, 9, (3, 20, 24)).astype(np.uint8)
    for name, plane in zip("abc", planes, strict=True):
        tifffile.imwrite(tmp_path / f"{name}.tif", plane, compression="zlib")
    stack = read_stack(tmp_path)
    assert not isinstance(stack.data, np.ndarray)
    np.testing.assert_array_equal(stack.read(slice(2, 9), slice(1, 20), [2, 0], 2), planes[[2, 0], 2:9:2, 1:20:2])
    np.testing.assert_array_equal(stack.read(), planes)


def test_refused(tmp_path: Path, cube: np.ndarray) -> None:
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, cube, compression="zlib", photometric="minisblack")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "text.npz").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "none").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}] * 4, object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    np.save(tmp_path / "complex.npy", np.zeros((3, 20, 20), complex))
    for name in (*(path.name for path in tmp_path.iterdir() if path != whole), "missing.tif"):
        with pytest.raises(StackError) as caught:
            read_stack(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_large_file_that_is_cut_short_is_refused(
    compression: str | None, tmp_path: Path, cube: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2sam.data.io.tiff._MAX_LOADED_BYTES", 0)
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, cube, compression=compression, photometric="minisblack", metadata=None)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StackError, match="cut short"):
        read_stack(path)


@pytest.mark.parametrize("wrong", [np.zeros((3, 20, 24)), [np.zeros(3)], [None], [1], b"a.tif", 5])
def test_what_is_no_path(wrong: Any) -> None:
    with pytest.raises(StackError, match="an image file, a folder or a list of files, got") as caught:
        read_stack(wrong)
    assert "\n" not in str(caught.value)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 20, 24)))
    with pytest.raises(ChannelError, match="Expected 3 channel names, got 2"):
        read_stack(tmp_path / "a.npy", channel_names=["a", "b"])
    with pytest.raises(ChannelError, match="a twice"):
        read_stack(tmp_path / "a.npy", channel_names=["a", "a", "b"])


def test_huge_stack_opens_and_a_window_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    size = 20_000
    huge = tifffile.memmap(path, shape=(4, size, size), dtype=np.uint16, bigtiff=True, photometric="minisblack")
    huge[:, 12_345, 6_789] = (1, 2, 3, 4)
    huge.flush()
    del huge
    tracemalloc.start()
    stack = read_stack(path)
    window = stack.read(slice(12_300, 12_400), slice(6_700, 6_800))
    coarse = stack.read(step=50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stack.data.shape == (4, size, size)
    assert window[:, 45, 89].tolist() == [1, 2, 3, 4]
    assert coarse.shape == (4, 400, 400)
    assert peak < 16 << 20


@settings(max_examples=30, deadline=None)
@given(
    data=st_numpy.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 4)),
    order=st.permutations(range(4)),
    keys=st.tuples(*[st.one_of(st.integers(0, 0), st.slices(4).filter(lambda s: (s.step or 1) > 0))] * 4),
)
def test_a_view_reads_what_numpy_reads(data: np.ndarray, order: list[int], keys: tuple[object, ...]) -> None:
    view = LazyView(data, tuple(order))
    np.testing.assert_array_equal(view[keys], data.transpose(order)[keys])
    np.testing.assert_array_equal(np.asarray(view), data.transpose(order))
    with_new = LazyView(data[0], (None, 2, 0, 1))
    np.testing.assert_array_equal(with_new[keys], data[0].transpose(2, 0, 1)[None][keys])


def test_json_description_of_another_writer(tmp_path: Path) -> None:
    text = json.dumps({"channels": ["a", "b"], "nodata": 3})
    tifffile.imwrite(
        tmp_path / "j.tif", np.full((2, 20, 24), 3, np.uint8), description=text, metadata=None, photometric="minisblack"
    )
    stack = read_stack(tmp_path / "j.tif")
    assert stack.names == ("a", "b")
    assert not stack.valid.any()


def test_all_real_images(shared_data: Path) -> None:
    files = sorted(shared_data.glob("*.tif"))
    assert len(files) >= 16
    shapes = {path.stem: read_stack(path).data.shape for path in files}
    assert shapes["corn_kernel_hsi_580band"] == (580, 31, 43)
    assert shapes["samson_hsi_156band"] == (156, 95, 95)
    assert shapes["sentinel2_slovenia_dem"] == (1, 101, 100)
    assert all(len(shape) == 3 for shape in shapes.values())


def test_names_may_come_one_by_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 20, 24)))
    assert read_stack(tmp_path / "a.npy", channel_names=(name for name in "abc")).names == ("a", "b", "c")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"channel_names": 5},
        {"channel_names": "abc"},
        {"nodata": "x"},
        {"nodata": [1]},
        {"nodata": True},
        {"nodata": 10**400},
        {"channel_axis": 1.5},
        {"channel_axis": True},
        {"channel_axis": [0]},
    ],
)
def test_arguments_of_another_type(wrong: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 20, 24)))
    with pytest.raises(E2SamError, match=f"Expected {next(iter(wrong))} as a .*, got .*: give") as caught:
        read_stack(tmp_path / "a.npy", **wrong)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 24, 3)))
    stack = read_stack(tmp_path / "a.npy", np.int64(2), nodata=np.float32("nan"))  # type: ignore[arg-type]
    assert stack.num_channels == 3
    assert all(spec.nodata is not None and np.isnan(spec.nodata) for spec in stack.channels)


def test_channels_without_a_name_have_their_number(tmp_path: Path) -> None:
    facts = {"axes": "CYX", "channels": [{"name": None, "unit": "m"}, None, {"name": "c"}]}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 20, 24), np.uint16), photometric="minisblack", metadata=facts)
    assert read_stack(tmp_path / "a.tif").names == ("ch0", "ch1", "c")
