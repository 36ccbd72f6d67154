"""Commands `models` and `doctor`: what can be loaded, and whether this machine has what is needed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2sam.cli.output import emit
from e2sam.errors import CheckpointError

if TYPE_CHECKING:
    from e2sam.cli.doctor import Finding
    from e2sam.weights.checkpoint import CheckpointInfo

__all__ = ["add_commands"]

_ACTIONS = ("list", "fetch", "info")
_SUFFIXES = (".safetensors", ".pth", ".pt")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `models` and `doctor`."""
    models = commands.add_parser(
        "models",
        parents=[common],
        help="models that can be loaded: size, licence, hash, state",
        description="List the models that can be loaded by name, fetch the weights of one, or say what a file holds.",
        epilog="example: e2sam models fetch vit_b",
    )
    models.add_argument("action", nargs="?", default="list", choices=_ACTIONS, help="list (default), fetch or info")
    models.add_argument("target", nargs="?", metavar="NAME|FILE", help="model to fetch, or weights file to look into")
    models.set_defaults(run=_models)
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="check Qt, OpenGL, devices, memory, cache and weights",
        description="Check what e2sam needs on this machine, and say exactly what to install where it lacks something.",
        epilog="example: e2sam doctor",
    )
    doctor.set_defaults(run=_doctor)


def _models(options: argparse.Namespace) -> None:
    if options.action == "list":
        if options.target is not None:
            raise CheckpointError(f"Expected nothing after list, got {options.target!r}: use info {options.target}.")
        _list(options)
        return
    if options.target is None:
        wanted = "the name of a model" if options.action == "fetch" else "a weights file"
        raise CheckpointError(f"Expected {wanted} after {options.action}, got none: see e2sam models --help.")
    (_fetch if options.action == "fetch" else _info)(options)


def _list(options: argparse.Namespace) -> None:
    from e2sam.weights.download import sha256_of
    from e2sam.weights.zoo import ZOO, model_folder, state_of, weights_file

    entries: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "about": entry.about,
            "size": entry.size or _size_of(weights_file(entry)),
            "licence": entry.licence,
            "sha256": entry.sha256 or sha256_of(weights_file(entry)),
            "state": state_of(entry),
            "file": str(weights_file(entry)),
            "address": entry.address,
        }
        for entry in ZOO.values()
    ]
    lines = [f"{'name':7} {'size':>9}  {'licence':11} {'SHA-256':12}  {'state':9} about"]
    lines += [
        f"{entry['name']:7} {entry['size'] / 1e6:6.1f} MB  {entry['licence']:11} {entry['sha256'][:12]}  "
        f"{entry['state']:9} {entry['about']}"
        for entry in entries
    ]
    lines.append(f"Downloaded weights lie in {model_folder()} (E2SAM_MODEL_DIR changes that).")
    emit({"models": entries, "folder": str(model_folder())}, options.json, lines)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(options: argparse.Namespace) -> None:
    from e2sam.weights.zoo import ZOO, fetch, state_of

    if options.target not in ZOO:
        raise CheckpointError(f"Expected a model of {', '.join(ZOO)}, got {options.target!r}.")
    entry = ZOO[options.target]
    path = fetch(entry)
    result = {"name": entry.name, "file": str(path), "state": state_of(entry), "sha256": entry.sha256}
    emit(result, options.json, [f"{entry.name}: {path}"])


def _info(options: argparse.Namespace) -> None:
    from e2sam.weights.checkpoint import load_checkpoint, load_sam_checkpoint, read_checkpoint_info

    path = _weights_of(options.target)
    if path.suffix != ".safetensors":
        model = load_sam_checkpoint(path)
        result = {
            "path": str(path),
            "architecture": model.config.architecture,
            "channels": [],
            "stage": "teacher",
            "size": path.stat().st_size,
            "fingerprint": model.fingerprint,
        }
        emit(result, options.json, (f"{name}: {value}" for name, value in result.items()))
        return
    # Its fingerprint stands in the file; only who reads the weights knows whether it is true.
    load_checkpoint(path)
    info = read_checkpoint_info(path)
    emit(_info_json(info), options.json, _info_lines(info))


def _weights_of(target: str) -> Path:
    """The file behind a model's name or a path, with one line where it cannot hold weights."""
    from e2sam.weights.zoo import ZOO, weights_file

    if target in ZOO:
        path = weights_file(ZOO[target])
        if not path.is_file():
            raise CheckpointError(
                f"Expected the weights of {target} on this machine, got none: run `e2sam models fetch {target}`."
            )
        return path
    path = Path(target)
    if path.is_dir() or path.suffix not in _SUFFIXES:
        got = f"the folder {target!r}" if path.is_dir() else repr(target)
        raise CheckpointError(f"Expected a model of {', '.join(ZOO)}, or a .safetensors or .pth file, got {got}.")
    return path


def _info_json(info: CheckpointInfo) -> dict[str, Any]:
    from e2sam.weights.checkpoint import config_to_json

    config = config_to_json(info.config)
    described = {name: value for name, value in asdict(info).items() if name not in ("config", "path", "extra")}
    return {"path": str(info.path), "size": info.path.stat().st_size, **config, **described, "extra": dict(info.extra)}


def _info_lines(info: CheckpointInfo) -> Iterator[str]:
    config = info.config
    kind = f"student of {len(config.channels)} channels" if config.is_student else "teacher of three planes"
    yield f"{info.path.name}: {config.architecture}, {kind}, {info.path.stat().st_size / 1e6:.1f} MB"
    yield f"  stage        {info.stage or 'unknown'}, written by e2sam {info.library_version or '?'}"
    yield f"  fingerprint  {info.fingerprint or 'unknown'}"
    for name, value in (("teacher", info.teacher), ("parent", info.parent), ("classes", ", ".join(info.classes))):
        if value:
            yield f"  {name:12} {value}"
    for channel, recipe in zip(config.channels, config.recipes, strict=False):
        yield f"  {channel.name:12} {channel.unit or '-':6} {recipe.kind} {recipe.low:g} .. {recipe.high:g}"


def _doctor(options: argparse.Namespace) -> None:
    from e2sam.cli.doctor import examine

    findings = examine()
    result = {
        "ok": all(finding.state != "missing" for finding in findings),
        "checks": [asdict(one) for one in findings],
    }
    emit(result, options.json, _doctor_lines(findings))


def _doctor_lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"[{finding.state:7}] {finding.name}: {finding.detail}"
        if finding.advice:
            yield f"{'':10}{finding.advice}"
