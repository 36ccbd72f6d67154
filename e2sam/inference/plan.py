"""What the encoder is given: normalized channels of a stack, as a teacher's composites or a student's planes."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from e2sam.data.channels import (
    ChannelStatistics,
    Composite,
    channel_statistics,
    composites_of,
    plane_order,
    suggest_selections,
)
from e2sam.data.checks import shown
from e2sam.data.normalize import ChannelRecipe, apply_recipes, fit_recipes
from e2sam.data.sampling import sample_pixels
from e2sam.data.stack import ChannelStack
from e2sam.errors import ChannelError, StackError
from e2sam.inference.frame import Frame
from e2sam.inference.prediction import Box
from e2sam.modeling.e2sam import ModelConfig

__all__ = ["EncodingPlan", "Recipes", "Scene", "View"]

logger = logging.getLogger(__name__)

# A kind for every channel, kinds by channel name, or fitted recipes, one for each channel of the stack.
Recipes = str | Mapping[str, str | ChannelRecipe] | Sequence[ChannelRecipe] | None

MissingPolicy = Literal["refuse", "fill"]

# A stack that is read from disk is read at every n-th pixel where a window of it passes this; the frame keeps twice its
# own resolution, so its antialiasing still has something to do.
_READ_BUDGET_BYTES = 384 * 2**20
# A larger stack on disk is measured on blocks of it.
_LARGEST_MEASURED_SIDE = 4096
_SAMPLED_BLOCKS = 4
_SAMPLED_BLOCK = 256
_LOOKED_UP_PIXELS = 1 << 18
_BAND_PIXELS = 1 << 17
# What `read_stack` calls a channel that its file does not name.
_NO_NAME = re.compile(r"ch\d+")


@dataclass(frozen=True, eq=False)
class View:
    """One image that the encoder sees.

    Attributes
    ----------
    name
        What the user calls it.
    channels
        Names of the channels with weight in it.
    weights
        (S,) float32, share of each selected channel in it, summing to 1.
    matrix
        (3, S) float32 from selected channels to composite planes; None for a student.
    """

    name: str
    channels: tuple[str, ...]
    weights: NDArray[np.float32]
    matrix: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class EncodingPlan:
    """How windows of a stack become the encoder's input for one selection.

    Attributes
    ----------
    scene
        What it was made for.
    sources
        Index into the stack behind each plane that is read, or -1 for a student's channel that the stack lacks.
    recipes
        Normalization of each of `sources`.
    views
        What the encoder sees, encoded together: composites, or a student's one view.
    selected
        Names of the selected channels, as the stack calls them.
    positions
        Positions of the selection in a student's own channels; None for a teacher.
    """

    scene: Scene
    sources: tuple[int, ...]
    recipes: tuple[ChannelRecipe, ...]
    views: tuple[View, ...]
    selected: tuple[str, ...]
    positions: tuple[int, ...] | None = None

    @property
    def stack(self) -> ChannelStack:
        """The pixels."""
        return self.scene.stack

    @property
    def source(self) -> Hashable:
        """The scene, and what else the encoder's input depends on; a student's selection is not part of it."""
        matrices = tuple(view.matrix.tobytes() for view in self.views if view.matrix is not None)
        return self.scene, self.sources, self.recipes, matrices

    def with_view(self, view: int) -> EncodingPlan:
        """The plan for one of its views alone."""
        return self if len(self.views) == 1 else replace(self, views=(self.views[view],))

    def planes(self, window: Box, frame: Frame) -> NDArray[np.float32]:
        """Input of `E2SAM.prepare` for a window (x0, y0, x1, y1) of the stack.

        Returns
        -------
        NDArray
            (V, 3, h, w) float32 composites in 0..255 for a teacher, (1, N, h, w) channels in [0, 1] for a student,
            where (h, w) is the frame's `input_size`.
        """
        height, width = frame.input_size
        if self.positions is not None:
            channels = np.empty((1, len(self.sources), height, width), np.float32)
            for index, plane in enumerate(self._channels(window, frame)):
                channels[0, index] = plane
            return channels
        composites = np.zeros((len(self.views), 3, height, width), np.float32)
        matrices = np.stack([view.matrix for view in self.views if view.matrix is not None])
        for index, plane in enumerate(self._channels(window, frame)):
            for view, row in np.argwhere(matrices[:, :, index]):
                composites[view, row] += matrices[view, row, index] * plane
        return composites * np.float32(255)

    def _channels(self, window: Box, frame: Frame) -> Iterator[NDArray[np.float32]]:
        """Each of `sources` over a window, in [0, 1] and in the frame; channel by channel, to bound the memory."""
        x0, y0, x1, y1 = window
        step = self._step(window, frame)
        rows, columns = slice(y0, y1), slice(x0, x1)
        present = [index for index in self.sources if index >= 0]
        in_memory = isinstance(self.stack.data, np.ndarray)
        block = None if in_memory else self.stack.read(rows, columns, present, step)
        for index, recipe in zip(self.sources, self.recipes, strict=True):
            if index < 0:
                yield _unmeasured(recipe, frame)
                continue
            if block is None:
                pixels = self.stack.read(rows, columns, [index], step)
            else:
                place = present.index(index)
                pixels = block[place : place + 1]
            yield _normalized(self.stack, index, pixels, recipe, frame)

    def _step(self, window: Box, frame: Frame) -> int:
        if isinstance(self.stack.data, np.ndarray):
            return 1
        x0, y0, x1, y1 = window
        size = (x1 - x0) * (y1 - y0) * len(self.sources) * self.stack.data.dtype.itemsize
        wanted = int(np.ceil(np.sqrt(size / _READ_BUDGET_BYTES)))
        return max(1, min(wanted, max(x1 - x0, y1 - y0) // (2 * max(frame.input_size))))


def _normalized(
    stack: ChannelStack, index: int, pixels: NDArray[Any], recipe: ChannelRecipe, frame: Frame
) -> NDArray[np.float32]:
    """A channel's pixels (1, h, w) as stored, in [0, 1] and in the frame."""
    if pixels.dtype == np.uint8 and recipe.kind == "none" and stack.valid_of(pixels, [index]).all():
        # Resized as bytes, as SamPredictor does, and only then scaled.
        return frame.resize(pixels[0]) / np.float32(255)

    def scaled(block: NDArray[Any]) -> NDArray[np.float32]:
        plane: NDArray[np.float32] = apply_recipes(block, stack.valid_of(block, [index]), (recipe,))[0]
        return plane

    if pixels.dtype in (np.uint8, np.uint16) and pixels.size > _LOOKED_UP_PIXELS:
        # What a value becomes depends on nothing else, and there are few values.
        table = scaled(np.arange(np.iinfo(pixels.dtype).max + 1, dtype=pixels.dtype)[None, None])[0]
        return frame.resize(table[pixels[0]])
    plane = np.empty(pixels[0].shape, np.float32)
    band = max(1, _BAND_PIXELS // pixels.shape[-1])
    for start in range(0, len(plane), band):
        # By bands that stay in the processor's cache.
        plane[start : start + band] = scaled(pixels[:, start : start + band])
    return frame.resize(plane)


def _unmeasured(recipe: ChannelRecipe, frame: Frame) -> NDArray[np.float32]:
    """A channel without a single measured pixel, filled as invalid pixels are."""
    nothing = np.full((1, 1, 1), np.nan, np.float32)
    value = apply_recipes(nothing, np.zeros((1, 1, 1), bool), (recipe,))[0, 0, 0]
    return np.full(frame.input_size, value, np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """A stack with what is measured on it, once and when it is first needed.

    Attributes
    ----------
    stack
        The pixels.
    wanted
        Normalization as the caller gave it.
    """

    stack: ChannelStack
    wanted: Recipes = None

    @classmethod
    def of(cls, stack: ChannelStack, recipes: Recipes = None) -> Scene:
        """Take a stack, and how a teacher's input of it is normalized.

        Raises
        ------
        StackError
            If it is a series or a volume.
        ChannelError
            If the recipes do not fit the channels.
        """
        if not isinstance(stack, ChannelStack):
            raise StackError(f"Expected a ChannelStack, got {type(stack).__name__}: take one from read_stack().")
        if stack.leading:
            raise StackError(f"Expected a single scene, got axes {stack.leading}CYX: take one with plane().")
        return cls(stack, _checked_recipes(recipes, stack.num_channels))

    @cached_property
    def sample(self) -> ChannelStack:
        """What is measured: the stack, or of a large one on disk, 4 x 4 blocks of it side by side.

        Read once for all statistics; blocks, because reading every n-th pixel of a file would decode all of it.
        """
        height, width = self.stack.size
        is_small = max(height, width) <= _LARGEST_MEASURED_SIDE
        if is_small or (isinstance(self.stack.data, np.ndarray) and not isinstance(self.stack.data, np.memmap)):
            return self.stack
        columns = _spread(width)
        rows = [np.concatenate([self.stack.read(y, x) for x in columns], axis=2) for y in _spread(height)]
        return replace(self.stack, data=np.concatenate(rows, axis=1), _valid=None)

    @cached_property
    def is_measured(self) -> NDArray[np.bool_]:
        """(C,) which channels have a valid pixel."""
        _, valid = sample_pixels(self.sample)
        found: NDArray[np.bool_] = np.asarray(valid.any(axis=(1, 2)))
        for index in np.flatnonzero(~found):
            # The few pixels that are valid may lie between those of the sample.
            found[index] = self.sample.valid_of(self.sample.read(channels=[int(index)]), [int(index)]).any()
        return found

    def check_measured(self, names: Sequence[str]) -> None:
        """Refuse a selection of which nothing was measured, and warn of channels that say nothing.

        Raises
        ------
        ChannelError
            If no selected channel has a valid pixel.
        """
        empty = [name for name in names if not self.is_measured[self.stack.names.index(name)]]
        if len(empty) == len(names):
            raise ChannelError(
                f"Expected at least 1 selected channel with valid pixels, got none in {_list(empty)}: select others; "
                "`e2sam info` shows the share of valid pixels."
            )
        if empty:
            logger.warning("No valid pixel in %s, which the mask therefore cannot depend on.", _list(empty))

    @cached_property
    def recipes(self) -> tuple[ChannelRecipe, ...]:
        """One for each channel of the stack; a student has its own.

        Raises
        ------
        ChannelError
            If a kind or a channel does not exist.
        """
        if self.wanted is None or isinstance(self.wanted, str | Mapping):
            return fit_recipes(self.sample, self.wanted or "auto")
        return tuple(self.wanted)

    @cached_property
    def statistics(self) -> ChannelStatistics:
        """Information and correlation of all channels."""
        return channel_statistics(self.sample, self.recipes)

    def plan(
        self,
        config: ModelConfig,
        channels: Sequence[str | int] | Literal["auto"],
        mapping: Mapping[str, str] | None = None,
        missing: MissingPolicy = "refuse",
    ) -> EncodingPlan:
        """What the encoder of a model is given for a selection.

        Raises
        ------
        ChannelError
            If a channel does not exist or stands twice, or the stack's channels are not those of a student.
        """
        _check_matching(mapping, missing)
        if config.is_student:
            return self._student_plan(config, channels, mapping or {}, missing)
        return self._teacher_plan(self.stack.indices(self._resolved(channels)))

    def _resolved(self, channels: Sequence[str | int] | Literal["auto"]) -> Sequence[str | int]:
        if not isinstance(channels, str):
            return channels
        if channels != "auto":
            return [channels]
        if self.stack.num_channels <= 3:
            measured = self.statistics.valid_share > 0
            return [name for name, known in zip(self.stack.names, measured, strict=True) if known] or self.stack.names
        suggested = suggest_selections(self.stack, top=1, statistics=self.statistics)
        return suggested[0].names if suggested else self.stack.names[:3]

    def _composites(self, selection: tuple[int, ...]) -> tuple[Composite, ...]:
        names = self.stack.names
        if len(selection) <= 3:
            # Taken as ordered: nothing is measured.
            return composites_of(selection, np.eye(len(names)), np.ones(len(names)), names=names)
        correlation, information = self.statistics.correlation, self.statistics.information
        return composites_of(selection, correlation, information, names=names, order=plane_order(self.stack))

    def _teacher_plan(self, selection: tuple[int, ...]) -> EncodingPlan:
        names = tuple(self.stack.names[index] for index in selection)
        views = []
        for composite in self._composites(selection):
            matrix = np.asarray(composite.matrix, np.float32)[:, list(selection)]
            views.append(View(composite.description, composite.names, matrix.mean(axis=0), matrix))
        recipes = tuple(self.recipes[index] for index in selection)
        return EncodingPlan(self, selection, recipes, tuple(views), names)

    def _student_plan(
        self,
        config: ModelConfig,
        channels: Sequence[str | int] | Literal["auto"],
        mapping: Mapping[str, str],
        missing: MissingPolicy,
    ) -> EncodingPlan:
        sources = _matched(config, self.stack, mapping, missing)
        here = tuple(source for source in sources if source >= 0)
        selection = here if isinstance(channels, str) and channels == "auto" else self._indices(channels)
        unknown = [self.stack.names[index] for index in selection if index not in here]
        if unknown:
            raise ChannelError(
                f"Expected a selection of the model's channels ({_list(self.stack.names[i] for i in here)}), "
                f"got {_list(unknown)}: select others, or inherit a model with them."
            )
        names = tuple(self.stack.names[index] for index in selection)
        weights = np.full(len(names), 1 / len(names), np.float32)
        view = View("student", names, weights)
        positions = tuple(sources.index(index) for index in selection)
        return EncodingPlan(self, sources, config.recipes, (view,), names, positions)

    def _indices(self, channels: Sequence[str | int]) -> tuple[int, ...]:
        return self.stack.indices([channels] if isinstance(channels, str) else channels)


def _checked_recipes(recipes: Any, num_channels: int) -> Recipes:
    if recipes is None or isinstance(recipes, str | Mapping):
        return recipes
    given = tuple(recipes) if isinstance(recipes, Iterable) else (recipes,)
    wrong = [one for one in given if not isinstance(one, ChannelRecipe)]
    if wrong or len(given) != num_channels:
        got = shown(wrong[0]) if wrong else len(given)
        raise ChannelError(
            f"Expected one recipe for each of {num_channels} channels, got {got}: fit them with fit_recipes, or pass "
            "the name of one kind for all, or None."
        )
    return given


def _check_matching(mapping: Any, missing: Any) -> None:
    names = (*mapping, *mapping.values()) if isinstance(mapping, Mapping) else (None,)
    if mapping is not None and not all(isinstance(name, str) for name in names):
        raise ChannelError(f"Expected a mapping from the model's names to the stack's, got {shown(mapping)}.")
    if missing not in get_args(MissingPolicy):
        raise ChannelError(f"Expected missing 'refuse' or 'fill', got {shown(missing)}.")


def _spread(length: int) -> list[slice]:
    """Four slices spread over a length, on multiples of their own so that each lies in one tile of a file."""
    if length <= _SAMPLED_BLOCKS * _SAMPLED_BLOCK:
        return [slice(0, length)]
    centres = (np.arange(_SAMPLED_BLOCKS) + 0.5) * length / _SAMPLED_BLOCKS
    starts = (centres.astype(int) // _SAMPLED_BLOCK * _SAMPLED_BLOCK).tolist()
    return [slice(start, min(start + _SAMPLED_BLOCK, length)) for start in starts]


def _matched(
    config: ModelConfig, stack: ChannelStack, mapping: Mapping[str, str], missing: MissingPolicy
) -> tuple[int, ...]:
    """Index into the stack behind each of a student's channels, -1 where it lacks one and that is allowed."""
    own = [channel.name for channel in config.channels]
    unknown = [name for name in mapping if name not in own]
    if unknown:
        raise ChannelError(f"Expected a mapping from the model's channels ({_list(own)}), got {_list(unknown)}.")
    if all(map(_NO_NAME.fullmatch, own)) and not mapping and missing == "refuse" and stack.num_channels != len(own):
        raise ChannelError(
            f"Expected a stack of {len(own)} channels, as the model's have no names ({_list(own)}), got "
            f"{stack.num_channels}: give a mapping from the model's names to the stack's."
        )
    wanted = [mapping.get(name, name) for name in own]
    absent = [name for name in wanted if name not in stack.names]
    if absent and (missing == "refuse" or len(absent) == len(own)):
        raise ChannelError(
            f"Expected a stack with the model's channels ({_list(own)}), got {_list(stack.names)}; missing: "
            f"{_list(absent)}. Give a mapping from the model's names to the stack's, or missing='fill'."
        )
    present = [name for name in wanted if name in stack.names]
    twice = sorted({name for name in present if present.count(name) > 1})
    if twice:
        raise ChannelError(f"Expected each channel of the stack behind one of the model's, got {_list(twice)} twice.")
    return tuple(stack.names.index(name) if name in stack.names else -1 for name in wanted)


def _list(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:16]) + (f", ... ({len(listed)})" if len(listed) > 16 else "")
