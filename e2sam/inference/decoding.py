"""From prompts in pixels of the image to the decoder's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.prompts import Prompts
from e2sam.inference.frame import Frame
from e2sam.inference.tiling import shifted
from e2sam.modeling.e2sam import E2SAM, PromptTensors

__all__ = ["DecodedBatch", "decode_batch", "decode_prompts"]

_PADDING_LABEL = -1
_BOX_LABELS = (2, 3)


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """Candidate masks of B prompts, each from its best view.

    Attributes
    ----------
    logits
        (B, M, h, w) float32 in the decoder's frame.
    scores
        (B, M) float32, predicted IoU.
    views
        (B,) int64, index of the view that each came from.
    """

    logits: Tensor
    scores: Tensor
    views: Tensor


def decode_prompts(
    model: E2SAM, embeddings: Tensor, frame: Frame, prompts: Prompts, multimask: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode one object's prompts, in pixels of the frame's image, on each of V embeddings in one call.

    Returns
    -------
    tuple
        (V, M, h, w) float32 logits and (V, M) float32 predicted IoU.
    """
    tensors = _tensors_of(prompts, frame, len(embeddings), embeddings.device)
    with torch.inference_mode():
        logits, iou = model.decode(embeddings, tensors, multimask)
        return logits.float().cpu().numpy(), iou.float().cpu().numpy()


def _tensors_of(prompts: Prompts, frame: Frame, batch: int, device: torch.device) -> PromptTensors:
    """Points first, then a box as two corners or, without one, a padding point: SAM's order (prompt_encoder.py)."""
    coords, labels = [frame.to_model(prompts.points)], [prompts.labels.astype(np.int64)]
    if prompts.box is not None:
        coords.append(frame.to_model(prompts.box.reshape(2, 2)))
        labels.append(np.array(_BOX_LABELS, np.int64))
    elif len(prompts.points):
        coords.append(np.zeros((1, 2), np.float32))
        labels.append(np.array([_PADDING_LABEL], np.int64))
    point_coords = torch.from_numpy(np.concatenate(coords)).to(device)
    point_labels = torch.from_numpy(np.concatenate(labels)).to(device)
    mask = None
    if prompts.mask is not None:
        mask = torch.from_numpy(np.ascontiguousarray(prompts.mask)).to(device).expand(batch, 1, -1, -1)
    return PromptTensors(point_coords.expand(batch, -1, -1), point_labels.expand(batch, -1), mask)


def decode_batch(
    model: E2SAM,
    embeddings: Tensor,
    frame: Frame,
    points: NDArray[np.float32],
    window: tuple[int, int, int, int],
) -> DecodedBatch:
    """Decode B single positive points (B, 2), pixel (x, y) of the whole image, in a window on every view."""
    local = shifted(Prompts(points=points), window).points
    coords = frame.to_model(local)[:, None]
    padded = torch.from_numpy(np.concatenate((coords, np.zeros_like(coords)), axis=1)).to(embeddings.device)
    labels = torch.tensor([1, _PADDING_LABEL], device=embeddings.device).expand(len(points), -1)
    prompts = PromptTensors(padded, labels)
    best: DecodedBatch | None = None
    with torch.inference_mode():
        for index in range(len(embeddings)):
            one = embeddings if len(embeddings) == 1 else embeddings[index : index + 1]
            logits, scores = (part.float() for part in model.decode(one, prompts, True))
            views = torch.full((len(points),), index, device=embeddings.device)
            best = DecodedBatch(logits, scores, views) if best is None else _better(best, logits, scores, index)
    assert best is not None
    return best


def _better(best: DecodedBatch, logits: Tensor, scores: Tensor, view: int) -> DecodedBatch:
    """Of each prompt, the view whose best candidate has the better predicted quality."""
    wins = scores.amax(dim=1) > best.scores.amax(dim=1)
    return DecodedBatch(
        torch.where(wins[:, None, None, None], logits, best.logits),
        torch.where(wins[:, None], scores, best.scores),
        torch.where(wins, torch.full_like(best.views, view), best.views),
    )
