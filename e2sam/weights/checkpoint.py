"""Checkpoints: one .safetensors file with the weights and, as JSON in its header, what gives them meaning."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from e2sam._version import __version__
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.errors import CheckpointError
from e2sam.modeling.build import build_from_sam, build_with_weights
from e2sam.modeling.e2sam import E2SAM, ModelConfig, SemanticConfig

__all__ = [
    "CheckpointInfo",
    "config_from_json",
    "config_to_json",
    "fingerprint_of",
    "load_checkpoint",
    "load_sam_checkpoint",
    "read_checkpoint_info",
    "save_checkpoint",
]

FORMAT_VERSION = 1
# One key of the safetensors metadata, which knows only strings, holds our JSON.
_LARGEST_SIDE = 1 << 16
_METADATA_KEY = "e2sam"
# A header of every tensor of ViT-H takes 0.1 MB; more than this is no checkpoint of ours.
_LONGEST_HEADER = 16 * 2**20


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself, read without its weights.

    Attributes
    ----------
    path
        The file.
    config
        Architecture, channels, recipes, merge module.
    stage
        "teacher", "inherit", "finetune" or empty where unknown.
    teacher
        Fingerprint of the teacher that it inherited from, or empty.
    classes
        Names of the classes of a semantic decoder, in order, or empty.
    training
        Configuration of the training that made it.
    parent
        Fingerprint of the model that training started from, or empty.
    library_version
        Version of e2sam that wrote it.
    fingerprint
        SHA-256 of configuration and weights.
    weights
        SHA-256 of the weights alone, by which damage is found.
    extra
        Whatever else was said when it was saved.
    """

    path: Path
    config: ModelConfig
    stage: str = ""
    teacher: str = ""
    classes: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    library_version: str = ""
    fingerprint: str = ""
    weights: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A configuration as plain JSON values; `config_from_json` is its inverse."""
    values = {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}
    values["channels"] = [asdict(channel) for channel in config.channels]
    values["recipes"] = [recipe.to_json() for recipe in config.recipes]
    values["semantic"] = None if config.semantic is None else asdict(config.semantic)
    return values


def config_from_json(values: Mapping[str, Any]) -> ModelConfig:
    """A configuration from what `config_to_json` wrote.

    Raises
    ------
    CheckpointError
        If a value is missing or of the wrong kind.
    """
    try:
        plain = {name: values[name] for name in ModelConfig.__dataclass_fields__ if name in values}
        plain["channels"] = tuple(ChannelSpec(**channel) for channel in values.get("channels", ()))
        plain["recipes"] = tuple(ChannelRecipe.from_json(recipe) for recipe in values.get("recipes", ()))
        plain["semantic"] = _semantic_from_json(values.get("semantic"))
        _check_sizes(plain)
        return ModelConfig(**plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"Expected the configuration of a model in the file's header, got one that cannot be read ({error})."
        ) from error


def _check_sizes(values: Mapping[str, Any]) -> None:
    for name in ("image_size", "embedding_stride", "logits_stride", "pad_multiple"):
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_SIDE:
            raise ValueError(f"{name} is {value!r:.40}")
    if values["embedding_stride"] % values["logits_stride"] or values["image_size"] % values["embedding_stride"]:
        raise ValueError("the strides do not divide the image size")


def _semantic_from_json(values: Mapping[str, Any] | None) -> SemanticConfig | None:
    if values is None:
        return None
    lists = {"classes": tuple(values["classes"]), "values": tuple(values["values"])}
    return SemanticConfig(**{**values, **lists})


def fingerprint_of(model: E2SAM) -> str:
    """SHA-256 (hexadecimal) of a model's configuration and weights: what caches and corrections are keyed by."""
    return _fingerprint(model.config, _weights_digest(model.state_dict()))


def _fingerprint(config: ModelConfig, weights: str) -> str:
    described = json.dumps(config_to_json(config), sort_keys=True, default=_plain)
    return hashlib.sha256(f"{described}{weights}".encode()).hexdigest()


def _weights_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    plain = value.detach().cpu().contiguous()
    plain = plain.float() if plain.is_floating_point() else plain
    return np.atleast_1d(plain.numpy()).reshape(-1).view(np.uint8).data


