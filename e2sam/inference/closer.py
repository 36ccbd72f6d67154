"""A closer look at a small object: in a window around it that is encoded at the model's full size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor

from e2sam.data.prompts import Prompts
from e2sam.inference.decoding import decode_prompts
from e2sam.inference.encoding import EncodedWindow
from e2sam.inference.prediction import Box, CloseUp, Prediction, crops_iou
from e2sam.inference.tiling import Windows, logits_in_window, prompt_box, shifted
from e2sam.modeling.e2sam import E2SAM

__all__ = ["closer_windows", "look_closer", "make_ready"]

# A closer look is believed where it agrees with what was seen from afar.
_AGREES = 0.5
# One that does not start from what was seen from afar is believed where it promises so much more quality, which none
# can that comes after so much.
_FAR_BETTER, _SURE = 0.2, 0.78


def closer_windows(
    windows: Windows, prompts: Prompts, found: Prediction, candidates: Iterable[int], known: Iterable[Box]
) -> dict[int, Box]:
    """Where to look closer at some candidates; without those that are too large.

    Parameters
    ----------
    windows
        Of the stack.
    prompts, found
        What was said about the object, and what was seen from afar.
    known
        Where the object was looked at before: there again, where it still fits.
    """
    named, before, chosen = prompt_box(prompts), list(known), {}
    for candidate in candidates:
        box = found.mask_box(candidate)
        around = named
        if any(box):
            around = (*np.minimum(box[:2], named[:2]).tolist(), *np.maximum(box[2:], named[2:]).tolist())
        fitting = (window for window in before if windows.is_close_up(window, around))
        window = next(fitting, None) or windows.close_up(around, found.window)
        if window is not None:
            chosen[candidate] = window
    return chosen


def look_closer(
    model: E2SAM, embedding: Tensor, encoded: EncodedWindow, prompts: Prompts, found: Prediction
) -> Prediction:
    """What was seen from afar, with the mask of a closer look at its best candidate where that is believed.

    Parameters
    ----------
    embedding
        (1, 256, h, w), of `encoded`.
    encoded
        A window around the object.
    prompts
        In pixels of the stack.
    """
    seen = logits_in_window(found.logits[found.best], found, encoded.window, encoded.frame)
    local = shifted(replace(prompts, mask=seen), encoded.window)
    closer, quality = _looked(model, embedding, encoded, local, found)
    if crops_iou(found.mask_crop(), closer.mask_crop()) < _AGREES:
        closer, quality = found, float(found.scores[found.best])
    if quality > _SURE:
        return closer
    # From afar a very small object is next to nothing: a look of its own, if that promises far more.
    anew, promised = _looked(model, embedding, encoded, replace(local, mask=None), found)
    return anew if promised > quality + _FAR_BETTER else closer


def _looked(
    model: E2SAM, embedding: Tensor, encoded: EncodedWindow, local: Prompts, found: Prediction
) -> tuple[Prediction, float]:
    """What was found, with the mask that prompts in pixels of a window give there, and its predicted quality."""
    logits, scores = decode_prompts(model, embedding, encoded.frame, local, False)
    close_up = CloseUp({found.best: logits[0, 0]}, encoded.frame, encoded.window)
    # Of several candidates the order stays.
    return found.with_close_up(close_up, scores[0] if len(found) == 1 else found.scores), float(scores[0, 0])


def make_ready(model: E2SAM, embedding: Tensor, encoded: EncodedWindow, prompts: Prompts) -> None:
    """Let the decoder work out what it keeps of a window, so that the first look there does not wait for it."""
    decode_prompts(model, embedding, encoded.frame, shifted(replace(prompts, mask=None), encoded.window), False)
