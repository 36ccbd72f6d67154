"""Training batches of `tiny`: scenes composed in a second process, crops, targets and prompts."""

from __future__ import annotations

import argparse
import os
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from queue import Empty, Full
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import functional as F

from e2sam.data.clicks import jittered_box, training_click
from e2sam.data.synthetic import Material, SceneOptions, make_scene
from e2sam.errors import TrainingError

__all__ = [
    "Batch",
    "KindShares",
    "PackedScene",
    "SceneSource",
    "SourceSettings",
    "first_prompts",
    "make_batch",
    "pack_scene",
]

SCENE_SIDE = 320
NUM_EXTRAS = 3
# Crops that vary less than this, of 255, show nobody anything: night, mostly.
_DARK = 5.0
# A close look is so many times as wide as its object, at most, and so many pixels at least, as the predictor's.
_CLOSE_EXTENTS = (1.6, 4.5)
_CLOSEST = 40
# How often a composing process that waits looks whether anybody still wants its scenes.
_PATIENCE_S = 2.0


@dataclass(frozen=True, eq=False)
class PackedScene:
    """A scene as it travels between processes: planes uint8 (6, H, W), labels int16, what is visible, parents."""

    planes: NDArray[np.uint8]
    labels: NDArray[np.int16]
    visible: NDArray[np.bool_]
    parents: NDArray[np.int32]


@dataclass(frozen=True)
class KindShares:
    """How often a scene is of a kind that is asked for by name; the others are as `make_scene` draws them.

    Attributes
    ----------
    cultures, streets, counts, land
        Shares in [0, 1] of cell cultures, streets, tissue in counts, and land from above; together at most 1.
    """

    cultures: float = 0.0
    streets: float = 0.0
    counts: float = 0.0
    land: float = 0.0

    def __post_init__(self) -> None:
        shares = asdict(self)
        # Shares such as .1 and .2 add up to a little more than they should.
        if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            raise TrainingError(
                f"Expected shares of {', '.join(shares)} that are not negative and add up to at most 1, "
                f"got {', '.join(str(share) for share in shares.values())}."
            )

    def draw(self, rng: np.random.Generator) -> str | None:
        """Kind of a scene by one draw, None for any other; no draw where every share is 0."""
        shares = dict(zip(("culture", "street", "counts", "land"), asdict(self).values(), strict=True))
        if not sum(shares.values()):
            return None
        draw = rng.random()
        for kind, share in shares.items():
            if draw < share:
                return kind
            draw -= share
        return None

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Give a command an option for each share."""
        for share in fields(cls):
            parser.add_argument(f"--{share.name}", type=float, default=share.default, help="share of the scenes")

    @classmethod
    def take(cls, options: dict[str, Any]) -> KindShares:
        """Take the shares out of a command's options."""
        return cls(**{share.name: options.pop(share.name) for share in fields(cls)})


def pack_scene(
    seed: int,
    index: int,
    material: Material | None,
    side: int = SCENE_SIDE,
    shares: KindShares = KindShares(),
) -> PackedScene:
    """Scene number `index` of a seed, shares of them of some kinds: always the same."""
    kind = shares.draw(np.random.default_rng((seed, index, 1)))
    options = None if kind is None else SceneOptions(kind=kind)
    scene = make_scene(np.random.default_rng((seed, index)), (side, side), NUM_EXTRAS, options, material)
    planes = (scene.planes * 255 + 0.5).astype(np.uint8)
    return PackedScene(planes, scene.labels.astype(np.int16), scene.visible, scene.parents)


@dataclass(frozen=True)
class SourceSettings:
    """Where scenes come from.

    Attributes
    ----------
    seed, side, shares
        Of the scenes: random seed, height and width in pixels, and what shares of them are of some kinds.
    fresh, capacity
        New scenes at each step, and how many are held.
    material
        `train.npz`, or None for procedural scenes.
    workers, cores
        Processes that compose, and the cores that they keep to (any if empty).
    """

    seed: int = 0
    side: int = SCENE_SIDE
    shares: KindShares = field(default_factory=KindShares)
    fresh: int = 3
    capacity: int = 1000
    material: Path | None = None
    workers: int = 1
    cores: tuple[int, ...] = ()


def _compose(queue: Any, settings: SourceSettings, start: int) -> None:
    """What a composing process does until it is ended, or the process that it composes for has died."""
    parent = os.getppid()
    os.nice(10)
    if settings.cores:
        os.sched_setaffinity(0, settings.cores)
    torch.set_num_threads(1)
    material = None if settings.material is None else Material.load(settings.material)
    index = start
    while True:
        scene = pack_scene(settings.seed, index, material, settings.side, settings.shares)
        while True:
            try:
                queue.put((scene.planes, scene.labels, scene.visible, scene.parents), timeout=_PATIENCE_S)
                break
            except Full:
                if os.getppid() != parent:
                    queue.cancel_join_thread()
                    return
        index += settings.workers


