"""The composed model: encoder, merge module, prompt encoder and mask decoder under one set of verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec

__all__ = ["E2SAM", "MergeModule", "ModelConfig", "PromptDecoder", "PromptTensors", "SemanticConfig", "SemanticDecoder"]

# Mean and standard deviation of SAM's training images, R, G, B in 0..255 (segment_anything, build_sam.py).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SemanticConfig:
    """The classes that a semantic decoder tells apart; saved with the weights.

    Attributes
    ----------
    decoder
        Key of `e2sam.modeling.semantic.build_semantic_decoder`: "detail" or "bmvc2023".
    classes
        Name of each class.
    values
        Value of each class in label images, in the same order.
    tile_size
        Pixels of the original image on the long side of one frame: the scale that the decoder was trained at.
    """

    decoder: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    tile_size: int


@dataclass(frozen=True)
class ModelConfig:
    """What a model is; saved with its weights.

    Attributes
    ----------
    architecture
        Key of the registry in `e2sam.modeling.build`: "tiny", "vit_b", "vit_l", "vit_h".
    image_size
        Long side of the model's frame, pixels.
    embedding_stride
        Pixels of the model's frame behind one position of the embedding.
    logits_stride
        Pixels of the model's frame behind one position of the decoder's logits.
    pad_multiple
        The frame is padded, bottom and right, to a multiple of this; SAM pads to the square `image_size`.
    channels
        The student's input channels, in order; empty for a teacher, which takes composites of three.
    recipes
        Normalization of each of `channels`, fitted where the student was inherited.
    merge
        "none" (teacher), "gated" or "split".
    semantic
        The classes of its semantic decoder, or None where it has none.
    """

    architecture: str
    image_size: int
    embedding_stride: int
    logits_stride: int
    pad_multiple: int
    channels: tuple[ChannelSpec, ...] = ()
    recipes: tuple[ChannelRecipe, ...] = ()
    merge: str = "none"
    semantic: SemanticConfig | None = None

    @property
    def is_student(self) -> bool:
        """Whether the model takes its own channels rather than composites."""
        return len(self.channels) > 0

    @property
    def looks_closer(self) -> bool:
        """Whether the encoder is so quick that small objects are looked at closer without being asked to."""
        return self.architecture == "tiny"


@dataclass(frozen=True)
class PromptTensors:
    """Prompts of B objects in the model's frame.

    Attributes
    ----------
    point_coords
        (B, P, 2) float32, pixel (x, y) of the model's frame, centres at integer + 0.5.
    point_labels
        (B, P) int64: 1 inside, 0 outside, 2 top-left corner of a box, 3 its bottom-right corner, -1 padding.
    mask_input
        (B, 1, hm, wm) float32 logits of an earlier prediction, or None.
    """

    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor | None = None


class PromptDecoder(Protocol):
    """SAM's prompt encoder and mask decoder, or a lighter pair, behind one call."""

    def __call__(
        self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on (B or 1, 256, h, w) embeddings.

        Returns low-resolution logits (B, M, hm, wm), where hm = h * embedding_stride / logits_stride, and predicted
        IoU (B, M); M is 3 with `multimask_output`, else 1.
        """
        ...


class MergeModule(Protocol):
    """Fuses a student's features into the embedding of a selection."""

    def collect(self, features: Tensor, pixels: Tensor) -> Tensor:
        """The encoder's output with what else of the prepared pixels the module reads: what is cached of an image."""
        ...

    def __call__(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """Embedding (B, 256, h, w) of `selection`, indices into the model's channels."""
        ...

    def weights(self, features: Tensor, selection: Sequence[int]) -> Tensor:
        """(B, len(selection), h, w) in [0, 1], summing to 1 over the selection: which channel decides where."""
        ...


class SemanticDecoder(Protocol):
    """Gives every position a score for each class."""

    def __call__(self, image_embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Logits (B, K, H', W') from embeddings (B, 256, h, w) and the prepared pixels (B, N + 1, H, W) behind them."""
        ...


class E2SAM(nn.Module):
    """A promptable model of three composite planes (teacher) or N channels (student).

    One `encode` serves every `embed`, one `embed` every `decode`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        image_encoder: nn.Module,
        decoder: nn.Module,
        merge: nn.Module | None = None,
        semantic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        self.decoder = decoder
        self.merge = merge
        self.semantic = semantic
        # SHA-256 of configuration and weights as they were loaded; empty for a model that no file holds.
        self.fingerprint = ""
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.pixel_mean.device

    def prepare(self, planes: Tensor, padded_size: tuple[int, int]) -> Tensor:
        """Input of the encoder from planes already resized to the model's frame.

        Parameters
        ----------
        planes
            (B, 3, h, w) composites in 0..255 for a teacher; (B, N, h, w) channels in [0, 1] for a student.
        padded_size
            (H, W) of the encoder's input, at least (h, w); padding goes bottom and right, after normalization.

        Returns
        -------
        Tensor
            (B, 3, H, W) in SAM's statistics, or (B, N + 1, H, W), whose last plane is 1 inside the image and 0 in
            the padding, so that padding means to the student exactly what it means to the teacher.
        """
        if self.config.is_student:
            planes = torch.cat((planes, torch.ones_like(planes[:, :1])), dim=1)
        else:
            planes = (planes - self.pixel_mean) / self.pixel_std
        height, width = planes.shape[-2:]
        return nn.functional.pad(planes, (0, padded_size[1] - width, 0, padded_size[0] - height))

    def encode(self, pixels: Tensor) -> Tensor:
        """Features of prepared pixels: the embedding itself for a teacher, the merge module's input for a student."""
        features: Tensor = self.image_encoder(pixels)
        if self.merge is not None:
            features = self.merge.collect(features, pixels)  # type: ignore[operator]
        return features

    def embed(self, features: Tensor, selection: Sequence[int] | None = None) -> Tensor:
        """Embedding (B, 256, h, w) of a selection of the model's channels (all of them if None)."""
        if self.merge is None:
            return features
        chosen = range(len(self.config.channels)) if selection is None else selection
        embedding: Tensor = self.merge(features, chosen)
        return embedding

    def decode(self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Low-resolution logits and predicted IoU of each prompt; see `PromptDecoder`."""
        logits, iou = self.decoder(image_embeddings, prompts, multimask_output)
        return logits, iou

    def classify(self, image_embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Class logits of every position; see `SemanticDecoder`. Only where the model has a semantic decoder."""
        assert self.semantic is not None
        logits: Tensor = self.semantic(image_embeddings, pixels)
        return logits
