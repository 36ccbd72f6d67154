"""How far a model is from one answer about an image, without anybody having clicked on it."""

from __future__ import annotations

import numpy as np

from e2sam.data.doubt import mean_doubt
from e2sam.inference.predictor import Predictor

__all__ = ["image_disagreement"]


def image_disagreement(predictor: Predictor, points_per_side: int = 6) -> float:
    """Mean doubt of the candidate masks of a grid of clicks, in [0, 1]: what the image would teach most.

    The measure of the "next click" overlay (`e2sam.data.doubt`), over the decoder's own logits: no mask is drawn. Costs
    one decoder call; the embedding is the one in use.

    Parameters
    ----------
    predictor
        With a stack in use.
    points_per_side
        Clicks along each side of the grid.

    Examples
    --------
    >>> doubt = image_disagreement(predictor)  # doctest: +SKIP
    """
    height, width = predictor.size
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    points = np.stack(np.meshgrid(steps * width, steps * height), axis=-1).reshape(-1, 2).astype(np.float32)
    batch, frame = predictor.decode_points(points)
    # Padding is no part of the image.
    rows, columns = (-(-side // frame.logits_stride) for side in frame.input_size)
    return mean_doubt((batch.logits[..., :rows, :columns] > 0).cpu().numpy())
