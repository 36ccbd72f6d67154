"""Windows of large stacks: where to encode for a prompt, and when an object needs a larger one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from e2sam.data.prompts import Prompts
from e2sam.inference.frame import Frame
from e2sam.inference.prediction import Box, CloseUp, Prediction

__all__ = ["Windows", "logits_in_window", "tiles_of"]

_Number = TypeVar("_Number", int, float)

# A window starts on a multiple of a quarter of its side, so that clicks near each other share one.
_STEPS_PER_SIDE = 4
# Without more to go by, no window is wider than this many frames: it would be read whole for one click.
_LARGEST_START = 4
_OUTSIDE_LOGIT = -10.0
# Fewer rows or columns of a frame hold no objects that a model knows.
_LEAST_IN_FRAME = 64
# A close-up is at least so many times as wide as its object, and so many pixels; one that is there already may be
# a little narrower, or wider.
_CLOSE_UP_EXTENT = 2.5
_CLOSE_UP_EXTENTS = (1.6, 6.0)
_SMALLEST_CLOSE_UP = 64
# To read and normalize more pixels than such a square has takes longer than a user waits for a correction.
_LARGEST_CLOSE_UP = 2048
# Wider than this share of what was encoded before, it would show little more.
_WIDEST_CLOSE_UP = 0.6
# What a user has zoomed to is looked at by itself where that shows so many times more than the whole image does.
_FAR_CLOSER = 4
# Close-ups start on multiples of such a share of their side.
_CLOSE_UP_STEPS = 8


@dataclass(frozen=True)
class Windows:
    """Square windows over an image, of sides `base`, 2 `base`, 4 `base`... and at last the whole image.

    Attributes
    ----------
    size
        (height, width) of the image.
    base
        Side of the smallest window: the model's frame, so that it sees the image's own pixels.
    """

    size: tuple[int, int]
    base: int

    @property
    def whole(self) -> Box:
        """The image itself."""
        return 0, 0, self.size[1], self.size[0]

    def are_needed(self, large_side: int) -> bool:
        """Whether the image is not encoded whole: its longer side passes a limit, or in one frame it is a thread."""
        short, long = sorted(self.size)
        is_thread = long > 2 * self.base and short * self.base < _LEAST_IN_FRAME * long
        return long > large_side or is_thread

    def first(self, prompts: Prompts, view: Box | None) -> Box:
        """Where to look for the object of some prompts.

        Parameters
        ----------
        prompts
            Checked against the image.
        view
            What the user sees, (x0, y0, x1, y1), or None. Users click objects that they can see: a wide view means
            large objects, and a window at least as wide as the view holds them.
        """
        around = prompt_box(prompts)
        extent = 2 * _extent(around)
        if view is None:
            return self._around(around, extent)
        if not self._is_within_reach(view):
            return self._around(around, max(extent, _LARGEST_START * self.base))
        return self._shared(prompts, view, max(extent, _extent(view)))

    def in_view(self, prompts: Prompts, view: Box) -> Box | None:
        """The window of about a view; None where the whole image shows it nearly as well."""
        window = self._shared(prompts, view, _extent(view))
        return window if self._is_far_closer(window) else None

    def of_view(self, view: Box, is_large: bool) -> Box | None:
        """The window that most clicks in a view ask for, of `first` or of `in_view`; None where there is none."""
        window = self._around(view, _extent(view))
        is_shared = self._is_within_reach(view) if is_large else self._is_far_closer(window)
        return window if is_shared else None

    def of_object(self, box: Box, is_large: bool) -> Box | None:
        """The window in which an object shows to a user who has zoomed to it; None where the whole image will do."""
        window = self._around(box, 2 * _extent(box))
        return window if is_large or self._is_far_closer(window) else None

    def wider_view(self, window: Box, around: Box) -> Box | None:
        """The next larger such window; None where that is the whole image."""
        wider = self.larger(window, around)
        return wider if self._is_far_closer(wider) else None

    def _is_within_reach(self, view: Box) -> bool:
        return _extent(view) <= _LARGEST_START * self.base

    def _is_far_closer(self, window: Box) -> bool:
        return _FAR_CLOSER * _extent(window) <= max(self.size)

    def larger(self, window: Box, around: Box) -> Box:
        """The next larger window, around the part of an object seen so far."""
        return self._around(around, _extent(window) * 2)

    def closer(self, box: NDArray[np.float32]) -> Box:
        """The window around an object's box (x0, y0, x1, y1) with half its size of surroundings on each side."""
        side = max(float(max(box[2] - box[0], box[3] - box[1])) * 2, 16.0)
        (x, y), (height, width) = (box[:2] + box[2:]) / 2, self.size
        return (
            max(0, int(x - side / 2)),
            max(0, int(y - side / 2)),
            min(width, int(np.ceil(x + side / 2))),
            min(height, int(np.ceil(y + side / 2))),
        )

    def close_up(self, box: tuple[float, float, float, float], within: Box) -> Box | None:
        """The window for a closer look at what lies in a box, or None where it would not be much closer.

        There are few sizes and places, so that the next prompts on the same object mostly find it encoded.

        Parameters
        ----------
        box
            x0, y0, x1, y1 around the object and its prompts.
        within
            The window that was encoded before.
        """
        extent = max(_extent(box), 1.0) * _CLOSE_UP_EXTENT
        halvings = np.ceil(2 * np.log2(max(extent / _SMALLEST_CLOSE_UP, 1.0)))
        side = int(_SMALLEST_CLOSE_UP * 2 ** (halvings / 2))
        if side > min(_LARGEST_CLOSE_UP, _WIDEST_CLOSE_UP * _extent(within)):
            return None
        return self._square(box, side, side // _CLOSE_UP_STEPS)

    def is_close_up(self, window: Box, box: tuple[float, float, float, float]) -> bool:
        """Whether a window that was made for another mask of the object still serves as close-up of this one."""
        extent = max(_extent(box), 1.0)
        side = _extent(window)
        least, most = (share * extent for share in _CLOSE_UP_EXTENTS)
        outer = (int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3])))
        return least <= side <= max(most, _SMALLEST_CLOSE_UP) and not self.touches(window, outer, side // 16)

    def holds(self, window: Box, prompts: Prompts) -> bool:
        """Whether prompts lie in a window, with room around them."""
        x0, y0, x1, y1 = prompt_box(prompts)
        margin = (window[2] - window[0]) / 16
        return not self.touches(window, (int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))), int(margin))

    def touches(self, window: Box, box: Box, margin: int = 1) -> bool:
        """Whether a box comes within `margin` of a side of the window that is not a side of the image."""
        height, width = self.size
        return (
            (window[0] > 0 and box[0] < window[0] + margin)
            or (window[1] > 0 and box[1] < window[1] + margin)
            or (window[2] < width and box[2] > window[2] - margin)
            or (window[3] < height and box[3] > window[3] - margin)
        )

    def _shared(self, prompts: Prompts, view: Box, extent: float) -> Box:
        """The window in the middle of a view, one for all clicks there; around prompts that lie near its edge."""
        window = self._around(view, extent)
        return window if self.holds(window, prompts) else self._around(prompt_box(prompts), extent)

    def _around(self, box: Box | tuple[float, float, float, float], extent: float) -> Box:
        side = self.base
        while side < extent:
            side *= 2
        return self._square(box, side, max(1, side // _STEPS_PER_SIDE))

    def _square(self, box: Box | tuple[float, float, float, float], side: int, step: int) -> Box:
        """A square around the middle of a box that starts on multiples of `step`, or at the image's end."""
        starts = []
        for low, high, length in ((box[0], box[2], self.size[1]), (box[1], box[3], self.size[0])):
            start = round(((low + high) / 2 - side / 2) / step) * step
            starts.append((max(0, min(start, length - side)), length))
        (x0, width), (y0, height) = starts
        return int(x0), int(y0), int(min(width, x0 + side)), int(min(height, y0 + side))


def _extent(box: tuple[_Number, _Number, _Number, _Number]) -> _Number:
    """The longer side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def prompt_box(prompts: Prompts) -> tuple[float, float, float, float]:
    """Smallest box around points and box of some prompts; (0, 0, 0, 0) where there are neither."""
    corners = [prompts.points] if len(prompts.points) else []
    if prompts.box is not None:
        corners.append(prompts.box.reshape(2, 2))
    if not corners:
        return 0.0, 0.0, 0.0, 0.0
    together = np.concatenate(corners)
    (x0, y0), (x1, y1) = together.min(axis=0).tolist(), together.max(axis=0).tolist()
    return x0, y0, x1, y1


def logits_in_window(
    logits: NDArray[np.float32], of: Prediction | CloseUp, window: Box, frame: Frame
) -> NDArray[np.float32]:
    """Logits (h, w) of a prediction or a closer look, seen from another window; strongly negative outside its own."""
    out_height, out_width = frame.logits_size
    centres = np.stack(np.meshgrid(np.arange(out_width) + 0.5, np.arange(out_height) + 0.5), axis=-1)
    image = (
        frame.to_image(centres * frame.logits_stride)
        + np.asarray(window[:2], np.float32)
        - np.asarray(of.window[:2], np.float32)
    )
    position = of.frame.to_model(image) / of.frame.logits_stride - 0.5
    height, width = logits.shape
    limit_y, limit_x = (side / of.frame.logits_stride for side in of.frame.input_size)
    x, y = position[..., 0], position[..., 1]
    inside = (x > -0.5) & (y > -0.5) & (x < limit_x - 0.5) & (y < limit_y - 0.5)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    share_x, share_y = x - left, y - top
    upper = logits[top, left] * (1 - share_x) + logits[top, left + 1] * share_x
    lower = logits[top + 1, left] * (1 - share_x) + logits[top + 1, left + 1] * share_x
    values = upper * (1 - share_y) + lower * share_y
    return np.where(inside, values, np.float32(_OUTSIDE_LOGIT)).astype(np.float32)


def shifted(prompts: Prompts, window: Box) -> Prompts:
    """Prompts in pixels of the image, as pixels of a window of it."""
    corner = np.asarray(window[:2], np.float32)
    box = None if prompts.box is None else prompts.box - np.tile(corner, 2)
    return replace(prompts, points=prompts.points - corner, box=box)


def tiles_of(size: tuple[int, int], side: int, overlap: int) -> list[Box]:
    """Windows of at most `side`, overlapping by `overlap` or more, that cover an image of `size` (height, width)."""
    columns, rows = (_starts(length, side, overlap) for length in (size[1], size[0]))
    return [(x, y, min(x + side, size[1]), min(y + side, size[0])) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]
