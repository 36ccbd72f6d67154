"""COCO files against the images of a session: which image is meant, and annotations that are of no use."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.export import coco_of, export
from e2sam.data.importing import Imported, import_coco, import_labels
from e2sam.data.io import read_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.errors import E2SamError, SessionError

SIZE = (20, 30)
SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def session_of(folder: Path, files: Sequence[str], name: str = "s.e2sam") -> Session:
    """A session of images at these places below a folder, each of other content."""
    session = Session.open(folder / name)
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((2, *SIZE), sum(str(path).encode()) % 251, np.uint8))
        session.add_stack(read_stack(path))
    return session


def mark(session: Session) -> None:
    """One object on each stack: as wide as the stack's number."""
    for record in session.stacks():
        session.accept(record.id, (), NewObject(MaskCrop(np.ones((1, record.id), bool), 3, 4)))


def widths(session: Session) -> dict[str, list[int]]:
    """Areas of the objects on each stack, by folder and file."""
    return {
        "/".join(record.paths[0].parts[-2:]): [one.area for one in session.objects(record.id, ())]
        for record in session.stacks()
    }


def coco(names: Sequence[str], annotations: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A file with an image for each name and, unless given, a square on each."""
    return {
        "images": [{"id": at, "width": 30, "height": 20, "file_name": name} for at, name in enumerate(names)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"image_id": at, "category_id": 1, "segmentation": [[0, 0, at + 1, 0, at + 1, 1, 0, 1]]}
            for at in range(len(names))
        ]
        if not annotations
        else [{"image_id": 0, "category_id": 1, **one} for one in annotations],
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "in.json"
    path.write_text(json.dumps(content))
    return path


def test_images_of_one_name_come_back_to_their_own(tmp_path: Path) -> None:
    files = ["one/a/scene.npy", "one/b/scene.npy", "two/b/scene.npy", "one/other.npy"]
    with session_of(tmp_path, files) as session:
        mark(session)
        names = [image["file_name"] for image in coco_of(session)["images"]]
        assert names == ["a/scene.npy", "one/b/scene.npy", "two/b/scene.npy", "other.npy"]
        export(session, "coco", tmp_path / "out.json")
        export(session, "coco", tmp_path / "third.json", stack_id=3)
    with session_of(tmp_path, files[::-1], "again.e2sam") as again:
        import_coco(again, tmp_path / "third.json")
        assert [record.stack_id for record in again.objects()] == [2]
        import_coco(again, tmp_path / "out.json")
        found = {record.paths[0]: [one.area for one in again.objects(record.id, ())] for record in again.stacks()}
        assert found == {tmp_path / file: [number] for number, file in enumerate(files, start=1)}


def test_label_files_of_images_with_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    with session_of(tmp_path, ["x/a.npy", "y/A.npy", "z/a-1.npy"]) as session:
        mark(session)
        found = export(session, "png", tmp_path / "labels")
        assert len({path.name.casefold() for path in found.paths}) == len(list((tmp_path / "labels").iterdir())) == 3


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    with session_of(tmp_path, ["scene.npy"]) as session:
        path = tmp_path / "in.json"
        mark(session)
        path.write_text(json.dumps(coco_of(session)), encoding="utf-8-sig")
        assert import_coco(session, path) == Imported((), 1, 0), "the object is known"


def test_images_that_are_not_there_do_not_go_to_one_of_their_name(tmp_path: Path) -> None:
    content = coco(["a/scene.npy", "b\\scene.npy", "C:\\data\\c\\scene.npy"])
    with session_of(tmp_path, ["a/scene.npy"], "one.e2sam") as session:
        import_coco(session, written(tmp_path, content))
        assert widths(session) == {"a/scene.npy": [1]}
    with session_of(tmp_path, ["c/scene.npy", "b/scene.npy"], "two.e2sam") as session:
        import_coco(session, written(tmp_path, content))
        assert widths(session) == {"c/scene.npy": [3], "b/scene.npy": [2]}
    with session_of(tmp_path, ["z/scene.npy"], "three.e2sam") as session:
        import_coco(session, written(tmp_path, coco(["train/scene.npy"])))
        assert widths(session) == {"z/scene.npy": [1]}


@pytest.mark.parametrize(
    ("files", "names", "said"),
    [
        (["a/scene.npy", "b/scene.npy"], ["scene.npy"], "'scene.npy' .*2 that it fits equally: .*/a/scene.npy, .*/b/"),
        (["a/scene.npy", "b/scene.npy"], ["a/scene.npy", "c/scene.npy"], "'c/scene.npy' .*fits equally"),
        (["z/scene.npy"], ["a/scene.npy", "b/scene.npy"], "/z/scene.npy, got 2 .*: a/scene.npy, b/scene.npy"),
        (["z/scene.npy"], ["scene.npy", "scene.npy"], "one file name for .*/z/scene.npy, got 2"),
    ],
)
def test_a_name_that_fits_equally_is_refused(tmp_path: Path, files: list[str], names: list[str], said: str) -> None:
    with session_of(tmp_path, files) as session:
        with pytest.raises(SessionError, match=said) as caught:
            import_coco(session, written(tmp_path, coco(names)))
        assert "\n" not in str(caught.value)
        assert session.objects() == ()


def test_unusable_annotations_are_counted(tmp_path: Path) -> None:
    nan = float("nan")
    bad: list[dict[str, Any]] = [
        {"segmentation": []},
        {},
        {"segmentation": None},
        {"segmentation": [[1, 1, nan, 5, 5, 5]]},
        {"segmentation": [SQUARE, [nan] * 6]},
        {"segmentation": [[1, 2, 3]]},
        {"segmentation": 7},
        {"segmentation": [[100, 100, 110, 100, 110, 110]]},
        {"segmentation": {"size": [*SIZE], "counts": [600]}},
    ]
    with session_of(tmp_path, ["a.npy"]) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in bad:
            good = {"segmentation": [[at + one for at in SQUARE] for one in (0, 8)]}
            brought = import_coco(session, written(tmp_path, coco(["a.npy"], [one, good])))
            assert (len(brought.objects), brought.num_skipped, brought.num_unusable) == (1, 1, 1), one
            session.undo()
        brought = import_coco(session, written(tmp_path, coco(["a.npy"], [*bad, {"segmentation": [SQUARE]}] * 2)))
        assert (len(brought.objects), brought.num_skipped, brought.num_unusable) == (1, 19, 18)
        with pytest.raises(SessionError, match="got 9 without a usable segmentation"):
            import_coco(session, written(tmp_path, coco(["a.npy"], bad)))


def test_an_unknown_category_is_named(tmp_path: Path) -> None:
    one = {"category_id": 77, "segmentation": [SQUARE]}
    with session_of(tmp_path, ["a.npy"]) as session:
        with pytest.raises(SessionError, match=r"category_id among the file's categories \(1\), got 77 in .*in\.json"):
            import_coco(session, written(tmp_path, coco(["a.npy"], [one])))
        with pytest.raises(E2SamError, match="got list"):
            import_labels(session, 1, [[1]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([10**9, 10**9], [0, 10**18]),
        ([10**30, 10**9], [0, 10**39]),
        ([*SIZE], [10**30]),
        ([*SIZE], [2**63 - 1, 2**63 - 1, 2 + 600]),
        ([*SIZE], [float("inf")]),
        ([*SIZE], "o" * 20_000),
    ],
)
def test_a_code_that_is_not_of_the_image_is_refused_before_it_is_laid_out(
    tmp_path: Path, size: list[int], counts: Any
) -> None:
    content = coco(["a.npy"], [{"segmentation": {"size": size, "counts": counts}}])
    with session_of(tmp_path, ["a.npy"]) as session:
        with pytest.raises(E2SamError, match="Expected a"):
            import_coco(session, written(tmp_path, content))
        assert session.objects() == ()


@pytest.mark.parametrize("place", ["score", "attributes"])
def test_a_score_that_is_no_number_is_unknown(tmp_path: Path, place: str) -> None:
    scores = [float("nan"), float("inf"), "high", [1], True, 10**400, 0.25]
    annotations = [
        {"segmentation": [[at + 3 * number for at in SQUARE]], place: one if place == "score" else {"score": one}}
        for number, one in enumerate(scores)
    ]
    with session_of(tmp_path, ["a.npy"]) as session:
        brought = import_coco(session, written(tmp_path, coco(["a.npy"], annotations)))
        assert [one.score for one in brought.objects] == [None] * 6 + [0.25]
        export(session, "coco", tmp_path / "out.json")
        export(session, "geojson", tmp_path / "out.geojson")
        for path in (None, 5, "a\0"):
            with pytest.raises(SessionError, match="path of a COCO file"):
                import_coco(session, path)  # type: ignore[arg-type]
