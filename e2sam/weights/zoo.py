"""What can be loaded by name: from where, how large, under which licence, with which hash."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from tqdm import tqdm

from e2sam.data.checks import shown
from e2sam.errors import CheckpointError
from e2sam.modeling.e2sam import E2SAM
from e2sam.weights.checkpoint import load_checkpoint, load_sam_checkpoint
from e2sam.weights.download import DownloadError, Progress, download, part_of, sha256_of

__all__ = ["ZOO", "ZooEntry", "fetch", "load_model", "model_folder", "resolve_device", "state_of", "weights_file"]

_log = logging.getLogger(__name__)
_SAM_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class ZooEntry:
    """A model that can be loaded by name.

    Attributes
    ----------
    name
        What `load_model` takes.
    file
        Name of the weights file.
    size
        Bytes, 0 where it stands in the package.
    sha256
        Of the file, hexadecimal; empty for the embedded model.
    licence
        Of the weights.
    address
        Where the file is published; empty for the embedded model.
    about
        One line for the user.
    """

    name: str
    file: str
    size: int
    sha256: str
    licence: str
    address: str
    about: str


ZOO: Mapping[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry("tiny", "tiny.safetensors", 0, "", "Apache-2.0", "", "embedded: works at once, no download"),
        ZooEntry(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            "Apache-2.0",
            _SAM_ADDRESS + "sam_vit_b_01ec64.pth",
            "SAM ViT-B: the best choice on a CPU",
        ),
        ZooEntry(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            "Apache-2.0",
            _SAM_ADDRESS + "sam_vit_l_0b3195.pth",
            "SAM ViT-L: better masks, 3 times the time of ViT-B",
        ),
        ZooEntry(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            "Apache-2.0",
            _SAM_ADDRESS + "sam_vit_h_4b8939.pth",
            "SAM ViT-H: the best masks, 6 times the time of ViT-B",
        ),
    )
}


def load_model(name_or_path: str | Path, device: str | torch.device = "auto", exact: bool = False) -> E2SAM:
    """A model ready to predict: from the zoo by name, or from a file.

    Parameters
    ----------
    name_or_path
        "tiny", "vit_b", "vit_l", "vit_h", a .safetensors checkpoint, or a SAM .pth file.
    device
        "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"...
    exact
        Compute in float32 throughout; else the encoder, and of `tiny` the decoder too, compute in bfloat16 where the
        processor is made for it.

    Raises
    ------
    CheckpointError
        If the model is unknown, not here and not to be had, damaged, unsafe or of another kind.

    Examples
    --------
    >>> import e2sam
    >>> model = e2sam.load_model("tiny", device="cpu")
    >>> model.config.architecture, model.config.image_size
    ('tiny', 512)
    """
    target = resolve_device(device)
    path = _locate(name_or_path)
    if path.suffix == ".safetensors":
        model = load_checkpoint(path, target)
    else:
        model = load_sam_checkpoint(path, target)
    if not exact:
        _prefer_speed(model)
    return model


def _prefer_speed(model: E2SAM) -> None:
    for part in (model.image_encoder, model.decoder):
        choose = getattr(part, "prefer_speed", None)
        if choose is not None:
            choose()


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name means; "auto" is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"Expected a device such as auto, cpu or cuda, got {shown(device)}.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("Expected a CUDA device, got none on this machine: use device='cpu' or 'auto'.")
    try:
        # Torch says only then whether it was built for the device, and the machine has it; "meta" holds no values.
        torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise CheckpointError(
            f"Expected a device of this machine, got {resolved}, which cannot be used: use device='cpu' or 'auto'."
        ) from error
    return resolved


def model_folder() -> Path:
    """Where downloaded weights lie: E2SAM_MODEL_DIR, or the user's data folder."""
    chosen = os.environ.get("E2SAM_MODEL_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("e2sam", appauthor=False)) / "models"


def weights_file(entry: ZooEntry) -> Path:
    """Where the weights of a model lie, or will lie."""
    if not entry.address:
        return Path(__file__).with_name(entry.file)
    return model_folder() / entry.file


def state_of(entry: ZooEntry) -> str:
    """ "embedded", "here", "part" (a download that can go on) or "absent"."""
    path = weights_file(entry)
    if path.is_file():
        return "here" if entry.address else "embedded"
    return "part" if part_of(path).is_file() else "absent"


def _locate(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    if name not in ZOO:
        if not isinstance(name_or_path, str | os.PathLike):
            raise CheckpointError(
                f"Expected a model of {', '.join(ZOO)}, or a weights file, got {shown(name_or_path, 100)}."
            )
        try:
            path = Path(name_or_path).expanduser()
        except RuntimeError as error:
            raise CheckpointError(f"Expected a weights file, got {name:.100}, of a user who is not known.") from error
        if path.suffix not in (".safetensors", ".pth", ".pt"):
            raise CheckpointError(
                f"Expected a model of {', '.join(ZOO)}, or a .safetensors or .pth file, got {shown(name, 100)}."
            )
        return path
    return fetch(ZOO[name])


def fetch(entry: ZooEntry, progress: Progress | None = None) -> Path:
    """Download the weights of a model into the model folder, or go on where a download was cut short.

    Parameters
    ----------
    progress
        Called with bytes done and bytes in all.

    Raises
    ------
    CheckpointError
        If the file cannot be had, or is not the published one.
    """
    path = weights_file(entry)
    if not entry.address:
        return path
    if path.is_file():
        _verify(path, entry)
        return path
    _log.info("Downloading %s: %.0f MB, licence %s, %s", entry.file, entry.size / 1e6, entry.licence, entry.address)
    try:
        with _shown(progress, entry) as step:
            download(entry.address, path, entry.sha256, step)
    except (DownloadError, OSError) as error:
        raise CheckpointError(
            f"Expected to download {entry.file} ({entry.size / 1e6:.0f} MB, licence {entry.licence}), got: {error}. "
            f"Without a network, fetch {entry.address} elsewhere and put it at {path}."
        ) from error
    _remember(path, entry)
    return path


@contextmanager
def _shown(progress: Progress | None, entry: ZooEntry) -> Iterator[Progress | None]:
    """The caller's own progress, or a bar on standard error when a person watches."""
    if progress is not None or not sys.stderr.isatty():
        yield progress
        return
    with tqdm(total=entry.size, desc=entry.file, unit="B", unit_scale=True, file=sys.stderr, leave=False) as bar:
        yield lambda done, total: _advance(bar, done, total)


def _advance(bar: Any, done: int, total: int) -> None:
    bar.total = total or bar.total
    bar.update(done - bar.n)


def _verify(path: Path, entry: ZooEntry) -> None:
    """Check the hash of a file that someone may have put there by hand, once for each state of the file."""
    marker = _marker_of(path)
    if marker.is_file() and marker.read_text(errors="replace") == _mark(path, entry):
        return
    found = sha256_of(path)
    if found != entry.sha256:
        raise CheckpointError(
            f"Expected the published {entry.file} (SHA-256 {entry.sha256[:12]}...) at {path}, got another file "
            f"({found[:12]}...): remove it, or load it by its path."
        )
    _remember(path, entry)


def _marker_of(path: Path) -> Path:
    return path.with_name(path.name + ".checked")


def _mark(path: Path, entry: ZooEntry) -> str:
    state = path.stat()
    return f"{entry.sha256} {state.st_size} {state.st_mtime_ns}"


def _remember(path: Path, entry: ZooEntry) -> None:
    # In a folder that cannot be written the hash is computed each time.
    with suppress(OSError):
        _marker_of(path).write_text(_mark(path, entry))
