"""Agreement of a student's masks with its teacher's, on regions that no training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2sam.data.clicks import next_click
from e2sam.modeling.e2sam import E2SAM
from e2sam.training.prompting import click_prompts, teacher_masks
from e2sam.training.tiles import TileReader, TileSpec
from e2sam.training.views import TeacherViews

__all__ = ["AgreementProbe", "pixels_of"]

_MAX_CLICKS = 3
# Of the frame: smaller masks are a handful of positions, larger ones the whole scene.
_LEAST_AREA, _LARGEST_AREA = 0.003, 0.7
_LEAST_QUALITY = 0.4
# IoU at which a mask is what was asked for, and gets no further clicks.
_SETTLED = 0.95


@dataclass(frozen=True, eq=False)
class _Question:
    """Clicks on one tile for one selection, and the teacher's masks."""

    tile: int
    selection: tuple[int, ...]
    points: Tensor
    targets: NDArray[np.bool_]


def pixels_of(model: E2SAM, planes: NDArray[np.float32], tile_size: int) -> Tensor:
    """Prepared pixels (N + 1, t, t) of a student from a tile (N, h, w), on the CPU."""
    whole = torch.zeros(planes.shape[0] + 1, tile_size, tile_size)
    height, width = planes.shape[-2:]
    whole[:-1, :height, :width] = torch.from_numpy(planes)
    whole[-1, :height, :width] = 1
    return whole


