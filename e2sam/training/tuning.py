"""Which weights are trained: the decoder, late blocks of the encoder, or everything."""

from __future__ import annotations

import copy

from torch import nn

from e2sam.errors import TrainingError
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.lora import add_lora, remove_lora
from e2sam.modeling.tiny import TinyEncoder

__all__ = ["TUNES", "plain_copy", "set_trained"]

TUNES = ("decoder", "lora", "full")


def set_trained(model: E2SAM, head: nn.Module, tune: str, late_blocks: int = 3, rank: int = 8) -> str:
    """Mark what is trained, everything else is frozen; returns a line that says what it is.

    Parameters
    ----------
    model
        Changed in place.
    head
        The decoder that is trained in any case.
    tune
        "decoder" (the encoder stays frozen), "lora" (low-rank changes of attention in the last `late_blocks` blocks;
        `tiny` has no attention, there the last stage and the pyramid are trained), or "full".
    late_blocks, rank
        For "lora".

    Raises
    ------
    TrainingError
        If `tune` is none of these.
    """
    if tune not in TUNES:
        raise TrainingError(f"Expected to tune {', '.join(TUNES)}, got {tune!r}.")
    model.requires_grad_(False)
    head.requires_grad_(True)
    if tune == "full":
        model.image_encoder.requires_grad_(True)
        if model.merge is not None:
            model.merge.requires_grad_(True)
    elif tune == "lora" and isinstance(model.image_encoder, TinyEncoder):
        encoder = model.image_encoder
        for part in (encoder.stages[-1], encoder.context, encoder.laterals, encoder.smooth16, encoder.smooth8):
            part.requires_grad_(True)
    elif tune == "lora":
        blocks = model.image_encoder.blocks
        assert isinstance(blocks, nn.ModuleList)
        for parameter in add_lora(list(blocks)[-late_blocks:], rank):
            parameter.requires_grad_(True)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"Training {trained / 1e6:.2f} of {total / 1e6:.2f} million weights ({tune})."


def plain_copy(model: E2SAM) -> E2SAM:
    """A copy as it is saved: low-rank changes merged, nothing frozen."""
    copied = copy.deepcopy(model)
    remove_lora(copied)
    return copied.requires_grad_(True)
