"""Students: a teacher's encoder with N channels for three planes, equal to the teacher on one composite at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2sam.data.channels import plane_order
from e2sam.data.composites import Composite
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError
from e2sam.modeling.build import build_model
from e2sam.modeling.e2sam import E2SAM, PIXEL_MEAN, PIXEL_STD
from e2sam.modeling.merge import GatedMerge, SplitMerge

__all__ = ["INITS", "build_student", "canonical_order", "inflate", "input_layer"]

INITS = ("inflate", "mean", "random", "scratch")


def input_layer(encoder: nn.Module) -> nn.Conv2d:
    """The first layer of an encoder, a convolution of the prepared planes."""
    layer = encoder.get_submodule("patch_embed.proj" if hasattr(encoder, "patch_embed") else "input_conv")
    assert isinstance(layer, nn.Conv2d)
    return layer


def inflate(weight: Tensor, matrix: Tensor, init: str = "inflate") -> Tensor:
    """Weights of a first layer for N channels in [0, 1] and the inside plane.

    With SAM's mean m and deviation s, a composite A and the teacher's kernels W, channel n gets
    sum_k W[:, k] * 255 A[k, n] / s[k], and the inside plane, which is 1 in the image and 0 in the padding,
    -sum_k W[:, k] m[k] / s[k]: the layer gives what it gave for the normalized composite, padding included.

    Parameters
    ----------
    weight
        (O, 3, k, k) of the teacher.
    matrix
        (3, N) composite.
    init
        "inflate"; "mean": every channel gets the mean of the three kernels, times 3 / N; "random": drawn anew.

    Returns
    -------
    Tensor
        (O, N + 1, k, k).
    """
    mean, std = (torch.tensor(values, dtype=weight.dtype) for values in (PIXEL_MEAN, PIXEL_STD))
    num_channels = matrix.shape[1]
    inside = -torch.einsum("okyx,k->oyx", weight, mean / std)
    if init == "random":
        layer = nn.Conv2d(num_channels + 1, weight.shape[0], weight.shape[2])
        return layer.weight.detach().to(weight.dtype)
    if init == "mean":
        matrix = torch.full_like(matrix, 1 / num_channels)
    scale = 255 * matrix.to(weight.dtype) / std[:, None]
    channels = torch.einsum("okyx,kn->onyx", weight, scale)
    return torch.cat((channels, inside[:, None]), dim=1)


def build_student(
    teacher: E2SAM,
    channels: Sequence[ChannelSpec],
    recipes: Sequence[ChannelRecipe],
    composite: Composite | NDArray[Any] | Tensor,
    init: str = "inflate",
    merge: str = "gated",
    *,
    base: E2SAM | None = None,
    basis: Tensor | None = None,
    grouping: Tensor | None = None,
) -> E2SAM:
    """A student of N channels on the device of its teacher.

    Parameters
    ----------
    teacher
        Three-plane model; the student gets its prompt encoder and mask decoder.
    channels, recipes
        The student's channels and their fitted normalization.
    composite
        The canonical composite, or its (3, N) matrix: with "inflate", the student equals the teacher on it, whatever
        the selection, until it is trained.
    init
        "inflate"; "mean" and "random" (first layer only, for comparison); "scratch" (the whole encoder drawn anew, as
        the paper's).
    merge
        "gated" or "split".
    base
        Another three-plane model whose encoder the student gets, such as ViT-B under a ViT-H teacher; the strides and
        channels of their embeddings must agree.
    basis, grouping
        See `GatedMerge.set_channels`.

    Raises
    ------
    ChannelError
        If channels, recipes and composite do not fit each other, or the teacher is a student itself.
    """
    source = teacher if base is None else base
    matrix = torch.as_tensor(composite.matrix if isinstance(composite, Composite) else composite).float().cpu()
    _check(teacher, source, channels, recipes, matrix, init)
    config = replace(source.config, channels=tuple(channels), recipes=tuple(recipes), merge=merge, semantic=None)
    student = build_model(config)
    if init != "scratch":
        weights = {name: value.detach().cpu().float() for name, value in source.image_encoder.state_dict().items()}
        first = _name_of_first_weight(source.image_encoder)
        weights[first] = inflate(weights[first], matrix, init)
        student.image_encoder.load_state_dict(weights)
    student.decoder.load_state_dict({k: v.detach().cpu().float() for k, v in teacher.decoder.state_dict().items()})
    _prepare_merge(student, source, channels, matrix, (basis, grouping))
    return student.to(teacher.device)


def canonical_order(channels: Sequence[ChannelSpec]) -> tuple[int, ...]:
    """(N,) place of each channel in the order in which two or three of them fill a composite: red first."""
    # Only what the channels are called and which light they see counts, not their pixels.
    keys = plane_order(ChannelStack(np.zeros((len(channels), 1, 1), np.uint8), tuple(channels)))
    by_key = sorted(range(len(channels)), key=lambda index: keys[index])
    return tuple(by_key.index(index) for index in range(len(channels)))


def _name_of_first_weight(encoder: nn.Module) -> str:
    first = input_layer(encoder).weight
    return next(name for name, parameter in encoder.named_parameters() if parameter is first)


def _prepare_merge(
    student: E2SAM,
    source: E2SAM,
    channels: Sequence[ChannelSpec],
    matrix: Tensor,
    known: tuple[Tensor | None, Tensor | None],
) -> None:
    merge = student.merge
    if isinstance(merge, GatedMerge):
        merge.set_channels(channels, canonical_order(channels), matrix, *known)
    elif isinstance(merge, SplitMerge) and hasattr(source.image_encoder, "neck"):
        neck = source.image_encoder.neck
        assert isinstance(neck, nn.Sequential)
        merge.neck.load_state_dict(neck[2].state_dict())
        merge.neck_norm.load_state_dict(neck[3].state_dict())


def _check(
    teacher: E2SAM,
    source: E2SAM,
    channels: Sequence[ChannelSpec],
    recipes: Sequence[ChannelRecipe],
    matrix: Tensor,
    init: str,
) -> None:
    for model in (teacher, source):
        if model.config.is_student:
            raise ChannelError("Expected a teacher of three planes, got a student: inherit from its own teacher.")
    if teacher.config.embedding_stride != source.config.embedding_stride:
        raise ChannelError(
            f"Expected an encoder of stride {teacher.config.embedding_stride} as the teacher's, got "
            f"{source.config.embedding_stride}: {source.config.architecture} cannot learn from "
            f"{teacher.config.architecture}."
        )
    if init not in INITS:
        raise ChannelError(f"Expected an initialization of {', '.join(INITS)}, got {init!r}.")
    if not channels or len(recipes) != len(channels) or tuple(matrix.shape) != (3, len(channels)):
        raise ChannelError(
            f"Expected {len(channels)} channels with a recipe each and a (3, {len(channels)}) composite, got "
            f"{len(recipes)} recipes and a composite of shape {tuple(matrix.shape)}."
        )
