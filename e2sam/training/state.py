"""An unfinished run on disk: plain tensors and JSON in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from e2sam.data.lock import WriterLock
from e2sam.errors import TrainingError

__all__ = [
    "RunState",
    "load_optimizer",
    "load_tensors",
    "only_run",
    "optimizer_tensors",
    "read_state",
    "told_of_unfinished",
    "unfinished",
    "write_state",
]

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass
class RunState:
    """Where a run stands, apart from its tensors.

    Attributes
    ----------
    identity
        The task's identity and the settings that decide what is learned.
    step
        Steps done.
    micro_size
        Samples held in memory at once by each process; smaller than asked for after an out-of-memory answer.
    before, best
        Validation before the first step, and the best so far.
    best_step
        Step of the best validation.
    stale
        Validations since then.
    seconds
        Wall-clock time of the steps.
    scaler
        State of the gradient scaler (fp16 only).
    """

    identity: dict[str, Any]
    step: int = 0
    micro_size: int = 0
    before: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)


def unfinished(out: Path) -> Path:
    """Where a run that writes `out` stands until it is finished."""
    return out.with_name(out.name + ".state")


@contextmanager
def only_run(out: Path, is_first: bool) -> Iterator[None]:
    """Keep other runs from writing `out`, and what lies beside it, as long as the block lasts.

    Parameters
    ----------
    out
        Checkpoint that the run writes.
    is_first
        Whether this is the first process of its run; the others do nothing here.

    Raises
    ------
    TrainingError
        If another run writes it.
    """
    lock = WriterLock(out)
    try:
        is_free = not is_first or lock.acquire()
    except OSError as error:
        # What cannot be locked can still be written.
        logger.debug("%s is not locked: %s", out, error)
        is_free = True
    if not is_free:
        raise TrainingError(
            f"Expected one run at a time to write {out.name}, got another ({lock.holder}): "
            "wait until it is done, or name another file."
        )
    try:
        yield
    finally:
        lock.release()


def told_of_unfinished(out: Path, is_there: bool, resumes: bool) -> str:
    """What the user is told who would go on with a run that is not there, or does not with one that is; else empty."""
    if resumes and not is_there:
        return f"There is no unfinished run of {out.name} to go on with: starting from the beginning."
    if is_there and not resumes:
        return f"An unfinished run of {out.name} is given up: starting from the beginning, as without --resume."
    return ""


def write_state(path: Path, tensors: Mapping[str, Tensor], state: RunState) -> None:
    """Write tensors and state beside `path`, then rename: after a kill the file is the old one or the new one."""
    text = json.dumps({"format": _FORMAT, **state.__dict__})
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(whole, temporary, metadata={"run": text})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"Expected to write {path}, got: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path) -> tuple[dict[str, Tensor], RunState]:
    """Read what `write_state` wrote.

    Raises
    ------
    TrainingError
        If the file is missing, damaged or of another version.
    """
    if not path.is_file():
        raise TrainingError(f"Expected the unfinished run to have {path}, got no such file: start without resume.")
    try:
        with safe_open(path, framework="pt") as file:
            text = json.loads((file.metadata() or {}).get("run", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise TrainingError(
            f"Expected an unfinished run in {path}, got a damaged file ({error}): delete it."
        ) from error
    if text.pop("format", None) != _FORMAT:
        raise TrainingError(f"Expected an unfinished run of this version in {path}: delete it and start again.")
    return tensors, RunState(**text)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Tensors of the optimizer's state, named by parameter."""
    return {
        f"optimizer/{name}/{key}": value
        for parameter, name in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put the optimizer's state back."""
    homes = {name: parameter for parameter, name in names.items()}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind != "optimizer":
            continue
        owner, _, key = rest.rpartition("/")
        parameter = homes[owner]
        # AdamW keeps its step count on the CPU, wherever the parameters are.
        device = "cpu" if key == "step" else parameter.device
        optimizer.state[parameter][key] = value.to(device)


def load_tensors(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], kind: str) -> None:
    """Copy the tensors named `kind/NAME` into `targets`.

    Raises
    ------
    TrainingError
        If they are not the same tensors.
    """
    given = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{kind}/")}
    unlike = sorted(set(targets) ^ set(given)) or [
        name for name, target in targets.items() if target.shape != given[name].shape
    ]
    if unlike:
        raise TrainingError(
            f"Expected the unfinished run to hold the same weights, but {unlike[0]} differs: start without resume."
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(given[name])
