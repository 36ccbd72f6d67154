"""What was answered last, so that the next click on the same object can follow it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from e2sam.data.prompts import Prompts
from e2sam.inference.plan import EncodingPlan
from e2sam.inference.prediction import Box, Prediction

__all__ = ["Answer", "RecentAnswers"]

_REMEMBERED = 8
# Half a step of what a session keeps.
_ROUNDING = 1 / 64 + 1e-4


@dataclass(frozen=True, eq=False)
class Answer:
    """One prediction with what was asked.

    `closer` are the windows in which its candidates, the best first, were or with the next click will be looked at
    closer; `in_view` is the window of what the user had zoomed to, where the object was looked at from its first click.
    """

    plan: EncodingPlan
    prompts: Prompts
    prediction: Prediction
    view: int
    closer: Mapping[int, Box] = field(default_factory=dict)
    in_view: Box | None = None

    def gave(self, mask: NDArray[np.float32] | None) -> bool:
        """Whether a mask is one of its candidates' logits."""
        return self.candidate_of(mask) is not None

    def candidate_of(self, mask: NDArray[np.float32] | None) -> int | None:
        """Which candidate has a mask for its logits."""
        if mask is None:
            return None
        # Logits that a session has kept are rounded.
        return next(
            (
                index
                for index, logits in enumerate(self.prediction.logits)
                if mask.shape == logits.shape and np.abs(mask - logits).max() <= _ROUNDING
            ),
            None,
        )

    def goes_on_in(self, prompts: Prompts) -> bool:
        """Whether prompts are these and more: the user is still at the same object."""
        count = len(self.prompts.points)
        box = prompts.box
        same_box = box is not None and self.prompts.box is not None and np.array_equal(self.prompts.box, box)
        same_points = count > 0 and np.array_equal(self.prompts.points, prompts.points[:count])
        return same_points or same_box


class RecentAnswers:
    """The last few answers; several threads may add and ask."""

    def __init__(self) -> None:
        self._kept: deque[Answer] = deque(maxlen=_REMEMBERED)

    def add(self, answer: Answer) -> None:
        """Remember an answer, and forget the oldest one if there are many."""
        self._kept.append(answer)

    def clear(self) -> None:
        """Forget all of them: another stack or selection is in use."""
        self._kept.clear()

    def last(self, plan: EncodingPlan) -> Answer | None:
        """The last answer for a plan."""
        return next(iter(self._newest_first(plan)), None)

    def that_gave(self, plan: EncodingPlan, mask: NDArray[np.float32] | None) -> Answer | None:
        """The answer for a plan of which a mask is a candidate."""
        return next((answer for answer in self._newest_first(plan) if answer.gave(mask)), None)

    def before(self, plan: EncodingPlan, prompts: Prompts) -> Answer | None:
        """The answer that gave the prompts' mask, or else the last one to fewer prompts of the same object."""
        goes_on = (answer for answer in self._newest_first(plan) if answer.goes_on_in(prompts))
        return self.that_gave(plan, prompts.mask) or next(goes_on, None)

    def _newest_first(self, plan: EncodingPlan) -> list[Answer]:
        return [answer for answer in list(self._kept)[::-1] if answer.plan is plan]
