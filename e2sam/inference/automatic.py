"""Segment everything: a grid of clicks on embeddings that are there already, the good masks kept, as instances."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.checks import is_number, is_whole, shown
from e2sam.errors import E2SamError, PromptError, StackError
from e2sam.inference.canvas import LabelCanvas
from e2sam.inference.decoding import DecodedBatch
from e2sam.inference.frame import Frame
from e2sam.inference.prediction import Box
from e2sam.inference.predictor import Predictor
from e2sam.inference.tiling import tiles_of
from e2sam.inference.upsampling import upsampled_crop

__all__ = ["AutomaticOptions", "AutomaticStep", "segment_everything", "segment_everything_steps"]

# Quality and stability that a mask must reach: those of SamAutomaticMaskGenerator; `tiny` promises less of masks that
# are as good.
_THRESHOLDS = {"tiny": (0.5, 0.7)}
_SAM_THRESHOLDS = (0.88, 0.95)
# A mask of which so much lies in another that promises so much more is a piece of that.
_MOSTLY_INSIDE, _CLEARLY_WORSE = 0.85, 0.1
# Each tile is an encoder pass; in smaller ones nothing can be told from anything.
_LEAST_TILE = 32


@dataclass(frozen=True)
class AutomaticOptions:
    """What "segment everything" looks for.

    Attributes
    ----------
    points_per_side
        Clicks along the long side of the image, or of each tile.
    min_quality
        Least predicted IoU of a mask that is kept, in [0, 1]; None takes what suits the model.
    min_stability
        Least IoU of the mask with itself at thresholds `stability_offset` higher and lower; None as above.
    stability_offset
        Logits.
    max_overlap
        Of two masks with a larger IoU, the one of lower quality goes.
    min_area
        Pixels of the image; smaller instances go.
    points_per_batch
        Clicks decoded together.
    tile_side
        Side of the tiles that the image is worked through in, pixels; None works on it whole, or on a large stack in
        tiles of the model's own frame.
    tile_overlap
        Share of its side that a tile has in common with the next, in [0, 0.5].
    """

    points_per_side: int = 32
    min_quality: float | None = None
    min_stability: float | None = None
    stability_offset: float = 1.0
    max_overlap: float = 0.7
    min_area: int = 16
    points_per_batch: int = 64
    tile_side: int | None = None
    tile_overlap: float = 0.25

    def __post_init__(self) -> None:
        given = [share for share in (self.min_quality, self.min_stability) if share is not None]
        most = {1: (*given, self.max_overlap), 0.5: (self.tile_overlap,)}
        are_shares = all(is_number(one) and 0 <= one <= end for end, shares in most.items() for one in shares)
        if not (is_whole(self.points_per_side, 1) and is_whole(self.points_per_batch, 1) and are_shares):
            raise PromptError(
                "Expected at least 1 point per side and batch, quality, stability, overlap in 0..1 and tile overlap in "
                f"0..0.5, got {self}."
            )
        if not (is_number(self.min_area) and self.min_area >= 0 and is_number(self.stability_offset)):
            raise PromptError(f"Expected an area of 0 or more pixels and an offset as a number, got {self}.")
        if self.tile_side is not None and not is_whole(self.tile_side, _LEAST_TILE):
            raise PromptError(f"Expected tiles of at least {_LEAST_TILE} pixels, got {shown(self.tile_side)}.")

    def for_model(self, architecture: str) -> AutomaticOptions:
        """These options with the thresholds that suit a model where none were given."""
        quality, stability = _THRESHOLDS.get(architecture, _SAM_THRESHOLDS)
        return replace(
            self,
            min_quality=quality if self.min_quality is None else self.min_quality,
            min_stability=stability if self.min_stability is None else self.min_stability,
        )


@dataclass(frozen=True)
class AutomaticStep:
    """Progress of "segment everything": batches of clicks decoded, of how many."""

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that passed the filters, in one window.

    Attributes
    ----------
    logits
        (K, h, w) float16 in the decoder's frame.
    scores
        (K,) float32.
    boxes
        (K, 4) float32, x0, y0, x1, y1 in the decoder's frame.
    """

    logits: Tensor
    scores: Tensor
    boxes: Tensor

    def without_duplicates(self, max_overlap: float) -> _Candidates:
        """Of masks that overlap more, the one of best quality; boxes alone would take a ring for what it encloses."""
        # Only here: loading a model would take nearly twice as long.
        from torchvision.ops import box_iou

        masks = self.logits > 0
        areas = masks.sum(dim=(1, 2))
        near = box_iou(self.boxes, self.boxes) > max_overlap / 2
        alive = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
        kept = []
        for index in self.scores.argsort(descending=True, stable=True).tolist():
            if not alive[index]:
                continue
            kept.append(index)
            alive[index] = False
            rivals = torch.nonzero(alive & near[index])[:, 0]
            common = (masks[rivals] & masks[index]).sum(dim=(1, 2))
            alive[rivals[common > max_overlap * (areas[rivals] + areas[index] - common)]] = False
        return self._only(kept)

    def without_pieces(self) -> _Candidates:
        """Of a mask that lies in a clearly better one, that one alone: a plain object is not cut into its parts."""
        masks = self.logits > 0
        areas = masks.sum(dim=(1, 2))
        alive = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
        for index in self.scores.argsort(descending=True, stable=True).tolist():
            if not alive[index]:
                continue
            low, high = self.boxes[:, :2] >= self.boxes[index, :2] - 1, self.boxes[:, 2:] <= self.boxes[index, 2:] + 1
            is_worse = self.scores < self.scores[index] - _CLEARLY_WORSE
            pieces = torch.nonzero(alive & is_worse & low.all(1) & high.all(1))[:, 0]
            common = (masks[pieces] & masks[index]).sum(dim=(1, 2))
            alive[pieces[common > _MOSTLY_INSIDE * areas[pieces]]] = False
        return self._only(torch.nonzero(alive)[:, 0].tolist())

    def _only(self, kept: list[int]) -> _Candidates:
        return _Candidates(self.logits[kept], self.scores[kept], self.boxes[kept])


