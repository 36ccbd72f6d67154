"""Doubt: how far candidate masks of the same prompts disagree, at a pixel and over an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubt_of", "mean_doubt"]


def doubt_of(masks: NDArray[Any]) -> NDArray[np.float32]:
    """Doubt at each pixel, 4 p (1 - p) with p the share of the masks that hold it: 1 where half of them do.

    Parameters
    ----------
    masks
        (..., M, h, w) bool.

    Returns
    -------
    NDArray
        (..., h, w) float32 in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> doubt_of(np.array([[[True, True, False]], [[True, False, False]]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    share = np.mean(masks, axis=-3, dtype=np.float32)
    return np.asarray(4 * share * (1 - share), np.float32)


def mean_doubt(masks: NDArray[Any]) -> float:
    """Doubt of an image: of each prompt, the mean over the pixels that any of its masks holds; the mean of those.

    Parameters
    ----------
    masks
        (B, M, h, w) bool, M candidates for each of B prompts. Prompts whose masks are all empty do not count.

    Returns
    -------
    float
        In [0, 1]; 0 where there is no mask at all.
    """
    held = masks.any(axis=1).sum(axis=(1, 2))
    doubt = doubt_of(masks).sum(axis=(1, 2))
    answered = held > 0
    return float(np.mean(doubt[answered] / held[answered])) if answered.any() else 0.0
