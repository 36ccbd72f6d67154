"""What goes to the engine for a mask, and what comes back: candidates of a draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.doubt import doubt_of
from e2sam.data.masks import Box, MaskCrop, unite
from e2sam.data.prompts import Prompts
from e2sam.data.session import Candidate, Conditions, Draft
from napari_e2sam._carry_control import is_carried
from napari_e2sam._wire import Message

__all__ = ["candidates_of", "next_click", "request_of", "same_prompts", "usable_prompts"]


def request_of(prompts: Prompts) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Body and arrays of a request for masks."""
    body: dict[str, Any] = {
        "points": prompts.points.tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else prompts.box.tolist(),
        # One click is ambiguous: three candidates. More prompts say which object is meant.
        "multimask": len(prompts.points) <= 1 and prompts.box is None,
    }
    return body, {} if prompts.mask is None else {"mask_input": prompts.mask}


def next_click(masks: Sequence[MaskCrop]) -> tuple[Box, NDArray[np.float32], tuple[float, float]]:
    """Where candidate masks disagree: a box, the doubt (h, w) in [0, 1] in it, and the (x, y) deepest inside of it."""
    from scipy.ndimage import distance_transform_edt

    box = masks[0].box
    for mask in masks[1:]:
        box = unite(box, mask.box)
    doubt = doubt_of(np.stack([mask.window(box) for mask in masks]))
    depth = distance_transform_edt(np.pad(doubt > 0, 1))[1:-1, 1:-1] * doubt
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return box, doubt, (box[0] + float(column) + 0.5, box[1] + float(row) + 0.5)


def candidates_of(message: Message) -> tuple[Candidate, ...]:
    """The engine's masks as candidates of a draft."""
    found = []
    for index, (score, area) in enumerate(zip(message.body["scores"], message.body["areas"], strict=True)):
        mask = MaskCrop.from_bytes(message.arrays[f"mask{index}"].tobytes(), area) if area else None
        found.append(Candidate(mask, float(np.clip(score, 0.0, 1.0))))
    return tuple(found)


def usable_prompts(draft: Draft, conditions: Conditions) -> Prompts:
    """The prompts of a draft, without a mask that was predicted under other conditions."""
    prompts, made_under = draft.prompts, draft.conditions
    if prompts.mask is None or made_under in (Conditions(), conditions) or is_carried(prompts.mask):
        return prompts
    without = replace(prompts, mask=None)
    return prompts if without.is_empty else without


def same_prompts(one: Prompts, other: Prompts) -> bool:
    """Whether points, labels and box are the same."""
    boxes = [None if prompts.box is None else prompts.box.tolist() for prompts in (one, other)]
    return (
        np.array_equal(one.points, other.points) and np.array_equal(one.labels, other.labels) and boxes[0] == boxes[1]
    )
