"""From a stack, a selection and clicks to masks: the one stateful part of the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2sam.data.prompts import Prompts, checked_view
from e2sam.data.stack import ChannelStack
from e2sam.errors import CheckpointError, PromptError, StackError
from e2sam.inference.answers import Answer, RecentAnswers
from e2sam.inference.closer import closer_windows, look_closer, make_ready
from e2sam.inference.decoding import DecodedBatch, decode_batch, decode_prompts
from e2sam.inference.embeddings import EmbeddingCache
from e2sam.inference.encoding import WindowEncoder
from e2sam.inference.explaining import shares_in, weights_in
from e2sam.inference.frame import Frame
from e2sam.inference.plan import EncodingPlan, MissingPolicy, Recipes, Scene, View
from e2sam.inference.prediction import Box, CloseUp, Prediction, crops_iou, is_confirmed
from e2sam.inference.tiling import Windows, logits_in_window, shifted
from e2sam.inference.zoomed import ZoomedLook, first_window
from e2sam.modeling.e2sam import E2SAM

__all__ = ["Prediction", "Predictor"]

# How much better another view must promise to be before it takes an object over that has been clicked already.
_VIEW_HYSTERESIS = 0.05


@dataclass(frozen=True, eq=False)
class _Current:
    """The stack and selection in use; replaced as a whole, so that a prediction sees one or the other."""

    scene: Scene
    plan: EncodingPlan
    windows: Windows
    is_large: bool
    mapping: Mapping[str, str]
    missing: MissingPolicy


class Predictor:
    """Segments objects of a stack from clicks, boxes and earlier masks.

    Safe to call from several threads: `set_stack` and `set_channels` put the new state in place only when it is
    complete, until then `predict` answers for the earlier one; encoder passes run one at a time, decoder calls too.

    Parameters
    ----------
    model
        From `e2sam.load_model`, or any `E2SAM` in eval mode.
    cache
        Where features are kept on disk; True for the user's cache, False for none.
    large_side
        A stack with a longer side is not encoded whole, nor is a long strip: `predict` encodes windows around the
        prompts.
    close_ups
        Whether a small object is looked at closer as soon as its prompts name it (several points, or a box): the
        window around it is encoded at the model's full size, and the mask is of both looks. None: where an encoder
        pass is quick, which is that of `tiny` and its students. False also keeps `predict` from looking at a `view`.

    Attributes
    ----------
    model
        The model.
    seconds_predict
        Time of the last prediction's decoder calls, prompts to logits.

    Raises
    ------
    CheckpointError
        If it is no model, such as a name that `e2sam.load_model` takes.

    Examples
    --------
    >>> import e2sam
    >>> stack = e2sam.read_stack("scene.tif")                    # doctest: +SKIP
    >>> predictor = e2sam.Predictor(e2sam.load_model("tiny"))    # doctest: +SKIP
    >>> predictor.set_stack(stack, channels=("R", "depth"))      # doctest: +SKIP
    >>> prediction = predictor.predict(points=[(120, 80)])       # doctest: +SKIP
    >>> mask = prediction.mask()                                 # doctest: +SKIP
    """

    def __init__(
        self,
        model: E2SAM,
        *,
        cache: EmbeddingCache | bool = True,
        large_side: int = 8192,
        close_ups: bool | None = None,
    ) -> None:
        if not isinstance(model, E2SAM):
            raise CheckpointError(f"Expected a loaded model, got {model!r:.60}: load it with e2sam.load_model.")
        if isinstance(cache, bool):
            cache_used = EmbeddingCache() if cache else None
        else:
            cache_used = cache
        self.model = model
        self.large_side = large_side
        self.close_ups = model.config.looks_closer if close_ups is None else close_ups
        self._looks_at_views = close_ups is not False
        self.seconds_predict = 0.0
        self._encoder = WindowEncoder(model, cache_used)
        self._current: _Current | None = None
        self._answers = RecentAnswers()
        self._decoder_lock = threading.Lock()
        self._change_lock = threading.Lock()
        self._zoomed = ZoomedLook(model, self._encoder, self._decoder_lock)

    # What is set

    @property
    def stack(self) -> ChannelStack:
        """The stack in use."""
        return self._in_use().scene.stack

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the stack in use."""
        return self.stack.size

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the selected channels."""
        return self._in_use().plan.selected

    @property
    def views(self) -> tuple[View, ...]:
        """What the encoder sees of the selection: a teacher's composites, or a student's one view."""
        return self._in_use().plan.views

    @property
    def is_large(self) -> bool:
        """Whether the stack is encoded in windows around the prompts, rather than whole."""
        return self._in_use().is_large

    @property
    def encoder_passes(self) -> int:
        """Batched calls of the encoder so far; what a cache answered is not counted."""
        return self._encoder.encoder_passes

    @property
    def seconds_encode(self) -> float:
        """Time of the last encoding: reading, normalization and, where no cache knew the answer, the encoder."""
        return self._encoder.seconds

    def set_stack(
        self,
        stack: ChannelStack,
        channels: Sequence[str | int] | Literal["auto"] = "auto",
        recipes: Recipes = None,
        *,
        mapping: Mapping[str, str] | None = None,
        missing: MissingPolicy = "refuse",
    ) -> None:
        """Take a stack into use; one encoder pass, or none where the cache knows it or it is encoded in windows.

        Parameters
        ----------
        stack
            A single scene (C, H, W).
        channels
            Names or indices of 1..C channels, or "auto" for a suggested selection (a student: all of its channels).
        recipes
            Normalization of a teacher's input: a kind ("percentile"...), kinds by channel name, or fitted recipes for
            all channels; None chooses by what each channel is. A student uses the recipes of its checkpoint.
        mapping
            A student's channel names, each with the stack's name for it, where they differ.
        missing
            What to do where the stack lacks a student's channel: "refuse", or "fill" it as an invalid channel.

        Raises
        ------
        StackError
            If the stack is a series or a volume.
        ChannelError
            If a channel does not exist or stands twice, no selected one has a valid pixel, or the stack's channels are
            not the student's.
        """
        with self._change_lock:
            scene = Scene.of(stack, recipes)
            plan = scene.plan(self.model.config, channels, mapping, missing)
            scene.check_measured(plan.selected)
            windows = Windows(stack.size, self.model.config.image_size)
            is_large = windows.are_needed(self.large_side)
            self._take(_Current(scene, plan, windows, is_large, mapping or {}, missing))
            self._encoder.keep_only(scene)

    def set_channels(self, channels: Sequence[str | int] | Literal["auto"]) -> None:
        """Change the selection: with a student only the merge module runs, a teacher encodes new composites."""
        with self._change_lock:
            current = self._in_use()
            plan = current.scene.plan(self.model.config, channels, current.mapping, current.missing)
            current.scene.check_measured(plan.selected)
            self._take(replace(current, plan=plan))

    def prefetch(
        self,
        stack: ChannelStack,
        channels: Sequence[str | int] | Literal["auto"] = "auto",
        recipes: Recipes = None,
    ) -> None:
        """Encode a stack that is likely to be opened next into the cache, and change nothing else."""
        plan = Scene.of(stack, recipes).plan(self.model.config, channels)
        windows = Windows(stack.size, self.model.config.image_size)
        if not windows.are_needed(self.large_side):
            self._encoder.encode(plan, windows.whole)

    def _take(self, current: _Current) -> None:
        if not current.is_large:
            self._encoder.embed(current.plan, self._encoder.encode(current.plan, current.windows.whole))
        self._answers.clear()
        self._current = current

    def _in_use(self) -> _Current:
        if self._current is None:
            raise StackError("Expected a stack in use, got none: call set_stack first.")
        return self._current

    # Predicting

    def predict(
        self,
        points: ArrayLike | None = None,
        labels: Sequence[int] | ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask: bool = True,
        view: Box | None = None,
    ) -> Prediction:
        """Candidate masks of one object.

        Parameters
        ----------
        points
            (P, 2) pixel (x, y) of the image, as `SamPredictor` takes them.
        labels
            (P,) 1 = inside the object, 0 = outside; all inside if None.
        box
            x0, y0, x1, y1 around the object.
        mask
            (h, w) logits of an earlier prediction (`prediction.logits[k]`).
        multimask
            Three candidates (for an ambiguous prompt such as one click) rather than one.
        view
            What the user sees, (x0, y0, x1, y1): tells the scale to work at in a large stack. Of another, where it is
            a small part of the image, the object is looked at in a window of its size: the first click in a view costs
            an encoder pass.

        Raises
        ------
        PromptError
            If there is no prompt, one does not fit the image, or the view is no box.
        """
        prompts = Prompts.checked(points, labels, box, mask, self.size)
        return self.predict_prompts(prompts, multimask, None if view is None else checked_view(view))

    def predict_prompts(self, prompts: Prompts, multimask: bool = True, view: Box | None = None) -> Prediction:
        """As `predict`, from checked prompts."""
        current = self._in_use()
        before = self._answers.before(current.plan, prompts)
        answer = self._from_afar(current, prompts, multimask, before, view)
        is_named = prompts.box is not None or len(prompts.points) > 1
        if self._looks_at_views and not current.is_large:
            seen = self._zoomed.look(current.windows, prompts, answer, before, view)
            if seen is not None:
                self.seconds_predict += self._zoomed.seconds
                self._answers.add(seen)
                return seen.prediction
        if self.close_ups:
            found = answer.prediction
            # Of an object that is named, the next click corrects the mask that was chosen.
            likely = [found.best] if is_named else np.argsort(-found.scores, kind="stable").tolist()
            known = before.closer.values() if before is not None else ()
            answer = replace(answer, closer=closer_windows(current.windows, prompts, found, likely, known))
        self._answers.add(answer)
        window = answer.closer.get(answer.prediction.best)
        if window is None or not is_named:
            return answer.prediction
        return self._looked_closer(current, prompts, answer, window)

    def has_to_encode(self, prompts: Prompts, view: Box | None) -> bool:
        """Whether `predict` would make a slow encoder pass to look at a view, for which a user may not want to wait."""
        current = self._in_use()
        if view is None or current.is_large or not self._looks_at_views or self.model.config.looks_closer:
            return False
        window = first_window(current.windows, prompts, self._answers.before(current.plan, prompts), view)
        return window is not None and not self._encoder.has(current.plan.with_view(0), window)

    def look_at(self, view: Box) -> None:
        """Encode ahead what most first clicks in a view need: for the time that the user looks at it.

        Parameters
        ----------
        view
            What the user sees, (x0, y0, x1, y1), as for `predict`. Nothing is done where a pass is not quick.
        """
        current = self._in_use()
        window = current.windows.of_view(view, current.is_large) if self.close_ups else None
        if window is None:
            return
        plan = current.plan if current.is_large else current.plan.with_view(0)
        self._encoder.embed(plan, self._encoder.encode(plan, window, on_disk=current.is_large))

    def look_ahead(self, prediction: Prediction, candidate: int | None = None) -> None:
        """Make ready what a correction of a candidate (None: the best) may need: for the time until the next click.

        One encoder pass and one decoder call at most, in the window where the object will be looked at closer.
        """
        current = self._in_use()
        answer = self._answers.that_gave(current.plan, prediction.logits[prediction.best])
        if answer is None:
            return
        likely = (answer.closer.get(prediction.best if candidate is None else candidate), *answer.closer.values())
        window = next((window for window in likely if window is not None), None)
        plan = current.plan.with_view(answer.view)
        if window is None or self._encoder.has(plan, window):
            return
        encoded = self._encoder.encode(plan, window, on_disk=False)
        embedding = self._encoder.embed(plan, encoded)
        with self._decoder_lock:
            make_ready(self.model, embedding, encoded, answer.prompts)

    def _looked_closer(self, current: _Current, prompts: Prompts, answer: Answer, window: Box) -> Prediction:
        """The answer with the mask of a closer look at the object, where both looks agree."""
        plan = current.plan.with_view(answer.view)
        encoded = self._encoder.encode(plan, window, on_disk=False)
        start = time.perf_counter()
        embedding = self._encoder.embed(plan, encoded)
        with self._decoder_lock:
            closer = look_closer(self.model, embedding, encoded, prompts, answer.prediction)
        self.seconds_predict += time.perf_counter() - start
        return closer

    def _from_afar(
        self, current: _Current, prompts: Prompts, multimask: bool, before: Answer | None, view: Box | None
    ) -> Answer:
        if current.is_large:
            return self._predict_large(current, prompts, multimask, before, view)
        return self._predict_in(current, current.windows.whole, prompts, multimask, before)

    def _predict_large(
        self, current: _Current, prompts: Prompts, multimask: bool, before: Answer | None, view: Box | None
    ) -> Answer:
        """Predict in the window that the prompts ask for, and in wider ones while the object is cut off."""
        windows = current.windows
        stays = before is not None and windows.holds(before.prediction.window, prompts)
        window = before.prediction.window if before is not None and stays else windows.first(prompts, view)
        answer = self._predict_in(current, window, prompts, multimask, before)
        found = answer.prediction
        while window != windows.whole and windows.touches(window, found.mask_box()):
            wider = self._predict_in(current, windows.larger(window, found.mask_box()), prompts, multimask, before)
            whole = wider.prediction
            if not is_confirmed(found, whole, window):
                break
            answer, found, window = wider, whole, whole.window
        return answer

    def _predict_in(
        self, current: _Current, window: Box, prompts: Prompts, multimask: bool, before: Answer | None
    ) -> Answer:
        local = self._local(window, prompts, before)
        encoded = self._encoder.encode(current.plan, window)
        start = time.perf_counter()
        embeddings = self._encoder.embed(current.plan, encoded)
        views = list(range(len(embeddings)))
        if before is not None and before.gave(prompts.mask):
            # Logits of one view mean nothing to another.
            views = [before.view]
        with self._decoder_lock:
            # The tensor itself or a slice of it: the decoder knows again what it has prepared of an image.
            wanted = embeddings if len(views) == len(embeddings) else embeddings[views[0] : views[0] + 1]
            logits, scores = decode_prompts(self.model, wanted, encoded.frame, local, multimask)
        quality = scores.max(axis=1)
        if before is not None and before.view in views:
            quality[views.index(before.view)] += _VIEW_HYSTERESIS
        best = int(np.argmax(quality))
        view = current.plan.views[views[best]]
        prediction = Prediction(
            scores[best], logits[best], view.channels, view.name, encoded.frame, window, current.windows.size
        )
        self.seconds_predict = time.perf_counter() - start
        return Answer(current.plan, prompts, prediction, views[best])

    def _local(self, window: Box, prompts: Prompts, before: Answer | None) -> Prompts:
        """Prompts in pixels of a window, their mask in its frame."""
        local = shifted(prompts, window)
        if local.mask is None:
            return local
        frame = Frame.of((window[3] - window[1], window[2] - window[0]), self.model.config)
        if before is not None and before.gave(local.mask) and before.prediction.window != window:
            return replace(local, mask=logits_in_window(local.mask, before.prediction, window, frame))
        if local.mask.shape != frame.logits_size:
            raise PromptError(
                f"Expected a mask prompt of {frame.logits_size[0]} x {frame.logits_size[1]} logits (rows x columns), "
                f"got {local.mask.shape[0]} x {local.mask.shape[1]}: give prediction.logits[k] of this image and model."
            )
        return local

    def refine(self, prompts: Prompts, box: ArrayLike, multimask: bool = False) -> Prediction:
        """Look again at a small object: encode the window around its box at the model's full size and predict there.

        An embedding is fixed when the image is encoded, so a small object cannot be seen better without a new one
        (FocSAM, arXiv 2405.18706). One encoder pass for each new box.

        Parameters
        ----------
        prompts
            What was said about the object; points outside the window and a mask prompt are left out.
        box
            x0, y0, x1, y1 around the object, such as `prediction.mask_box()`.
        """
        current = self._in_use()
        around = Prompts.checked(None, None, box, None, current.windows.size)
        assert around.box is not None
        window = current.windows.closer(around.box)
        low, high = np.asarray(window[:2], np.float32), np.asarray(window[2:], np.float32)
        kept = ((prompts.points >= low) & (prompts.points <= high)).all(axis=1)
        seen = Prompts(prompts.points[kept], prompts.labels[kept], around.box)
        answer = self._predict_in(current, window, seen, multimask, None)
        found = answer.prediction
        wide = current.windows.first(around, None) if current.is_large else current.windows.whole
        frame = Frame.of((wide[3] - wide[1], wide[2] - wide[0]), self.model.config)
        logits = np.stack([logits_in_window(one, found, wide, frame) for one in found.logits])
        close_up = CloseUp(dict(enumerate(found.logits)), found.frame, window)
        prediction = replace(found, logits=logits, frame=frame, window=wide, close_up=close_up)
        self._answers.add(replace(answer, prompts=prompts, prediction=prediction))
        return prediction

    def decode_points(self, points: NDArray[np.float32], window: Box | None = None) -> tuple[DecodedBatch, Frame]:
        """Candidates of B objects from one positive click each, in the decoder's frame: what "segment everything" uses.

        Parameters
        ----------
        points
            (B, 2) float32 pixel (x, y) of the image, inside `window`.
        window
            The part of the stack to encode; all of it if None.
        """
        current = self._in_use()
        used = current.windows.whole if window is None else window
        encoded = self._encoder.encode(current.plan, used)
        embeddings = self._encoder.embed(current.plan, encoded)
        with self._decoder_lock:
            return decode_batch(self.model, embeddings, encoded.frame, points, used), encoded.frame

    # Which channel decides

    def channel_weights(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Where each selected channel decides: (S, h, w) float32 in [0, 1], summing to 1 over the selection.

        With a student, the merge module's own weights; with a teacher, each channel's share in the composite of the
        last prediction, the same everywhere. Over the whole image at `size` (height, width), by default the image's
        own, or 2048 on the long side if that is smaller. Needs no encoder pass; in a large stack the weights are those
        of the window of the last prediction.
        """
        current = self._in_use()
        last = self._answers.last(current.plan)
        window = current.windows.whole if last is None or not current.is_large else last.prediction.window
        return weights_in(self._encoder, current.plan, window, 0 if last is None else last.view, size)

    def channel_shares(self, prediction: Prediction, candidate: int | None = None) -> dict[str, float]:
        """Share in [0, 1] of each selected channel in a mask: the mean of its weight there."""
        return shares_in(self._encoder, self._in_use().plan, prediction, candidate)

    def leave_one_out(self, prompts: Prompts, multimask: bool = True) -> dict[str, float]:
        """IoU in [0, 1] of the best mask without each selected channel with the best mask of all: low = needed.

        A student's merge module answers at once; a teacher needs an encoder pass for each channel.
        """
        current = self._in_use()
        full = self._from_afar(current, replace(prompts, mask=None), multimask, None, None).prediction
        names = current.plan.selected
        agreement = {}
        for name in names if len(names) > 1 else ():
            rest = [other for other in names if other != name]
            plan = current.scene.plan(self.model.config, rest, current.mapping, current.missing)
            reduced = replace(current, plan=plan)
            without = self._predict_in(reduced, full.window, replace(prompts, mask=None), multimask, None)
            agreement[name] = crops_iou(full.mask_crop(), without.prediction.mask_crop())
        return agreement
