"""Labelled objects as the promptable head trains on them: windows of images in the model's frame, with targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.corrections import Correction
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe, fit_recipes
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError
from e2sam.inference.encoding import WindowEncoder
from e2sam.inference.frame import Frame
from e2sam.inference.plan import EncodingPlan, Scene
from e2sam.inference.prediction import Box
from e2sam.inference.tiling import Windows
from e2sam.modeling.e2sam import E2SAM, ModelConfig

__all__ = [
    "LabelledObject",
    "LabelledScene",
    "TrainingWindow",
    "WindowData",
    "coverage_on_logits",
    "readable",
    "scenes_of",
    "windows_of",
]

# As `Predictor`.
_LARGE_SIDE = 8192
# Pixels between an object and the edge of a part that it is seen in.
_MARGIN = 16
# Share of a position, of 255, from which on an object makes it labelled.
_LABELLED = 26


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """One complete object: what is not in its mask is not the object, labelled or not.

    Attributes
    ----------
    mask
        Its pixels.
    prompts
        The prompts that a user gave for it; empty where it comes from a label image.
    """

    mask: MaskCrop
    prompts: Prompts = field(default_factory=Prompts)


@dataclass(frozen=True, eq=False)
class LabelledScene:
    """One image, the channels that the model sees of it, and its labelled objects.

    Attributes
    ----------
    key
        Identity of the image; scenes with other channels of the same image share it.
    stack
        (C, H, W).
    objects
        At least one.
    channels
        Names of the selected channels; None = as `Predictor` chooses.
    recipes
        Normalization by channel name, where it is known.
    labelled
        Every labelled object of the image, whether it is one of `objects` or not.
    composed
        How the image, or the larger one that this is a part of, becomes the input of a model; None: not measured yet.
    """

    key: str
    stack: ChannelStack
    objects: tuple[LabelledObject, ...]
    channels: tuple[str, ...] | None = None
    recipes: Mapping[str, ChannelRecipe] = field(default_factory=dict)
    labelled: tuple[MaskCrop, ...] = ()
    composed: EncodingPlan | None = None

    def fitted(self) -> tuple[ChannelRecipe, ...] | None:
        """Recipes of all channels, the known ones among them; None where none is known."""
        return fit_recipes(self.stack, dict(self.recipes)) if self.recipes else None

    def is_encoded_whole(self, config: ModelConfig) -> bool:
        """Whether one window holds all of the image."""
        return not Windows(self.stack.size, config.image_size).are_needed(_LARGE_SIDE)

    def plan(self, config: ModelConfig) -> EncodingPlan:
        """How the image becomes the input of a model."""
        if self.composed is None:
            return Scene.of(self.stack, self.fitted()).plan(config, self.channels or "auto")
        if self.composed.stack is self.stack:
            return self.composed
        return replace(self.composed, scene=Scene.of(self.stack, self.fitted()))

    def planned(self, config: ModelConfig) -> LabelledScene:
        """The scene, measured and composed for a model once and for all of its parts and positions."""
        return replace(self, composed=self.plan(config))

    def parts(self, config: ModelConfig) -> list[LabelledScene]:
        """The scene, or of a large image the windows that a user looks at who has zoomed to its objects.

        In one frame for all of the image there would be next to nothing of them. Each part is a scene of its own,
        normalized and composed as the whole image is.
        """
        windows = Windows(self.stack.size, config.image_size)
        grouped: dict[Box, list[LabelledObject]] = {}
        for one in self.objects:
            there = (box for box in grouped if box != windows.whole and not windows.touches(box, one.mask.box, _MARGIN))
            window = next(there, None) or windows.of_object(one.mask.box, not self.is_encoded_whole(config))
            grouped.setdefault(window or windows.whole, []).append(one)
        if set(grouped) == {windows.whole}:
            return [self]
        plan = self.plan(config)
        recipes = dict(zip(self.stack.names, plan.scene.recipes, strict=True))
        whole = replace(self, channels=plan.selected, recipes=recipes)
        return [replace(whole, objects=tuple(objects))._part(box) for box, objects in grouped.items()]

    def _part(self, box: Box) -> LabelledScene:
        x0, y0, x1, y1 = box
        size = self.stack.size
        if box == (0, 0, size[1], size[0]):
            return self
        corner = np.array((x0, y0), np.float32)

        def shifted(one: LabelledObject) -> LabelledObject:
            prompts = one.prompts
            kept = ((prompts.points >= corner) & (prompts.points <= (x1, y1))).all(axis=1)
            around = (
                None if prompts.box is None else np.clip(prompts.box, (x0, y0) * 2, (x1, y1) * 2) - np.tile(corner, 2)
            )
            moved = Prompts(prompts.points[kept] - corner, prompts.labels[kept], around)
            return LabelledObject(one.mask.moved(-x0, -y0), moved)

        seen = (mask.window(box) for mask in self.labelled if _overlap(mask.box, box))
        labelled = (MaskCrop.of(window) for window in seen if window.any())
        data = self.stack.read(slice(y0, y1), slice(x0, x1))
        return self._moved(data, tuple(map(shifted, self.objects)), tuple(labelled))

    def flipped(self, axis: int) -> LabelledScene:
        """The scene mirrored top to bottom (axis 0) or left to right (axis 1)."""
        size = self.stack.size
        data = np.flip(self.stack.read(), axis + 1)
        objects = tuple(_flipped(one, axis, size) for one in self.objects)
        return self._moved(data, objects, tuple(_flipped_mask(mask, axis, size) for mask in self.labelled))

    def transposed(self) -> LabelledScene:
        """The scene with rows and columns exchanged."""
        data = np.ascontiguousarray(self.stack.read().transpose(0, 2, 1))
        objects = tuple(_transposed(one) for one in self.objects)
        return self._moved(data, objects, tuple(_transposed_mask(mask) for mask in self.labelled))

    def _moved(
        self, data: NDArray[Any], objects: tuple[LabelledObject, ...], labelled: tuple[MaskCrop, ...]
    ) -> LabelledScene:
        stack = replace(self.stack, data=data, source=None, _valid=None)
        return replace(self, stack=stack, objects=objects, labelled=labelled)

    def turned(self) -> list[LabelledScene]:
        """The scene in all eight positions, its own first: mirrored, and turned by quarters."""
        mirrored = [self, self.flipped(0), self.flipped(1), self.flipped(0).flipped(1)]
        return [*mirrored, *(scene.transposed() for scene in mirrored)]


def _flipped(labelled: LabelledObject, axis: int, size: tuple[int, int]) -> LabelledObject:
    prompts = labelled.prompts
    column, length = 1 - axis, size[axis]
    # Points name pixels, whose centres lie half a pixel further; corners of boxes lie between pixels.
    points = prompts.points.copy()
    points[:, column] = length - 1 - points[:, column]
    box = None if prompts.box is None else prompts.box.copy()
    if box is not None and prompts.box is not None:
        box[column], box[column + 2] = length - prompts.box[column + 2], length - prompts.box[column]
    return LabelledObject(_flipped_mask(labelled.mask, axis, size), Prompts(points, prompts.labels, box))


def _flipped_mask(mask: MaskCrop, axis: int, size: tuple[int, int]) -> MaskCrop:
    x0, y0, x1, y1 = mask.box
    corner = (x0, size[0] - y1) if axis == 0 else (size[1] - x1, y0)
    return MaskCrop(np.ascontiguousarray(np.flip(mask.pixels, axis)), *corner)


def _transposed(labelled: LabelledObject) -> LabelledObject:
    prompts = labelled.prompts
    box = None if prompts.box is None else prompts.box[[1, 0, 3, 2]]
    turned = Prompts(np.ascontiguousarray(prompts.points[:, ::-1]), prompts.labels, box)
    return LabelledObject(_transposed_mask(labelled.mask), turned)


def _transposed_mask(mask: MaskCrop) -> MaskCrop:
    x0, y0 = mask.box[:2]
    return MaskCrop(np.ascontiguousarray(mask.pixels.T), y0, x0)


def readable(corrections: Sequence[Correction]) -> tuple[list[Correction], dict[str, ChannelStack], list[str]]:
    """The corrections whose image can be read, their images by key, and for each of the others a line why not."""
    stacks: dict[str, ChannelStack] = {}
    lines: dict[str, str] = {}
    for image in {correction.image.key: correction.image for correction in corrections}.values():
        try:
            stacks[image.key] = image.load()
        except E2SamError as error:
            lines[image.key] = str(error)
    return [one for one in corrections if one.image.key in stacks], stacks, list(lines.values())


def scenes_of(
    corrections: Sequence[Correction], stacks: Mapping[str, ChannelStack], channels: Sequence[str] | None = None
) -> list[LabelledScene]:
    """Corrections by image and by the channels they were made with.

    Parameters
    ----------
    corrections
        At least one.
    stacks
        Their images by key, as `readable` gives them.
    channels
        Selection to learn with; None = each correction's own (or, where it has none, what `Predictor` would choose).
    """
    grouped: dict[tuple[str, tuple[str, ...]], list[Correction]] = {}
    for correction in corrections:
        own = correction.conditions.channels if channels is None else tuple(channels)
        grouped.setdefault((correction.image.key, tuple(own)), []).append(correction)
    labelled: dict[str, list[MaskCrop]] = {}
    for correction in corrections:
        labelled.setdefault(correction.image.key, []).append(correction.mask)
    scenes = []
    for (key, selection), members in grouped.items():
        if selection:
            stacks[key].indices(selection)
        recipes: dict[str, ChannelRecipe] = {}
        for member in members:
            recipes.update(zip(member.conditions.channels, member.conditions.recipes, strict=False))
        objects = tuple(LabelledObject(member.mask, member.prompts) for member in members)
        scenes.append(LabelledScene(key, stacks[key], objects, selection or None, recipes, tuple(labelled[key])))
    return scenes


@dataclass(frozen=True, eq=False)
class TrainingWindow:
    """A part of an image that is encoded at once, with the objects that are learned from it.

    Attributes
    ----------
    plan, window, frame
        How its pixels become the encoder's input.
    targets
        (K, h, w) uint8, share of each position of the logits that the object covers, 255 = all of it.
    inside
        (h, w) bool, positions inside the image (the rest is padding).
    labelled
        (h, w) bool, positions of labelled objects of the image, whether they are learned from or not.
    prompts
        The users' prompts of each object, in pixels of the window.
    scene
        Position of its scene, for what is shown and saved.
    """

    plan: EncodingPlan
    window: Box
    frame: Frame
    targets: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    prompts: tuple[Prompts, ...]
    scene: int

    @property
    def num_objects(self) -> int:
        """Number of objects."""
        return len(self.targets)


def windows_of(scenes: Sequence[LabelledScene], config: ModelConfig) -> list[TrainingWindow]:
    """The windows that `Predictor` would encode for each scene's objects."""
    windows = []
    for index, scene in enumerate(scenes):
        plan = scene.plan(config)
        for window, objects in _by_window(scene, config).items():
            frame = Frame.of((window[3] - window[1], window[2] - window[0]), config)
            targets = np.stack([coverage_on_logits(labelled.mask, window, frame) for labelled in objects])
            corner = np.array(window[:2], np.float32)
            prompts = tuple(
                replace(
                    labelled.prompts,
                    points=labelled.prompts.points - corner,
                    box=None if labelled.prompts.box is None else labelled.prompts.box - np.tile(corner, 2),
                    mask=None,
                )
                for labelled in objects
            )
            labelled = _labelled(scene, targets, window, frame)
            windows.append(TrainingWindow(plan, window, frame, targets, _inside(frame), labelled, prompts, index))
    return windows


