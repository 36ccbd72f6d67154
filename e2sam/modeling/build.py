"""Every size of model, and the registry that builds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from e2sam.errors import CheckpointError
from e2sam.modeling.e2sam import E2SAM, ModelConfig
from e2sam.modeling.heads import SamDecoder
from e2sam.modeling.image_encoder import EncoderSize, ImageEncoder

__all__ = ["architectures", "build_from_sam", "build_model", "build_with_weights", "encoder_size", "teacher_config"]

# Sizes of SAM's encoders (segment_anything, build_sam.py); "vit_test" is for tests only.
_SAM_SIZES: Mapping[str, EncoderSize] = {
    "vit_b": EncoderSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": EncoderSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": EncoderSize(1280, 32, 16, (7, 15, 23, 31)),
    "vit_test": EncoderSize(32, 2, 2, (1,), image_size=128, window=5),
}


def architectures() -> tuple[str, ...]:
    """Names that `teacher_config` knows."""
    return ("tiny", *_SAM_SIZES)


def encoder_size(architecture: str) -> EncoderSize:
    """Dimensions of the SAM encoder of an architecture."""
    if architecture not in _SAM_SIZES:
        raise CheckpointError(f"Expected an architecture of {', '.join(_SAM_SIZES)}, got {architecture!r}.")
    return _SAM_SIZES[architecture]


def teacher_config(name: str) -> ModelConfig:
    """Configuration of the three-plane model of an architecture: "tiny", "vit_b", "vit_l", "vit_h", "vit_test"."""
    if name == "tiny":
        return ModelConfig("tiny", image_size=512, embedding_stride=8, logits_stride=4, pad_multiple=32)
    if name not in _SAM_SIZES:
        raise CheckpointError(f"Expected a model of {', '.join(architectures())}, got {name!r}.")
    size = _SAM_SIZES[name]
    return ModelConfig(
        name,
        image_size=size.image_size,
        embedding_stride=size.patch,
        logits_stride=size.patch // 4,
        pad_multiple=size.image_size,
    )


def build_model(config: ModelConfig) -> E2SAM:
    """A model with random weights, of any configuration, on the CPU."""
    return _build(config, torch.device("cpu"))


def build_with_weights(config: ModelConfig, state: Mapping[str, Tensor]) -> E2SAM:
    """A model of a configuration with the weights of a state dict, held as float32.

    Raises
    ------
    CheckpointError
        If a name is missing or too many, or a shape differs.
    """
    # Random numbers for weights that are replaced at once would cost seconds; the tiny model's cost nothing.
    model = _build(config, torch.device("cpu" if config.architecture == "tiny" else "meta"))
    _check_weights(model, state)
    owned = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    model.load_state_dict(owned, strict=True, assign=True)
    return model


def _build(config: ModelConfig, device: torch.device) -> E2SAM:
    _check_sizes(config)
    in_channels = len(config.channels) + 1 if config.is_student else 3
    with device:
        encoder, decoder = _build_parts(config, in_channels)
        merge = _build_merge(config)
        semantic = _build_semantic(config)
    return E2SAM(config, encoder, decoder, merge, semantic)


def _check_sizes(config: ModelConfig) -> None:
    """Refuse sizes that the layers of the architecture have not; those of `tiny` take a frame of any size."""
    expected = teacher_config(config.architecture)
    fixed = ("embedding_stride", "logits_stride", "pad_multiple", "image_size")
    for name in fixed[:3] if config.architecture == "tiny" else fixed:
        if getattr(config, name) != getattr(expected, name):
            raise CheckpointError(
                f"Expected {name} {getattr(expected, name)} of a {config.architecture} model, got "
                f"{getattr(config, name)}: the configuration is damaged, take a fresh copy of the file."
            )


def _build_parts(config: ModelConfig, in_channels: int) -> tuple[nn.Module, nn.Module]:
    if config.architecture == "tiny":
        from e2sam.modeling.tiny import TinyDecoder, TinyEncoder

        return TinyEncoder(in_channels), TinyDecoder()
    size = encoder_size(config.architecture)
    return ImageEncoder(size, in_channels), SamDecoder(size.image_size, size.patch)


def _build_merge(config: ModelConfig) -> nn.Module | None:
    if config.merge == "none":
        return None
    from e2sam.modeling.merge import build_merge

    merge: nn.Module = build_merge(config)
    return merge


def _build_semantic(config: ModelConfig) -> nn.Module | None:
    if config.semantic is None:
        return None
    from e2sam.modeling.semantic import build_semantic_decoder

    decoder: nn.Module = build_semantic_decoder(config)
    return decoder


def build_from_sam(state: Mapping[str, Tensor]) -> E2SAM:
    """A teacher from the state dict of one of segment_anything's own checkpoints.

    Raises
    ------
    CheckpointError
        If the weights are not those of a SAM model of a known size.
    """
    config = teacher_config(_sam_architecture(state))
    return build_with_weights(config, {_own_name(name): value for name, value in state.items()})


def _check_weights(model: E2SAM, state: Mapping[str, Tensor]) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has the unknown {unknown[0]}"
        raise CheckpointError(
            f"Expected the weights of a {model.config.architecture} model, got a file that {what} "
            f"({len(missing)} missing, {len(unknown)} unknown): use a file of this architecture."
        )
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"Expected {name} of shape {tuple(expected[name].shape)}, got {tuple(value.shape)}: "
                f"these weights are of another model than {model.config.architecture}."
            )


def _own_name(name: str) -> str:
    """A name of segment_anything's `Sam` as it is in `E2SAM`."""
    return name if name.startswith("image_encoder.") else f"decoder.{name}"


def _sam_architecture(state: Mapping[str, Any]) -> str:
    table = state.get("image_encoder.pos_embed")
    if table is None or not isinstance(table, Tensor) or table.ndim != 4:
        raise CheckpointError(
            "Expected the weights of a SAM model (image_encoder.pos_embed among them), got others: "
            "use an official vit_b, vit_l or vit_h file."
        )
    for name, size in _SAM_SIZES.items():
        if table.shape[-1] == size.width and table.shape[1] == size.grid:
            return name
    raise CheckpointError(
        f"Expected a SAM encoder of width 768, 1024 or 1280, got {table.shape[-1]}: this size is not known."
    )
