"""What a session holds, as frozen records that are handed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2sam.data.masks import Box, MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, GeoReference

__all__ = [
    "Candidate",
    "Change",
    "ClassRecord",
    "Conditions",
    "Draft",
    "HistoryStep",
    "NewObject",
    "ObjectRecord",
    "Plane",
    "Region",
    "StackRecord",
    "TrainingRun",
]

Plane = tuple[int, ...]
"""Position on the leading axes of a stack; () where it has none."""


@dataclass(frozen=True)
class StackRecord:
    """One stack of a session.

    Attributes
    ----------
    id
        Number within the session.
    name
        What the user reads: the file's name, unless given.
    paths
        Absolute paths it was read from; empty for a stack that was never a file.
    content
        Content hash, "fast:..." or "full:..."; see `e2sam.data.content`.
    size
        (height, width) in pixels.
    num_planes
        Length of each leading axis.
    leading
        Names of the leading axes: "", "T", "Z" or "TZ".
    channels
        One `ChannelSpec` for each channel.
    geo
        Geo-reference, kept so that labels can be exported while the image is away.
    selection
        Names of the selected channels, or None where the user has not chosen.
    recipes
        Normalization of each channel, in the order of `channels`, or None where none was fitted.
    alignment
        Shift (dx, dy) in pixels that each named channel needs, after the alignment check.
    reading
        How the file was read: further arguments of `read_stack`, such as {"channel_axis": 0}.
    is_done
        Whether the user has ticked it off the worklist.
    """

    id: int
    name: str
    paths: tuple[Path, ...]
    content: str
    size: tuple[int, int]
    num_planes: tuple[int, ...]
    leading: str
    channels: tuple[ChannelSpec, ...]
    geo: GeoReference | None = None
    selection: tuple[str, ...] | None = None
    recipes: tuple[ChannelRecipe, ...] | None = None
    alignment: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    is_done: bool = False


@dataclass(frozen=True)
class ClassRecord:
    """A class of objects: id, name, colour "#rrggbb", and the key that chooses it ("" for none)."""

    id: int
    name: str
    colour: str
    key: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a mask was made: what a correction needs beside the mask.

    Attributes
    ----------
    channels
        Names of the channels the model used; empty for a mask made by hand or imported.
    recipes
        Normalization of each of `channels`, in their order; empty where unknown.
    model
        Fingerprint of the model, or "".
    """

    channels: tuple[str, ...] = ()
    recipes: tuple[ChannelRecipe, ...] = ()
    model: str = ""


@dataclass(frozen=True, eq=False)
class NewObject:
    """An object that is about to be accepted.

    Attributes
    ----------
    mask
        Its pixels; `MaskCrop.of(mask)` makes one from (H, W) bool.
    class_id
        Its class.
    score
        The model's predicted quality in 0..1, or None where no model made it.
    prompts
        The prompts that led to it.
    conditions
        Channels, recipes and model.
    origin
        "prompt", "paint", "automatic" or "import".
    is_reviewed
        Whether a person has looked at it; what comes from a prompt has been.
    """

    mask: MaskCrop
    class_id: int = 1
    score: float | None = None
    prompts: Prompts = field(default_factory=Prompts)
    conditions: Conditions = field(default_factory=Conditions)
    origin: str = "prompt"
    is_reviewed: bool = True


@dataclass(frozen=True)
class ObjectRecord:
    """An accepted object. Its mask and prompts are read by `Session.mask` and `Session.prompts_of`.

    Attributes
    ----------
    id
        Its label: a positive number, unique in the session.
    stack_id, plane
        Where it lies.
    class_id, score, area, box, conditions, origin, is_reviewed
        As in `NewObject`; area in pixels, box as x0, y0, x1, y1.
    created
        When it was accepted, ISO 8601, UTC.
    mask_key, prompts_key
        Where the session keeps its mask and prompts.
    """

    id: int
    stack_id: int
    plane: Plane
    class_id: int
    score: float | None
    area: int
    box: Box
    conditions: Conditions
    origin: str
    is_reviewed: bool
    created: str
    mask_key: str
    prompts_key: str

    @property
    def is_correction(self) -> bool:
        """Whether a person made it or has looked at it: what "segment everything" found counts once it is reviewed."""
        return self.is_reviewed or self.origin in ("prompt", "paint")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mask that a prediction offered, with its predicted quality in 0..1. An empty mask is None."""

    mask: MaskCrop | None
    score: float


@dataclass(frozen=True, eq=False)
class Draft:
    """The object under way on one plane of a stack: its prompts, and what was predicted from them.

    Attributes
    ----------
    prompts
        What the user has said so far.
    candidates
        Masks of the newest prediction from these prompts, empty where there is none yet.
    chosen
        Position of the shown candidate.
    conditions
        Channels, recipes and model of the prediction; before there is one, those of the one that a mask prompt is of.
    object_id
        The accepted object that is being edited again, or None.
    """

    prompts: Prompts = field(default_factory=Prompts)
    candidates: tuple[Candidate, ...] = ()
    chosen: int = 0
    conditions: Conditions = field(default_factory=Conditions)
    object_id: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a prompt nor a prediction."""
        return self.prompts.is_empty and not self.candidates and self.object_id is None


@dataclass(frozen=True)
class TrainingRun:
    """One training of a model.

    Attributes
    ----------
    id
        Number within the session.
    kind
        "inherit" or "finetune".
    status
        "running", "done", "cancelled", "failed" or "rejected" (finished, but not better than before).
    config, metrics
        Settings, and the newest figures.
    checkpoint
        Where its weights lie, or None.
    parent
        Fingerprint or name of the model it began from.
    started, finished
        ISO 8601, UTC; finished is "" while it runs.
    """

    id: int
    kind: str
    status: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    checkpoint: Path | None
    parent: str
    started: str
    finished: str = ""


@dataclass(frozen=True)
class HistoryStep:
    """One user step of the history: what was done, when, and whether it stands (or was undone)."""

    id: int
    verb: str
    label: str
    time: str
    stands: bool


@dataclass(frozen=True)
class Region:
    """A part of one plane whose labels changed: box as x0, y0, x1, y1 in pixels."""

    stack_id: int
    plane: Plane
    box: Box


@dataclass(frozen=True)
class Change:
    """What an action, an undo or a redo has changed; given to every listener after it is durable.

    Attributes
    ----------
    kind
        "do", "undo", "redo", "setting" (not undoable) or "refresh" (anything may have changed).
    verb
        The action: "prompt", "predict", "accept", "delete", "merge", "split", "class", "review", "paint", "replace",
        "import", "stack", "selection", "recipes", "view", "model", "training" and so on.
    objects
        Ids of objects that came, went or changed.
    regions
        Where labels must be drawn again: the smallest boxes, at most one for each plane and object.
    drafts
        (stack id, plane) of drafts that changed.
    has_classes
        Whether the list of classes changed.
    """

    kind: str
    verb: str
    objects: frozenset[int] = frozenset()
    regions: tuple[Region, ...] = ()
    drafts: frozenset[tuple[int, Plane]] = frozenset()
    has_classes: bool = False
