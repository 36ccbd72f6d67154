"""Labels out of a session and into it: label TIFF and PNG, COCO JSON, GeoJSON.

Every file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from e2sam._version import __version__
from e2sam.data.checks import check_kind, checked_path, shown
from e2sam.data.file_names import short_names
from e2sam.data.io import is_part_of, write_labels
from e2sam.data.masks import MaskCrop
from e2sam.data.polygons import Polygon, polygons_of, signed_area
from e2sam.data.rle import encode_rle
from e2sam.data.session import Conditions, ObjectRecord, Plane, Session, StackRecord
from e2sam.data.stack import GeoReference
from e2sam.errors import SessionError

__all__ = ["FORMATS", "Exported", "coco_of", "export", "geojson_of"]

FORMATS = {"tiff": ".tif", "png": ".png", "coco": ".json", "geojson": ".geojson"}
"""Export formats with the suffix of their files."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the files, and the number of objects in them."""

    paths: tuple[Path, ...]
    num_objects: int


def export(
    session: Session,
    format: str,
    out: str | Path,
    *,
    stack_id: int | None = None,
    values: str = "objects",
    only_reviewed: bool = False,
) -> Exported:
    """Write the objects of a session.

    Parameters
    ----------
    session
        An open session; the images themselves are not needed.
    format
        "tiff", "png": a label image for each plane with objects, geo-reference kept in TIFF. One plane is written to
        `out` itself, several to `NAME_labels.tif` in the folder `out`, the names that `e2sam finetune` reads.
        "coco", "geojson": one file for all.
    out
        File, or folder.
    stack_id
        Only this stack.
    values
        What label images hold: "objects" (ids) or "classes" (class ids).
    only_reviewed
        Only objects that a person has looked at.

    Raises
    ------
    SessionError
        If there is no object to write, the format is unknown, or `out` is the session or one of its images.
    """
    check_kind(session, Session, "an open Session", SessionError)
    if not isinstance(format, str) or format not in FORMATS:
        raise SessionError(f"Expected a format of {', '.join(FORMATS)}, got {shown(format)}.")
    if values not in ("objects", "classes"):
        raise SessionError(f"Expected values 'objects' or 'classes', got {values!r}.")
    chosen = _Chosen(session, stack_id, only_reviewed)
    if not chosen.places:
        what = "reviewed object" if only_reviewed else "accepted object"
        raise SessionError(f"Expected at least 1 {what} to export, got none in {session.path.name}.")
    target = checked_path(out, "a file or folder to write", SessionError)
    images = [path for record in session.stacks() for path in record.paths]
    if any(is_part_of(target, path) for path in (session.path, *images)):
        raise SessionError(f"Expected another file than the session and its images, got {target}: name a new one.")
    count = sum(len(chosen.objects(*place)) for place in chosen.places)
    if format in ("coco", "geojson"):
        content = _coco(chosen) if format == "coco" else _geojson(chosen)
        _write_json(target, content)
        return Exported((target,), count)
    return Exported(tuple(_label_images(chosen, target, FORMATS[format], values)), count)


def coco_of(session: Session, is_compressed: bool = True) -> dict[str, Any]:
    """The session as a COCO data set.

    Segmentations are run-length codes, as text or with `is_compressed=False` as lists; categories are the session's
    classes; every plane is one image, also those without objects, named by its file, with folders where files share a
    name. Each annotation has `attributes`: channels, recipe (one for each channel), model (fingerprint), reviewed,
    session, origin, score.
    """
    return _coco(_Chosen(session, None, False), is_compressed)


def geojson_of(session: Session) -> dict[str, Any]:
    """The session as a GeoJSON feature collection.

    Outlines follow the edges of pixels, so areas agree exactly. With a geo-reference, coordinates are those of the
    image's own reference system, named in `crs` (as GDAL reads and writes it; RFC 7946 knows degrees only); without one
    they are pixels (x, y), and y runs down.
    """
    return _geojson(_Chosen(session, None, False))


class _Chosen:
    """The part of a session that is exported."""

    def __init__(self, session: Session, stack_id: int | None, only_reviewed: bool) -> None:
        self.session = session
        self._only_reviewed = only_reviewed
        self.stacks = tuple(one for one in session.stacks() if stack_id is None or one.id == session.stack(stack_id).id)
        ids = {one.id for one in self.stacks}
        self.places = tuple(place for place in session.planes() if place[0] in ids and self.objects(*place))

    def objects(self, stack_id: int, plane: Plane) -> tuple[ObjectRecord, ...]:
        """Objects of one plane."""
        return tuple(one for one in self.session.objects(stack_id, plane) if one.is_reviewed or not self._only_reviewed)

    def labels(self, stack_id: int, plane: Plane, values: str) -> NDArray[np.int32]:
        """Label image of one plane, under the session's overlap policy."""
        labels = np.zeros(self.session.stack(stack_id).size, np.int32)
        objects = self.objects(stack_id, plane)
        for one in objects if self.session.overlap == "newest" else reversed(objects):
            x0, y0, x1, y1 = one.box
            number = one.id if values == "objects" else one.class_id
            labels[y0:y1, x0:x1][self.session.mask(one).pixels] = number
        return labels


