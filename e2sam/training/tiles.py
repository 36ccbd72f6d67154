"""Tiles of unlabelled stacks in the model's frame: what stage 1 is trained and judged on, never the same pixels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from e2sam.data.normalize import ChannelRecipe, apply_recipes
from e2sam.data.stack import ChannelStack
from e2sam.errors import TrainingError

__all__ = ["Tile", "TileReader", "TileSpec", "TrainingScene", "hold_out"]

Box = tuple[int, int, int, int]

_HELD_SHARE = 0.25
_MARGIN_SHARE = 0.04
_LEAST_SIDE = 8
# Scale jitter around the range of scales in which the predictor encodes a stack.
_JITTER = 1.4
_MEMORY_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class TrainingScene:
    """A stack and its two regions.

    Attributes
    ----------
    stack
        One scene (C, H, W); its pixels may stay on disk.
    train, held
        (x0, y0, x1, y1) of the region that steps see, and of the one that validation sees; None where the scene is for
        the other purpose alone.
    """

    stack: ChannelStack
    train: Box | None
    held: Box | None


@dataclass(frozen=True)
class TileSpec:
    """Where a tile lies, how large it is in the model's frame, and how it is turned.

    Attributes
    ----------
    scene
        Index of the scene.
    window
        (x0, y0, x1, y1) in pixels of the stack.
    size
        (h, w) in the model's frame, before turning.
    turn
        0..7: bit 0 flips x, bit 1 flips y, bit 2 swaps the axes.
    """

    scene: int
    window: Box
    size: tuple[int, int]
    turn: int = 0


@dataclass(frozen=True, eq=False)
class Tile:
    """Pixels of a tile.

    Attributes
    ----------
    planes
        (N, h, w) float32 in [0, 1].
    measured
        (h, w) float32 in [0, 1], mean share of measured values of the channels.
    """

    planes: NDArray[np.float32]
    measured: NDArray[np.float32]


def hold_out(
    stacks: Sequence[ChannelStack], seed: int, series: Sequence[int] | None = None
) -> tuple[TrainingScene, ...]:
    """Divide scenes into trained and held-out ones: of four and more, every fifth whole; else a side of each.

    Of a single scene the last or first quarter of the longer side is held out, with a margin of 4 % between.

    Parameters
    ----------
    stacks
        Single scenes.
    seed
        Another seed gives another division.
    series
        For each scene, the number of the series or volume that it is a plane of: its planes show the same things, so
        that they count as one and have the same side held out. None: each scene is by itself.

    Raises
    ------
    TrainingError
        If a scene is too small to be divided.
    """
    rng = np.random.default_rng((seed, 77))
    numbers = list(range(len(stacks)) if series is None else series)
    count = max(numbers) + 1
    if count >= 4:
        held = set(rng.permutation(count)[: max(1, count // 5)].tolist())
        return tuple(
            TrainingScene(stack, None if number in held else _whole(stack), _whole(stack) if number in held else None)
            for number, stack in zip(numbers, stacks, strict=True)
        )
    sides = [bool(rng.integers(2)) for _ in range(count)]
    return tuple(_divided(stack, sides[number]) for number, stack in zip(numbers, stacks, strict=True))


def _whole(stack: ChannelStack) -> Box:
    height, width = stack.size
    return 0, 0, width, height


def _divided(stack: ChannelStack, is_first: bool) -> TrainingScene:
    height, width = stack.size
    length = max(height, width)
    held, margin = round(_HELD_SHARE * length), max(2, round(_MARGIN_SHARE * length))
    if min(held, length - held - margin, height, width) < _LEAST_SIDE:
        raise TrainingError(
            f"Expected a stack of at least {4 * _LEAST_SIDE} x {_LEAST_SIDE} pixels to hold a region out, got "
            f"{width} x {height}."
        )
    train, kept = (held + margin, length), (0, held)
    if not is_first:
        train, kept = (0, length - held - margin), (length - held, length)
    if width >= height:
        return TrainingScene(stack, (train[0], 0, train[1], height), (kept[0], 0, kept[1], height))
    return TrainingScene(stack, (0, train[0], width, train[1]), (0, kept[0], width, kept[1]))


class TileReader:
    """Draws and reads tiles; only their windows are ever read, and the latest stay in memory.

    Parameters
    ----------
    scenes
        From `hold_out`.
    recipes
        One for each channel.
    image_size
        Long side of the model's frame: a whole scene is seen at this size, a large one also at its own.
    tile_size
        Side of a tile in the model's frame.
    """

    def __init__(
        self, scenes: Sequence[TrainingScene], recipes: Sequence[ChannelRecipe], image_size: int, tile_size: int
    ) -> None:
        self.scenes = tuple(scenes)
        self.recipes = tuple(recipes)
        self.image_size = image_size
        self.tile_size = tile_size
        self._kept: OrderedDict[TileSpec, Tile] = OrderedDict()
        self._bytes = 0

    def training_tiles(self, count: int, seed: int) -> tuple[TileSpec, ...]:
        """`count` tiles of the trained regions: any place, turn, and scale between the frame's and the stack's own."""
        rng = np.random.default_rng((seed, 11))
        usable = [index for index, scene in enumerate(self.scenes) if scene.train is not None]
        specs = []
        for number in range(count):
            index = usable[number % len(usable)]
            low, high = self._scales(index)
            scale = math.exp(rng.uniform(math.log(low / _JITTER), math.log(high * _JITTER)))
            specs.append(self._spec(index, self.scenes[index].train, scale, rng, int(rng.integers(8))))
        return tuple(specs)

    def held_out_tiles(self, count: int, seed: int, factor: float = 1.0) -> tuple[TileSpec, ...]:
        """`count` tiles of the held-out regions, upright, at the scale of the whole frame divided by `factor`."""
        rng = np.random.default_rng((seed, 13))
        usable = [index for index, scene in enumerate(self.scenes) if scene.held is not None]
        specs = []
        for number in range(count):
            index = usable[number % len(usable)]
            scale = max(self.scenes[index].stack.size) / self.image_size / factor
            specs.append(self._spec(index, self.scenes[index].held, scale, rng, 0))
        return tuple(specs)

    def _scales(self, index: int) -> tuple[float, float]:
        """Pixels of the stack behind one of the frame: its own resolution, and that of the whole scene in the frame."""
        whole = max(self.scenes[index].stack.size) / self.image_size
        return min(whole, 1.0), whole

    def _spec(self, index: int, region: Box | None, scale: float, rng: np.random.Generator, turn: int) -> TileSpec:
        assert region is not None
        x0, y0, x1, y1 = region
        width, height = (min(max(1, round(self.tile_size * scale)), length) for length in (x1 - x0, y1 - y0))
        left = x0 + int(rng.integers(x1 - x0 - width + 1))
        top = y0 + int(rng.integers(y1 - y0 - height + 1))
        size = (
            min(self.tile_size, max(1, round(height / scale))),
            min(self.tile_size, max(1, round(width / scale))),
        )
        return TileSpec(index, (left, top, left + width, top + height), size, turn)

    def read(self, spec: TileSpec) -> Tile:
        """Pixels of a tile."""
        if spec in self._kept:
            self._kept.move_to_end(spec)
            return self._kept[spec]
        tile = self._read(spec)
        self._kept[spec] = tile
        self._bytes += tile.planes.nbytes
        while self._bytes > _MEMORY_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.planes.nbytes
        return tile

    def _read(self, spec: TileSpec) -> Tile:
        stack = self.scenes[spec.scene].stack
        x0, y0, x1, y1 = spec.window
        # Two pixels of what is read behind each of the tile are enough for its antialiasing.
        step = max(1, (x1 - x0) // (2 * spec.size[1]))
        block = stack.read(slice(y0, y1), slice(x0, x1), step=step)
        valid = stack.valid_of(block)
        planes = _resized(apply_recipes(block, valid, self.recipes), spec.size)
        measured = _resized(valid.mean(0, dtype=np.float32)[None], spec.size)
        return Tile(_turned(planes, spec.turn), _turned(measured, spec.turn)[0])


def _resized(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if planes.shape[-2:] == size:
        return planes
    resized = F.interpolate(torch.from_numpy(planes)[None], size, mode="bilinear", align_corners=False, antialias=True)
    array: NDArray[np.float32] = resized[0].numpy()
    return array


def _turned(planes: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    if turn & 1:
        planes = planes[:, :, ::-1]
    if turn & 2:
        planes = planes[:, ::-1]
    if turn & 4:
        planes = planes.swapaxes(1, 2)
    return np.ascontiguousarray(planes)
