"""Small stacks, teachers and settings that the tests of knowledge inheritance share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.training.config import TrainStep
from e2sam.training.inherit import InheritConfig, inherit
from e2sam.training.inheritance import Lessons, Rates

__all__ = ["LESSONS", "config_of", "losses", "run", "stack_of", "teacher_of"]

LESSONS = Lessons(views_per_tile=3, prompts=2, prompt_share=0.5)


def stack_of(num_channels: int = 4, size: tuple[int, int] = (48, 96), seed: int = 0) -> ChannelStack:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    planes = [
        100 + 80 * np.sin(x / (5 + index) + index) * np.cos(y / (7 + index)) + 8 * rng.normal(size=size)
        for index in range(num_channels)
    ]
    data = np.clip(planes, 0, 255).astype(np.uint8)
    return ChannelStack(data, tuple(ChannelSpec(f"c{index}") for index in range(num_channels)))


@lru_cache
def teacher_of(name: str = "tiny", seed: int = 0) -> E2SAM:
    """Shared by the tests: that no run changes its teacher is one of them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(teacher_config(name)).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, 0, 0.05)
    return model


def config_of(folder: Path, **changes: Any) -> InheritConfig:
    values: dict[str, Any] = {
        "canonical": ("c0", "c1", "c2"),
        "steps": 4,
        "batch_size": 2,
        "tile_size": 32,
        "num_tiles": 3,
        "num_validation_tiles": 1,
        "validate_every": 2,
        "checkpoint_every": 1,
        "lessons": LESSONS,
        # A random teacher's embeddings hardly vary: usual rates would leap, and a leap enlarges errors of rounding.
        "rates": Rates(merge=1e-5, first_layer=1e-5, encoder=1e-6, lora=1e-4),
        "accelerator": "cpu",
        "precision": "32-true",
    }
    return InheritConfig(**({"out": folder / "student.safetensors"} | values | changes))


def losses(steps: list[TrainStep]) -> dict[int, float]:
    return {step.step: step.loss for step in steps if step.step}


def run(config: InheritConfig, **changes: Any) -> list[TrainStep]:
    return list(inherit(changes.pop("stack", stack_of()), config, **({"teacher": teacher_of()} | changes)))
