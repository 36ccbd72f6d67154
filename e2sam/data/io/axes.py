"""Which axis holds the channels: what the user says, then what the file says, then a rule; never a guess."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from e2sam.errors import AxisError, StackError

__all__ = ["AxisOrder", "resolve_axes"]

_POSITION = re.compile(r"-?[0-9]{1,9}")
# By shape alone, an axis holds the channels if it is at most this share of both others.
_CLEARLY_SMALLER = 2 / 3


@dataclass(frozen=True)
class AxisOrder:
    """Where the axes of a stack lie in an array.

    Attributes
    ----------
    leading
        "", "T", "Z" or "TZ".
    order
        Axis of the array behind each axis of `leading` + "CYX"; None for a channel axis that the array lacks. Axes of
        the array that do not appear have length 1.
    """

    leading: str
    order: tuple[int | None, ...]


def resolve_axes(shape: tuple[int, ...], axes: str = "", channel_axis: int | str | None = None) -> AxisOrder:
    """Find the channels, rows and columns of an array.

    Parameters
    ----------
    shape
        Of the array.
    axes
        One letter for each axis as the file states, see `RawImage.axes`, or empty.
    channel_axis
        From the user: position of the channel axis (negative from the end), or a letter for each axis, such as "TCYX"
        or "ZYX"; None to find it.

    Raises
    ------
    StackError
        If there are too few or too many axes, or one is empty.
    AxisError
        If more than one reading is possible; they are named.
    """
    if len(shape) < 2 or 0 in shape:
        raise StackError(f"Expected an image with rows and columns, got an array of shape {shape}.")
    if isinstance(channel_axis, str) and not _POSITION.fullmatch(channel_axis):
        letters = channel_axis.upper()
        if len(letters) != len(shape) or not set(letters) <= set("TZCYXS"):
            raise StackError(
                f"Expected one letter of T, Z, C, Y, X for each axis of an array of shape {shape}, got {letters!r}."
            )
        return _stated(shape, letters)
    if channel_axis is not None:
        return _given(shape, axes, int(channel_axis))
    return _stated(shape, axes) if axes else _by_rule(shape)


def _given(shape: tuple[int, ...], axes: str, channel_axis: int) -> AxisOrder:
    if not -len(shape) <= channel_axis < len(shape) or len(shape) < 3:
        raise StackError(
            f"Expected a channel axis of an array of shape {shape}, got {channel_axis}: "
            + ("it has one channel, leave it out." if len(shape) < 3 else f"give 0..{len(shape) - 1}.")
        )
    channel = channel_axis % len(shape)
    others = [axis for axis in range(len(shape)) if axis != channel]
    # A file's rows and columns hold unless the user calls one of them the channels.
    if "Y" in axes and "X" in axes and channel not in (axes.index("Y"), axes.index("X")):
        rows, columns = axes.index("Y"), axes.index("X")
    else:
        rows, columns = others[-2:]
    front = [axis for axis in others if axis not in (rows, columns)]
    return _ordered(shape, axes, channel, rows, columns, front)


def _stated(shape: tuple[int, ...], axes: str) -> AxisOrder:
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise StackError(f"Expected axes with one Y and one X, got {axes!r} for shape {shape}: give channel_axis.")
    rows, columns = axes.index("Y"), axes.index("X")
    others = [axis for axis in range(len(shape)) if axis not in (rows, columns)]
    long = [axis for axis in others if shape[axis] > 1]
    for letters in ("C", "S", "P"):
        # Samples count as channels where no longer axis says so, pages of unstated meaning where neither does.
        channels = [axis for axis in long if axes[axis] in letters]
        if len(channels) > 1:
            raise _ambiguous(shape, channels)
        if channels:
            other = [axis for axis in long if axis != channels[0] and axes[axis] in "CS"]
            if other:
                raise _ambiguous(shape, [*channels, *other])
            return _ordered(shape, axes, channels[0], rows, columns, [axis for axis in others if axis != channels[0]])
    single = next((axis for axis in others if axes[axis] in "CSP"), None)
    return _ordered(shape, axes, single, rows, columns, [axis for axis in others if axis != single])


def _ordered(
    shape: tuple[int, ...], axes: str, channel: int | None, rows: int, columns: int, front: list[int]
) -> AxisOrder:
    """Leading axes by the file's letters, in the order T, Z; axes of length 1 are left out."""
    front = [axis for axis in front if shape[axis] > 1]
    if len(front) > 2:
        raise StackError(
            f"Expected at most two axes before the channels (T and Z), got an array of shape {shape}: save a part."
        )
    letters = [axes[axis] if axes else "" for axis in front]
    if not (all(letter in ("T", "Z") for letter in letters) and len(set(letters)) == len(letters)):
        letters = list("TZ"[: len(front)])
    leading = sorted(zip(letters, front, strict=True))
    return AxisOrder("".join(letter for letter, _ in leading), (*(axis for _, axis in leading), channel, rows, columns))


def _by_rule(shape: tuple[int, ...]) -> AxisOrder:
    kept = list(range(len(shape)))
    for axis, length in enumerate(shape):
        if len(kept) > 3 and length == 1:
            # (1, 16, H, W) is (16, H, W): an axis of length 1 says nothing.
            kept.remove(axis)
    lengths = tuple(shape[axis] for axis in kept)
    if len(lengths) == 2:
        return AxisOrder("", (None, 0, 1))
    places = _clear_channels(lengths[-3:])
    if len(lengths) == 3 and len(places) == 1:
        channel = kept[places[0]]
        return AxisOrder("", (channel, *(axis for axis in kept if axis != channel)))
    if len(lengths) == 4 and places == [2]:
        return AxisOrder("T", (kept[0], kept[3], kept[1], kept[2]))
    # (4, 10, H, W) may be 4 channels of 10 slices, or 4 frames of 10 channels: nothing but the user can tell.
    raise _ambiguous(shape, {3: kept[::2], 4: [*kept[:2], *kept[3:]]}.get(len(kept), kept))


def _clear_channels(shape: tuple[int, ...]) -> list[int]:
    """The ends of a three-axis shape that can be its channels: clearly smaller than both others."""
    first, middle, last = shape
    places = []
    if first <= _CLEARLY_SMALLER * min(middle, last):
        places.append(0)
    if last <= _CLEARLY_SMALLER * min(first, middle):
        places.append(2)
    return places


def _ambiguous(shape: tuple[int, ...], choices: Iterable[int]) -> AxisError:
    named = [str(axis) for axis in choices]
    return AxisError(
        f"Expected to know which axis of shape {shape} holds the channels, and the file does not say: "
        f"give channel_axis {' or '.join(named)} (--channel-axis), or a letter for each axis, such as "
        f"{'TZCYX'[-len(shape) :] if len(shape) <= 5 else 'CYX'!r}."
    )
