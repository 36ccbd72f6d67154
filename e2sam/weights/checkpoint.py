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
from e2sam.data.checks import checked_path, is_whole, shown
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.errors import ChannelError, CheckpointError
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
        config = ModelConfig(
            architecture=_value(values, "architecture", str),
            image_size=_side(values, "image_size"),
            embedding_stride=_side(values, "embedding_stride"),
            logits_stride=_side(values, "logits_stride"),
            pad_multiple=_side(values, "pad_multiple"),
            channels=tuple(ChannelSpec(**channel) for channel in _list(values, "channels", dict)),
            recipes=tuple(ChannelRecipe.from_json(recipe) for recipe in _list(values, "recipes", dict)),
            merge=_value(values, "merge", str, "none"),
            semantic=_semantic_from_json(_value(values, "semantic", dict, None)),
        )
        _check_consistent(config)
        return config
    except (KeyError, TypeError, ValueError, ChannelError) as error:
        raise CheckpointError(
            f"Expected the configuration of a model in the file's header, got one that cannot be read ({error})."
        ) from error


def _check_consistent(config: ModelConfig) -> None:
    names, classes = [channel.name for channel in config.channels], config.semantic
    if config.embedding_stride % config.logits_stride or config.image_size % config.embedding_stride:
        raise ValueError("the strides do not divide the image size")
    if len(config.recipes) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(config.recipes)} recipes for the {len(names)} channels {shown(names)}")
    if config.is_student == (config.merge == "none"):
        raise ValueError(f"merge is {shown(config.merge, 40)} with {len(names)} channels")
    if classes is not None and not 0 < len(classes.classes) == len(set(classes.values)) == len(classes.values):
        raise ValueError(f"{len(classes.classes)} classes with the values {shown(classes.values)}")


def _semantic_from_json(values: Mapping[str, Any] | None) -> SemanticConfig | None:
    if values is None:
        return None
    return SemanticConfig(
        decoder=_value(values, "decoder", str),
        classes=_list(values, "classes", str),
        values=_list(values, "values", int),
        tile_size=_side(values, "tile_size"),
    )


def _value(values: Mapping[str, Any], name: str, kind: type, *default: Any) -> Any:
    """An entry of a header that has to be of one type; where it is away, or null, the default if there is one."""
    value = values.get(name)
    if value is None and default:
        return default[0]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value, 40)}")
    return value


def _list(values: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    """An entry of a header that is a list, if it is there, of one type."""
    entries = _value(values, name, list, [])
    return tuple(_value({name: entry}, name, kind) for entry in entries)


def _side(values: Mapping[str, Any], name: str) -> int:
    value: Any = values.get(name)
    if not is_whole(value, 1) or value > _LARGEST_SIDE:
        raise ValueError(f"{name} is {shown(value, 40)}")
    return int(value)


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
    source = _existing(path)
    header = _own_header(source)
    if not is_whole(header.get("format"), 1) or not isinstance(header.get("config"), dict):
        raise CheckpointError(f"Expected format and configuration in the header of {source.name}, got neither.")
    if header["format"] > FORMAT_VERSION:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT_VERSION} or older, got {header['format']} "
            f"(written by e2sam {header.get('library_version', '?')}): update e2sam."
        )
    config = config_from_json(header["config"])
    texts = ("stage", "teacher", "parent", "library_version", "fingerprint", "weights")
    known = {one.name for one in fields(CheckpointInfo)} | {"format"}
    try:
        return CheckpointInfo(
            path=source,
            config=config,
            classes=_list(header, "classes", str),
            training=_value(header, "training", dict, {}),
            extra={name: value for name, value in header.items() if name not in known},
            **{name: _value(header, name, str, "") for name in texts},
        )
    except ValueError as error:
        raise CheckpointError(f"Expected what made it in the header of {source.name}, got other: {error}.") from error


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
    source = _existing(path)
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


def _existing(given: Path | str) -> Path:
    path = checked_path(given, "a weights file", CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"Expected a weights file, got {path}, which does not exist: check the path.")
    return path


def _own_header(path: Path) -> dict[str, Any]:
    """Our JSON in the header of a safetensors file, checked before anything of the size that it claims is read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = file.read(length) if 2 <= length <= min(_LONGEST_HEADER, size - 8) else b""
    except OSError as error:
        raise CheckpointError(f"Expected a weights file that can be read, got {path}: {error.strerror}.") from error
    if not text:
        raise CheckpointError(
            f"Expected a .safetensors file, got {path.name} ({size} bytes), which is another kind or cut short."
        )
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