def save_checkpoint(path: Path | str, model: E2SAM, provenance: Mapping[str, Any]) -> Path:
    """Write a model and its origin to one .safetensors file, whole or not at all.

    Parameters
    ----------
    provenance
        "stage", "teacher", "classes", "training", "parent" as in `CheckpointInfo`, and whatever else is worth keeping,
        as JSON values.

    Raises
    ------
    CheckpointError
        If the file cannot be written.
    """
    target = Path(path)
    weights = _weights_digest(model.state_dict())
    header = {
        **provenance,
        "format": FORMAT_VERSION,
        "library_version": __version__,
        "config": config_to_json(model.config),
        "weights": weights,
        "fingerprint": _fingerprint(model.config, weights),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    partial = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Created here with the user's own mode; safetensors would make it readable to nobody else.
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata={_METADATA_KEY: json.dumps(header, default=_plain)})
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Expected to write {target}, got: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _plain(value: Any) -> Any:
    """JSON form of what configurations hold besides plain values."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def read_checkpoint_info(path: Path | str) -> CheckpointInfo:
    """Read what a checkpoint says of itself; its weights stay on disk.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or not a checkpoint of this library.
    """
    source = Path(path)
    header = _own_header(source)
    if not isinstance(header.get("format"), int) or not isinstance(header.get("config"), dict):
        raise CheckpointError(f"Expected format and configuration in the header of {source.name}, got neither.")
    if header["format"] > FORMAT_VERSION:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT_VERSION} or older, got {header['format']} "
            f"(written by e2sam {header.get('library_version', '?')}): update e2sam."
        )
    known = {one.name for one in fields(CheckpointInfo)} | {"format"}
    return CheckpointInfo(
        path=source,
        config=config_from_json(header["config"]),
        stage=str(header.get("stage", "")),
        teacher=str(header.get("teacher", "")),
        classes=tuple(str(name) for name in header.get("classes") or ()),
        training=header.get("training") or {},
        parent=str(header.get("parent", "")),
        library_version=str(header.get("library_version", "")),
        fingerprint=str(header.get("fingerprint", "")),
        weights=str(header.get("weights", "")),
        extra={name: value for name, value in header.items() if name not in known},
    )


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> E2SAM:
    """The model of a checkpoint, in eval mode, with its `fingerprint`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another model, or not a checkpoint of this library.
    """
    info = read_checkpoint_info(path)
    try:
        state = load_file(info.path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"Expected whole weights in {info.path.name}, got a damaged file ({error}).") from error
    model = build_with_weights(info.config, state)
    weights = _weights_digest(model.state_dict())
    if info.weights and info.weights != weights:
        raise CheckpointError(
            f"Expected in {info.path.name} the weights that its header names, got others: the file is damaged, "
            "take a fresh copy."
        )
    # A later version may describe the same configuration with more words: the model keeps the name that it was given,
    # if that is the one of what the file says. Caches go by it.
    described = json.dumps(_own_header(info.path)["config"], sort_keys=True)
    is_own = info.fingerprint == hashlib.sha256(f"{described}{weights}".encode()).hexdigest()
    model.fingerprint = info.fingerprint if is_own else _fingerprint(info.config, weights)
    return model.to(device).eval()


def load_sam_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> E2SAM:
    """The teacher of one of SAM's own .pth files, in eval mode, with its `fingerprint`.

    Only plain weights are read (`weights_only=True`): a file that would run code is refused.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, unsafe or of another model.
    """
    source = _existing(Path(path))
    try:
        with warnings.catch_warnings():
            # That a foreign pickle has another protocol is no news to the user: it is read or refused below.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"Expected plain weights in {source.name}, got a pickle with other objects, which could run code: "
            "refused. Use the official file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"Expected whole weights in {source.name}, got a damaged file ({reason}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"Expected the plain state dict of a SAM model in {source.name}, got something else.")
    model = build_from_sam(state)
    model.fingerprint = fingerprint_of(model)
    return model.to(device).eval()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"Expected a weights file, got {path}, which does not exist: check the path.")
    return path


def _own_header(path: Path) -> dict[str, Any]:
    """Our JSON in the header of a safetensors file, checked before anything of the size that it claims is read."""
    size = _existing(path).stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise CheckpointError(
                f"Expected a .safetensors file, got {path.name} ({size} bytes), which is another kind or cut short."
            )
        text = file.read(length)
    try:
        tensors = json.loads(text)
        header = json.loads(tensors.pop("__metadata__", {})[_METADATA_KEY])
        whole = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except KeyError as error:
        raise CheckpointError(
            f"Expected a checkpoint of e2sam, got the .safetensors file {path.name} without its configuration: "
            "use a file that e2sam wrote."
        ) from error
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"Expected a .safetensors header in {path.name}, got a damaged one.") from error
    if size != whole:
        raise CheckpointError(
            f"Expected whole weights in {path.name}, got a damaged file ({size} bytes instead of {whole})."
        )
    if not isinstance(header, dict):
        raise CheckpointError(f"Expected the configuration of a model in {path.name}, got something else.")
    return header
