"""What is trained on and what is held out: decided before training, from names and places, the same every time."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from e2sam.errors import TrainingError

__all__ = ["ObjectPlace", "Split", "cross_objects", "split_images", "split_objects", "split_pixels", "split_series"]

_FEW = 8


@dataclass(frozen=True)
class ObjectPlace:
    """Where one labelled object lies.

    Attributes
    ----------
    image
        Identity of its image, a content hash or the path; planes of one stack, which resemble each other, share it.
    size
        (height, width) of the image.
    box
        x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """

    image: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Split:
    """Positions of the trained and the held-out objects.

    Attributes
    ----------
    train, held_out, dropped
        Positions into the objects that were given; dropped ones lie in the margin and are used for nothing.
    kind
        "image" (whole images are held out), "region" (a side of the image, across a margin), "object" (single objects
        of the same region: no cut with a margin leaves objects on both sides), "crossed" (one of several splits, see
        `cross_objects`) or "none" (too few to hold any out).
    margin
        Pixels between trained and held-out objects of an image ("region", "crossed"), else 0.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    dropped: tuple[int, ...] = ()
    kind: str = "image"
    margin: int = 0


def split_objects(objects: Sequence[ObjectPlace], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out about a share of the objects: whole images where there are several, else one side of the image.

    The decision follows from the images' identities, the objects' places and the seed, never from what a model makes of
    them; the same objects are always split alike.

    Parameters
    ----------
    objects
        All labelled objects.
    share
        Share of the objects to hold out, in (0, 0.5]; at least one, from four objects on at least two.
    seed
        Another seed gives another split.

    Raises
    ------
    TrainingError
        If there is no object, or the share is out of range.
    """
    if not objects:
        raise TrainingError("Expected at least 1 correction or labelled object, got none: accept some masks first.")
    if not 0 < share <= 0.5:
        raise TrainingError(f"Expected a held-out share in (0, 0.5], got {share}.")
    if len(objects) == 1:
        return Split((0,), (), kind="none")
    wanted = max(2 if len(objects) >= 4 else 1, round(share * len(objects)))
    images = sorted({place.image for place in objects}, key=lambda image: _draw(seed, image))
    if len(images) > 1:
        return _by_image(objects, images, wanted, seed)
    return _by_region(objects, wanted, seed) or _by_object(objects, wanted, seed)


def cross_objects(objects: Sequence[ObjectPlace], parts: int, seed: int = 0) -> tuple[Split, ...]:
    """Splits that hold out each of some objects once; in each, the others are learned from.

    Others within a margin of a held-out object are dropped from its split, unless none would be left.

    Parameters
    ----------
    objects
        At least two labelled objects.
    parts
        How many splits at most; never more than objects.
    seed
        Another seed gives other parts.

    Raises
    ------
    TrainingError
        If there are fewer than two objects.
    """
    if len(objects) < 2:
        raise TrainingError(f"Expected at least 2 labelled objects to hold each out once, got {len(objects)}.")
    order = _drawn_order(objects, seed)
    splits = []
    for part in range(min(parts, len(objects))):
        held = tuple(sorted(order[part::parts]))
        others = [index for index in range(len(objects)) if index not in held]
        far = [index for index in others if all(_are_apart(objects[index], objects[one]) for one in held)]
        train = tuple(far or others)
        dropped = tuple(index for index in others if index not in train)
        margin = max(_margin(*objects[one].size) for one in held) if far else 0
        splits.append(Split(train, held, dropped, "crossed", margin))
    return tuple(splits)


def _are_apart(one: ObjectPlace, other: ObjectPlace) -> bool:
    """Whether two objects lie in different images, or their boxes a margin apart along one axis."""
    if one.image != other.image:
        return True
    gap = max(
        later.box[axis] - earlier.box[axis + 2] for axis in (0, 1) for earlier, later in ((one, other), (other, one))
    )
    return gap >= _margin(*one.size)


def _margin(height: int, width: int) -> int:
    return max(2, round(0.02 * math.hypot(height, width)))


def split_images(images: Sequence[str], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out about a share of whole images, at least one; `images` are their identities."""
    if len(images) < 2:
        raise TrainingError(f"Expected at least 2 images to hold one out, got {len(images)}.")
    order = sorted(range(len(images)), key=lambda index: (_draw(seed, images[index]), index))
    wanted = min(len(images) - 1, max(1, round(share * len(images))))
    return Split(tuple(sorted(order[wanted:])), tuple(sorted(order[:wanted])))


def split_series(series: Sequence[str], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out about a share of images, of which those of one series or volume show the same and stay together.

    Of one series alone its last planes are held out, and the one before them, which is like them, is dropped.

    Parameters
    ----------
    series
        Of each image, in order; one by itself has a name of its own.
    """
    names = list(dict.fromkeys(series))
    if len(names) > 1:
        held = {names[index] for index in split_images(names, share, seed).held_out}
        train, held_out = (
            tuple(index for index, name in enumerate(series) if (name in held) == side) for side in (False, True)
        )
        return Split(train, held_out)
    first = len(series) - min(len(series) - 1, max(1, round(share * len(series))))
    last = max(1, first - 1) if len(series) > 2 else first
    return Split(tuple(range(last)), tuple(range(first, len(series))), tuple(range(last, first)))


def split_pixels(
    labels: NDArray[np.integer], ignore_index: int | None, share: float = 0.25, seed: int = 0, margin: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Divide one labelled image into trained and held-out blocks with a margin between them.

    Among 64 drawn choices of blocks the first is taken that leaves every class that can be on both sides; the labels
    are looked at for nothing else.

    Parameters
    ----------
    labels
        (H, W) class values.
    ignore_index
        Value that means unlabelled, or None.
    share
        Share of the blocks to hold out.
    seed
        Another seed gives other blocks.
    margin
        Pixels around held-out blocks that are not trained on; None = 2 % of the diagonal.

    Returns
    -------
    tuple
        (H, W) bool of the trained pixels, and of the held-out ones. Unlabelled pixels are in neither.
    """
    height, width = labels.shape
    gap = max(1, round(0.02 * math.hypot(height, width))) if margin is None else margin
    counted = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    if not counted.any():
        raise TrainingError("Expected labelled pixels, got none.")
    generator = np.random.default_rng(seed)
    grid = _grid_of(height, width)
    blocks = grid[0] * grid[1]
    best: tuple[int, NDArray[np.bool_], NDArray[np.bool_]] | None = None
    for _ in range(64):
        chosen = generator.permutation(blocks)[: max(1, round(share * blocks))]
        held = _blocks_mask(chosen, grid, (height, width))
        trained = ~maximum_filter(held, size=2 * gap + 1) & counted
        held &= counted
        covered = len(set(np.unique(labels[trained])) & set(np.unique(labels[held])))
        if best is None or covered > best[0]:
            best = covered, trained, held
    assert best is not None
    if not best[1].any() or not best[2].any():
        raise TrainingError(
            f"Expected labelled pixels on both sides of a margin of {gap} pixels, got an image of {width} x {height}: "
            "label more of it, or give several images."
        )
    return best[1], best[2]


def _by_image(objects: Sequence[ObjectPlace], images: Sequence[str], wanted: int, seed: int) -> Split:
    """Images in drawn order are held out until enough objects are, never more than half of all objects.

    Where the images that may be held out have too few objects, a side of the one with the most is held out as well.
    """
    counts = Counter(place.image for place in objects)
    held: set[str] = set()
    count = 0
    for image in images:
        if count < wanted and 2 * (count + counts[image]) <= len(objects):
            held.add(image)
            count += counts[image]
    out = [index for index, place in enumerate(objects) if place.image in held]
    train = [index for index, place in enumerate(objects) if place.image not in held]
    if count >= min(2, wanted):
        return Split(tuple(train), tuple(out))
    largest = max(images, key=lambda image: counts[image])
    inside = [index for index in train if objects[index].image == largest]
    rest = wanted - count
    part = [objects[index] for index in inside]
    cut = _by_region(part, rest, seed) or _by_object(part, rest, seed)
    train = sorted({*train} - {inside[place] for place in (*cut.held_out, *cut.dropped)})
    out = sorted((*out, *(inside[place] for place in cut.held_out)))
    return Split(tuple(train), tuple(out), tuple(inside[place] for place in cut.dropped), cut.kind, cut.margin)


def _by_region(objects: Sequence[ObjectPlace], wanted: int, seed: int) -> Split | None:
    """The straight cut with a margin that holds out nearest to `wanted` objects and drops fewest; ties are drawn."""
    height, width = objects[0].size
    margin = _margin(height, width)
    # Least share of what a split without dropping would train on: every label of few is dear.
    kept = 0.75 if len(objects) <= _FEW else 0.5
    best: tuple[tuple[float, float], Split] | None = None
    for axis, reverse in ((0, False), (0, True), (1, False), (1, True)):
        starts = [place.box[axis] for place in objects]
        ends = [place.box[axis + 2] for place in objects]
        for cut in sorted(set(starts) | {end + margin for end in ends}):
            before = tuple(index for index, end in enumerate(ends) if end + margin <= cut)
            after = tuple(index for index, start in enumerate(starts) if start >= cut)
            train, held = (after, before) if reverse else (before, after)
            if len(held) < min(2, wanted) or len(train) < max(1, kept * (len(objects) - wanted)):
                continue
            dropped = tuple(index for index in range(len(objects)) if index not in before and index not in after)
            rank = (abs(len(held) - wanted) + len(dropped), _draw(seed, f"{axis}{reverse}{cut}"))
            if best is None or rank < best[0]:
                best = rank, Split(train, held, dropped, "region", margin)
    return best[1] if best else None


def _by_object(objects: Sequence[ObjectPlace], wanted: int, seed: int) -> Split:
    order = _drawn_order(objects, seed)
    return Split(tuple(sorted(order[wanted:])), tuple(sorted(order[:wanted])), kind="object")


def _drawn_order(objects: Sequence[ObjectPlace], seed: int) -> list[int]:
    return sorted(
        range(len(objects)), key=lambda index: _draw(seed, f"{objects[index].image}{objects[index].box}{index}")
    )


def _draw(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, on any machine."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _grid_of(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of about 24 blocks that are nearly square."""
    rows = max(2, round(math.sqrt(24 * height / width)))
    columns = max(2, round(24 / rows))
    return min(rows, height), min(columns, width)


def _blocks_mask(chosen: NDArray[np.integer], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    rows = np.linspace(0, size[0], grid[0] + 1).astype(int)
    columns = np.linspace(0, size[1], grid[1] + 1).astype(int)
    for block in chosen.tolist():
        row, column = divmod(block, grid[1])
        mask[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = True
    return mask