class SceneSource:
    """The last `capacity` scenes of an endless numbered row; each step sees `fresh` new ones.

    What a step sees depends on its number alone, so that a resumed run goes on exactly as it would have.
    """

    def __init__(self, settings: SourceSettings, step: int) -> None:
        self._fresh = settings.fresh
        self._scenes: deque[PackedScene] = deque(maxlen=settings.capacity)
        start = max(0, step * settings.fresh - settings.capacity)
        self._missing = step * settings.fresh - start
        self._taken = 0
        context = mp.get_context("spawn")
        self._queues = [context.Queue(maxsize=32) for _ in range(settings.workers)]
        self._processes = [
            context.Process(target=_compose, args=(queue, settings, start + worker), daemon=True)
            for worker, queue in enumerate(self._queues)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> SceneSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.join()
        for queue in self._queues:
            queue.cancel_join_thread()
            queue.close()

    def advance(self) -> list[PackedScene]:
        """Take the next fresh scenes in and return all that are held, newest last."""
        for _ in range(self._fresh + self._missing):
            self._scenes.append(self._next(self._taken % len(self._queues)))
            self._taken += 1
        self._missing = 0
        return list(self._scenes)

    def _next(self, worker: int) -> PackedScene:
        """Wait for a scene as long as somebody composes it: a machine may sleep for hours."""
        while True:
            try:
                return PackedScene(*self._queues[worker].get(timeout=_PATIENCE_S))
            except Empty:
                if not self._processes[worker].is_alive():
                    raise TrainingError(
                        "Expected scenes from the process that composes them, but it has ended: see its message above, "
                        "then go on with --resume."
                    ) from None


@dataclass(frozen=True)
class Batch:
    """S scenes with O objects each, B = S * O.

    Attributes
    ----------
    pixels
        (S, 3, c, c) float32 composites 0..255.
    masks
        (B, c, c) bool.
    boundaries, judged
        (S, 2, c / 4, c / 4) float32: the right, the lower neighbour belongs to another object; whether that is known.
    """

    pixels: Tensor
    masks: NDArray[np.bool_]
    boundaries: Tensor
    judged: Tensor


def make_batch(
    rng: np.random.Generator,
    scenes: list[PackedScene],
    shape: tuple[int, int, int],
    smallest: int,
    close: float = 0.0,
) -> Batch:
    """Crop (number of scenes, objects, side) = `shape` from random scenes, half of them among the newest.

    A share `close` of the crops are close looks at one object, as the predictor takes them at small ones.
    Objects with less than `smallest` pixels, or not visible in the three planes that were drawn, are not asked for.
    """
    num_scenes, num_objects, side = shape
    pixels: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    boundaries: list[NDArray[np.float32]] = []
    judged: list[NDArray[np.float32]] = []
    while len(pixels) < num_scenes:
        recent = min(len(scenes), 4 * num_scenes)
        low = len(scenes) - recent if len(pixels) < num_scenes // 2 else 0
        scene = scenes[int(rng.integers(low, len(scenes)))]
        planes, shown = _composite(rng, scene)
        labels = scene.labels.astype(np.int32)
        is_close = close > 0 and rng.random() < close
        square = _close_square(rng, labels) if is_close else _square(rng, labels.shape[0], side)
        image, labels = _crop(rng, planes, labels, square, side)
        if image.std() < _DARK:
            continue
        chosen = _choose(rng, labels, scene, shown, (num_objects, smallest))
        if chosen is None:
            continue
        pixels.append(image)
        masks.extend(chosen)
        border, known = _boundaries(labels, shown)
        boundaries.append(border)
        judged.append(known)
    return Batch(
        torch.from_numpy(np.stack(pixels)),
        np.stack(masks),
        torch.from_numpy(np.stack(boundaries)),
        torch.from_numpy(np.stack(judged)),
    )


def _composite(rng: np.random.Generator, scene: PackedScene) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Three planes of a scene and which labels they show: mostly colour, else grey or any channels."""
    choice = rng.random()
    if choice < 0.62:
        planes, channels = scene.planes[:3], [0]
        if rng.random() < 0.25:
            planes = planes[rng.permutation(3)]
        if rng.random() < 0.12:
            planes = np.repeat(planes.mean(0, keepdims=True), 3, 0).astype(np.uint8)
    else:
        indices = rng.choice(len(scene.planes), 3, replace=False)
        if rng.random() < 0.3:
            indices = np.repeat(indices[:1], 3)
        planes, channels = scene.planes[indices], sorted({max(0, int(index) - 2) for index in indices})
    if rng.random() < 0.06:
        planes = 255 - planes
    return planes, np.asarray(scene.visible[:, channels].any(1))


def _square(rng: np.random.Generator, whole: int, side: int) -> tuple[int, int, int]:
    """Top, left and side of any square of a scene, for crops of `side` pixels."""
    low, high = min(0.7 * side, 0.8 * whole), min(float(whole), 2.7 * side)
    taken = int(np.exp(rng.uniform(np.log(low), np.log(high))))
    top, left = (int(rng.integers(whole - taken + 1)) for _ in range(2))
    return top, left, taken


def _close_square(rng: np.random.Generator, labels: NDArray[np.int32]) -> tuple[int, int, int]:
    """Top, left and side of a square around one object of a scene, which is somewhere about its middle."""
    found = np.unique(labels[labels > 0])
    rows, columns = np.nonzero(labels == rng.choice(found)) if len(found) else np.nonzero(labels == 0)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    whole = labels.shape[0]
    taken = int(np.clip(extent * np.exp(rng.uniform(*np.log(_CLOSE_EXTENTS))), _CLOSEST, whole))
    moved = rng.uniform(-0.15, 0.15, 2) * taken
    starts = np.asarray([(line.min() + line.max() + 1 - taken) / 2 for line in (rows, columns)]) + moved
    top, left = np.clip(np.round(starts), 0, whole - taken).astype(int).tolist()
    return top, left, taken


def _crop(
    rng: np.random.Generator,
    planes: NDArray[np.uint8],
    labels: NDArray[np.int32],
    square: tuple[int, int, int],
    side: int,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """A square (top, left, side) of the scene, turned and resized to `side`."""
    top, left, taken = square
    image = torch.from_numpy(planes[:, top : top + taken, left : left + taken].astype(np.float32))[None]
    part = labels[top : top + taken, left : left + taken]
    image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=taken > 1.4 * side)[0]
    nearest = ((np.arange(side) + 0.5) * taken / side).astype(np.int64)
    part = part[nearest[:, None], nearest[None, :]]
    array = image.numpy()
    turns = int(rng.integers(4))
    array, part = np.rot90(array, turns, (1, 2)), np.rot90(part, turns)
    if rng.random() < 0.5:
        array, part = array[:, :, ::-1], part[:, ::-1]
    return np.ascontiguousarray(array), np.ascontiguousarray(part)


def _choose(
    rng: np.random.Generator,
    labels: NDArray[np.int32],
    scene: PackedScene,
    shown: NDArray[np.bool_],
    wanted: tuple[int, int],
) -> list[NDArray[np.bool_]] | None:
    """Masks of the objects to ask for, larger ones more often; None where there are none."""
    num_objects, smallest = wanted
    areas = np.bincount(labels.ravel(), minlength=len(shown)).astype(np.float64)
    for label, parent in enumerate(scene.parents):
        if parent:
            areas[parent] += areas[label]
    usable = (areas >= smallest) & shown & (areas < 0.9 * labels.size)
    usable[0] = False
    if not usable.any():
        return None
    weights = np.where(usable, areas**0.35, 0)
    picked = rng.choice(len(shown), num_objects, p=weights / weights.sum(), replace=usable.sum() < num_objects)
    return [np.isin(labels, [label, *np.flatnonzero(scene.parents == label)]) for label in picked]


def _boundaries(labels: NDArray[np.int32], shown: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where neighbours on the stride-4 grid belong to different objects (2, h, w), and where this can be seen."""
    grid = labels[2::4, 2::4]
    known = shown | (np.arange(len(shown)) == 0)
    border = np.zeros((2, *grid.shape), np.float32)
    judged = np.zeros((2, *grid.shape), np.float32)
    border[0, :, :-1] = grid[:, 1:] != grid[:, :-1]
    border[1, :-1] = grid[1:] != grid[:-1]
    judged[0, :, :-1] = known[grid[:, 1:]] & known[grid[:, :-1]]
    judged[1, :-1] = known[grid[1:]] & known[grid[:-1]]
    return border, judged


def first_prompts(rng: np.random.Generator, masks: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """The first prompt of B objects: a click, a box, or both; coordinates (B, 3, 2) and labels (B, 3)."""
    points = np.zeros((len(masks), 3, 2), np.float32)
    labels = np.full((len(masks), 3), -1, np.int64)
    for index, mask in enumerate(masks):
        choice = rng.random()
        if choice < 0.8:
            points[index, 0], labels[index, 0] = _first_click(rng, mask), 1
        if choice > 0.74:
            share = 0.0 if rng.random() < 0.4 else 0.1
            x0, y0, x1, y1 = jittered_box(mask, share, rng)
            points[index, 1:] = (x0, y0), (x1, y1)
            labels[index, 1:] = 2, 3
    return torch.from_numpy(points), torch.from_numpy(labels)


def _first_click(rng: np.random.Generator, mask: NDArray[np.bool_]) -> tuple[float, float]:
    if rng.random() < 0.25:
        rows, columns = np.nonzero(mask)
        pick = int(rng.integers(len(rows)))
        return float(columns[pick]) + 0.5, float(rows[pick]) + 0.5
    click = training_click(mask, np.zeros_like(mask), rng)
    assert click is not None
    return click.x, click.y
