"""Labels out and in again: every format, read back by other means than it was written with where there are any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from e2sam.data.export import coco_of, export, geojson_of
from e2sam.data.importing import Imported, import_coco, import_labels
from e2sam.data.io import read_stack
from e2sam.data.io.datasets import open_dataset
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.session import Conditions, NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack, GeoReference
from e2sam.errors import SessionError, StackError

SIZE = (20, 30)
CONDITIONS = Conditions(("R", "depth"), (ChannelRecipe("none", 0, 255), ChannelRecipe("log_depth", 0.1, 3.7)), "abc123")
# Model pixel scale, tie point, and keys of "projected, EPSG 32633".
TAGS = (
    (33550, 12, 3, (10.0, 10.0, 0.0)),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5100000.0, 0.0)),
    (34735, 3, 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633)),
)
SQUARE = [10, 10, 12, 10, 12, 12, 10, 12]
GEO = GeoReference(TAGS, ((10.0, 0.0, 500000.0), (0.0, -10.0, 5100000.0)), 32633)


def ring() -> MaskCrop:
    """A 4 x 4 square with a hole of 2 x 2, at x 5, y 3."""
    mask = np.ones((4, 4), bool)
    mask[1:3, 1:3] = False
    return MaskCrop(mask, 5, 3)


def block(x0: int, y0: int, x1: int, y1: int) -> MaskCrop:
    return MaskCrop(np.ones((y1 - y0, x1 - x0), bool), x0, y0)


def stack_of(geo: GeoReference | None = None, leading: str = "", planes: tuple[int, ...] = ()) -> ChannelStack:
    channels = (ChannelSpec("R"), ChannelSpec("depth"))
    return ChannelStack(np.zeros((*planes, 2, *SIZE), np.uint8), channels, geo=geo, leading=leading)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session.open(tmp_path / "a.e2sam") as opened:
        stack = opened.add_stack(stack_of(GEO), name="scene.tif")
        cell = opened.add_class("cell", "#102030")
        opened.accept(stack.id, (), NewObject(ring(), cell.id, 0.875, conditions=CONDITIONS))
        opened.accept(stack.id, (), NewObject(block(8, 5, 12, 9), origin="automatic", is_reviewed=False))
        yield opened


@pytest.mark.parametrize(("format", "name"), [("tiff", "out.tif"), ("png", "out.png")])
def test_label_images(session: Session, tmp_path: Path, format: str, name: str) -> None:
    written = export(session, format, tmp_path / name)
    assert (written.paths, written.num_objects) == ((tmp_path / name,), 2)
    read = tifffile.imread(tmp_path / name) if format == "tiff" else imagecodecs.imread(tmp_path / name)
    np.testing.assert_array_equal(read, session.labels(1))
    export(session, format, tmp_path / name, values="classes", only_reviewed=True)
    read = tifffile.imread(tmp_path / name) if format == "tiff" else imagecodecs.imread(tmp_path / name)
    np.testing.assert_array_equal(read, ring().full(SIZE) * 2)


def test_an_object_that_changes_meanwhile_is_written_as_it_was(session: Session) -> None:
    record = session.object(1)
    before = session.mask(record).full(SIZE)
    session.replace(1, NewObject(block(0, 0, 2, 2)))
    np.testing.assert_array_equal(session.mask(record).full(SIZE), before)
    session.delete([1])
    np.testing.assert_array_equal(session.mask(record).full(SIZE), before)


def test_a_label_tiff_keeps_the_geo_reference(session: Session, tmp_path: Path) -> None:
    export(session, "tiff", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        found = {code: file.pages[0].tags[code].value for code, *_ in TAGS}
    assert found == {code: value for code, _, _, value in TAGS}
    geo = read_stack(tmp_path / "out.tif").geo
    assert geo is not None
    assert (geo.pixel_to_world, geo.epsg) == (GEO.pixel_to_world, GEO.epsg)


@pytest.mark.parametrize("format", ["tiff", "png", "coco", "geojson"])
def test_the_session_and_its_images_are_never_written_over(tmp_path: Path, format: str) -> None:
    image = tmp_path / "scene.tif"
    tifffile.imwrite(image, np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, *SIZE), metadata={"axes": "CYX"})
    before = image.read_bytes()
    with Session.open(tmp_path / "a.e2sam") as session:
        session.accept(
            session.add_stack(read_stack(image)).id,
            (),
            NewObject(ring(), class_id=session.add_class("cell", "#102030").id),
        )
        for out in (session.path, image):
            with pytest.raises(SessionError, match="another file than the session and its images"):
                export(session, format, out)
    assert image.read_bytes() == before
    with Session.open(tmp_path / "a.e2sam", create=False) as session:
        assert len(session.objects(1, ())) == 1
        # A folder of channels, and a store.
        (tmp_path / "bands").mkdir()
        for band in ("red", "nir"):
            tifffile.imwrite(tmp_path / "bands" / f"{band}.tif", np.zeros(SIZE, np.uint8))
        store = zarr.create_array(tmp_path / "a.zarr", shape=(2, *SIZE), dtype="uint8")
        store[:] = 1
        for source in ("bands", "a.zarr"):
            session.add_stack(read_stack(tmp_path / source))
        for out in (tmp_path / "bands" / "red.tif", tmp_path / "bands" / "new.png", tmp_path / "a.zarr" / "zarr.json"):
            with pytest.raises(SessionError, match="another file than the session and its images"):
                export(session, format, out)


def test_the_image_is_not_needed_and_overlap_is_kept(session: Session, tmp_path: Path) -> None:
    session.set_overlap("oldest")
    export(session, "tiff", tmp_path / "out.tif")
    assert tifffile.imread(tmp_path / "out.tif")[5, 8] == 1
    session.set_overlap("newest")
    export(session, "tiff", tmp_path / "out.tif")
    assert tifffile.imread(tmp_path / "out.tif")[5, 8] == 2


def test_many_planes_go_to_a_folder_that_finetune_reads(tmp_path: Path) -> None:
    with Session.open(tmp_path / "a.e2sam") as session:
        for seed, name in enumerate(("one.tif", "two.tif")):
            pixels = np.full((2, *SIZE), seed, np.uint8)
            (tmp_path / "set").mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / "set" / name, pixels, photometric="minisblack", metadata={"axes": "CYX"})
            stack = session.add_stack(read_stack(tmp_path / "set" / name))
            session.accept(stack.id, (), NewObject(block(seed, 0, 5, 5)))
        series = session.add_stack(stack_of(leading="T", planes=(4,)), name="film.tif")
        session.accept(series.id, (2,), NewObject(block(1, 1, 5, 5)))
        written = export(session, "png", tmp_path / "set")
        assert [path.name for path in written.paths] == ["one_labels.png", "two_labels.png", "film_T002_labels.png"]
        found = open_dataset(tmp_path / "set")
        assert [item.name for item in found] == ["one", "two"]
        np.testing.assert_array_equal(found.items[1].load()[1], session.labels(2))
        with pytest.raises(SessionError, match="folder for 3 label images"):
            export(session, "png", tmp_path / "out.png")
        assert export(session, "png", tmp_path / "one.png", stack_id=1).num_objects == 1


def test_coco_says_what_a_correction_needs(session: Session, tmp_path: Path) -> None:
    export(session, "coco", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"] == [{"id": 1, "width": 30, "height": 20, "file_name": "scene.tif"}]
    assert [(one["id"], one["name"], one["color"]) for one in content["categories"]][1] == (2, "cell", [16, 32, 48])
    first, second = content["annotations"]
    assert (first["image_id"], first["category_id"], first["area"], first["bbox"]) == (1, 2, 12, [5, 3, 4, 4])
    assert first["attributes"] == {
        "channels": ["R", "depth"],
        "recipe": [recipe.to_json() for recipe in CONDITIONS.recipes],
        "model": "abc123",
        "reviewed": True,
        "session": session.id,
        "origin": "prompt",
        "score": 0.875,
    }
    assert second["attributes"]["reviewed"] is False
    # By hand, column by column of 20 pixels: 4 full, one above and one below the hole twice, 4 full.
    plain = coco_of(session, is_compressed=False)["annotations"][0]["segmentation"]
    assert plain == {"size": [20, 30], "counts": [103, 4, 16, 1, 2, 1, 16, 1, 2, 1, 16, 4, 433]}
    # The same through the text form: each count as its difference to the second before, in base 32.
    assert first["segmentation"]["counts"] == _compressed_by_definition(plain["counts"])


def _compressed_by_definition(counts: list[int]) -> str:
    """COCO's text form as its documentation describes it, digit by digit in two's complement."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        num_digits = next(n for n in range(1, 9) if -(32**n) // 2 <= value < 32**n // 2)
        digits = [(value % 32**num_digits) // 32**n % 32 for n in range(num_digits)]
        text += "".join(chr(48 + digit + (32 if n < num_digits - 1 else 0)) for n, digit in enumerate(digits))
    return text


def test_coco_comes_back_with_all_it_says(session: Session, tmp_path: Path) -> None:
    export(session, "coco", tmp_path / "out.json")
    with Session.open(tmp_path / "b.e2sam") as other:
        other.add_stack(stack_of(GEO), name="scene.tif")
        first, second = import_coco(other, tmp_path / "out.json").objects
        assert (first.area, first.score, first.conditions, first.is_reviewed) == (12, 0.875, CONDITIONS, True)
        assert (second.is_reviewed, second.origin) == (False, "import")
        assert [one.name for one in other.classes()] == ["object", "cell"]
        np.testing.assert_array_equal(other.labels(1), session.labels(1))
        other.undo()
        assert other.objects() == () and len(other.classes()) == 1, "an import is one step"
        import_coco(other, tmp_path / "out.json", is_reviewed=True)
        assert all(one.is_reviewed for one in other.objects())


def test_what_is_there_already_is_skipped(session: Session, tmp_path: Path) -> None:
    export(session, "coco", tmp_path / "out.json")
    state = session.state()
    again = import_coco(session, tmp_path / "out.json")
    assert (again.objects, again.num_skipped) == ((), 2)
    assert session.state() == state
    # Another class, one pixel less, or a move make another object.
    first, second = session.objects(1)
    session.set_class([first.id], second.class_id)
    assert import_coco(session, tmp_path / "out.json").num_skipped == 1
    labels = np.zeros(SIZE, np.int32)
    labels[2:5, 2:5] = 1
    labels[10:13, 10:14] = 2
    assert import_labels(session, 1, labels, class_id=1).num_skipped == 0
    labels[3, 3] = 0
    labels[10:13] = np.roll(labels[10:13], 1, axis=1)
    brought = import_labels(session, 1, labels, class_id=1)
    assert (len(brought.objects), brought.num_skipped) == (2, 0)
    assert import_labels(session, 1, labels, class_id=1) == Imported((), 2)

    # A file that holds an object twice brings it once.
    content = json.loads((tmp_path / "out.json").read_text())
    content["annotations"] *= 2
    (tmp_path / "twice.json").write_text(json.dumps(content))
    with Session.open(tmp_path / "b.e2sam") as other:
        other.add_stack(stack_of(GEO), name="scene.tif")
        brought = import_coco(other, tmp_path / "twice.json")
        assert (len(brought.objects), brought.num_skipped) == (2, 2)


def test_polygons_and_foreign_attributes_of_other_programs(session: Session, tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 7, "width": 30, "height": 20, "file_name": "C:\\pictures\\scene.tif"},
            {"id": 8, "width": 9, "height": 9, "file_name": "unknown.png"},
        ],
        "categories": [{"id": 3, "name": "tree"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4], SQUARE]},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [[40, 40, 50, 40, 50, 50]]},
            {"id": 3, "image_id": 8, "category_id": 3, "segmentation": [[1, 1, 3, 1, 3, 3]]},
            {
                "id": 4,
                "image_id": 7,
                "category_id": 3,
                "iscrowd": 1,
                "segmentation": {"size": [20, 30], "counts": [20, 5, 575]},
                "attributes": {"recipe": "strong", "channels": None, "reviewed": True},
            },
        ],
    }
    (tmp_path / "in.json").write_text(json.dumps(content))
    first, second = import_coco(session, tmp_path / "in.json").objects
    expected = np.zeros(SIZE, bool)
    expected[1:4, 2:6] = expected[10:12, 10:12] = True
    np.testing.assert_array_equal(session.mask(first.id).full(SIZE), expected)
    assert (second.area, second.box, second.conditions) == (5, (1, 0, 2, 5), Conditions())
    assert session.classes()[-1].name == "tree"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "other JSON"),
        ('{"images": [], "categories": [], "annotations": []}', "images of the session"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "KeyError"),
        (
            '{"images": [{"id": 1, "width": 3, "height": 3, "file_name": "scene.tif"}], '
            '"categories": [], "annotations": []}',
            "as .20, 30. .H, W.",
        ),
        (
            '{"images": [{"id": 1, "width": 30, "height": 20, "file_name": "scene.tif"}], '
            '"categories": [], "annotations": []}',
            "at least 1 annotation",
        ),
        (
            '{"images": [{"id": 1, "width": 30, "height": 20, "file_name": "scene.tif"}], '
            '"categories": [{"id": 1, "name": "a"}], "annotations": [{"image_id": 1, "category_id": 2}]}',
            "categories .1., got 2 in",
        ),
    ],
)
def test_wrong_coco_is_one_line_and_imports_nothing(
    session: Session, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "in.json").write_text(content)
    state = session.state()
    with pytest.raises(SessionError, match=message) as caught:
        import_coco(session, tmp_path / "in.json")
    assert "\n" not in str(caught.value)
    assert session.state() == state
    with pytest.raises(SessionError, match="Expected a COCO file"):
        import_coco(session, tmp_path / "nothing.json")


