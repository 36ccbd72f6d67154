"""How records lie in the file: JSON texts and small binary forms, each with its way back."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.checks import is_number
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.session.journal import Edit, Journal
from e2sam.data.session.records import Conditions, ObjectRecord, Plane, StackRecord, TrainingRun
from e2sam.data.stack import ChannelSpec, GeoReference

__all__ = [
    "conditions_from_bytes",
    "conditions_to_bytes",
    "decode_object",
    "decode_run",
    "decode_stack",
    "dump",
    "encode_stack",
    "parse_plane",
    "plane_text",
    "read_prompts",
    "recipes_text",
    "store_prompts",
]


def dump(value: Any) -> str:
    """Canonical JSON text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def plane_text(plane: Plane) -> str:
    """A plane as text: "" or "0,3"."""
    return ",".join(map(str, plane))


def parse_plane(text: str) -> Plane:
    """The plane that `plane_text` wrote."""
    return tuple(map(int, text.split(","))) if text else ()


def store_prompts(edit: Edit, prompts: Prompts) -> str:
    """Keep prompts; returns their key. Logits of a mask prompt are kept to 1/32."""
    logits = None if prompts.mask is None else edit.blob("logits", _logits_to_bytes(prompts.mask))
    facts = {
        "points": prompts.points.tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else prompts.box.tolist(),
        "mask": logits,
    }
    return edit.blob("prompts", dump(facts).encode())


def read_prompts(journal: Journal, key: str) -> Prompts:
    """The prompts kept under a key; their logits are None where they were forgotten."""
    data = journal.blob(key)
    if data is None:
        return Prompts()
    facts = json.loads(data)
    logits = None if facts["mask"] is None else journal.blob(facts["mask"])
    return Prompts(
        np.asarray(facts["points"], np.float32).reshape(-1, 2),
        np.asarray(facts["labels"], np.int32),
        None if facts["box"] is None else np.asarray(facts["box"], np.float32),
        None if logits is None else _logits_from_bytes(logits),
    )


def _logits_to_bytes(logits: NDArray[np.float32]) -> bytes:
    # Fixed point and differences along rows: neighbours are alike, so this deflates to about a tenth of float32.
    steps = np.clip(np.rint(np.asarray(logits, np.float64) * 32), -32767, 32767).astype(np.int16)
    steps[:, 1:] -= steps[:, :-1].copy()
    return struct.pack("<II", *steps.shape) + zlib.compress(steps.tobytes(), 1)


def _logits_from_bytes(data: bytes) -> NDArray[np.float32]:
    height, width = struct.unpack_from("<II", data)
    steps = np.frombuffer(zlib.decompress(data[8:]), np.int16).reshape(height, width)
    logits: NDArray[np.float32] = np.cumsum(steps, axis=1, dtype=np.int16).astype(np.float32)
    logits /= 32
    return logits


def conditions_to_bytes(conditions: Conditions) -> bytes:
    """Conditions as JSON."""
    recipes = [recipe.to_json() for recipe in conditions.recipes]
    return dump({"channels": conditions.channels, "recipes": recipes, "model": conditions.model}).encode()


def conditions_from_bytes(data: bytes) -> Conditions:
    """The conditions that `conditions_to_bytes` wrote."""
    facts = json.loads(data)
    return Conditions(tuple(facts["channels"]), _recipes(facts["recipes"]), facts["model"])


def recipes_text(recipes: Iterable[ChannelRecipe]) -> str:
    """Recipes as JSON text."""
    return dump([recipe.to_json() for recipe in recipes])


def _recipes(entries: Iterable[dict[str, Any]]) -> tuple[ChannelRecipe, ...]:
    return tuple(ChannelRecipe.from_json(entry) for entry in entries)


def decode_object(row: Sequence[Any], conditions: Conditions) -> ObjectRecord:
    """An object from its row, in the order of `DOCUMENT["object"]`."""
    (id_, stack, plane, class_id, score, area, x0, y0, x1, y1, mask, prompts, _, origin, reviewed, created) = row
    return ObjectRecord(
        id=id_,
        stack_id=stack,
        plane=parse_plane(plane),
        class_id=class_id,
        # An earlier version took any number.
        score=score if is_number(score) else None,
        area=area,
        box=(x0, y0, x1, y1),
        conditions=conditions,
        origin=origin,
        is_reviewed=bool(reviewed),
        created=created,
        mask_key=mask,
        prompts_key=prompts,
    )


def encode_stack(record: StackRecord) -> tuple[Any, ...]:
    """A row of the table of stacks."""
    return (
        record.id,
        record.name,
        dump([str(path) for path in record.paths]),
        record.content,
        *record.size,
        dump(record.num_planes),
        record.leading,
        dump([asdict(channel) for channel in record.channels]),
        None if record.geo is None else _geo_text(record.geo),
        None if record.selection is None else dump(record.selection),
        None if record.recipes is None else recipes_text(record.recipes),
        dump(dict(record.alignment)),
        dump(dict(record.reading)),
        int(record.is_done),
    )


def decode_stack(row: Sequence[Any]) -> StackRecord:
    """A stack from its row."""
    (id_, name, paths, content, height, width, planes, leading, channels, geo) = row[:10]
    selection, recipes, alignment, reading, done = row[10:]
    return StackRecord(
        id=id_,
        name=name,
        paths=tuple(Path(path) for path in json.loads(paths)),
        content=content,
        size=(height, width),
        num_planes=tuple(json.loads(planes)),
        leading=leading,
        channels=tuple(ChannelSpec(**channel) for channel in json.loads(channels)),
        geo=None if geo is None else _geo(geo),
        selection=None if selection is None else tuple(json.loads(selection)),
        recipes=None if recipes is None else _recipes(json.loads(recipes)),
        alignment={name: (dx, dy) for name, (dx, dy) in json.loads(alignment).items()},
        reading=json.loads(reading),
        is_done=bool(done),
    )


def decode_run(row: Sequence[Any]) -> TrainingRun:
    """A training run from its row."""
    id_, kind, status, config, metrics, checkpoint, parent, started, finished = row
    return TrainingRun(
        id_,
        kind,
        status,
        json.loads(config),
        json.loads(metrics),
        None if checkpoint is None else Path(checkpoint),
        parent,
        started,
        finished,
    )


def _geo_text(geo: GeoReference) -> str:
    tags = [[code, kind, count, _packed(value)] for code, kind, count, value in geo.tags]
    return dump({"tags": tags, "affine": geo.pixel_to_world, "epsg": geo.epsg})


def _geo(text: str) -> GeoReference:
    facts = json.loads(text)
    affine = facts["affine"]
    return GeoReference(
        tuple((code, kind, count, _unpacked(value)) for code, kind, count, value in facts["tags"]),
        None if affine is None else (tuple(affine[0]), tuple(affine[1])),
        facts["epsg"],
    )


def _packed(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.generic):
        return value.item()
    if (isinstance(value, Sequence) and not isinstance(value, str)) or isinstance(value, np.ndarray):
        return [_packed(part) for part in value]
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return base64.b64decode(value["bytes"])
    if isinstance(value, list):
        return tuple(_unpacked(part) for part in value)
    return value
