"""`e2sam export` and `e2sam annotate` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from e2sam.cli import annotate
from e2sam.cli import export as export_command
from e2sam.cli.main import main
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack


@pytest.fixture
def session_file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.e2sam"
    with Session.open(path) as session:
        session.add_stack(ChannelStack(np.zeros((1, 8, 9), np.uint8), (ChannelSpec("a"),)), name="scene.tif")
        session.accept(1, (), NewObject(MaskCrop(np.ones((2, 3), bool), 4, 1)))
    return path


@pytest.mark.parametrize(
    ("format", "name"), [("tiff", "o.tif"), ("png", "o.png"), ("coco", "o.json"), ("geojson", "o.geojson")]
)
def test_export_prints_one_json_object(
    session_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, name: str
) -> None:
    out = tmp_path / name
    assert main(["export", str(session_file), "--format", format, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"out": str(out), "paths": [str(out)], "format": format, "objects": 1}
    assert out.stat().st_size > 0
    if format == "tiff":
        assert tifffile.imread(out).sum() == 6


def test_export_for_a_person_while_the_window_is_open(
    session_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session.open(session_file) as session:
        session.accept(1, (), NewObject(MaskCrop(np.ones((2, 3), bool), 0, 5)))
        assert main(["export", str(session_file), "--format", "coco", "--out", str(tmp_path / "o.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "o.json"), "2 objects written"]


@pytest.mark.parametrize(
    ("session", "options", "message"),
    [
        ("nothing.e2sam", ["--format", "coco"], "Expected a session file"),
        ("text.e2sam", ["--format", "coco"], "another kind"),
        ("cells.e2sam", ["--format", "coco", "--stack", "5"], "Expected a stack of the session"),
        ("cells.e2sam", ["--format", "tiff"], "ending in .tif"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    session_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    session: str,
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "text.e2sam").write_text("hello")
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["export", str(tmp_path / session), "--out", str(tmp_path / "o.json"), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["coco", "geojson", "tiff", "png"])
def test_the_session_is_never_written_over(session_file: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    before = session_file.read_bytes()
    assert main(["export", str(session_file), "--format", kind, "--out", str(session_file)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert session_file.read_bytes() == before
    picture = session_file.with_name("o.tif")
    if kind in ("coco", "geojson"):
        assert main(["export", str(session_file), "--format", kind, "--out", str(picture)]) == 2
        assert "ending in" in capsys.readouterr().err and not picture.exists()


def test_wrong_use_is_exit_2(session_file: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(session_file), "--format", "gif", "--out", "o.gif"])
    assert caught.value.code == 2


def test_the_window_is_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").write_bytes(b"x")
    started: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(annotate.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    call = ["annotate", "a.tif", "--session", "s.e2sam", "--model", "tiny", "--channel-axis", "-1"]
    assert main(call) == 0
    assert started == [
        [
            sys.executable,
            "-m",
            "napari_e2sam",
            str(tmp_path / "a.tif"),
            "--session",
            str(tmp_path / "s.e2sam"),
            "--model",
            "tiny",
            "--channel-axis=-1",
        ]
    ]


def test_annotate_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", str(tmp_path / "nothing.tif")]) == 2
    assert "got nothing at" in capsys.readouterr().err
    (tmp_path / "bad.e2sam").write_text("x")
    assert main(["annotate", "--session", str(tmp_path / "bad.e2sam")]) == 2
    assert "another kind" in capsys.readouterr().err
    monkeypatch.setattr(annotate, "find_spec", lambda name: None)
    assert main(["annotate"]) == 2
    assert "e2sam doctor" in capsys.readouterr().err


def test_a_window_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -6)

    monkeypatch.setattr(annotate.subprocess, "run", run)
    with pytest.raises(SystemExit) as caught:
        main(["annotate"])
    assert caught.value.code == 1
    assert "e2sam doctor" in capsys.readouterr().err


def test_both_have_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert export_command.add_commands and annotate.add_commands
    for command in ("export", "annotate"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert f"example: e2sam {command}" in capsys.readouterr().out
