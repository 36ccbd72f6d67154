"""Teacher views: what the frozen teacher makes of composites of tiles, encoded once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.inference.embeddings import (
    EmbeddingCache,
    FeatureMemory,
    bytes_from_environment,
    cache_directory,
    embedding_key,
)
from e2sam.modeling.channel_selector import selection_weights
from e2sam.modeling.e2sam import E2SAM
from e2sam.weights.checkpoint import fingerprint_of

__all__ = ["TeacherViews"]

_CACHE_GB = 20.0
_BATCH = 4


class TeacherViews:
    """Embeddings of a teacher for the composites (`selection_weights`) of selections of channels of a tile.

    They are kept as float16 in the user's cache (2.1 MB a view of SAM at 1024 px), keyed by the composite's own pixels
    and the teacher's weights; a run that goes on, or the next one on the same stack, needs no encoder pass for them.

    Parameters
    ----------
    teacher
        Frozen; in eval mode.
    tile_size
        Side to which tiles are padded.
    grouping
        (3, N) composite of all channels, from which selections of more than three take their weights.
    """

    def __init__(self, teacher: E2SAM, tile_size: int, grouping: NDArray[np.float32] | None = None) -> None:
        self.teacher = teacher
        self.tile_size = tile_size
        self.grouping = grouping
        self.encoder_passes = 0
        self._fingerprint = teacher.fingerprint or fingerprint_of(teacher)
        self._cache = EmbeddingCache(cache_directory() / "views", bytes_from_environment(_CACHE_GB))
        self._memory = FeatureMemory()

    def embed(self, planes: NDArray[np.float32], selections: Sequence[Sequence[int]]) -> list[Tensor]:
        """Embeddings (256, h, w) float32, on the CPU, of a tile (N, h, w) in [0, 1], one for each selection."""
        composites = [self._composite(planes, selection) for selection in selections]
        keys = [embedding_key(composite, self._fingerprint, f"tile {self.tile_size}") for composite in composites]
        found: dict[str, Tensor] = {}
        for key in dict.fromkeys(keys):
            known = self._known(key)
            if known is not None:
                found[key] = known
        missing = [index for index, key in enumerate(keys) if key not in found]
        unique = list({keys[index]: index for index in missing}.values())
        for start in range(0, len(unique), _BATCH):
            part = unique[start : start + _BATCH]
            for index, embedding in zip(part, self._encode([composites[i] for i in part]), strict=True):
                self._cache.put(keys[index], embedding.numpy())
                found[keys[index]] = self._keep(keys[index], embedding)
        return [found[key].float() for key in keys]

    def _composite(self, planes: NDArray[np.float32], selection: Sequence[int]) -> NDArray[np.float32]:
        chosen = list(selection)
        matrix = selection_weights(chosen, self.grouping)
        mixed = np.tensordot(matrix, planes[chosen], axes=1) * np.float32(255)
        return np.ascontiguousarray(mixed, np.float32)

    def _known(self, key: str) -> Tensor | None:
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        stored = self._cache.get(key)
        return None if stored is None else self._keep(key, torch.from_numpy(stored))

    def _keep(self, key: str, embedding: Tensor) -> Tensor:
        """Hold it as it lies on disk, so that a view is the same number for number the second time."""
        limit = torch.finfo(torch.float16).max
        rounded = embedding.clamp(-limit, limit).half()
        self._memory.put(key, rounded)
        return rounded

    @torch.no_grad()
    def _encode(self, composites: Sequence[NDArray[np.float32]]) -> Tensor:
        self.encoder_passes += len(composites)
        device = self.teacher.device
        batch = torch.from_numpy(np.stack(composites)).to(device)
        pixels = self.teacher.prepare(batch, (self.tile_size, self.tile_size))
        return self.teacher.encode(pixels).float().cpu()
