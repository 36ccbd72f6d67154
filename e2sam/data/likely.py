"""Which of several candidate masks a user most likely means, after the objects accepted before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["likely_candidate"]

# Fewer objects say nothing about the next one.
_LEAST_OBJECTS = 3
# Standard deviation of the logarithm of their areas, up to which objects are of one size.
_ALIKE = 0.6
# Predicted quality that a candidate loses by an area e times as large or as small.
_LOSS = 0.2


def likely_candidate(scores: Sequence[float], areas: Sequence[int], accepted: Sequence[int]) -> int:
    """Index of the candidate of the best predicted quality, or of the one that goes with the objects before.

    A click on a cell may mean its nucleus, the cell, or the group; who has accepted cells wants the next one. Where the
    objects before are of one size, a candidate of another loses the square of the logarithm of the ratio.

    Parameters
    ----------
    scores
        Predicted IoU in [0, 1] of each candidate.
    areas
        Of each candidate, pixels; 0 for an empty one.
    accepted
        Areas of the objects of the same kind that were accepted before, pixels; at least three, else they do not count.
    """
    quality = np.asarray(scores, np.float64)
    sizes = np.log(np.maximum(np.asarray(accepted, np.float64), 1.0))
    if len(sizes) >= _LEAST_OBJECTS and sizes.std() < _ALIKE:
        apart = np.log(np.maximum(np.asarray(areas, np.float64), 1.0)) - np.median(sizes)
        quality = quality - _LOSS * apart**2
    return int(np.argmax(quality))
