"""The command `e2sam inherit`, from the shell's side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from e2sam.cli.main import main
from e2sam.weights.checkpoint import read_checkpoint_info

QUICK = ["--steps", "2", "--batch-size", "1", "--tile-size", "32", "--tiles", "2", "--accelerator", "cpu"]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    planes = np.kron(rng.integers(0, 255, (4, 6, 12)), np.ones((8, 8))).astype(np.uint8)
    path = tmp_path / "scene.npy"
    np.save(path, planes)
    return path


def test_inherit_writes_a_student_and_one_json_object(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = stack.with_name("student.safetensors")
    names = "R,G,B,depth"
    arguments = ["inherit", str(stack), "--channel-axis", "0", "--channel-names", names, "--out", str(out), *QUICK]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"out", "steps", "seconds", "before", "after", "accepted"} <= result.keys()
    assert result["steps"] == 2 and result["out"] == str(out)
    config = read_checkpoint_info(out).config
    assert [channel.name for channel in config.channels] == names.split(",")
    assert sorted(path.name for path in out.parent.iterdir()) == ["scene.npy", "student.safetensors"]


def test_preset_of_the_paper(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = stack.with_name("paper.safetensors")
    arguments = ["inherit", str(stack), "--channel-axis", "0", "--preset", "bmvc2023", "--out", str(out), *QUICK]
    assert main(arguments) == 0
    assert "2 steps" in capsys.readouterr().out
    assert read_checkpoint_info(out).config.merge == "split"


def test_stacks_of_one_name_in_several_folders_are_one_input(
    stack: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr("e2sam.training.inherit.inherit", lambda stacks, config: iter(read.append(len(stacks)) or ()))
    monkeypatch.setattr("e2sam.cli.learn._Watched.drive", lambda watched, what: None)
    (stack.parent / "night").mkdir()
    night = stack.parent / "night" / stack.name
    night.write_bytes(stack.read_bytes())
    arguments = ["inherit", str(stack), str(night), str(stack), "--channel-axis", "0"]
    assert main([*arguments, "--out", str(stack.with_name("a.safetensors"))]) == 0, capsys.readouterr().err
    assert read == [2]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["missing.npy", "--out", "a.safetensors"], "missing.npy"),
        (["{stack}", "--out", "a.pth"], "safetensors"),
        (["{stack}", "--out", "none/a.safetensors"], "folder that exists"),
        (["{stack}", "--channel-axis", "0", "--out", "a.safetensors", "--canonical", "X"], "'X'"),
        (["{stack}", "--channel-axis", "0", "--out", "a.safetensors", "--strategy", "fsdp"], "sharded"),
        (["{stack}", "--out", "a.safetensors", "--dropout", "2"], "0 to 1"),
    ],
)
def test_wrong_use_is_one_line(
    stack: Path,
    arguments: list[str],
    what: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(stack.parent)
    filled = [argument.format(stack=stack) for argument in arguments]
    try:
        code = main(["inherit", *filled])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    assert code == 2 and what in captured.err and captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(stack.parent.glob("*.safetensors"))
