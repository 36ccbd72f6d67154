"""Which channel decides where, and how much of a mask each one made."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from e2sam.inference.encoding import EncodedWindow, WindowEncoder
from e2sam.inference.plan import EncodingPlan
from e2sam.inference.prediction import Box, Prediction
from e2sam.modeling.e2sam import MergeModule

__all__ = ["shares_in", "weights_in"]

_LARGEST_SIDE = 2048
_SAMPLED_PIXELS = 20_000


def weights_in(
    encoder: WindowEncoder, plan: EncodingPlan, window: Box, view: int, size: tuple[int, int] | None
) -> NDArray[np.float32]:
    """Weights (S, h, w) of the selected channels over a window; see `Predictor.channel_weights`."""
    height, width = window[3] - window[1], window[2] - window[0]
    if size is None:
        shrink = min(1.0, _LARGEST_SIDE / max(height, width))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if plan.positions is None:
        shares = plan.views[view].weights
        return np.broadcast_to(shares[:, None, None], (len(shares), *size)).copy()
    encoded = encoder.encode(plan, window)
    return encoded.frame.grid(_merge_weights(encoder, plan, encoded), encoded.frame.embedding_stride, size)


def shares_in(
    encoder: WindowEncoder, plan: EncodingPlan, prediction: Prediction, candidate: int | None
) -> dict[str, float]:
    """Mean weight of each selected channel in a mask; see `Predictor.channel_shares`."""
    view = next((view for view in plan.views if view.name == prediction.view), plan.views[0])
    (x0, y0, _, _), crop = prediction.mask_crop(candidate)
    if plan.positions is None or crop.size == 0:
        return {name: float(share) for name, share in zip(plan.selected, view.weights, strict=True)}
    encoded = encoder.encode(plan, prediction.window)
    left, top = prediction.window[:2]
    pixels = np.argwhere(crop)
    centres = pixels[:: max(1, len(pixels) // _SAMPLED_PIXELS), ::-1] + (x0 - left + 0.5, y0 - top + 0.5)
    position = (encoded.frame.to_model(centres) / encoded.frame.embedding_stride).astype(int)
    height, width = encoded.frame.embedding_size
    columns, rows = np.clip(position[:, 0], 0, width - 1), np.clip(position[:, 1], 0, height - 1)
    shares = _merge_weights(encoder, plan, encoded)[:, rows, columns].mean(axis=1)
    return {name: float(share) for name, share in zip(plan.selected, shares, strict=True)}


def _merge_weights(encoder: WindowEncoder, plan: EncodingPlan, encoded: EncodedWindow) -> NDArray[np.float32]:
    """(S, h, w) float32 on the grid of the embedding."""
    assert encoder.model.merge is not None and plan.positions is not None
    merge = cast(MergeModule, encoder.model.merge)
    with torch.inference_mode():
        weights = merge.weights(encoded.features, plan.positions)
        array: NDArray[np.float32] = weights[0].float().cpu().numpy()
    return array
