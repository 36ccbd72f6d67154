"""Sample stacks that every installation has, with what is true in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from e2sam.data.stack import ChannelSpec, ChannelStack

__all__ = ["MOTORCYCLE_OUTLINES", "motorcycle", "motorcycle_masks"]

MOTORCYCLE_OUTLINES = {
    "headlight": (
        (561, 156), (559, 169), (554, 180), (547, 187), (538, 189), (528, 187), (519, 181), (512, 171), (508, 160),
        (508, 149), (512, 138), (518, 130), (526, 125), (535, 124), (544, 126), (552, 133), (558, 143),
    ),
    "fuel tank": (
        (325, 226), (346, 208), (385, 185), (430, 163), (463, 160), (474, 173), (484, 204), (474, 226), (460, 240),
        (424, 238), (385, 240), (349, 248),
    ),
    "door panel": ((180, 0), (288, 0), (288, 94), (181, 91)),
}  # fmt: skip
"""Outlines of three objects of the photograph, drawn by hand: (x, y) corners in pixels."""


def motorcycle() -> ChannelStack:
    """The RGB-D photograph of scikit-image (Middlebury Stereo 2014, `skimage.data.stereo_motorcycle`); no network.

    Returns
    -------
    ChannelStack
        (4, 500, 741) float32: R, G, B in 0..255 and disparity in pixels (larger = nearer), not finite where unknown.
    """
    from skimage.data import stereo_motorcycle

    left, _, disparity = stereo_motorcycle()
    colours = np.moveaxis(np.asarray(left), -1, 0).astype(np.float32)
    data = np.concatenate([colours, np.asarray(disparity, np.float32)[None]])
    specs = (
        *(ChannelSpec(name, kind="colour") for name in "RGB"),
        ChannelSpec("disparity", unit="px", kind="disparity"),
    )
    return ChannelStack(data, specs)


def motorcycle_masks() -> dict[str, NDArray[np.bool_]]:
    """(500, 741) bool mask of each outlined object of the photograph."""
    return {
        name: polygon2mask((500, 741), np.array(corners, float)[:, ::-1])
        for name, corners in MOTORCYCLE_OUTLINES.items()
    }
