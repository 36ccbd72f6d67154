"""A small engine with the interface of `e2sam`: no torch, no weights, masks by colour distance."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelStack
from e2sam.errors import CheckpointError
from napari_e2sam._worker import Engine

Box = tuple[int, int, int, int]
# A test that puts one here that is not set has time to stop segmenting everything.
goes_on = Event()
goes_on.set()


@dataclass
class FakePrediction:
    """Masks of discs around the positive points, of three sizes."""

    found: NDArray[np.bool_]
    scores: NDArray[np.float32]
    channels: tuple[str, ...]
    logits: NDArray[np.float32] = field(default_factory=lambda: np.zeros((3, 8, 8), np.float32))

    def crop(self, candidate: int) -> MaskCrop | None:
        mask = self.found[candidate]
        return MaskCrop.of(mask) if mask.any() else None


class FakePredictor:
    """Predicts discs; remembers what was asked."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.encoder_passes = 0
        self.seconds_encode = self.seconds_predict = 0.001
        self.asked: list[Prompts] = []
        self.ahead: list[Any] = []
        self.looked_at: list[Any] = []
        self.size = (0, 0)
        self.selection: tuple[int, ...] = ()
        self.names: tuple[str, ...] = ()
        self.is_large = False
        self.close_ups = True

    def set_stack(self, stack: ChannelStack, channels: Any = "auto", recipes: Any = None) -> None:
        self.size, self.names = stack.size, stack.names
        self.encoder_passes += 1
        self.selection = tuple(stack.indices(channels))

    def has_to_encode(self, prompts: Prompts, view: Box | None) -> bool:
        return False

    def set_channels(self, channels: Any) -> None:
        self.encoder_passes += 1
        self.selection = tuple(channels)

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self.names[index] for index in self.selection)

    @property
    def views(self) -> tuple[Any, ...]:
        matrix = np.full((3, len(self.selection)), 1 / len(self.selection), np.float32)
        return (SimpleNamespace(name="mean of all", channels=self.channels, matrix=matrix),)

    def predict_prompts(self, prompts: Prompts, multimask: bool = True, view: Any = None) -> FakePrediction:
        self.asked.append(prompts)
        rows, columns = np.mgrid[: self.size[0], : self.size[1]] + 0.5
        masks = []
        for radius in (6, 10, 16) if multimask else (10,):
            mask = np.zeros(self.size, bool)
            for (x, y), label in zip(prompts.points, prompts.labels, strict=True):
                disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
                mask = mask | disc if label else mask & ~disc
            if prompts.box is not None:
                x0, y0, x1, y1 = prompts.box
                mask |= (rows > y0) & (rows < y1) & (columns > x0) & (columns < x1)
            masks.append(mask)
        scores = np.array([0.8, 0.9, 0.7][: len(masks)], np.float32)
        return FakePrediction(np.stack(masks), scores, self.channels, np.zeros((len(masks), 8, 8), np.float32))

    def refine(self, prompts: Prompts, box: Any, multimask: bool = False) -> FakePrediction:
        """A closer look fills the box."""
        prediction = self.predict_prompts(prompts, multimask)
        x0, y0, x1, y1 = box
        prediction.found[:, y0:y1, x0:x1] = True
        return prediction

    def look_at(self, view: Any) -> None:
        self.looked_at.append(view)

    def look_ahead(self, prediction: Any, candidate: int | None = None) -> None:
        self.ahead.append((prediction, candidate))

    def channel_shares(self, prediction: Any, candidate: int | None = None) -> dict[str, float]:
        if len(self.channels) == 3:
            # As a teacher's picture of three planes.
            return dict.fromkeys(self.channels, 1 / 3)
        weights = np.arange(1, len(self.channels) + 1)
        return dict(zip(self.channels, (weights / weights.sum()).tolist(), strict=True))

    def leave_one_out(self, prompts: Prompts, multimask: bool = True) -> dict[str, float]:
        return dict.fromkeys(self.channels, 0.9) if len(self.channels) > 1 else {}


def load_model(name: str, device: str = "auto") -> Any:
    """A model that is nothing but its description."""
    if name not in ("tiny", "other"):
        raise CheckpointError(f"Expected a model of tiny, other, got {name!r}.")
    return SimpleNamespace(
        config=SimpleNamespace(architecture="fake", channels=(), recipes=(), image_size=64),
        fingerprint=f"fake-{name}",
        device="cpu",
    )


def segment_everything_steps(
    predictor: FakePredictor, window: Box | None = None
) -> Generator[Any, None, NDArray[np.int32]]:
    """Four squares, one a step; in a window, what lies in it."""
    labels = np.zeros(predictor.size, np.int32)
    while not goes_on.wait(0.005):
        yield SimpleNamespace(done=0, total=4)
    for number, (row, column) in enumerate(((4, 4), (4, 40), (40, 4), (40, 40)), start=1):
        labels[row : row + 12, column : column + 12] = number
        yield SimpleNamespace(done=number, total=4)
    if window is not None:
        x0, y0, x1, y1 = window
        labels = labels[y0:y1, x0:x1]
    return labels


def frame_of(size: tuple[int, int], config: Any) -> Any:
    """Eight by eight logits over a square frame of 64 pixels."""
    used = tuple(round(side * 64 / max(size)) for side in size)
    return SimpleNamespace(original_size=size, input_size=used, logits_size=(8, 8), logits_stride=8)


def fake_engine() -> Engine:
    """An engine over the fakes."""
    api = SimpleNamespace(
        load_model=load_model,
        Predictor=FakePredictor,
        segment_everything_steps=segment_everything_steps,
        Frame=SimpleNamespace(of=frame_of),
    )

    class FakeEngine(Engine):
        def models(self, body: Any, arrays: Any, job: Any) -> Any:
            names = ("tiny", "other")
            return {"models": [{"name": name, "about": "a fake", "licence": "", "state": "here"} for name in names]}, {}

    return FakeEngine(api)
