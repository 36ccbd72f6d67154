"""The model's frame: where pixels of the image meet pixels of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch.nn import functional as F

from e2sam.modeling.e2sam import ModelConfig

__all__ = ["Frame"]


@dataclass(frozen=True)
class Frame:
    """Geometry of one image (or window of an image) in a model: resized, then padded bottom and right.

    Resizing and the scaling of points follow `ResizeLongestSide` of segment_anything (utils/transforms.py). Points are
    pixel (x, y) as `SamPredictor` takes them: the half pixel to a pixel's centre is added by the prompt encoder.

    Attributes
    ----------
    original_size
        (height, width) of the image in its own pixels.
    input_size
        (height, width) after resizing; its long side is the model's `image_size`.
    padded_size
        (height, width) of the encoder's input.
    embedding_stride, logits_stride
        Pixels of the frame behind one position of the embedding and of the decoder's logits.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    padded_size: tuple[int, int]
    embedding_stride: int
    logits_stride: int

    @classmethod
    def of(cls, size: tuple[int, int], config: ModelConfig) -> Frame:
        """Frame of an image of `size` (height, width) in a model."""
        scale = config.image_size / max(size)
        # The rounding of SAM; an image thinner than half a pixel of the frame still keeps one.
        height, width = (max(1, int(side * scale + 0.5)) for side in size)
        multiple = config.pad_multiple
        padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        return cls(size, (height, width), padded, config.embedding_stride, config.logits_stride)

    @property
    def logits_size(self) -> tuple[int, int]:
        """(height, width) of the decoder's logits, padding included."""
        return self.padded_size[0] // self.logits_stride, self.padded_size[1] // self.logits_stride

    @property
    def embedding_size(self) -> tuple[int, int]:
        """(height, width) of the embedding, padding included."""
        return self.padded_size[0] // self.embedding_stride, self.padded_size[1] // self.embedding_stride

    @property
    def _scale(self) -> NDArray[np.float64]:
        (height, width), (new_height, new_width) = self.original_size, self.input_size
        return np.array([new_width / width, new_height / height])

    def to_model(self, points: ArrayLike) -> NDArray[np.float32]:
        """Points (..., 2), pixel (x, y) of the image, as pixel (x, y) of the model's frame."""
        return (np.asarray(points, np.float64) * self._scale).astype(np.float32)

    def to_image(self, points: ArrayLike) -> NDArray[np.float32]:
        """Points (..., 2), pixel (x, y) of the model's frame, as pixel (x, y) of the image."""
        return (np.asarray(points, np.float64) / self._scale).astype(np.float32)

    def resize(self, plane: NDArray[Any]) -> NDArray[np.float32]:
        """A plane (H, W) of the image, or of every n-th pixel of it, resized to `input_size`, float32 in its own range.

        uint8 goes through PIL, as in `SamPredictor`, so that the same pixels reach SAM; other types through torch's
        antialiased bilinear filter, the same filter without rounding.
        """
        height, width = self.input_size
        if plane.shape == self.input_size:
            return plane.astype(np.float32)
        if plane.dtype == np.uint8:
            image = Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image, np.float32)
        tensor = torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
        resized = F.interpolate(tensor, self.input_size, mode="bilinear", align_corners=False, antialias=True)
        array: NDArray[np.float32] = resized[0, 0].numpy()
        return array

    def grid(self, maps: NDArray[np.float32], stride: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """Maps (K, h, w) on a grid of the padded frame, bilinearly sampled over the image alone as (K, *size)."""
        rows = _interpolation(maps.shape[1], self.input_size[0] / stride, size[0])
        columns = _interpolation(maps.shape[2], self.input_size[1] / stride, size[1])
        return np.asarray(rows @ maps @ columns.T, np.float32)


def _interpolation(num_in: int, extent: float, num_out: int) -> NDArray[np.float32]:
    """(num_out, num_in) bilinear weights; the outputs cover the first `extent` cells of the input grid."""
    position = np.clip((np.arange(num_out) + 0.5) * (extent / num_out) - 0.5, 0, num_in - 1)
    low = np.minimum(position.astype(np.intp), num_in - 1)
    high = np.minimum(low + 1, num_in - 1)
    share = (position - low).astype(np.float32)
    weights = np.zeros((num_out, num_in), np.float32)
    np.add.at(weights, (np.arange(num_out), low), 1 - share)
    np.add.at(weights, (np.arange(num_out), high), share)
    return weights
