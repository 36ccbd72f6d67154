"""The demo's clicking: objects of a stack, clicked three times, with what each selection of channels makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2sam.data.clicks import next_click
from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import fit_recipes
from e2sam.data.prompts import Prompts
from e2sam.data.session import Conditions, NewObject, Session
from e2sam.data.stack import ChannelStack
from e2sam.evaluation.metrics import mask_iou
from e2sam.inference.predictor import Predictor

__all__ = ["ClickedObject", "accept_all", "click_objects", "hidden_objects", "reclick"]

NUM_CLICKS = 3
# Share of the image that an object to be clicked covers.
_SMALLEST, _LARGEST = 0.008, 0.15
_NO_CONTRAST = 0.4


@dataclass(frozen=True, eq=False)
class ClickedObject:
    """One object after three clicks.

    Attributes
    ----------
    name
        What it is.
    truth, mask
        (H, W) bool: the object, and the mask.
    prompts
        The clicks.
    ious
        IoU after each click.
    score
        Predicted quality of the mask.
    channels
        The selection.
    drawn
        Channels that the winning composite drew from.
    """

    name: str
    truth: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    prompts: Prompts
    ious: tuple[float, ...]
    score: float
    channels: tuple[str, ...]
    drawn: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Its line in the demo's JSON."""
        return {
            "name": self.name,
            "iou_1_click": round(self.ious[0], 4),
            "iou_3_clicks": round(self.ious[-1], 4),
            "channels": list(self.channels),
            "drawn_from": list(self.drawn),
        }


def click_objects(predictor: Predictor, targets: Mapping[str, NDArray[np.bool_]]) -> list[ClickedObject]:
    """Click each object of the predictor's stack as a user would: in its middle, then where the mask is most wrong."""
    return [_click(predictor, name, truth) for name, truth in targets.items()]


def _click(predictor: Predictor, name: str, truth: NDArray[np.bool_]) -> ClickedObject:
    mask = np.zeros_like(truth)
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    ious: list[float] = []
    prediction = None
    while len(ious) < NUM_CLICKS:
        click = next_click(truth, mask)
        if click is None:
            break
        points.append((click.x, click.y))
        labels.append(click.label)
        logits = None if prediction is None else prediction.logits[prediction.best]
        prediction = predictor.predict(points, labels, mask=logits, multimask=prediction is None)
        mask = prediction.mask()
        ious.append(mask_iou(mask, truth))
    assert prediction is not None
    prompts = Prompts(np.array(points, np.float32), np.array(labels, np.int32))
    score = float(prediction.scores[prediction.best])
    return ClickedObject(name, truth, mask, prompts, tuple(ious), score, predictor.channels, prediction.channels)


def reclick(predictor: Predictor, one: ClickedObject) -> ClickedObject:
    """The same clicks given at once to the predictor as it is now."""
    prediction = predictor.predict_prompts(one.prompts, multimask=False)
    mask = prediction.mask()
    score = float(prediction.scores[prediction.best])
    ious = (mask_iou(mask, one.truth),)
    return ClickedObject(one.name, one.truth, mask, one.prompts, ious, score, predictor.channels, prediction.channels)


def hidden_objects(stack: ChannelStack, labels: NDArray[np.integer], count: int = 3) -> dict[str, NDArray[np.bool_]]:
    """The objects of a synthetic stack that colour shows least: the largest of those without contrast, then the others.

    Contrast is the difference of mean colour between the object and a ring around it, in units of the image's spread.
    """
    from scipy import ndimage

    colours = np.asarray(stack.read(channels=stack.indices(("R", "G", "B"))), np.float32)
    spread = max(float(colours.std()), 1e-6)
    found = []
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        if not _SMALLEST <= mask.mean() <= _LARGEST:
            continue
        ring = ndimage.binary_dilation(mask, iterations=6) & ~mask
        contrast = float(np.abs(colours[:, mask].mean(axis=1) - colours[:, ring].mean(axis=1)).max()) / spread
        found.append((contrast > _NO_CONTRAST, -int(mask.sum()), int(label)))
    chosen = [label for _, _, label in sorted(found)[:count]]
    return {f"object {number}": labels == label for number, label in enumerate(chosen, start=1)}


def accept_all(
    session: Session, stack: ChannelStack, objects: Sequence[ClickedObject], model: str, *, corrected: bool
) -> int:
    """Accept objects as a user does: the mask as it is, or corrected to the truth; gives the id of the stack."""
    record = session.add_stack(stack)
    recipes = fit_recipes(stack)
    for one in objects:
        mask = one.truth if corrected or not one.mask.any() else one.mask
        indices = stack.indices(one.channels)
        conditions = Conditions(one.channels, tuple(recipes[index] for index in indices), model)
        new = NewObject(MaskCrop.of(mask), score=one.score, prompts=one.prompts, conditions=conditions)
        session.accept(record.id, (), new)
    return record.id
