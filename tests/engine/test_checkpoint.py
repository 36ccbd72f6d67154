"""Checkpoints: everything comes back, and what is damaged, foreign or unsafe is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.errors import CheckpointError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM, SemanticConfig
from e2sam.weights import checkpoint
from e2sam.weights.checkpoint import (
    config_from_json,
    config_to_json,
    fingerprint_of,
    load_checkpoint,
    load_sam_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)

CHANNELS = (ChannelSpec("R"), ChannelSpec("depth", "m", None, "depth", 0.0), ChannelSpec("nir", "nm", 850.0))
RECIPES = (ChannelRecipe("none", 0.0, 255.0), ChannelRecipe("log_depth", 0.1, 4.5), ChannelRecipe("percentile", 3, 9))


@pytest.fixture(scope="module")
def teacher() -> E2SAM:
    torch.manual_seed(0)
    return build_model(teacher_config("vit_test")).eval()


@pytest.fixture(scope="module")
def student() -> E2SAM:
    torch.manual_seed(0)
    semantic = SemanticConfig("detail", ("road", "car"), (1, 7), 512)
    config = teacher_config("vit_test")
    return build_model(replace(config, channels=CHANNELS, recipes=RECIPES, merge="gated", semantic=semantic)).eval()


@pytest.fixture
def saved(teacher: E2SAM, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "model.safetensors", teacher, {"stage": "teacher"})


def test_a_student_comes_back_whole(student: E2SAM, tmp_path: Path) -> None:
    provenance = {
        "stage": "finetune",
        "teacher": "a" * 64,
        "classes": ("road", "car"),
        "training": {"steps": 5, "recipe": RECIPES[1], "out": tmp_path},
        "parent": "b" * 64,
        "note": [1, 2],
    }
    path = save_checkpoint(tmp_path / "new" / "student.safetensors", student, provenance)
    info = read_checkpoint_info(path)
    assert info.config == student.config
    assert (info.stage, info.teacher, info.classes, info.parent) == ("finetune", "a" * 64, ("road", "car"), "b" * 64)
    assert info.training["steps"] == 5 and info.training["recipe"] == RECIPES[1].to_json()
    assert info.extra == {"note": [1, 2]}
    assert info.library_version
    model = load_checkpoint(path)
    assert not model.training
    assert model.fingerprint == info.fingerprint == fingerprint_of(student)
    loaded, original = model.state_dict(), student.state_dict()
    assert loaded.keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in loaded.items())


def test_configurations_come_back_from_json(student: E2SAM, teacher: E2SAM) -> None:
    for config in (student.config, teacher.config):
        assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
    with pytest.raises(CheckpointError, match="configuration"):
        config_from_json({"architecture": "tiny"})


def test_a_fingerprint_names_weights_and_configuration(teacher: E2SAM, student: E2SAM) -> None:
    twin = build_model(teacher.config)
    twin.load_state_dict(teacher.state_dict())
    assert fingerprint_of(twin) == fingerprint_of(teacher) != fingerprint_of(student)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0] += 1e-3
    assert fingerprint_of(twin) != fingerprint_of(teacher)
    twin.load_state_dict(teacher.state_dict())
    twin.config = replace(teacher.config, image_size=256)
    assert fingerprint_of(twin) != fingerprint_of(teacher)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    saved: Path, teacher: E2SAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full_disk(*arguments: Any, **options: Any) -> None:
        Path(arguments[1]).write_bytes(b"half")
        raise SafetensorError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"model\.safetensors, got: no space"):
        save_checkpoint(saved, teacher, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def with_length(content: bytes, length: int) -> bytes:
    return struct.pack("<Q", length) + content[8:]


def with_header(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def own(header: dict[str, Any], **values: Any) -> None:
    metadata = json.loads(header["__metadata__"]["e2sam"])
    header["__metadata__"]["e2sam"] = json.dumps({**metadata, **values})


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "another kind or cut short"),
    "five bytes": (lambda content: content[:5], "another kind or cut short"),
    "header cut": (lambda content: content[:200], "another kind or cut short"),
    "weights cut": (lambda content: content[:-1000], "damaged"),
    "header of an exabyte": (lambda content: with_length(content, 2**60), "another kind or cut short"),
    "header of 2**64 - 1": (lambda content: with_length(content, 2**64 - 1), "another kind or cut short"),
    "header is no JSON": (lambda content: content[:8] + b"{" * (len(content) - 8), "damaged"),
    "a list for a header": (lambda content: struct.pack("<Q", 2) + b"[]", "damaged"),
    "deeply nested header": (lambda content: struct.pack("<Q", 200_000) + b"[" * 200_000, "damaged"),
    "a picture": (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(500), "another kind or cut short"),
    "no metadata": (lambda content: with_header(content, lambda h: h.pop("__metadata__")), "without its configuration"),
    "later format": (lambda content: with_header(content, lambda h: own(h, format=99)), "update e2sam"),
    "no configuration": (lambda content: with_header(content, lambda h: own(h, config=None)), "got neither"),
    "half a configuration": (lambda content: with_header(content, lambda h: own(h, config={})), "cannot be read"),
    "another architecture": (
        lambda content: with_header(content, lambda h: own(h, config=config_to_json(teacher_config("vit_b")))),
        "vit_b",
    ),
    "a bit turned": (lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:], "damaged"),
    "offsets outside": (
        lambda content: with_header(content, lambda h: h["image_encoder.pos_embed"].update(data_offsets=[0, 10**15])),
        "damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(saved: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(changed(saved, change))


HEADERS: dict[str, dict[str, Any]] = {
    "classes": {"classes": 5},
    "classes of numbers": {"classes": [1, 2]},
    "classes as text": {"classes": "ab"},
    "format below 1": {"format": -1},
    "format true": {"format": True},
    "training": {"training": 5},
    "stage": {"stage": 5},
    "weights": {"weights": ["a"]},
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_of_wrong_types_is_refused(saved: Path, header: str) -> None:
    changed(saved, lambda content: with_header(content, lambda h: own(h, **HEADERS[header])))
    for read in (read_checkpoint_info, load_checkpoint):
        with pytest.raises(CheckpointError, match="in the header of"):
            read(saved)


def test_a_header_may_leave_out_what_made_it(saved: Path) -> None:
    nothing = dict.fromkeys(("classes", "training", "stage", "teacher", "parent"))
    info = read_checkpoint_info(changed(saved, lambda content: with_header(content, lambda h: own(h, **nothing))))
    assert (info.classes, info.training, info.stage, info.parent) == ((), {}, "", "")


CHANNEL, RECIPE = {"name": "R"}, {"kind": "range", "low": 0, "high": 1, "fill": 0}
CLASSES = {"decoder": "detail", "classes": ["road", "car"], "values": [1, 7], "tile_size": 512}


@pytest.mark.parametrize(
    "values",
    [
        *({"architecture": wrong} for wrong in ([1], {}, 5, None)),
        *({"channels": wrong} for wrong in ({}, 5, "ab", [5] * 3, [CHANNEL] * 3, [CHANNEL])),
        *(
            {"channels": [{**CHANNEL, **wrong}, {"name": "b"}, {"name": "c"}]}
            for wrong in ({"name": 5}, {"name": None}, {"nodata": "x"}, {"wavelength_nm": []}, {"unit": 5}, {"x": 1})
        ),
        *(
            {"recipes": wrong}
            for wrong in ([], {}, 5, [5] * 3, [RECIPE] * 2, [RECIPE] * 4, [{**RECIPE, "fill": 9}] * 3)
        ),
        {"recipes": [{**RECIPE, "low": 10**400}] * 3},
        {"channels": [], "recipes": []},
        *({"merge": wrong} for wrong in (5, "none", [])),
        *({"embedding_stride": wrong} for wrong in (None, "16", 0, True, 16.0, 10**9, 5)),
        *({"semantic": wrong} for wrong in ([], 5, "detail", {})),
        *(
            {"semantic": {**CLASSES, **wrong}}
            for wrong in ({"tile_size": "x"}, {"decoder": 5}, {"classes": "ab"}, {"values": [1]}, {"values": [1, 1]})
        ),
        {"semantic": {**CLASSES, "classes": [], "values": []}},
    ],
    ids=str,
)
def test_a_configuration_of_wrong_types_or_lengths_is_refused(student: E2SAM, values: dict[str, Any]) -> None:
    described = json.loads(json.dumps(config_to_json(student.config)))
    with pytest.raises(CheckpointError, match="cannot be read"):
        config_from_json({**described, **values})


@pytest.mark.parametrize(
    "sizes", [{"embedding_stride": 32}, {"logits_stride": 8}, {"image_size": 96, "pad_multiple": 96}]
)
def test_sizes_of_another_architecture_are_refused(saved: Path, teacher: E2SAM, sizes: dict[str, int]) -> None:
    config = {**config_to_json(teacher.config), **sizes}
    changed(saved, lambda content: with_header(content, lambda h: own(h, config=config)))
    with pytest.raises(CheckpointError, match=f"Expected {list(sizes)[-1]} .* of a vit_test model"):
        load_checkpoint(saved)


def test_a_checkpoint_that_is_cut_short_is_not_described(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint_info(changed(saved, DAMAGE["weights cut"][0]))


def test_weights_without_our_header_and_missing_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="without its configuration"):
        load_checkpoint(tmp_path / "other.safetensors")
    for load in (load_checkpoint, load_sam_checkpoint):
        with pytest.raises(CheckpointError, match="does not exist"):
            load(tmp_path / "absent.file")
        with pytest.raises(CheckpointError, match="does not exist"):
            load(tmp_path)
        for wrong in (None, 5, "a" * 5000, "a\0"):
            with pytest.raises(CheckpointError, match="path of a weights file"):
                load(wrong)  # type: ignore[arg-type]


class Payload:
    """A pickle that would leave a trace if it were loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"image_encoder.pos_embed": Payload(trace)}, tmp_path / "zipped.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(trace)))
    torch.save({"weight": Payload(trace)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("zipped.pth", "plain.pth", "legacy.pth"):
        with pytest.raises(CheckpointError, match="refused"):
            load_sam_checkpoint(tmp_path / name)
    assert not trace.exists()


def test_sam_files_come_back_or_are_refused(teacher: E2SAM, tmp_path: Path) -> None:
    state = {name.removeprefix("decoder."): value for name, value in teacher.state_dict().items()}
    torch.save(state, tmp_path / "sam.pth")
    model = load_sam_checkpoint(tmp_path / "sam.pth")
    assert model.fingerprint == fingerprint_of(teacher)
    content = (tmp_path / "sam.pth").read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("empty", b""), ("text", b"hello, weights")):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_sam_checkpoint(path)
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="plain state dict"):
        load_sam_checkpoint(tmp_path / "list.pth")
    torch.save({"model": state}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match="plain state dict"):
        load_sam_checkpoint(tmp_path / "nested.pth")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="SAM"):
        load_sam_checkpoint(tmp_path / "other.pth")
