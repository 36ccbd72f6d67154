"""The devices of a run: Lightning Fabric, started with the run's settings."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric

from e2sam.errors import TrainingError
from e2sam.training.config import check_run
from e2sam.training.task import LoopSettings

__all__ = ["connect", "is_first_process", "is_out_of_memory", "starts_first"]

# Where Fabric, torchrun and clusters tell a process its number, before the processes have met.
_NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def connect(settings: LoopSettings) -> Any:
    """Start Fabric; under a strategy of several processes, start them.

    Raises
    ------
    TrainingError
        If the devices are not here, or the settings do not fit them.
    """
    check_run(0, settings.accelerator, settings.strategy, settings.precision)
    # The heads that the second phase of a task adds have no gradient in the first.
    strategy = "ddp_find_unused_parameters_true" if settings.strategy == "ddp" else settings.strategy
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=_precision(settings),
        )
        fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        # Fabric answers what a machine cannot do ("No supported gpu backend found!") with these.
        raise TrainingError(f"Expected devices that are here: {error}") from error
    if settings.batch_size % fabric.world_size:
        raise TrainingError(
            f"Expected a batch size that {fabric.world_size} devices can share, got {settings.batch_size}."
        )
    return fabric


def is_first_process() -> bool:
    """Whether this process writes and reports: the only one, or the first of several."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def starts_first(devices: int | str, num_nodes: int, strategy: str) -> bool:
    """Whether this process will be the first of a run with such settings, before `connect` has started the others."""
    if devices == 1 and num_nodes == 1 and strategy == "auto":
        # A run of its own, also where a cluster starts the same command several times.
        return True
    return is_first_process() and all(os.environ.get(name, "0") == "0" for name in _NUMBERS)


def _precision(settings: LoopSettings) -> str:
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "32-true"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