def _labelled(scene: LabelledScene, targets: NDArray[np.uint8], window: Box, frame: Frame) -> NDArray[np.bool_]:
    covered = targets.max(0)
    for mask in scene.labelled:
        if _overlap(mask.box, window):
            np.maximum(covered, coverage_on_logits(mask, window, frame), out=covered)
    labelled: NDArray[np.bool_] = covered >= _LABELLED
    return labelled


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and one[1] < other[3] and one[2] > other[0] and one[3] > other[1]


def _by_window(scene: LabelledScene, config: ModelConfig) -> dict[Box, list[LabelledObject]]:
    around = Windows(scene.stack.size, config.image_size)
    if scene.is_encoded_whole(config):
        return {around.whole: list(scene.objects)}
    grouped: dict[Box, list[LabelledObject]] = {}
    for labelled in scene.objects:
        box = np.array(labelled.mask.box, np.float32)
        grouped.setdefault(around.first(Prompts(box=box), None), []).append(labelled)
    return grouped


def coverage_on_logits(mask: MaskCrop, window: Box, frame: Frame) -> NDArray[np.uint8]:
    """Share of each position of the logits (h, w) that a mask covers, as uint8, 255 = all."""
    x0, y0, x1, y1 = mask.box
    height, width = frame.original_size
    rows = _overlaps(y0 - window[1], y1 - window[1], frame.logits_size[0], frame.input_size[0], height, frame)
    columns = _overlaps(x0 - window[0], x1 - window[0], frame.logits_size[1], frame.input_size[1], width, frame)
    covered = rows @ mask.pixels.astype(np.float32) @ columns.T
    return np.asarray(np.clip(covered * 255 + 0.5, 0, 255), np.uint8)


