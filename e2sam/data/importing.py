"""Objects from elsewhere into a session: COCO JSON and label images. Each import is one step that can be undone.

What the session holds already, pixel for pixel and of the same class, is skipped: a file may be imported again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import checked_path, is_number, shown
from e2sam.data.file_names import matched
from e2sam.data.io import read_labels
from e2sam.data.masks import Box, MaskCrop, masks_of_labels
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.polygons import mask_of_polygons
from e2sam.data.rle import decode_rle
from e2sam.data.session import Conditions, NewObject, ObjectRecord, Plane, Session
from e2sam.errors import E2SamError, SessionError

__all__ = ["Imported", "import_coco", "import_labels"]

_WRONG = "Expected a COCO file with images, categories and annotations"
# Where an object is to go, the name of its class, and the object.
Found = tuple[tuple[int, Plane], str, NewObject]


@dataclass(frozen=True)
class Imported:
    """What an import has brought.

    Attributes
    ----------
    objects
        The objects that are new in the session.
    num_skipped
        How many were left out: because the session, or the file above them, has the same mask of the same class, or
        because they are unusable.
    num_unusable
        How many of these have no outline that covers a pixel of their image.
    """

    objects: tuple[ObjectRecord, ...]
    num_skipped: int = 0
    num_unusable: int = 0


def import_labels(
    session: Session,
    stack_id: int,
    labels: str | Path | NDArray[Any],
    *,
    plane: Plane = (),
    class_id: int = 1,
    is_reviewed: bool = False,
) -> Imported:
    """Every label of a label image (H, W), but 0, as one object; those that are there already are skipped.

    Raises
    ------
    SessionError
        If its size is not the stack's, or it holds no label.
    """
    array = np.asarray(labels) if isinstance(labels, np.ndarray) else read_labels(labels)
    size = session.stack(stack_id).size
    if array.shape != size:
        raise SessionError(f"Expected labels as {size} (H, W) like the stack, got {array.shape}.")
    masks = [mask for _, mask in masks_of_labels(array)]
    if not masks:
        raise SessionError("Expected a label image with at least 1 label above 0, got none.")
    name = next((known.name for known in session.classes() if known.id == class_id), "")
    found = [
        ((stack_id, plane), name, NewObject(mask, class_id, origin="import", is_reviewed=is_reviewed)) for mask in masks
    ]
    new = _without_known(session, found)
    taken = session.accept_many(stack_id, plane, [one for _, _, one in new], verb="import") if new else ()
    return Imported(taken, len(found) - len(new))


def import_coco(session: Session, path: str | Path, *, is_reviewed: bool | None = None) -> Imported:
    """The annotations of a COCO file as objects, for all images of the file that the session has.

    Those that are there already are skipped, and those without a usable outline.

    Images are matched by file name, by as many folders before it as agree, and by plane; classes by name, new ones are
    added. Channels, recipe, model and the reviewed flag come from `attributes` where this program wrote them.
    Run-length codes and polygons are read; crowd regions too.

    Parameters
    ----------
    session
        Where to.
    path
        The JSON file.
    is_reviewed
        Overrides the file's reviewed flags; those of other programs' files are False.

    Raises
    ------
    SessionError
        If it is no COCO file, the session has none of its images, or a name fits several; nothing is imported then.
    """
    content = _read(checked_path(path, "a COCO file", SessionError))
    try:
        places = _places(session, content["images"])
        if not places:
            names = ", ".join(sorted({str(image["file_name"]) for image in content["images"]})[:3])
            raise SessionError(f"Expected images of the session, got {names} in {path}: open those images first.")
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        drafts = [
            (places[annotation["image_id"]], _category(categories, annotation["category_id"], path), annotation)
            for annotation in content["annotations"]
            if annotation["image_id"] in places
        ]
        read = [(place, name, _object(session, place[0], one, is_reviewed)) for place, name, one in drafts]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SessionError(f"{_WRONG}, got {path} ({type(error).__name__}: {error}).") from error
    found = [(place, name, new) for place, name, new in read if new is not None]
    if not found:
        got = f"{len(read)} without a usable segmentation" if read else "none"
        raise SessionError(f"Expected at least 1 annotation of the session's images, got {got} in {path}.")
    left = _without_known(session, found)
    taken = session.import_objects(left) if left else ()
    return Imported(taken, len(read) - len(left), len(read) - len(found))


def _category(categories: Mapping[Any, str], number: Any, path: str | Path) -> str:
    if number not in categories:
        shown = ", ".join(map(str, [*categories][:16])) or "none"
        raise SessionError(f"Expected a category_id among the file's categories ({shown}), got {number!r} in {path}.")
    return categories[number]


def _without_known(session: Session, found: Sequence[Found]) -> list[Found]:
    """Objects whose mask neither the session nor an earlier one of them has under the same class and place."""
    wanted = {_key(*one) for one in found}
    names = {record.id: record.name for record in session.classes()}
    known: dict[tuple[tuple[int, Plane], str, Box], list[MaskCrop]] = {}
    for place in {place for place, _, _ in found}:
        for record in session.objects(*place):
            key = (place, names[record.class_id], record.box)
            # Only the masks of equal boxes are read: they lie on disk.
            if key in wanted:
                known.setdefault(key, []).append(session.mask(record.id))
    new = []
    for one in found:
        alike = known.setdefault(_key(*one), [])
        pixels = one[2].mask.pixels
        if not any(np.array_equal(mask.pixels, pixels) for mask in alike):
            alike.append(one[2].mask)
            new.append(one)
    return new


def _key(place: tuple[int, Plane], name: str, new: NewObject) -> tuple[tuple[int, Plane], str, Box]:
    return place, name, new.mask.box


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SessionError(f"Expected a COCO file, got {error.strerror}: {path}.") from error
    except (ValueError, RecursionError) as error:
        raise SessionError(f"{_WRONG}, got a file that is no JSON: {path}.") from error
    if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= content.keys():
        raise SessionError(f"{_WRONG}, got other JSON: {path}.")
    return content


def _places(session: Session, images: Sequence[Mapping[str, Any]]) -> dict[Any, tuple[int, Plane]]:
    """Stack and plane of each image of the file that the session has."""
    wanted = [(str(image["file_name"]), tuple(int(at) for at in image.get("plane", ()))) for image in images]
    places = {}
    for image, (_, plane), found in zip(images, wanted, matched(session.stacks(), wanted), strict=True):
        if found is not None:
            if (image["height"], image["width"]) != found.size:
                raise SessionError(
                    f"Expected {found.name} as {found.size} (H, W), got {(image['height'], image['width'])}."
                )
            places[image["id"]] = (found.id, plane)
    return places


def _object(
    session: Session, stack_id: int, annotation: Mapping[str, Any], is_reviewed: bool | None
) -> NewObject | None:
    mask = _mask(annotation.get("segmentation"), session.stack(stack_id).size)
    if mask is None:
        return None
    attributes = annotation.get("attributes") or {}
    try:
        recipes = tuple(ChannelRecipe.from_json(recipe) for recipe in attributes.get("recipe", ()))
        channels = tuple(str(name) for name in attributes.get("channels", ()))
    except (E2SamError, TypeError, KeyError, ValueError, AttributeError):
        # Another program's attributes of the same names.
        recipes, channels = (), ()
    score: Any = attributes.get("score", annotation.get("score"))
    return NewObject(
        mask,
        score=float(score) if is_number(score) else None,
        conditions=Conditions(channels, recipes, str(attributes.get("model", ""))),
        origin="import",
        is_reviewed=bool(attributes.get("reviewed", False)) if is_reviewed is None else is_reviewed,
    )


def _mask(segmentation: Any, size: tuple[int, int]) -> MaskCrop | None:
    """The mask of a run-length code or of polygons; None where they cover no pixel, or are no outline at all."""
    if isinstance(segmentation, Mapping):
        # Before it is laid out: a size that is not the image's may be one that no memory holds.
        if tuple(segmentation["size"]) != size:
            raise SessionError(f"Expected a mask of {size} (H, W), got {shown(tuple(segmentation['size']))}.")
        return decode_rle(dict(segmentation))
    try:
        lines = [np.asarray(line, np.float64).reshape(-1, 2) for line in segmentation or ()]
    except (TypeError, ValueError, OverflowError):
        return None
    return mask_of_polygons(lines, size)