def test_geojson_lies_on_the_map(session: Session, tmp_path: Path) -> None:
    export(session, "geojson", tmp_path / "out.geojson", only_reviewed=True)
    content = json.loads((tmp_path / "out.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    (feature,) = content["features"]
    assert feature["properties"]["class"] == "cell"
    assert feature["properties"]["recipe"] == [recipe.to_json() for recipe in CONDITIONS.recipes]
    outer, hole = feature["geometry"]["coordinates"]
    # x 5..9 and y 3..7 in pixels of 10 m from the corner 500000, 5100000.
    corners = [[500050, 5099930], [500050, 5099970], [500090, 5099930], [500090, 5099970]]
    assert sorted(outer[:-1]) == corners
    assert outer[0] == outer[-1]
    assert sorted(hole[:-1]) == [[500060, 5099940], [500060, 5099960], [500080, 5099940], [500080, 5099960]]
    assert _area(outer) == 1600  # counter-clockwise in map coordinates
    assert _area(hole) == -400


def _area(points: list[list[float]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(points)) / 2


def test_geojson_without_geo_reference_is_in_pixels(tmp_path: Path) -> None:
    with Session.open(tmp_path / "a.e2sam") as session:
        stack = session.add_stack(stack_of(), name="plain.tif")
        mask = np.zeros((4, 4), bool)
        mask[0, 0] = mask[3, 3] = True
        session.accept(stack.id, (), NewObject(MaskCrop.of(mask, 2, 1)))
        content = geojson_of(session)
        assert content["coordinates"] == "pixel"
        geometry = content["features"][0]["geometry"]
        assert geometry["type"] == "MultiPolygon"
        assert sorted(geometry["coordinates"][0][0][:-1]) == [[2, 1], [2, 2], [3, 1], [3, 2]]


def test_stacks_of_unlike_reference_systems_are_refused(tmp_path: Path) -> None:
    with Session.open(tmp_path / "a.e2sam") as session:
        session.add_stack(stack_of(GEO), name="geo.tif")
        other = ChannelStack(np.ones((1, *SIZE), np.uint8), (ChannelSpec("a"),))
        session.add_stack(other, name="plain.tif")
        session.accept(1, (), NewObject(block(0, 0, 2, 2)))
        session.accept(2, (), NewObject(block(0, 0, 2, 2)))
        with pytest.raises(SessionError, match="one reference system"):
            export(session, "geojson", tmp_path / "out.geojson")
        assert not (tmp_path / "out.geojson").exists()
        assert export(session, "geojson", tmp_path / "out.geojson", stack_id=2).num_objects == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_label_images_come_back_as_objects(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 0, 1, 5, 70000, 2**31 - 1], SIZE).astype(np.int64)
    folder = tmp_path_factory.mktemp("labels")
    with Session.open(folder / "a.e2sam") as session:
        session.add_stack(stack_of())
        records = import_labels(session, 1, labels).objects
        values = np.unique(labels[labels > 0])
        assert [record.area for record in records] == [int((labels == value).sum()) for value in values]
        np.testing.assert_array_equal(session.labels(1) > 0, labels > 0)
        assert not records[0].is_reviewed
        session.undo()
        assert session.objects() == ()


def test_wrong_label_images_are_refused(session: Session, tmp_path: Path) -> None:
    imagecodecs.imwrite(tmp_path / "small.png", np.ones((3, 4), np.uint8))
    imagecodecs.imwrite(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(SessionError, match="like the stack"):
        import_labels(session, 1, tmp_path / "small.png")
    with pytest.raises(SessionError, match="at least 1 label"):
        import_labels(session, 1, tmp_path / "empty.png")
    with pytest.raises(StackError):
        import_labels(session, 1, tmp_path / "nothing.png")


@pytest.mark.parametrize(
    ("format", "out", "options", "message"),
    [
        ("gif", "a.gif", {}, "format of tiff"),
        ("tiff", "a.png", {}, "ending in .tif"),
        ("tiff", "a.tif", {"values": "names"}, "values"),
        ("coco", "nowhere/a.json", {}, "Expected to write"),
        ("tiff", "nowhere/a.tif", {}, "folder"),
        ([], "a.json", {}, "format of tiff"),
        ("coco", None, {}, "path of a file or folder to write, got None"),
        ("tiff", 5, {}, "path of a file or folder to write, got 5"),
        ("coco", "a" * 5000, {}, "File name too long"),
    ],
)
def test_wrong_exports_are_refused(
    session: Session, tmp_path: Path, format: Any, out: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((SessionError, StackError), match=message):
        export(session, format, tmp_path / out if isinstance(out, str) else out, **options)
    session.delete([1, 2])
    with pytest.raises(SessionError, match="at least 1 accepted object"):
        export(session, "coco", tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("a.e2sam")] == []