def segment_everything(
    predictor: Predictor, options: AutomaticOptions | None = None, window: Box | None = None, **settings: Any
) -> NDArray[np.int32]:
    """Instances of everything in the stack that a predictor has in use.

    Parameters
    ----------
    predictor
        With a stack in use; its embedding is not made again.
    options
        What to look for.
    window
        The part (x0, y0, x1, y1) of the image to look in, pixels; all of it if None. It is encoded by itself, so that
        a small one is seen in detail; objects that its border cuts off are left out.
    settings
        Single options by name, such as ``points_per_side=16``.

    Returns
    -------
    NDArray
        (H, W) int32, of the image or of the window, 0 = nothing, 1..K = instances; where masks overlap, the smaller
        lies on top.

    Examples
    --------
    >>> labels = segment_everything(predictor, points_per_side=16)  # doctest: +SKIP
    """
    known = {field.name for field in fields(AutomaticOptions)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise E2SamError(f"Expected options of {', '.join(sorted(known))}, got {', '.join(unknown)}.")
    steps = segment_everything_steps(predictor, replace(_checked_options(options), **settings), window=window)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            labels: NDArray[np.int32] = end.value
            return labels


def segment_everything_steps(
    predictor: Predictor,
    options: AutomaticOptions | None = None,
    out: NDArray[np.int32] | None = None,
    window: Box | None = None,
) -> Generator[AutomaticStep, None, NDArray[np.int32]]:
    """As `segment_everything`, yielding after each batch of clicks, so that the caller can show progress or stop.

    Parameters
    ----------
    out
        (H, W) int32 of zeros to write to, such as a memory map for an image whose labels are too large for memory; of
        the window's size where there is one.
    window
        As in `segment_everything`.

    Raises
    ------
    PromptError
        If the window does not lie in the image, or `out` is no array of its size.
    StackError
        If there is no predictor, or it has no stack in use.
    """
    if not isinstance(predictor, Predictor):
        raise StackError(
            f"Expected a Predictor with a stack in use, got {shown(predictor)}: make one and call set_stack."
        )
    chosen = _checked_options(options).for_model(predictor.model.config.architecture)
    area = _area(window, predictor.size)
    size = area[3] - area[1], area[2] - area[0]
    if out is not None and (getattr(out, "shape", None), getattr(out, "dtype", None)) != (size, np.int32):
        raise PromptError(f"Expected an array of {size} (H, W) int32 to write to, got {shown(out)}.")
    whole = predictor.model.config.image_size if predictor.is_large else max(size)
    side = chosen.tile_side or whole
    tiles = tiles_of(size, side, int(side * chosen.tile_overlap))
    batches = [
        _batches_of(_grid(_moved(tile, area), chosen.points_per_side), chosen.points_per_batch) for tile in tiles
    ]
    total, done = sum(len(parts) for parts in batches), 0
    canvas = LabelCanvas(size, out)
    for tile, parts in zip(tiles, batches, strict=True):
        found: list[_Candidates] = []
        frame: Frame | None = None
        for points in parts:
            decoded, frame = predictor.decode_points(points, _moved(tile, area))
            found.append(_filtered(decoded, frame, chosen))
            done += 1
            yield AutomaticStep(done, total)
        assert frame is not None
        canvas.add(tile, _painted(found, frame, chosen))
    labels = canvas.finished(chosen.min_area)
    return labels if area == _area(None, predictor.size) else _uncut(labels, area, predictor.size)


def _checked_options(options: AutomaticOptions | None) -> AutomaticOptions:
    if not isinstance(options, AutomaticOptions | None):
        raise PromptError(f"Expected AutomaticOptions or None, got {shown(options)}.")
    return options or AutomaticOptions()


def _area(window: Box | None, size: tuple[int, int]) -> Box:
    """The part of an image of `size` (height, width) to work on."""
    height, width = size
    if window is None:
        return 0, 0, width, height
    sides = tuple(window) if isinstance(window, Iterable) else ()
    fits = len(sides) == 4 and all(map(is_whole, sides)) and 0 <= sides[0] < sides[2] <= width
    if not (fits and 0 <= sides[1] < sides[3] <= height):
        raise PromptError(
            f"Expected a window inside the image of {width} x {height} pixels (x0, y0, x1, y1), got {shown(window)}."
        )
    x0, y0, x1, y1 = map(int, sides)
    return x0, y0, x1, y1


def _moved(tile: Box, area: Box) -> Box:
    """A tile of a window, in pixels of the image."""
    return tile[0] + area[0], tile[1] + area[1], tile[2] + area[0], tile[3] + area[1]


def _uncut(labels: NDArray[np.int32], area: Box, size: tuple[int, int]) -> NDArray[np.int32]:
    """Labels of a window without the instances that its border cuts off, numbered anew; the image's own cuts none."""
    borders = [
        labels[0] if area[1] > 0 else None,
        labels[-1] if area[3] < size[0] else None,
        labels[:, 0] if area[0] > 0 else None,
        labels[:, -1] if area[2] < size[1] else None,
    ]
    is_whole = np.ones(int(labels.max(initial=0)) + 1, bool)
    is_whole[0] = False
    for border in borders:
        if border is not None:
            is_whole[border] = False
    numbers = np.where(is_whole, np.cumsum(is_whole), 0).astype(np.int32)
    kept: NDArray[np.int32] = numbers[labels]
    return kept


def _grid(tile: Box, points_per_side: int) -> NDArray[np.float32]:
    """(P, 2) pixel (x, y) at the centres of equal cells, square as far as whole numbers allow."""
    width, height = tile[2] - tile[0], tile[3] - tile[1]
    columns, rows = (max(1, round(points_per_side * length / max(width, height))) for length in (width, height))
    x = tile[0] + (np.arange(columns) + 0.5) * width / columns
    y = tile[1] + (np.arange(rows) + 0.5) * height / rows
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def _batches_of(points: NDArray[np.float32], length: int) -> list[NDArray[np.float32]]:
    return [points[start : start + length] for start in range(0, len(points), length)]


def _filtered(decoded: DecodedBatch, frame: Frame, options: AutomaticOptions) -> _Candidates:
    """Masks of a batch with quality and stability, without the padding of their frame."""
    assert options.min_quality is not None and options.min_stability is not None
    height, width = (-(-side // frame.logits_stride) for side in frame.input_size)
    logits = decoded.logits.flatten(0, 1)
    inner = logits[:, :height, :width]
    scores = decoded.scores.flatten()
    good = scores >= options.min_quality
    logits, inner, scores = logits[good], inner[good], scores[good]
    surely = (inner > options.stability_offset).sum(dim=(1, 2))
    maybe = (inner > -options.stability_offset).sum(dim=(1, 2))
    set_at = inner > 0
    good = (surely >= options.min_stability * maybe) & set_at.any(dim=2).any(dim=1)
    logits, scores, set_at = logits[good], scores[good], set_at[good]
    # Half precision keeps the sign of every logit but 0 < x < 6e-8, and halves the memory.
    return _Candidates(logits.half(), scores, _boxes(set_at)).without_duplicates(options.max_overlap)


def _boxes(masks: Tensor) -> Tensor:
    """(K, 4) float32 boxes around masks (K, h, w) bool, none of them empty."""
    if len(masks) == 0:
        return torch.zeros((0, 4), device=masks.device)
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    width, height = columns.shape[1], rows.shape[1]
    x0, y0 = columns.int().argmax(dim=1), rows.int().argmax(dim=1)
    x1 = width - columns.flip(1).int().argmax(dim=1)
    y1 = height - rows.flip(1).int().argmax(dim=1)
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def _painted(found: list[_Candidates], frame: Frame, options: AutomaticOptions) -> NDArray[np.int32]:
    """Candidates of one window as instances (h, w) int32 in its own pixels, small ones on top of large ones."""
    joined = _Candidates(
        torch.cat([part.logits for part in found]),
        torch.cat([part.scores for part in found]),
        torch.cat([part.boxes for part in found]),
    )
    joined = joined.without_duplicates(options.max_overlap).without_pieces()
    labels = np.zeros(frame.original_size, np.int32)
    crops = [upsampled_crop(logits.float().cpu().numpy(), frame) for logits in joined.logits]
    sized = [(crop.area, crop) for crop in crops if crop is not None]
    kept = [(area, crop) for area, crop in sized if area >= options.min_area]
    for number, (_, crop) in enumerate(sorted(kept, key=lambda one: -one[0]), start=1):
        x0, y0, x1, y1 = crop.box
        labels[y0:y1, x0:x1][crop.pixels] = number
    return labels