def _overlaps(start: int, stop: int, count: int, extent: int, length: int, frame: Frame) -> NDArray[np.float32]:
    """(count, stop - start): share of each position of the logits that each pixel fills, along one axis."""
    side = frame.logits_stride * length / extent
    low = np.arange(count)[:, None] * side
    pixels = np.arange(start, stop)[None]
    shared = np.minimum(low + side, pixels + 1) - np.maximum(low, pixels)
    return np.asarray(np.clip(shared, 0, None) / side, np.float32)


def _inside(frame: Frame) -> NDArray[np.bool_]:
    rows, columns = (-(-side // frame.logits_stride) for side in frame.input_size)
    inside = np.zeros(frame.logits_size, bool)
    inside[:rows, :columns] = True
    return inside


class WindowData:
    """Embeddings or pixels of training windows, read and encoded when they are asked for.

    Parameters
    ----------
    windows
        The windows.
    encoder
        With the weights that training starts from; its caches answer what is asked again.
    """

    def __init__(self, windows: Sequence[TrainingWindow], encoder: WindowEncoder) -> None:
        self.windows = tuple(windows)
        self.encoder = encoder

    @property
    def model(self) -> E2SAM:
        """The model that encodes."""
        return self.encoder.model

    def embeddings(self, index: int) -> Tensor:
        """(V, 256, h, w) float32 embeddings of a window, one for each view of its plan, by the starting weights."""
        window = self.windows[index]
        encoded = self.encoder.encode(window.plan, window.window)
        # As the disk cache keeps them, so that a resumed run sees what the first one saw.
        rounded = replace(encoded, features=encoded.features.half().float())
        return self.encoder.embed(window.plan, rounded).float()

    def planes(self, index: int) -> NDArray[np.float32]:
        """(V, P, h, w) input of `E2SAM.prepare` for a window."""
        window = self.windows[index]
        return window.plan.planes(window.window, window.frame)
