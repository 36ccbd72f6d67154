"""Objects in a part of a large image that the user has zoomed to, looked at in a window of about that size."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from e2sam.data.prompts import Prompts
from e2sam.inference.answers import Answer
from e2sam.inference.decoding import decode_prompts
from e2sam.inference.encoding import WindowEncoder
from e2sam.inference.plan import EncodingPlan
from e2sam.inference.prediction import Box, CloseUp, Prediction, is_confirmed
from e2sam.inference.tiling import Windows, logits_in_window, shifted
from e2sam.modeling.e2sam import E2SAM

__all__ = ["ZoomedLook", "first_window"]

# A window that promises so much less quality than the whole image does not show the object.
_FAR_WORSE = 0.3


class ZoomedLook:
    """Candidates of the part of an image that its user sees, in place of those of the whole image.

    Users click objects that they can see. From afar, in a frame of 512 pixels for all of a large image, an object of
    twenty of its pixels is next to nothing.

    Parameters
    ----------
    model
        One whose encoder pass is slow looks at no wider window than the view for an object that is larger.
    encoder
        Of the model.
    decoder_lock
        Held while the decoder runs.

    Attributes
    ----------
    seconds
        Time of the decoder calls of the last look.
    """

    def __init__(self, model: E2SAM, encoder: WindowEncoder, decoder_lock: threading.Lock) -> None:
        self.seconds = 0.0
        self._model = model
        self._is_quick = model.config.looks_closer
        self._encoder = encoder
        self._decoder_lock = decoder_lock

    def look(
        self, windows: Windows, prompts: Prompts, answer: Answer, before: Answer | None, view: Box | None
    ) -> Answer | None:
        """The answer with what is seen in the window; None where the whole image shows the object as well.

        Parameters
        ----------
        windows
            Of the image.
        prompts, answer
            What was asked, and what was seen from afar.
        before
            The answer to the prompts before these, if any.
        view
            What the user sees, (x0, y0, x1, y1), or None.
        """
        window = first_window(windows, prompts, before, view)
        if window is None:
            return None
        self.seconds = 0.0
        # The first view is of all selected channels; from afar, what promised most may have been any.
        view_of_all = answer.plan.views[0]
        afar = replace(answer.prediction, channels=view_of_all.channels, view=view_of_all.name)
        plan = answer.plan.with_view(0)
        seen = self._in_window(plan, window, prompts, afar, before)
        if not (before and before.in_view) and seen.scores.max() < afar.scores.max() - _FAR_WORSE:
            # Such as a part of something far larger.
            return None
        while windows.touches(window, seen.mask_box()):
            if not self._is_quick:
                return None
            wider = windows.wider_view(window, seen.mask_box())
            other = answer.prediction if wider is None else self._in_window(plan, wider, prompts, afar, before)
            if not is_confirmed(seen, other, window):
                break
            if wider is None:
                return None
            seen, window = other, wider
        return replace(answer, prediction=seen, view=0, in_view=window)

    def _in_window(
        self, plan: EncodingPlan, window: Box, prompts: Prompts, afar: Prediction, before: Answer | None
    ) -> Prediction:
        """All candidates as they are seen in a window, given the mask that the user saw there before."""
        encoded = self._encoder.encode(plan, window, on_disk=not self._is_quick)
        start = time.perf_counter()
        embedding = self._encoder.embed(plan, encoded)
        mask = None
        if before is not None and before.in_view is not None and before.prediction.close_up is not None:
            close_up, candidate = before.prediction.close_up, before.candidate_of(prompts.mask)
            shown = close_up.logits[before.prediction.best if candidate is None else candidate]
            mask = logits_in_window(shown, close_up, window, encoded.frame)
        local = shifted(replace(prompts, mask=mask), window)
        with self._decoder_lock:
            logits, scores = decode_prompts(self._model, embedding, encoded.frame, local, len(afar) > 1)
        self.seconds += time.perf_counter() - start
        return afar.with_close_up(CloseUp(dict(enumerate(logits[0])), encoded.frame, window), scores[0])


def first_window(windows: Windows, prompts: Prompts, before: Answer | None, view: Box | None) -> Box | None:
    """Where to look first: where the object was seen before, else, of one click or box, in the view."""
    if before is not None and before.in_view is not None:
        holds = windows.holds(before.in_view, prompts)
        return before.in_view if holds else windows.wider_view(before.in_view, before.prediction.mask_box())
    is_first = len(prompts.points) + (prompts.box is not None) == 1 and prompts.mask is None
    return windows.in_view(prompts, view) if is_first and view is not None else None
