"""Fine-tuning of a semantic decoder: tiles of labelled images, cross entropy and Dice over what is labelled.

Where the encoder is not tuned it runs once for each tile and mirror image; only the decoder runs in the loop.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.data.content import hash_pixels
from e2sam.data.stack import ChannelStack
from e2sam.errors import TrainingError
from e2sam.evaluation.semantic import ConfusionMatrix
from e2sam.inference.plan import EncodingPlan, Scene
from e2sam.inference.prediction import Box
from e2sam.inference.semantic import frame_of_tile, logits_on_grid, semantic_config
from e2sam.inference.tiling import tiles_of
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.semantic import DetailDecoder
from e2sam.training.task import Outcome, ParameterGroup, StepDraw

__all__ = ["SemanticImage", "SemanticModule", "SemanticSettings", "SemanticTask", "SemanticTiles"]

NOT_COUNTED = -1
_OPEN_IMAGES = 4
_FLIPS = ((), (2,), (1,), (1, 2))


@dataclass(frozen=True, eq=False)
class SemanticImage:
    """One labelled image, read when it is needed.

    Attributes
    ----------
    name
        For messages.
    load
        Gives the stack and its labels (H, W).
    counted
        (H, W) bool, the labelled pixels that count; None = all that are not the ignored value.
    """

    name: str
    load: Callable[[], tuple[ChannelStack, NDArray[np.int32]]]
    counted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class SemanticSettings:
    """How a semantic decoder learns.

    Attributes
    ----------
    learning_rate, encoder_rate, weight_decay
        Of the semantic decoder, of what is tuned in the encoder, of both.
    dice
        Weight of the Dice loss beside cross entropy.
    class_weights
        Weigh rare classes more: one over the root of their share, at most 5 times the commonest.
    flips
        Also learn from mirrored tiles.
    """

    learning_rate: float = 1e-3
    encoder_rate: float = 5e-5
    weight_decay: float = 0.05
    dice: float = 1.0
    class_weights: bool = True
    flips: bool = True


class SemanticTiles:
    """Tiles of labelled images as a model's input, with class positions as labels.

    Parameters
    ----------
    images
        The images.
    model
        With a semantic decoder.
    ignore_index
        Label value that is not counted, or None.
    keep_bytes
        Memory for encoded tiles; what does not fit is encoded again when it is asked for.
    """

    def __init__(
        self, images: Sequence[SemanticImage], model: E2SAM, ignore_index: int | None, keep_bytes: int = 2 * 10**9
    ) -> None:
        self.images = tuple(images)
        self.model = model
        self.tile_size = semantic_config(model).tile_size
        self._values = semantic_config(model).values
        self._ignore_index = ignore_index
        self._open: OrderedDict[int, tuple[EncodingPlan, NDArray[np.int64]]] = OrderedDict()
        self._kept: dict[tuple[int, int], dict[str, Any]] = {}
        self._room = keep_bytes
        self.counts = np.zeros(len(self._values), np.int64)
        self._digest = hashlib.blake2b(digest_size=16)
        self.tiles: list[tuple[int, Box]] = []
        for index in range(len(self.images)):
            self._add_tiles(index)

    def _add_tiles(self, index: int) -> None:
        plan, labels = self.image(index)
        self._digest.update(f"{self.images[index].name} {hash_pixels(plan.stack)} ".encode() + labels.tobytes())
        self.counts += np.bincount(labels[labels >= 0], minlength=len(self._values))
        for tile in tiles_of(labels.shape, self.tile_size, 0):
            if (labels[tile[1] : tile[3], tile[0] : tile[2]] >= 0).any():
                self.tiles.append((index, tile))

    @property
    def digest(self) -> str:
        """Hash of all images and labels: a run does not go on with others."""
        return self._digest.hexdigest()

    def image(self, index: int) -> tuple[EncodingPlan, NDArray[np.int64]]:
        """The plan of an image and its class positions (H, W), -1 where nothing counts."""
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        image = self.images[index]
        stack, labels = image.load()
        plan = Scene.of(stack).plan(self.model.config, "auto")
        self._open[index] = plan, self._positions(image, labels)
        if len(self._open) > _OPEN_IMAGES:
            self._open.popitem(last=False)
        return self._open[index]

    def _positions(self, image: SemanticImage, labels: NDArray[np.int32]) -> NDArray[np.int64]:
        positions = np.full(labels.shape, NOT_COUNTED, np.int64)
        known = np.zeros(labels.shape, bool)
        for position, value in enumerate(self._values):
            here = labels == value
            known |= here
            if value != self._ignore_index:
                positions[here] = position
        strange = np.unique(labels[~known & (labels != self._ignore_index)])
        if strange.size:
            raise TrainingError(
                f"Expected labels of {list(self._values)} in {image.name}, got {strange[:5].tolist()}: name the "
                "classes, or pass the value that means unlabelled as ignore index."
            )
        if image.counted is not None:
            positions[~image.counted] = NOT_COUNTED
        return positions

    def samples_of_pixels(self, count: int = 20_000) -> Tensor:
        """(S, planes) values of the prepared pixels of trained tiles, for the statistics of a decoder."""
        each = max(1, count // min(len(self.tiles), 16))
        found = []
        for index, tile in self.tiles[:: max(1, len(self.tiles) // 16)][:16]:
            pixels, inside = self._pixels(index, tile, ())
            flat = pixels[0, :, : inside[0], : inside[1]].flatten(1).T
            found.append(flat[:: max(1, len(flat) // each)])
        return torch.cat(found)

    def _pixels(self, index: int, tile: Box, flip: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
        """Prepared pixels (1, P, H, W) of a tile, mirrored before they are padded, and the size without padding."""
        plan, _ = self.image(index)
        frame = frame_of_tile((tile[3] - tile[1], tile[2] - tile[0]), self.model.config, self.tile_size)
        planes = torch.from_numpy(plan.planes(tile, frame))[:1]
        if flip:
            planes = planes.flip([axis + 1 for axis in flip])
        return self.model.prepare(planes.to(self.model.device), frame.padded_size), frame.input_size

    def labels(self, index: int, tile: Box, flip: tuple[int, ...] = ()) -> Tensor:
        """Class positions (h, w) of a tile, at most at the resolution of the frame."""
        _, positions = self.image(index)
        window = torch.from_numpy(positions[tile[1] : tile[3], tile[0] : tile[2]].copy())
        frame = frame_of_tile((window.shape[0], window.shape[1]), self.model.config, self.tile_size)
        size = tuple(min(own, inner) for own, inner in zip(window.shape, frame.input_size, strict=True))
        if size != tuple(window.shape):
            window = F.interpolate(window[None, None].float(), size, mode="nearest-exact")[0, 0].long()
        return window.flip([axis - 1 for axis in flip]) if flip else window

    def sample(self, index: int, tile: Box, flip: tuple[int, ...] = ()) -> dict[str, Any]:
        """Pixels and labels of one tile: what a tuned encoder is given."""
        pixels, inside = self._pixels(index, tile, flip)
        padded = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        return {"pixels": pixels, "labels": self.labels(index, tile, flip), "inside": inside, "padded": padded}

    def encoded(self, number: int, variant: int = 0) -> dict[str, Any]:
        """As `sample` of a tile by its number, with its embedding and the pixels at a quarter of their resolution."""
        key = number, variant
        if key in self._kept:
            return {name: _widened(value) for name, value in self._kept[key].items()}
        index, tile = self.tiles[number]
        sample = self.sample(index, tile, _FLIPS[variant])
        plan, _ = self.image(index)
        with torch.no_grad():
            sample["embedding"] = self.model.embed(self.model.encode(sample["pixels"]), plan.positions).float()
            sample["pixels"] = F.avg_pool2d(sample["pixels"], DetailDecoder.out_stride)
        kept = {name: _narrowed(value) for name, value in sample.items()}
        size = sum(value.nbytes for value in kept.values() if isinstance(value, Tensor))
        if size <= self._room:
            self._room -= size
            self._kept[key] = kept
        return {name: _widened(value) for name, value in kept.items()}


def _narrowed(value: Any) -> Any:
    return value.cpu().half() if isinstance(value, Tensor) and value.is_floating_point() else value


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class SemanticModule(nn.Module):
    """The model with the losses of one step; see `TrainingTask.module`."""

    class_weights: Tensor

    def __init__(self, model: E2SAM, settings: SemanticSettings, counts: NDArray[np.int64]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        share = counts / max(1, counts.sum())
        weights = np.sqrt(share.max() / np.maximum(share, 1e-6)).clip(max=5.0)
        plain = np.ones_like(weights)
        chosen = weights if settings.class_weights else plain
        self.register_buffer("class_weights", torch.from_numpy(chosen.astype(np.float32)), persistent=False)

    def forward(self, batch: Sequence[Mapping[str, Any]], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the samples of a batch; samples of one size go through the model together."""
        groups: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
        for sample in batch:
            groups.setdefault(tuple(sample["pixels"].shape), []).append(sample)
        entropies, dices = [], []
        for group in groups.values():
            for sample, logits in zip(group, self._logits(group), strict=True):
                on_grid = logits_on_grid(
                    logits[None], sample["inside"], sample["padded"], tuple(sample["labels"].shape)
                )
                entropies.append(self._entropy(on_grid, sample["labels"]))
                dices.append(self.settings.dice * _dice_loss(on_grid[0], sample["labels"]))
        parts = {"cross_entropy": torch.stack(entropies).mean(), "dice": torch.stack(dices).mean()}
        return parts["cross_entropy"] + parts["dice"], {name: part.detach() for name, part in parts.items()}

    def _logits(self, group: Sequence[Mapping[str, Any]]) -> Tensor:
        pixels = torch.cat([sample["pixels"] for sample in group])
        if "embedding" in group[0]:
            embeddings = torch.cat([sample["embedding"] for sample in group])
        else:
            embeddings = self.model.embed(self.model.encode(pixels))
        return self.model.classify(embeddings, pixels)

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not bool((labels >= 0).any()):
            return logits.sum() * 0
        return F.cross_entropy(logits, labels[None], weight=self.class_weights, ignore_index=NOT_COUNTED)