class AgreementProbe:
    """Asks student and teacher the same, on fixed tiles, selections and clicks.

    A question is a point and a selection; the right answer is the mask that a user of the teacher is shown there, and
    the student's is the one that its user is shown: of both the candidate of best predicted IoU, so that a student that
    equals its teacher agrees with it entirely. Points where the teacher has no answer that it trusts (quality under
    0.4), or one that is nothing or nearly everything, are left out.

    Parameters
    ----------
    reader, tiles
        Held-out tiles.
    views
        The teacher.
    selections
        Of one to three channels; those never trained on among them.
    num_clicks
        Points a tile.
    whole
        All channels in canonical order, if the answers to their selection are to be measured too.
    """

    def __init__(
        self,
        reader: TileReader,
        tiles: Sequence[TileSpec],
        views: TeacherViews,
        selections: Sequence[Sequence[int]],
        num_clicks: int = 8,
        whole: Sequence[int] = (),
    ) -> None:
        self._planes = [reader.read(tile).planes for tile in tiles]
        self._views = views
        self._selections = [tuple(selection) for selection in selections]
        self._num_clicks = num_clicks
        self._questions: list[_Question] = []
        self._all_channels = tuple(whole)
        self._whole: list[_Question] = []

    @torch.no_grad()
    def prepare(self, seed: int) -> None:
        """Ask the teacher."""
        model = self._views.teacher
        for index, planes in enumerate(self._planes):
            rng = np.random.default_rng((seed, 17, index))
            height, width = planes.shape[-2:]
            spots = rng.uniform((4, 4), (width - 4, height - 4), (self._num_clicks, 2)).astype(np.float32)
            points = torch.from_numpy(spots).to(model.device)
            embeddings = [view.to(model.device) for view in self._views.embed(planes, self._selections)]
            for selection, embedding in zip(self._selections, embeddings, strict=True):
                self._ask(self._questions, index, selection, [embedding], points)
            if self._all_channels:
                views = [*embeddings, self._views.embed(planes, [self._all_channels])[0].to(model.device)]
                self._ask(self._whole, index, self._all_channels, views, points)

    def _ask(
        self, into: list[_Question], tile: int, selection: tuple[int, ...], embeddings: list[Tensor], points: Tensor
    ) -> None:
        model = self._views.teacher
        prompts = click_prompts(points[:, None], torch.ones(len(points), 1, device=points.device))
        taught = teacher_masks(model, embeddings, prompts, multimask=True)
        rows = torch.arange(len(points), device=points.device)
        masks = taught.logits[rows, taught.shown] > 0
        masks = masks & _inside(self._planes[tile], model.config.logits_stride, masks)
        share = masks.float().mean((1, 2))
        sound = (share > _LEAST_AREA) & (share < _LARGEST_AREA)
        sound &= taught.quality[rows, taught.shown] >= _LEAST_QUALITY
        if bool(sound.any()):
            into.append(_Question(tile, selection, points[sound].cpu(), masks[sound].cpu().numpy()))

    @torch.no_grad()
    def measure(self, student: E2SAM) -> dict[str, float]:
        """Mean IoU over all questions, at one click and at three.

        "agreement_1_click" and "agreement_3_clicks" over selections of one to three channels, "agreement_all_1_click"
        with every channel selected, against the best of the teacher's views; {} if the teacher has no sound answers.
        The second and third click are the evaluation protocol's: in the middle of the student's largest error, until an
        IoU of 0.95.
        """
        by_clicks: dict[int, list[float]] = {1: [], _MAX_CLICKS: []}
        whole: list[float] = []
        for index, planes in enumerate(self._planes):
            pixels = pixels_of(student, planes, self._views.tile_size)[None].to(student.device)
            features = student.encode(pixels)
            for question in self._questions:
                if question.tile == index:
                    answers = self._answer(student, features, question, _MAX_CLICKS)
                    by_clicks[1] += answers[0]
                    by_clicks[_MAX_CLICKS] += answers[-1]
            for question in self._whole:
                if question.tile == index:
                    whole += self._answer(student, features, question, 1)[0]
        if not by_clicks[1]:
            return {}
        metrics = {
            "agreement_1_click": float(np.mean(by_clicks[1])),
            f"agreement_{_MAX_CLICKS}_clicks": float(np.mean(by_clicks[_MAX_CLICKS])),
        }
        return metrics | ({"agreement_all_1_click": float(np.mean(whole))} if whole else {})

    def _answer(self, student: E2SAM, features: Tensor, question: _Question, clicks: int) -> list[list[float]]:
        """IoU of each target after 1..clicks."""
        stride = student.config.logits_stride
        embedding = student.embed(features, question.selection).float()
        points = question.points[:, None].to(features.device)
        labels = torch.ones(points.shape[:2], device=features.device)
        within = _inside(self._planes[question.tile], stride, torch.from_numpy(question.targets)).numpy()
        results: list[list[float]] = []
        earlier: Tensor | None = None
        for click in range(1, clicks + 1):
            logits, scores = student.decode(embedding, click_prompts(points, labels, earlier), click == 1)
            rows = torch.arange(len(points), device=points.device)
            earlier = logits[rows, scores.argmax(1)].float()
            masks = (earlier > 0).cpu().numpy() & within
            ious = [_iou(mask, target) for mask, target in zip(masks, question.targets, strict=True)]
            # Nobody goes on clicking where nothing is left to correct; the decoder's answer to that would be judged.
            last = results[-1] if results else [0.0] * len(ious)
            results.append([old if old >= _SETTLED else new for old, new in zip(last, ious, strict=True)])
            if click < clicks:
                points, labels = _with_next(points, labels, masks, question.targets, stride)
        return results


def _with_next(
    points: Tensor, labels: Tensor, masks: NDArray[np.bool_], targets: NDArray[np.bool_], stride: int
) -> tuple[Tensor, Tensor]:
    spots, kinds = [], []
    for mask, target in zip(masks, targets, strict=True):
        click = next_click(target, mask)
        # Nothing to correct: a point that the decoder ignores.
        spots.append((0.0, 0.0) if click is None else (click.x * stride, click.y * stride))
        kinds.append(-1.0 if click is None else float(click.label))
    new = torch.tensor(spots, device=points.device)[:, None]
    return torch.cat((points, new), dim=1), torch.cat((labels, torch.tensor(kinds, device=points.device)[:, None]), 1)


def _inside(planes: NDArray[np.float32], stride: int, like: Tensor) -> Tensor:
    """(H, W) bool: positions of the logits that lie in the image."""
    height, width = (-(-side // stride) for side in planes.shape[-2:])
    inside = torch.zeros(like.shape[-2:], dtype=torch.bool, device=like.device)
    inside[:height, :width] = True
    return inside


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0
