"""The commands `models` and `doctor`, as a user and as a program call them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from e2sam.cli import doctor
from e2sam.cli.main import main
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.modeling.build import build_model, teacher_config
from e2sam.weights.checkpoint import save_checkpoint


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("E2SAM_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def called_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    code, out, _ = call(capsys, *arguments, "--json")
    assert code == 0
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def test_list(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    result = called_json(capsys, "models")
    assert result == called_json(capsys, "models", "list")
    models = {model["name"]: model for model in result["models"]}
    assert set(models) == {"tiny", "vit_b", "vit_l", "vit_h"}
    assert models["tiny"]["state"] == "embedded" and models["tiny"]["size"] > 0
    assert len(models["tiny"]["sha256"]) == 64
    assert models["vit_h"]["state"] == "absent" and models["vit_h"]["size"] == 2_564_550_879
    assert models["vit_b"]["file"] == str(folder / "sam_vit_b_01ec64.pth")
    code, out, _ = call(capsys, "models")
    assert code == 0 and "375.0 MB" in out and "Apache-2.0" in out


def test_fetch_of_the_embedded_model_and_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert called_json(capsys, "models", "fetch", "tiny")["state"] == "embedded"
    for arguments, wanted in (
        (("fetch",), "Expected the name of a model"),
        (("fetch", "vit_x"), "got 'vit_x'"),
        (("info",), "Expected a weights file"),
        (("list", "tiny"), "Expected nothing after list"),
    ):
        code, out, err = call(capsys, "models", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert wanted in err


def test_info_of_a_student(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = replace(
        teacher_config("vit_test"),
        channels=(ChannelSpec("R"), ChannelSpec("depth", "m")),
        recipes=(ChannelRecipe("none", 0, 255), ChannelRecipe("log_depth", 0.5, 4)),
        merge="gated",
    )
    path = save_checkpoint(tmp_path / "student.safetensors", build_model(config), {"stage": "inherit"})
    result = called_json(capsys, "models", "info", path)
    assert [channel["name"] for channel in result["channels"]] == ["R", "depth"]
    assert (result["stage"], result["architecture"], len(result["fingerprint"])) == ("inherit", "vit_test", 64)
    code, out, _ = call(capsys, "models", "info", path)
    assert code == 0 and "student of 2 channels" in out and "log_depth" in out


def test_info_of_sam_weights_and_of_bad_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = build_model(teacher_config("vit_test"))
    torch.save({k.removeprefix("decoder."): v for k, v in model.state_dict().items()}, tmp_path / "sam.pth")
    assert called_json(capsys, "models", "info", tmp_path / "sam.pth")["architecture"] == "vit_test"
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    # Whole, but for one byte of its weights.
    damaged = bytearray(save_checkpoint(tmp_path / "good.safetensors", model, {}).read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    (tmp_path / "bad.pth").write_bytes(b"\xff" * 100)
    for name in ("bad.safetensors", "bad.pth", "damaged.safetensors", "absent.safetensors"):
        code, out, err = call(capsys, "models", "info", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("vit_b", "got none: run `e2sam models fetch vit_b`."),
        ("scene.tif", "or a .safetensors or .pth file, got 'scene.tif'"),
        (".", "or a .safetensors or .pth file, got the folder '.'"),
        ("absent.pth", "absent.pth, which does not exist"),
    ],
)
def test_info_says_what_is_wrong_with_its_target(capsys: pytest.CaptureFixture[str], target: str, wanted: str) -> None:
    code, out, err = call(capsys, "models", "info", target)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert wanted in err


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"binding": "pyqt5", "version": "5.15.2", "platform": "xcb", "opengl": [4, 5]}
    monkeypatch.setattr(doctor, "_probe", lambda: (told, ""))
    result = called_json(capsys, "doctor")
    checks = {check["name"]: check for check in result["checks"]}
    assert {"software", "processor", "GPU", "memory", "cache folder", "model folder", "Qt", "OpenGL"} <= set(checks)
    assert checks["OpenGL"]["detail"] == "4.5"
    assert checks["model tiny"]["state"] == "ok"
    assert "e2sam models fetch vit_b" in checks["model vit_b"]["advice"]
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "[ok     ] Qt: pyqt5" in out


def test_doctor_really_tries_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {check["name"]: check for check in called_json(capsys, "doctor")["checks"]}
    assert "Qt" in checks
    assert checks["Qt"]["state"] != "ok" or "OpenGL" in checks


CUT_SHORT = "qt.qpa.plugin: Could not load the Qt platform plugin"


@pytest.mark.parametrize(
    ("told", "error", "display", "state", "advice"),
    [
        ({}, "ModuleNotFoundError: No module named 'qtpy'", ":0", "missing", "pip install 'napari-e2sam[pyqt5]'"),
        ({}, "ImportError: libGL.so.1: cannot open shared object file", ":0", "missing", "apt-get install libgl1"),
        ({"binding": "pyqt5", "version": "5"}, CUT_SHORT, ":0", "missing", "libxcb-icccm4"),
        (
            {"binding": "pyqt6", "version": "6"},
            "libxcb-cursor.so.0 is needed",
            ":0",
            "missing",
            "install libxcb-cursor0",
        ),
        ({"binding": "pyqt5", "version": "5"}, CUT_SHORT, "", "note", "xvfb-run -a e2sam annotate"),
    ],
)
def test_doctor_says_what_to_install(
    told: dict[str, object], error: str, display: str, state: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    (finding,) = doctor._window(lambda: (told, error))
    assert (finding.name, finding.state) == ("Qt", state)
    assert advice in finding.advice


def test_doctor_misses_opengl() -> None:
    told: dict[str, object] = {"binding": "pyqt5", "version": "5", "platform": "xcb", "opengl": None}
    _, finding = doctor._window(lambda: (told, ""))
    assert (finding.name, finding.state) == ("OpenGL", "missing")
    assert "libgl1-mesa-dri" in finding.advice


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    finding = doctor._folder("cache folder", blocked / "inside", "E2SAM_CACHE_DIR")
    assert finding.state == "missing" and "E2SAM_CACHE_DIR" in finding.advice


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("models", "doctor"):
        code, out, _ = call(capsys, command, "--help")
        assert code == 0 and "example: e2sam " + command in out
