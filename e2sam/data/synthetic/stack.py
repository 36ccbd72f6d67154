"""Synthetic stacks of any number of channels, for tests, demos and experiments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.scene import SceneOptions, make_scene
from e2sam.errors import ChannelError

__all__ = ["synthetic_stack"]

# Shades of grey as ITU-R BT.601 weighs colours.
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def synthetic_stack(
    seed: int,
    num_channels: int = 5,
    size: tuple[int, int] = (256, 256),
    options: SceneOptions | None = None,
    material: Material | None = None,
) -> tuple[ChannelStack, NDArray[np.int32]]:
    """A stack with exact instance labels; the same arguments always give the same stack.

    Channels are grey (1), grey and depth (2), R, G, B (3), then depth, thermal and reflectance bands, so that
    with `SceneOptions(hidden=1.0)` objects stand in the further channels only.

    Returns
    -------
    stack
        (C, H, W) float32: colours 0..255, depth in metres (larger = farther), thermal in degrees Celsius,
        reflectances in [0, 1].
    labels
        (H, W) int32, 0 = background. A part of an object (a nucleus) has a label of its own.

    Examples
    --------
    >>> stack, labels = synthetic_stack(0, num_channels=4, size=(64, 64))
    >>> stack.names
    ('R', 'G', 'B', 'depth')
    """
    if num_channels < 1:
        raise ChannelError(f"Expected at least 1 channel, got {num_channels}.")
    num_extras = max(num_channels - 3, 1)
    scene = make_scene(np.random.default_rng(seed), size, num_extras, options, material)
    colours = scene.planes[:3] * 255
    if num_channels < 3:
        colours = np.tensordot(_GREY, colours, 1)[None]
    planes = [*colours, *_extra_planes(scene.planes[3:])][:num_channels]
    return ChannelStack(np.stack(planes).astype(np.float32), _specs(num_channels)), scene.labels


def _extra_planes(extras: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Further channels in their own units."""
    planes = list(extras)
    # Nearness 0..1 as metres from 1 to 60.
    planes[0] = 1 / (1 / 60 + extras[0] * (1 - 1 / 60))
    if len(planes) > 1:
        planes[1] = 5 + 30 * extras[1]
    return planes


def _specs(num_channels: int) -> tuple[ChannelSpec, ...]:
    if num_channels < 3:
        colours = [ChannelSpec("grey", kind="colour")]
    else:
        colours = [ChannelSpec(name, kind="colour") for name in "RGB"]
    extras = [ChannelSpec("depth", unit="m", kind="depth"), ChannelSpec("thermal", unit="degC", kind="thermal")]
    bands = max(num_channels - 5, 0)
    extras += [
        ChannelSpec(f"band_{index + 1}", wavelength_nm=700.0 + 10.0 * index, kind="reflectance")
        for index in range(bands)
    ]
    return tuple((colours + extras)[:num_channels])
