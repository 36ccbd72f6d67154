"""Runs the encoder, and only where neither memory nor disk knows the answer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from e2sam.inference.embeddings import EmbeddingCache, FeatureMemory, embedding_key
from e2sam.inference.frame import Frame
from e2sam.inference.plan import EncodingPlan
from e2sam.inference.prediction import Box
from e2sam.modeling.e2sam import E2SAM

__all__ = ["EncodedWindow", "WindowEncoder"]

T = TypeVar("T")
# Windows whose features are found without reading their pixels again, and embeddings of selections.
_RECENT_WINDOWS = 24
_RECENT_EMBEDDINGS = 12


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """Features of one window of a stack.

    Attributes
    ----------
    window
        (x0, y0, x1, y1) in pixels of the stack.
    frame
        Its geometry in the model.
    features
        (V, D, h, w) float32 on the model's device, one for each view of the plan.
    """

    window: Box
    frame: Frame
    features: Tensor


class WindowEncoder:
    """Encodes windows of stacks with one model.

    Parameters
    ----------
    model
        In eval mode.
    cache
        Features on disk, or None. Of models without a fingerprint (not loaded from a file) nothing is kept but the
        windows of the scene in use.
    """

    def __init__(self, model: E2SAM, cache: EmbeddingCache | None) -> None:
        self.model = model
        self.encoder_passes = 0
        self.seconds = 0.0
        self._cache = cache
        self._memory = FeatureMemory()
        self._windows: _Recent[EncodedWindow] = _Recent(_RECENT_WINDOWS)
        self._embeddings: _Recent[Tensor] = _Recent(_RECENT_EMBEDDINGS)
        # One pass at a time: two would only share the same cores, and need twice the memory.
        self._lock = threading.Lock()

    def encode(self, plan: EncodingPlan, window: Box, on_disk: bool = True) -> EncodedWindow:
        """Features of every view of a window: one batched call of the encoder for those not known yet.

        They are kept in memory, and `on_disk` in the cache too.
        """
        key = (plan.source, window)
        encoded = self._windows.get(key)
        if encoded is not None:
            return encoded
        with self._lock:
            # Another thread may have encoded it meanwhile.
            encoded = self._windows.get(key)
            if encoded is None:
                start = time.perf_counter()
                encoded = self._encode(plan, window, on_disk)
                self._windows.put(key, encoded)
                self.seconds = time.perf_counter() - start
        return encoded

    def has(self, plan: EncodingPlan, window: Box) -> bool:
        """Whether a window's features are in memory."""
        return self._windows.get((plan.source, window)) is not None

    def embed(self, plan: EncodingPlan, encoded: EncodedWindow) -> Tensor:
        """Embeddings (V, 256, h, w) of the selection of a plan in an encoded window; no encoder pass."""
        if plan.positions is None:
            return encoded.features
        key = (plan.source, encoded.window, plan.positions)
        embedding = self._embeddings.get(key)
        if embedding is None:
            with torch.no_grad():
                embedding = self.model.embed(encoded.features, plan.positions).float()
            self._embeddings.put(key, embedding)
        return embedding

    def _encode(self, plan: EncodingPlan, window: Box, on_disk: bool) -> EncodedWindow:
        x0, y0, x1, y1 = window
        frame = Frame.of((y1 - y0, x1 - x0), self.model.config)
        planes = plan.planes(window, frame)
        keys = [embedding_key(view, self.model.fingerprint, self._precision) for view in planes]
        known = {key: self._known(key) for key in keys}
        # Two views can be the same picture; each is encoded once.
        new = {key: index for index, key in enumerate(keys) if known[key] is None}
        if new:
            for key, features in zip(new, self._run(planes[list(new.values())], frame), strict=True):
                known[key] = features
                self._keep(key, features, on_disk)
        found = [features for features in (known[key] for key in keys) if features is not None]
        return EncodedWindow(window, frame, found[0][None] if len(found) == 1 else torch.stack(found))

    @property
    def _precision(self) -> str:
        encoder = self.model.image_encoder
        weight = next(encoder.parameters())
        return f"{getattr(encoder, 'compute_dtype', weight.dtype)}"

    def _known(self, key: str) -> Tensor | None:
        if not self.model.fingerprint:
            # Nothing tells whether such a model was changed since.
            return None
        features = self._memory.get(key)
        if features is not None:
            return features
        stored = None if self._cache is None else self._cache.get(key)
        if stored is None:
            return None
        features = torch.from_numpy(stored.astype(np.float32)).to(self.model.device)
        self._memory.put(key, features)
        return features

    def _run(self, planes: np.ndarray, frame: Frame) -> Tensor:
        self.encoder_passes += 1
        with torch.no_grad():
            tensor = torch.from_numpy(planes).to(self.model.device)
            return self.model.encode(self.model.prepare(tensor, frame.padded_size)).float()

    def _keep(self, key: str, features: Tensor, on_disk: bool) -> None:
        if not self.model.fingerprint:
            return
        self._memory.put(key, features)
        if on_disk and self._cache is not None:
            self._cache.put(key, features.cpu().numpy())

    def keep_only(self, scene: Hashable) -> None:
        """Drop what is held in memory of other scenes, their pixels among it."""
        self._windows.keep(lambda key: key[0][0] is scene)
        self._embeddings.keep(lambda key: key[0][0] is scene)


class _Recent(Generic[T]):
    """The values used last, at most `length` of them."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._length:
                self._values.popitem(last=False)

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        with self._lock:
            for key in [key for key in self._values if not wanted(key)]:
                del self._values[key]