def _dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus soft Dice, mean over the classes that are labelled here; pixels that do not count are left out."""
    counted = labels >= 0
    if not bool(counted.any()):
        return logits.sum() * 0
    probability = torch.softmax(logits, dim=0)[:, counted]
    truth = F.one_hot(labels[counted], len(logits)).T.float()
    present = truth.sum(1) > 0
    shared, total = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    return (1 - (2 * shared + 1) / (total + 1))[present].mean()


class SemanticTask:
    """Fine-tuning of a semantic decoder; follows `e2sam.training.task.TrainingTask`.

    Parameters
    ----------
    module
        The model with its losses.
    train, held_out
        Tiles to learn from, and to judge by; without the latter the last weights are kept.
    encodes
        Whether the encoder is tuned, so that it has to run at each step.
    save_as
        Writes the checkpoint.
    identity
        What tells this run from another.
    """

    def __init__(
        self,
        module: SemanticModule,
        train: SemanticTiles,
        held_out: SemanticTiles | None,
        encodes: bool,
        save_as: Callable[[Path, E2SAM, Outcome], None],
        identity: Mapping[str, Any],
    ) -> None:
        self.module: nn.Module = module
        self.monitor = "" if held_out is None else "score"
        self._classes = module
        self._train, self._held_out = train, held_out
        self._encodes = encodes
        self._save_as = save_as
        self._identity = identity
        self._num_variants = len(_FLIPS) if module.settings.flips else 1

    def identity(self) -> Mapping[str, Any]:
        """What a resumed run must share with this one."""
        return {**self._identity, "semantic": asdict(self._classes.settings)}

    def prepare(self, fabric: Any) -> Iterator[str]:
        """Fit the decoder's statistics, and encode every tile that is asked for again and again."""
        del fabric
        decoder = self._classes.model.semantic
        if isinstance(decoder, DetailDecoder):
            decoder.fit_statistics(self._train.samples_of_pixels())
        yield f"Learning from {len(self._train.tiles)} tile(s) of {len(self._train.images)} image(s)."

    def groups(self) -> Sequence[ParameterGroup]:
        """The semantic decoder's parameters and, where they are tuned, the encoder's."""
        settings, model = self._classes.settings, self._classes.model
        assert model.semantic is not None
        decoder = list(model.semantic.parameters())
        own = {id(parameter) for parameter in decoder}
        rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in own]
        groups = [ParameterGroup(decoder, settings.learning_rate, settings.weight_decay)]
        return groups + ([ParameterGroup(rest, settings.encoder_rate, settings.weight_decay)] if rest else [])

    def batch(self, draw: StepDraw) -> list[dict[str, Any]]:
        """Samples of a step: fixed tiles from the cache, or, where the encoder is tuned, crops drawn anew."""
        samples = []
        for number in draw.samples:
            generator = draw.sample(number)
            which = int(generator.integers(len(self._train.tiles)))
            variant = int(generator.integers(self._num_variants))
            if self._encodes:
                index, _ = self._train.tiles[which]
                samples.append(self._train.sample(index, self._crop(index, generator), _FLIPS[variant]))
            else:
                samples.append(self._train.encoded(which, variant))
        return samples

    def _crop(self, index: int, generator: np.random.Generator) -> Box:
        """A window of the tile size anywhere in an image."""
        _, labels = self._train.image(index)
        side = self._train.tile_size
        top, left = (int(generator.integers(max(1, length - side + 1))) for length in labels.shape)
        return left, top, min(left + side, labels.shape[1]), min(top + side, labels.shape[0])

    def validate(self) -> Mapping[str, float]:
        """Mean IoU and pixel accuracy on held-out pixels."""
        if self._held_out is None:
            return {}
        tiles, model = self._held_out, self._classes.model
        matrix = ConfusionMatrix(range(len(self._classes.class_weights)), ignore_index=NOT_COUNTED)
        for number, (index, tile) in enumerate(tiles.tiles):
            with torch.no_grad():
                sample = tiles.sample(index, tile) if self._encodes else tiles.encoded(number)
                moved: dict[str, Any] = {
                    name: value.to(model.device) if isinstance(value, Tensor) else value
                    for name, value in sample.items()
                }
                logits = self._classes._logits([moved])
                on_grid = logits_on_grid(logits, moved["inside"], moved["padded"], tuple(moved["labels"].shape))
            matrix.update(on_grid[0].argmax(0).cpu().numpy(), sample["labels"].numpy())
        scores = matrix.scores()
        return {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy, "score": scores.miou}

    def save(self, path: Path, outcome: Outcome) -> None:
        """Write the checkpoint of the model as it stands."""
        self._save_as(path, self._classes.model, outcome)
