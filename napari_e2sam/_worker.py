"""The engine in a process of its own: ``python -m napari_e2sam._worker`` answers requests of the window over two pipes.

Importing torch alone would hold the window for most of a second, and a model that runs out of memory would take the
window with it; neither can happen from here.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import CheckpointError, E2SamError, PromptError
from napari_e2sam._wire import Message, receive, send

__all__ = ["Engine", "Job", "main", "serve"]

_log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]
Answer = tuple[dict[str, Any], Arrays]
# The processor is the window's while it draws a mask, and the user's next click is not there sooner.
_LOOKS_AHEAD_AFTER_S = 0.1
# What a user does while everything is segmented, and what needs the engine for itself.
_ANSWERED_BETWEEN = ("predict", "shares", "leave_one_out", "look", "models")
_ENDS_OTHERS = ("prepare", "load", "fetch")
# What tells which mask, or which part of the image, the user sees.
_SHOWN_BY = ("predict", "shares", "look")


class Cancelled(E2SamError):
    """The user stopped the work; not a failure."""


class Job:
    """What a request may do while it runs: report progress and see whether it was cancelled."""

    def __init__(
        self, report: Callable[[float, str], None], is_cancelled: Callable[[], bool], meanwhile: Callable[[], None]
    ) -> None:
        self._report = report
        self._is_cancelled = is_cancelled
        self.meanwhile = meanwhile
        """Answers what the user asks between the steps of long work.

        Raises
        ------
        PromptError
            If this work has to end for it.
        """

    def step(self, share: float, text: str) -> None:
        """Report `share` in 0..1 of the work done.

        Raises
        ------
        Cancelled
            If the user has stopped this work.
        """
        if self._is_cancelled():
            raise Cancelled("Stopped.")
        self._report(share, text)


class Engine:
    """One model, one stack, one predictor; every public method answers one kind of request.

    Parameters
    ----------
    api
        Anything with the engine's `load_model`, `Predictor`, `Frame` and `segment_everything_steps`.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._model: Any = None
        self._predictor: Any = None
        self._stack: ChannelStack | None = None
        self._key = ""
        self._setting: tuple[Any, ...] = ()
        self._last: Any = None
        # The candidate of the last prediction that the user sees; None for the best.
        self._shown: int | None = None
        self._view: tuple[int, int, int, int] | None = None

    def models(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Models that can be loaded by name."""
        from e2sam.weights.zoo import ZOO, state_of

        entries = [
            {"name": entry.name, "about": entry.about, "licence": entry.licence, "state": state_of(entry)}
            for entry in ZOO.values()
        ]
        return {"models": entries}, {}

    def fetch(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Download the weights of a model."""
        from e2sam.weights.zoo import ZOO, fetch

        name = body["name"]
        fetch(ZOO[name], lambda done, total: job.step(done / max(total, 1), f"Downloading {name}"))
        return {"name": name}, {}

    def load(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Load a model by name or path."""
        job.step(0.0, f"Loading {Path(body['name']).name}")
        self._model = self._api.load_model(body["name"], device=body.get("device", "auto"))
        self._predictor = self._api.Predictor(self._model)
        self._setting = ()
        return describe_model(self._model, body["name"]), {}

    def prepare(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Take a stack (once for each key), a selection and recipes; encode where that is needed."""
        if self._predictor is None:
            raise CheckpointError("Expected a loaded model, got none: choose one in Model.")
        if "stack" in body and body["key"] != self._key:
            self._stack = _stack_of(body["stack"], arrays)
            self._key = body["key"]
            self._setting = ()
        if self._stack is None or body["key"] != self._key:
            raise PromptError("Expected a stack, got none: choose a layer in Stack.")
        channels = tuple(body["channels"])
        recipes = tuple(ChannelRecipe.from_json(recipe) for recipe in body["recipes"]) or None
        job.step(0.0, f"Encoding {len(channels)} channel{'s' if len(channels) > 1 else ''}")
        passes = self._predictor.encoder_passes
        if self._setting == (self._key, recipes):
            self._predictor.set_channels(channels)
        else:
            self._setting = ()
            self._predictor.set_stack(self._stack, channels=channels, recipes=recipes)
            self._setting = (self._key, recipes)
        views = self._predictor.views
        matrices = {f"matrix{index}": view.matrix for index, view in enumerate(views) if view.matrix is not None}
        return {
            "seconds": float(self._predictor.seconds_encode),
            "encoder_passes": int(self._predictor.encoder_passes - passes),
            "views": [view.name for view in views],
            "grid": self._grid,
        }, matrices

    def predict(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Masks of one object, each as the bytes that `MaskCrop` reads and the session stores, and its area."""
        predictor = self._ready
        prompts = self._prompts(body, arrays)
        multimask = bool(body.get("multimask", True))
        looks_closer = False
        if body.get("around"):
            prediction = predictor.refine(prompts, body["around"], multimask)
        else:
            # The pointer passes many places: none of them is worth a slow encoder pass.
            view = None if body.get("is_preview") and not predictor.close_ups else body.get("view")
            if not body.get("waits") and predictor.has_to_encode(prompts, view):
                # From afar at once; the window asks again.
                view, looks_closer = None, True
            prediction = predictor.predict_prompts(prompts, multimask, view)
        self._last, self._shown = prediction, None
        answer: Arrays = {"logits": np.asarray(prediction.logits, np.float32)}
        crops = [prediction.crop(index) for index in range(len(prediction.scores))]
        for index, crop in enumerate(crops):
            answer[f"mask{index}"] = np.frombuffer(b"" if crop is None else crop.to_bytes(), np.uint8)
        return {
            "scores": [float(score) for score in prediction.scores],
            "areas": [0 if crop is None else crop.area for crop in crops],
            "channels": [str(name) for name in prediction.channels],
            "seconds": float(predictor.seconds_predict),
            "looks_closer": looks_closer,
        }, answer

    def look(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Hear which part of the image (x0, y0, x1, y1) the user sees."""
        self._view = tuple(body["view"])
        return {}, {}

    def look_ahead(self) -> None:
        """Make ready for a click where the user looks, and for a correction of the mask, while nobody asks."""
        if not self._setting:
            return
        if self._view is not None:
            self._predictor.look_at(self._view)
            self._view = None
        elif self._last is not None:
            self._predictor.look_ahead(self._last, self._shown)

    def shares(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """How much each selected channel decides inside a mask of the last prediction: shares that sum to 1."""
        if self._last is None:
            raise PromptError("Expected a mask, got none: click on an object first.")
        self._shown = body["candidate"]
        shares = self._ready.channel_shares(self._last, self._shown)
        return {"shares": {str(name): float(share) for name, share in shares.items()}}, {}

    def leave_one_out(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """IoU between the mask of all channels and the mask without each: 1 = the channel changes nothing."""
        job.step(0.0, "Leaving out one channel at a time")
        agreement = self._ready.leave_one_out(self._prompts(body, arrays), bool(body.get("multimask", True)))
        if not agreement:
            raise PromptError(
                "Expected at least 2 selected channels to leave one out, got 1: tick another in Channels."
            )
        return {"agreement": {str(name): float(value) for name, value in agreement.items()}}, {}

    def everything(self, body: Mapping[str, Any], arrays: Arrays, job: Job) -> Answer:
        """Instances of the image, or of a window (x0, y0, x1, y1) of it, (h, w) int32, 0 = none."""
        window = body.get("window")
        steps = self._api.segment_everything_steps(self._ready, window=None if window is None else tuple(window))
        labels = None
        while labels is None:
            try:
                step = next(steps)
                job.step(step.done / max(step.total, 1), "Segmenting everything")
                job.meanwhile()
            except StopIteration as end:
                labels = end.value
        return {"objects": int(labels.max())}, {"labels": np.asarray(labels, np.int32)}

    @property
    def _grid(self) -> dict[str, Any] | None:
        """Where the model takes mask prompts, as `LogitsGrid`; None in a large stack, where each window has its own."""
        if self._predictor.is_large:
            return None
        frame = self._api.Frame.of(self._predictor.size, self._model.config)
        rows, columns = frame.logits_size
        (height, width), (used_height, used_width) = frame.original_size, frame.input_size
        return {
            "rows": rows,
            "columns": columns,
            "row_step": frame.logits_stride * height / used_height,
            "column_step": frame.logits_stride * width / used_width,
        }

    @property
    def _ready(self) -> Any:
        if self._predictor is None or not self._setting:
            raise PromptError("Expected an encoded stack, got none: choose a layer in Stack and a model in Model.")
        return self._predictor

    def _prompts(self, body: Mapping[str, Any], arrays: Arrays) -> Prompts:
        points = body.get("points") or None
        labels = body.get("labels") if points else None
        return Prompts.checked(points, labels, body.get("box"), arrays.get("mask_input"), self._ready.size)


def describe_model(model: Any, name: str) -> dict[str, Any]:
    """What the Model panel shows of a loaded model."""
    parameters = sum(int(value.numel()) for value in model.parameters()) if hasattr(model, "parameters") else 0
    config = model.config
    return {
        "name": name,
        "architecture": config.architecture,
        "parameters": parameters,
        "device": str(getattr(model, "device", "cpu")),
        "fingerprint": str(getattr(model, "fingerprint", "")),
        "channels": [channel.name for channel in config.channels],
        "recipes": [recipe.to_json() for recipe in config.recipes],
        "image_size": int(config.image_size),
    }


def _stack_of(described: Mapping[str, Any], arrays: Arrays) -> ChannelStack:
    channels = tuple(ChannelSpec(**channel) for channel in described["channels"])
    if "data" in arrays:
        return ChannelStack(arrays["data"], channels)
    from e2sam import read_stack

    stack = read_stack(described["source"], channel_axis=described.get("channel_axis"))
    if described["alignment"]:
        from e2sam.data.alignment import shifted

        named = ChannelStack(stack.data, channels, stack.source, stack.geo, stack.leading)
        stack = shifted(named, described["alignment"])
    plane = stack.plane(*described["plane"])
    return ChannelStack(plane.data, channels, source=plane.source, geo=plane.geo)


def serve(engine: Engine, reading: BinaryIO, writing: BinaryIO) -> None:
    """Answer requests until the window leaves."""
    requests: queue.Queue[Message | None] = queue.Queue()
    waiting: deque[Message | None] = deque()
    cancelled: set[int] = set()

    def meanwhile() -> None:
        with suppress(queue.Empty):
            while True:
                asked = requests.get_nowait()
                if asked is not None and asked.what in _ANSWERED_BETWEEN:
                    send(writing, _answer(engine, asked, writing, cancelled, lambda: None))
                else:
                    waiting.append(asked)
        if any(asked is None or asked.what in _ENDS_OTHERS for asked in waiting):
            raise PromptError("Find all was stopped: another image, selection or model came first.")

    thread = threading.Thread(target=_listen, args=(reading, requests, cancelled), daemon=True)
    thread.start()
    pause: float | None = None
    while True:
        try:
            request = waiting.popleft() if waiting else requests.get(timeout=pause)
        except queue.Empty:
            _look_ahead(engine)
            pause = None
            continue
        if request is None:
            break
        if pause is not None or request.what in _SHOWN_BY:
            pause = _LOOKS_AHEAD_AFTER_S
        send(writing, _answer(engine, request, writing, cancelled, meanwhile))
    thread.join()


def _look_ahead(engine: Engine) -> None:
    try:
        engine.look_ahead()
    except Exception:  # noqa: BLE001 - nobody asked for it; what fails here fails again, and is told, at the next click
        _log.exception("looking ahead failed")


def _listen(reading: BinaryIO, requests: queue.Queue[Message | None], cancelled: set[int]) -> None:
    message: Message | None = Message("", 0)
    while message is not None:
        try:
            message = receive(reading)
        except (OSError, ValueError):
            message = None
        if message is not None and message.what == "cancel":
            cancelled.add(message.ticket)
        else:
            requests.put(message)


def _answer(
    engine: Engine, request: Message, writing: BinaryIO, cancelled: set[int], meanwhile: Callable[[], None]
) -> Message:
    ticket = request.ticket
    job = Job(
        lambda share, text: send(writing, Message("progress", ticket, {"share": share, "text": text})),
        lambda: ticket in cancelled,
        meanwhile,
    )
    try:
        if ticket in cancelled:
            raise Cancelled("Stopped.")
        body, arrays = getattr(engine, request.what)(request.body, dict(request.arrays), job)
        return Message("done", ticket, body, arrays)
    except Cancelled:
        return Message("cancelled", ticket)
    except E2SamError as error:
        return Message("failed", ticket, {"message": str(error), "expected": True})
    except MemoryError:
        return Message("failed", ticket, {"message": "Out of memory: choose a smaller model.", "expected": True})
    except Exception as error:  # noqa: BLE001 - the last line of defence: the window gets one line, the log the rest
        _log.exception("%s failed", request.what)
        return Message("failed", ticket, {"message": f"{type(error).__name__}: {error}", "expected": False})


def main() -> int:
    """Serve on this process's own pipes; whatever prints goes to standard error."""
    from types import SimpleNamespace

    from e2sam import Predictor, load_model
    from e2sam.inference.automatic import segment_everything_steps
    from e2sam.inference.frame import Frame

    writing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    api = SimpleNamespace(
        load_model=load_model,
        Predictor=Predictor,
        segment_everything_steps=segment_everything_steps,
        Frame=Frame,
    )
    serve(Engine(api), sys.stdin.buffer, writing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
