"""The channel selector: which of a stack's channels the teacher is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.errors import ChannelError

__all__ = ["SELECTORS", "ChannelSelector", "grouping_of", "selection_weights", "slot_weights", "view_matrix"]

SELECTORS = ("random", "diverse", "fixed")
# Sizes of the selections that "diverse" draws, with their shares: mostly triples, as the teacher has three planes.
_SIZES = {1: 0.15, 2: 0.15, 3: 0.7}
# How sharply more than three channels are divided over the three planes.
_SLOT_SHARPNESS = 4.0
# Least weight, of the largest in its plane, of a channel in the composite of many.
_LEAST_SHARE = 0.02


class ChannelSelector:
    """Draws the channels of a teacher's composite.

    Parameters
    ----------
    kind
        "random": three different channels in random order, as the paper draws once a batch. "diverse": one to three
        channels in `order`, the first drawn by information, the others by information x (1 - largest |correlation|
        with those drawn). "fixed": the `selections` in turn.
    num_channels
        N.
    information
        (N,) information of each channel, at least 0; all alike if None.
    correlation
        (N, N) correlation of the channels; none if None.
    order
        (N,) place of each channel in the canonical order, red first; as they come if None.
    selections
        For "fixed".
    excluded
        Selections that are never drawn, whatever their order: those kept for a test.
    """

    def __init__(
        self,
        kind: str,
        num_channels: int,
        information: ArrayLike | None = None,
        correlation: ArrayLike | None = None,
        order: Sequence[int] | None = None,
        *,
        selections: Sequence[Sequence[int]] = (),
        excluded: Sequence[Sequence[int]] = (),
    ) -> None:
        if kind not in SELECTORS:
            raise ChannelError(f"Expected a selector of {', '.join(SELECTORS)}, got {kind!r}.")
        if kind == "fixed" and not selections:
            raise ChannelError("Expected selections for the fixed selector, got none.")
        self.kind = kind
        self.num_channels = num_channels
        self.order = tuple(range(num_channels)) if order is None else tuple(order)
        self.selections = tuple(tuple(selection) for selection in selections)
        self.excluded = frozenset(frozenset(selection) for selection in excluded)
        weights = np.ones(num_channels) if information is None else np.asarray(information, np.float64)
        # A channel without information still has to be known: it may be the one that a user selects.
        self._weights = np.maximum(weights, 0.02 * max(weights.max(), 1e-12))
        matrix = np.eye(num_channels) if correlation is None else np.asarray(correlation, np.float64)
        self._novelty = 1 - np.clip(np.abs(np.nan_to_num(matrix)), 0, 0.98)

    def draw(self, rng: np.random.Generator, turn: int = 0) -> tuple[int, ...]:
        """One selection; `turn` counts the draws of the fixed selector.

        Raises
        ------
        ChannelError
            If everything that could be drawn is excluded.
        """
        if self.kind == "fixed":
            return self.selections[turn % len(self.selections)]
        for _ in range(200):
            chosen = self._random(rng) if self.kind == "random" else self._diverse(rng)
            if frozenset(chosen) not in self.excluded:
                return chosen
        raise ChannelError("Expected some selections to train on, got all of them excluded: keep fewer for the test.")

    def ordered(self, selection: Sequence[int]) -> tuple[int, ...]:
        """A selection in canonical order."""
        return tuple(sorted((int(index) for index in selection), key=lambda index: self.order[index]))

    def _random(self, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(index) for index in rng.permutation(self.num_channels)[:3])

    def _diverse(self, rng: np.random.Generator) -> tuple[int, ...]:
        size = int(rng.choice(list(_SIZES), p=list(_SIZES.values())))
        chosen: list[int] = []
        chances: NDArray[np.float64] = self._weights.copy()
        while len(chosen) < min(size, self.num_channels):
            index = int(rng.choice(self.num_channels, p=chances / chances.sum()))
            chosen.append(index)
            chances = chances * self._novelty[index]
            chances[chosen] = 0
        return self.ordered(chosen)


def slot_weights(count: int) -> NDArray[np.float32]:
    """(3, S) weights of S channels, in canonical order, in the planes of a composite; each row sums to 1.

    One channel stands three times; of two, the third plane is the mean; three are taken as ordered; more are divided
    softly over the planes in their order, as the bands of a spectrum over red, green and blue.
    """
    if count < 1:
        raise ChannelError("Expected at least 1 channel for a composite, got 0.")
    if count == 2:
        return np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    if count <= 3:
        return np.ones((3, 1), np.float32) if count == 1 else np.eye(3, dtype=np.float32)
    place = 2 * np.linspace(0, 1, count)
    weights: NDArray[np.float64] = np.exp(-_SLOT_SHARPNESS * (place[None] - np.arange(3)[:, None]) ** 2)
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def grouping_of(
    triple: Sequence[int], information: ArrayLike, correlation: ArrayLike, order: Sequence[int]
) -> NDArray[np.float32]:
    """(3, N) composite of all channels: a plane for each channel of an informative, decorrelated triple and its like.

    Every channel stands in the plane of the one of the triple that it is most correlated with, with its information x
    correlation^2 for a weight: planes of channels that show the same, so that their mean keeps the contrasts of each.
    Channels that go against each other do not share a plane if that can be helped. Each row sums to 1.

    Parameters
    ----------
    triple
        Indices of three channels; they fill the planes in canonical order.
    information, correlation
        (N,) and (N, N), as in `ChannelStatistics`.
    order
        (N,) place of each channel in the canonical order.
    """
    planes = sorted(triple, key=lambda index: order[index])
    likeness = np.nan_to_num(np.asarray(correlation, np.float64))[:, planes]
    likeness[planes] = np.eye(len(planes))
    plane = likeness.argmax(1)
    weights = np.asarray(information, np.float64) * np.clip(likeness.max(1), 0, 1) ** 2
    matrix = np.zeros((len(planes), len(weights)))
    matrix[plane, np.arange(len(weights))] = weights
    largest = np.maximum(matrix.max(1, keepdims=True), 1e-12)
    matrix[plane, np.arange(len(weights))] = np.maximum(weights, _LEAST_SHARE * largest[plane, 0])
    shares: NDArray[np.float32] = (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
    return shares


def selection_weights(selection: Sequence[int], grouping: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """(3, S) weights of a selection in canonical order in the planes of its composite; each row sums to 1.

    One to three channels: `slot_weights`. More: what `grouping` (3, N) gives them, or `slot_weights` where there is
    none, or where it leaves a plane empty.
    """
    if grouping is None or len(selection) <= 3:
        return slot_weights(len(selection))
    weights = grouping[:, list(selection)]
    sums = weights.sum(1, keepdims=True)
    shares: NDArray[np.float32] = weights / np.maximum(sums, 1e-12)
    return shares if sums.min() > 0 else slot_weights(len(selection))


def view_matrix(
    selection: Sequence[int], num_channels: int, grouping: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(3, N) composite of a selection in canonical order, with `selection_weights`."""
    matrix = np.zeros((3, num_channels), np.float32)
    matrix[:, list(selection)] = selection_weights(selection, grouping)
    return matrix
