"""What the decoder said about one prompt: candidate masks, drawn only where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from e2sam.data.masks import MaskCrop
from e2sam.inference.frame import Frame
from e2sam.inference.upsampling import upsampled_crop

__all__ = ["Box", "CloseUp", "Prediction", "crops_iou", "is_confirmed"]

# x0, y0, x1, y1 in pixels of the image; x1 and y1 are the first outside.
Box = tuple[int, int, int, int]

_EMPTY: Box = (0, 0, 0, 0)
# What was seen in a wider window is believed where one of its candidates agrees with what was seen so far.
_WIDER_AGREES = 0.5


@dataclass(frozen=True, eq=False)
class CloseUp:
    """A closer look: logits (h, w) float32 of some candidates, in the frame of a small window of the image."""

    logits: Mapping[int, NDArray[np.float32]]
    frame: Frame
    window: Box


@dataclass(frozen=True, eq=False)
class Prediction:
    """Candidate masks of one object.

    Attributes
    ----------
    scores
        (M,) float32, predicted IoU of each candidate.
    logits
        (M, h, w) float32 in the decoder's own frame; one of them can be given back as `mask`.
    channels
        Names of the channels that the winning view drew from.
    view
        Name of the view whose masks these are: a composite of a teacher, or "student".
    frame
        Geometry of the window that was encoded.
    window
        The part of the image that was encoded, (x0, y0, x1, y1).
    size
        (height, width) of the image.
    close_up
        Where the object was looked at closer: the masks of that look, in place of those that `logits` give.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    channels: tuple[str, ...]
    view: str
    frame: Frame
    window: Box
    size: tuple[int, int]
    close_up: CloseUp | None = None
    _crops: dict[int, MaskCrop | None] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def best(self) -> int:
        """Index of the candidate with the best predicted quality."""
        return int(np.argmax(self.scores))

    def with_close_up(self, close_up: CloseUp, scores: NDArray[np.float32]) -> Prediction:
        """The same with a closer look, and the qualities that are predicted with it."""
        kept = {index: crop for index, crop in self._crops.items() if index not in close_up.logits}
        return replace(self, scores=scores, close_up=close_up, _crops=kept)

    def crop(self, candidate: int | None = None) -> MaskCrop | None:
        """A candidate (the best if None) cut to its bounding box; None if it is empty.

        Costs as much as the object is large, whatever the size of the image.
        """
        index = self.best if candidate is None else candidate
        if index not in self._crops:
            logits, frame, (left, top, _, _) = self.logits[index], self.frame, self.window
            if self.close_up is not None and index in self.close_up.logits:
                closer = self.close_up
                logits, frame, (left, top, _, _) = closer.logits[index], closer.frame, closer.window
            crop = upsampled_crop(logits, frame)
            self._crops[index] = None if crop is None else crop.moved(left, top)
        return self._crops[index]

    def mask_crop(self, candidate: int | None = None) -> tuple[Box, NDArray[np.bool_]]:
        """Smallest box (x0, y0, x1, y1) around a candidate (the best if None) and its mask (y1 - y0, x1 - x0) bool.

        An empty mask has the box (0, 0, 0, 0).
        """
        crop = self.crop(candidate)
        return (_EMPTY, np.zeros((0, 0), bool)) if crop is None else (crop.box, crop.pixels)

    def mask_box(self, candidate: int | None = None) -> Box:
        """Smallest box (x0, y0, x1, y1) around a candidate (the best if None); (0, 0, 0, 0) if it is empty."""
        crop = self.crop(candidate)
        return _EMPTY if crop is None else crop.box

    def mask(self, candidate: int | None = None) -> NDArray[np.bool_]:
        """One candidate (the best if None) as (H, W) bool."""
        (x0, y0, x1, y1), crop = self.mask_crop(candidate)
        whole = np.zeros(self.size, bool)
        whole[y0:y1, x0:x1] = crop
        return whole

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(M, H, W) bool, every candidate over the whole image."""
        whole = np.zeros((len(self), *self.size), bool)
        for index in range(len(self)):
            (x0, y0, x1, y1), crop = self.mask_crop(index)
            whole[index, y0:y1, x0:x1] = crop
        return whole


def is_confirmed(seen: Prediction, wider: Prediction, window: Box) -> bool:
    """Whether a candidate of what was seen in a wider window agrees, within the first, with the best one seen there."""
    mask = seen.mask_crop()
    return max(crops_iou(mask, wider.mask_crop(k), window) for k in range(len(wider))) >= _WIDER_AGREES


def crops_iou(
    first: tuple[Box, NDArray[np.bool_]], second: tuple[Box, NDArray[np.bool_]], within: Box | None = None
) -> float:
    """IoU in [0, 1] of two masks given as (box, crop), over the image or over a box of it; 1 where both are empty."""
    areas = [int(_part(*mask, within or mask[0]).sum()) for mask in (first, second)]
    (box, other) = first[0], second[0]
    shared = (max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3]))
    if within is not None:
        shared = (*np.maximum(shared[:2], within[:2]).tolist(), *np.minimum(shared[2:], within[2:]).tolist())
    common = int((_part(*first, shared) & _part(*second, shared)).sum())
    union = sum(areas) - common
    return common / union if union else 1.0


def _part(box: Box, crop: NDArray[np.bool_], wanted: Box) -> NDArray[np.bool_]:
    """The part of a mask that lies in a box, cut to where both are."""
    x0, y0 = max(wanted[0], box[0]) - box[0], max(wanted[1], box[1]) - box[1]
    x1, y1 = min(wanted[2], box[2]) - box[0], min(wanted[3], box[3]) - box[1]
    return crop[y0 : max(y0, y1), x0 : max(x0, x1)]
