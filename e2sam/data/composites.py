"""Composites: the three planes that a teacher is given, drawn from a selection of any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.errors import ChannelError

__all__ = ["Composite", "best_triples", "composites_of", "greedy_order", "triple_scores"]

# Triples are searched among this many channels that stand for all others: 220 triples, however many channels there are.
_REPRESENTATIVES = 12


@dataclass(frozen=True, eq=False)
class Composite:
    """Three planes, each a weighted mean of channels.

    Attributes
    ----------
    matrix
        (3, N) float32 weights on the stack's N channels in [0, 1]; each row sums to 1, rows are in the order R, G, B.
    description
        For the user, such as "R, G, depth" or "all 5: R + G, B + NIR, SWIR".
    names
        Names of the channels that have weight, in the order of their first plane.
    """

    matrix: NDArray[np.float32]
    description: str
    names: tuple[str, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """The channels that have weight, ascending."""
        return tuple(np.flatnonzero((self.matrix > 0).any(axis=0)).tolist())

    def apply(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalized channels (N, h, w) in [0, 1] to the composite (3, h, w) float32 in 0..255."""
        used = list(self.indices)
        mixed = np.tensordot(self.matrix[:, used], planes[used], axes=1)
        return (mixed * np.float32(255)).astype(np.float32)


def composites_of(
    selection: Sequence[int],
    correlation: ArrayLike,
    information: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    order: Sequence[float] | None = None,
    num_triples: int = 2,
) -> tuple[Composite, ...]:
    """Draw the composites of a selection.

    One channel stands three times; of two, the third plane is the mean; three are taken as ordered. Of more, the first
    composite holds every channel (three groups of correlated channels, the mean of each), the others are the
    `num_triples` most informative diverse triples.

    Parameters
    ----------
    selection
        Indices of the selected channels, in the user's order.
    correlation
        (N, N) correlation of all channels of the stack.
    information
        (N,) information of each, at least 0, as `ChannelStatistics.information`.
    names
        Names of the N channels, for the descriptions.
    order
        (N,) keys by which the planes of a drawn triple are ordered, smallest first (`plane_order` of
        `e2sam.data.channels`: long wavelengths to the red plane). Stack order if None.
    num_triples
        How many triples besides the composite of all, for more than three channels.

    Raises
    ------
    ChannelError
        If the selection is empty, holds a channel twice, or one that does not exist.
    """
    chosen = [int(index) for index in selection]
    matrix = np.asarray(correlation, np.float64)
    amount = np.asarray(information, np.float64)
    num_channels = len(amount)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= num_channels:
        raise ChannelError(f"Expected different channels in 0..{num_channels - 1}, at least one, got {chosen}.")
    called = [str(index) for index in range(num_channels)] if names is None else list(names)
    if len(chosen) <= 3:
        groups = {1: [chosen] * 3, 2: [chosen[:1], chosen[1:], chosen], 3: [[index] for index in chosen]}
        return (_composite(groups[len(chosen)], called),)
    keys = list(range(num_channels)) if order is None else list(order)
    triples = [
        sorted(triple, key=lambda index: keys[index]) for triple in best_triples(matrix, amount, chosen, num_triples)
    ]
    everything = _composite(_grouped(chosen, triples[0], matrix), called, f"all {len(chosen)}: ")
    return (everything, *(_composite([[index] for index in triple], called) for triple in triples[:num_triples]))


def best_triples(
    correlation: NDArray[np.float64], information: NDArray[np.float64], among: Sequence[int], count: int
) -> list[tuple[int, ...]]:
    """The most informative triples, each with at most one channel of every better one where there are enough channels.

    At least one triple comes back, whatever `count`; `among` needs at least three channels.
    """
    standing = [index for index, _ in greedy_order(correlation, information, among)[:_REPRESENTATIVES]]
    triples = np.array(list(combinations(sorted(standing), 3)))
    scores = triple_scores(correlation, information, triples)
    by_score = [tuple(triples[place].tolist()) for place in np.argsort(-scores, kind="stable")]
    picked: list[tuple[int, ...]] = []
    for shared in (1, 2):
        for triple in by_score:
            if len(picked) >= max(count, 1):
                return picked
            if triple not in picked and all(len(set(triple) & set(other)) <= shared for other in picked):
                picked.append(triple)
    return picked


def triple_scores(
    correlation: NDArray[np.float64], information: NDArray[np.float64], triples: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Optimum index factor of triples (T, 3): sum of information over sum of |correlation|.

    Chavez, Berlin and Sowers (1982), "Statistical method for selecting Landsat MSS ratios". Their standard deviations
    are replaced by `information` (noise taken out); 1 is added below, so that three uncorrelated channels of little
    information do not win by division by nothing.
    """
    first, second, third = triples.T
    apart = np.abs(correlation[first, second]) + np.abs(correlation[first, third]) + np.abs(correlation[second, third])
    scores: NDArray[np.float64] = information[triples].sum(axis=1) / (1 + apart)
    return scores


def greedy_order(
    correlation: NDArray[np.float64], information: NDArray[np.float64], among: Sequence[int]
) -> list[tuple[int, float]]:
    """Channels with their scores, best first: information x (1 - largest |correlation| with a better one).

    The scores never rise along the list. A channel that repeats a better one has a score near 0.
    """
    left = np.array(among, int)
    novelty = np.ones(len(left))
    ordered: list[tuple[int, float]] = []
    while len(left):
        scores = information[left] * novelty
        # Of channels that are equal in score, such as the many that repeat others, the more informative goes first.
        best = int(np.lexsort((-information[left], -scores))[0])
        ordered.append((int(left[best]), float(scores[best])))
        novelty = np.minimum(novelty, 1 - np.abs(correlation[left[best], left]))
        left, novelty = np.delete(left, best), np.delete(novelty, best)
    return ordered


def _grouped(chosen: Sequence[int], seeds: Sequence[int], correlation: NDArray[np.float64]) -> list[list[int]]:
    """Each channel to the seed that it follows most; the seed stands first in its group.

    Correlation is signed here: the mean of a channel and its negative would hold nothing.
    """
    groups = [[seed] for seed in seeds]
    for index in chosen:
        if index not in seeds:
            groups[int(np.argmax(correlation[index, list(seeds)]))].append(index)
    return groups


def _composite(groups: Sequence[Sequence[int]], names: Sequence[str], prefix: str = "") -> Composite:
    matrix = np.zeros((3, len(names)), np.float32)
    for row, group in enumerate(groups):
        matrix[row, list(group)] = 1 / len(group)
    described = [
        " + ".join(names[index] for index in group[:3]) + (f" + {len(group) - 3} more" if len(group) > 3 else "")
        for group in groups
    ]
    used = dict.fromkeys(names[index] for group in groups for index in group)
    return Composite(matrix, prefix + ", ".join(described), tuple(used))
