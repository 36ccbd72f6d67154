"""Click-to-segment for images with more than three channels.

Names that need torch are loaded when first used, so that ``import e2sam`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from e2sam._version import __version__
from e2sam.errors import E2SamError

if TYPE_CHECKING:
    from e2sam.data.channels import ChannelSelection
    from e2sam.data.corrections import Correction, CorrectionSet
    from e2sam.data.io import read_stack, write_labels
    from e2sam.data.session import Session
    from e2sam.data.stack import ChannelSpec, ChannelStack
    from e2sam.inference.automatic import segment_everything
    from e2sam.inference.predictor import Prediction, Predictor
    from e2sam.training.finetune import finetune
    from e2sam.training.inherit import inherit
    from e2sam.weights.zoo import load_model

_HOMES = {
    "ChannelSelection": "e2sam.data.channels",
    "ChannelSpec": "e2sam.data.stack",
    "ChannelStack": "e2sam.data.stack",
    "Correction": "e2sam.data.corrections",
    "CorrectionSet": "e2sam.data.corrections",
    "Prediction": "e2sam.inference.predictor",
    "Predictor": "e2sam.inference.predictor",
    "Session": "e2sam.data.session",
    "finetune": "e2sam.training.finetune",
    "inherit": "e2sam.training.inherit",
    "load_model": "e2sam.weights.zoo",
    "read_stack": "e2sam.data.io",
    "segment_everything": "e2sam.inference.automatic",
    "write_labels": "e2sam.data.io",
}

__all__ = [
    "ChannelSelection",
    "ChannelSpec",
    "ChannelStack",
    "Correction",
    "CorrectionSet",
    "E2SamError",
    "Prediction",
    "Predictor",
    "Session",
    "__version__",
    "finetune",
    "inherit",
    "load_model",
    "read_stack",
    "segment_everything",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'e2sam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
