"""Silhouettes and photographs from which scenes may be made, beside what is purely procedural."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2sam.errors import TrainingError

__all__ = ["Material"]


@dataclass(frozen=True, eq=False)
class Material:
    """Pictures of any size, held end to end.

    Attributes
    ----------
    sprite_pixels, sprite_shapes
        RGBA pixels of all silhouettes, uint8, one after the other, and their (h, w), int32 (S, 2).
    photo_pixels, photo_shapes
        RGB pixels of all photographs, uint8, and their (h, w), int32 (P, 2).
    """

    sprite_pixels: NDArray[np.uint8]
    sprite_shapes: NDArray[np.int32]
    photo_pixels: NDArray[np.uint8]
    photo_shapes: NDArray[np.int32]

    @classmethod
    def load(cls, path: Path) -> Material:
        """Read what `python -m e2sam.training.tiny_material` wrote.

        Raises
        ------
        TrainingError
            If the file is missing or not of this kind.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(*(file[name] for name in cls.__annotations__))
        except (OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"Expected material made by `python -m e2sam.training.tiny_material`, got {path}: {error}."
            ) from error

    def sprite(self, index: int) -> NDArray[np.float32]:
        """RGBA silhouette (4, h, w) float32 in [0, 1]."""
        return _picture(self.sprite_pixels, self.sprite_shapes, index, 4)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """RGB photograph (h, w, 3) uint8, a view."""
        height, width = self.photo_shapes[index].tolist()
        start = int(self.photo_shapes[:index].astype(np.int64).prod(1).sum()) * 3
        return self.photo_pixels[start : start + height * width * 3].reshape(height, width, 3)

    @property
    def num_sprites(self) -> int:
        """Number of silhouettes."""
        return len(self.sprite_shapes)

    @property
    def num_photos(self) -> int:
        """Number of photographs."""
        return len(self.photo_shapes)


def _picture(pixels: NDArray[np.uint8], shapes: NDArray[np.int32], index: int, channels: int) -> NDArray[np.float32]:
    height, width = shapes[index].tolist()
    start = int(shapes[:index].astype(np.int64).prod(1).sum()) * channels
    block = pixels[start : start + height * width * channels].reshape(height, width, channels)
    return (block.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)