def _label_images(chosen: _Chosen, target: Path, suffix: str, values: str) -> Iterator[Path]:
    is_single = len(chosen.places) == 1
    if is_single and target.suffix.lower() not in (suffix, suffix + "f"):
        raise SessionError(f"Expected a file name ending in {suffix}, got {target.name!r}.")
    if not is_single:
        if target.is_file() or target.suffix.lower() in (".tif", ".tiff", ".png"):
            raise SessionError(
                f"Expected a folder for {len(chosen.places)} label images, got the file name {target.name!r}."
            )
        target.mkdir(parents=True, exist_ok=True)
    names = _names(chosen)
    for stack_id, plane in chosen.places:
        path = target if is_single else target / f"{names[stack_id, plane]}_labels{suffix}"
        yield write_labels(path, chosen.labels(stack_id, plane, values), chosen.session.stack(stack_id).geo)


def _names(chosen: _Chosen) -> dict[tuple[int, Plane], str]:
    """A file name for each plane: the image's own, with its number as often as another has that name."""
    names = {}
    for stack_id, plane in chosen.places:
        record = chosen.session.stack(stack_id)
        at = "".join(f"_{axis}{position:03d}" for axis, position in zip(record.leading, plane, strict=True))
        names[stack_id, plane] = Path(record.name).stem, at
    while shared := _shared([stem + at for stem, at in names.values()]):
        for place, (stem, at) in names.items():
            if (stem + at).casefold() in shared:
                names[place] = f"{stem}-{place[0]}", at
    return {place: stem + at for place, (stem, at) in names.items()}


def _shared(names: Sequence[str]) -> set[str]:
    """Names that stand several times, as file systems compare them that tell no capital from a small letter."""
    counts = Counter(name.casefold() for name in names)
    return {name for name, count in counts.items() if count > 1}


def _coco(chosen: _Chosen, is_compressed: bool = True) -> dict[str, Any]:
    session = chosen.session
    places = sorted({*chosen.places, *((one.id, ()) for one in chosen.stacks if not one.leading)})
    numbers = {place: number for number, place in enumerate(places, start=1)}
    names = short_names(session.stacks())
    annotations = []
    for place in chosen.places:
        size = session.stack(place[0]).size
        for one in chosen.objects(*place):
            code = encode_rle(session.mask(one), size, is_compressed)
            annotations.append(_annotation(session, one, numbers[place], code))
    return {
        "info": {"description": f"e2sam session {session.path.name}", "version": __version__, "session": session.id},
        "licenses": [],
        "images": [_image(session.stack(at), names[at], plane, number) for (at, plane), number in numbers.items()],
        "categories": [
            {"id": one.id, "name": one.name, "supercategory": "", "color": list(bytes.fromhex(one.colour[1:]))}
            for one in session.classes()
        ],
        "annotations": annotations,
    }


def _image(record: StackRecord, name: str, plane: Plane, number: int) -> dict[str, Any]:
    height, width = record.size
    image = {"id": number, "width": width, "height": height, "file_name": name}
    return {**image, "axes": record.leading, "plane": list(plane)} if plane else image


def _annotation(session: Session, one: ObjectRecord, image: int, code: dict[str, Any]) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    return {
        "id": one.id,
        "image_id": image,
        "category_id": one.class_id,
        "segmentation": code,
        "area": one.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "attributes": _attributes(session, one),
    }


def _attributes(session: Session, one: ObjectRecord) -> dict[str, Any]:
    conditions: Conditions = one.conditions
    return {
        "channels": list(conditions.channels),
        "recipe": [recipe.to_json() for recipe in conditions.recipes],
        "model": conditions.model,
        "reviewed": one.is_reviewed,
        "session": session.id,
        "origin": one.origin,
        "score": one.score,
    }


def _geojson(chosen: _Chosen) -> dict[str, Any]:
    session = chosen.session
    systems = {_system(session.stack(stack_id).geo) for stack_id, _ in chosen.places}
    if len(systems) > 1:
        shown = ", ".join(sorted(map(str, systems)))
        raise SessionError(
            f"Expected stacks of one reference system in a GeoJSON, got {shown}: give stack_id (--stack)."
        )
    names = {one.id: one.name for one in session.classes()}
    features = []
    for place in chosen.places:
        record = session.stack(place[0])
        for one in chosen.objects(*place):
            properties = {
                "id": one.id,
                "class": names[one.class_id],
                "area_px": one.area,
                "image": record.name,
                **({"plane": list(one.plane)} if one.plane else {}),
                **_attributes(session, one),
            }
            geometry = _geometry(session.mask(one), record.geo)
            features.append({"type": "Feature", "id": one.id, "properties": properties, "geometry": geometry})
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    system = next(iter(systems), None)
    if isinstance(system, int):
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{system}"}}
    else:
        collection["coordinates"] = system
    return collection


def _system(geo: GeoReference | None) -> int | str:
    """EPSG code of a stack's coordinates, "world" where it has none, "pixel" without a geo-reference."""
    if geo is None or geo.pixel_to_world is None:
        return "pixel"
    return "world" if geo.epsg is None else geo.epsg


def _geometry(mask: MaskCrop, geo: GeoReference | None) -> dict[str, Any]:
    matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) if geo is None or geo.pixel_to_world is None else geo.pixel_to_world
    affine = np.asarray(matrix, np.float64)
    polygons = [_coordinates(polygon, affine) for polygon in polygons_of(mask)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _coordinates(polygon: Polygon, affine: NDArray[np.float64]) -> list[list[list[float]]]:
    rings = []
    for number, ring in enumerate(polygon):
        world = ring @ affine[:, :2].T + affine[:, 2]
        # Outer rings run counter-clockwise in their coordinates, holes clockwise (RFC 7946, 3.1.6).
        if (signed_area(world) > 0) != (number == 0):
            world = world[::-1]
        rings.append([*world.tolist(), world[0].tolist()])
    return rings


def _write_json(target: Path, content: dict[str, Any]) -> None:
    part = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise SessionError(f"Expected to write {target}, got: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
