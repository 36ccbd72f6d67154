"""The commands `info` and `channels`, as a user and as a program call them."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from e2sam.cli.main import main
from e2sam.cli.output import set_up_logging


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def called_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    code, out, err = call(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return result


@pytest.fixture
def stack_path(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).random((4, 40, 50)).astype(np.float32)
    data[1, :20] = np.nan
    data[2] = np.nan
    path = tmp_path / "stack.tif"
    names = ["red", "half", "dead", "nir"]
    tifffile.imwrite(path, data, photometric="minisblack", metadata={"axes": "CYX", "channels": names})
    return path


def test_info(stack_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = called_json(capsys, "info", stack_path)
    assert result["path"] == str(stack_path)
    assert (result["shape"], result["dtype"]) == ([4, 40, 50], "float32")
    red, half, dead, _ = result["channels"]
    assert 0 <= red["min"] < red["max"] <= 1
    assert (red["valid_share"], half["valid_share"], dead["valid_share"]) == (1, 0.5, 0)
    assert (dead["min"], dead["max"]) == (None, None)
    code, out, _ = call(capsys, "info", stack_path)
    assert code == 0
    assert "4 channels, 50 x 40 pixels, float32" in out
    assert "50.0 % invalid" in out
    assert "no valid pixel, 100.0 % invalid" in out


def test_channels(stack_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = called_json(capsys, "channels", stack_path, "--top", "2")
    assert sorted(entry["name"] for entry in result["ranking"]) == ["dead", "half", "nir", "red"]
    assert result["all_invalid"] == ["dead"]
    assert result["suggested"] == [["red", "half", "nir"]]
    code, out, _ = call(capsys, "channels", stack_path)
    assert code == 0
    assert "suggested:" in out


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.zeros((5, 5, 5), np.int16)
    data[0, 0, 0] = -1
    np.save(tmp_path / "a.npy", data)
    code, out, err = call(capsys, "info", tmp_path / "a.npy", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--channel-axis" in err
    result = called_json(
        capsys,
        *("info", tmp_path / "a.npy", "--channel-axis", "-1", "--channel-names", "a,b,c,d,e", "--nodata", "-1"),
    )
    assert [channel["name"] for channel in result["channels"]] == list("abcde")
    assert result["channels"][0]["valid_share"] == pytest.approx(0.96)


def test_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.zeros((3, 4, 20, 24), np.uint8)
    data[2, 1] = 9
    tifffile.imwrite(tmp_path / "t.ome.tif", data, ome=True, metadata={"axes": "TCYX"})
    result = called_json(capsys, "info", tmp_path / "t.ome.tif")
    assert (result["axes"], result["shape"]) == ("TCYX", [3, 4, 20, 24])
    result = called_json(capsys, "info", tmp_path / "t.ome.tif", "--scene", "2")
    assert result["channels"][1]["max"] == 9
    for wrong in ("3", "0,1", "x"):
        code, _, err = call(capsys, "info", tmp_path / "t.ome.tif", "--scene", wrong)
        assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("command", ["info", "channels"])
@pytest.mark.parametrize("content", [None, b"", b"no image", b"II*\0\xff\xff\xff\xff"])
def test_bad_files(command: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.tif"
    if content is not None:
        path.write_bytes(content)
    code, out, err = call(capsys, command, path, "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("e2sam: Expected")


def test_wrong_use(stack_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("info",), ("channels", stack_path, "--top", "0"), ("channels", stack_path, "--nodata", "x")):
        code, out, err = call(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_every_real_image(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(shared_data.glob("*.tif"))
    assert len(files) >= 16
    for path in files:
        info = called_json(capsys, "info", path)
        assert len(info["channels"]) == info["shape"][0]
        ranked = called_json(capsys, "channels", path, "--top", "3")
        assert len(ranked["ranking"]) == info["shape"][0]
        assert 1 <= len(ranked["suggested"]) <= 3
        names = {channel["name"] for channel in info["channels"]}
        assert all(set(names_of) <= names for names_of in ranked["suggested"])
    motorcycle = called_json(capsys, "info", shared_data / "motorcycle_rgbd.tif")
    assert motorcycle["channels"][3]["valid_share"] == pytest.approx(0.927, abs=0.01)
    assert called_json(capsys, "channels", shared_data / "motorcycle_rgbd.tif")["ranking"][0]["name"] == "disparity_px"


@pytest.mark.parametrize("value", ["-3.4028235e+38", "-1e5", "-inf", "-.5", "-7"])
def test_numbers_below_zero_are_values_of_every_option(
    stack_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = called_json(capsys, "info", stack_path, "--nodata", value)
    expected = None if value == "-inf" else float(value)
    assert [channel["nodata"] for channel in result["channels"]] == [expected] * 4
    code, _, err = call(capsys, "channels", stack_path, "--top", value)
    assert code == 2 and f"at least 1, got '{value}'" in err


@pytest.mark.parametrize("axis", ["--1", "²", "9" * 5000])
def test_what_is_no_axis_is_one_line(axis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 5, 5), np.int16))
    code, out, err = call(capsys, "info", tmp_path / "a.npy", f"--channel-axis={axis}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, _, err = call(capsys, "channels", tmp_path / "a.npy", "--top", "²")
    assert code == 2 and "got '²'" in err


def test_a_plane_taken_for_alpha_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What tifffile writes of (H, W, 4) uint8 when it is told nothing: RGB with an unassociated alpha."""
    planes = np.random.default_rng(0).integers(0, 255, (20, 24, 4), dtype=np.uint8)
    planes[..., 3] = 255
    tifffile.imwrite(tmp_path / "four.tif", planes, photometric="rgb")
    said = "The last of 4 planes of four.tif was read as alpha and left out: open it with 4 channel names"
    result = called_json(capsys, "info", tmp_path / "four.tif")
    assert result["shape"] == [3, 20, 24] and result["notes"][0].startswith(said)
    code, out, err = call(capsys, "info", tmp_path / "four.tif")
    assert (code, err) == (0, "") and said in out
    code, _, err = call(capsys, "channels", tmp_path / "four.tif")
    assert code == 0 and f"INFO: {said}" in err
    named = called_json(capsys, "info", tmp_path / "four.tif", "--channel-names", "R,G,B,mask")
    assert named["shape"] == [4, 20, 24] and named["notes"] == []


def test_wrong_use_points_to_the_help_of_the_command(stack_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("--jso", "--nothing"):
        code, _, err = call(capsys, "info", stack_path, wrong)
        assert code == 2
        assert err == f"e2sam info: unrecognized arguments: {wrong} (see e2sam info --help)\n"


def test_ctrl_c_before_the_command_runs_is_one_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("e2sam.cli.main.build_parser", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "e2sam: stopped\n"
    loaded = "import sys, e2sam.cli.main; print([name for name in ('numpy', 'tqdm') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True) == "[]\n", "what takes long is guarded"


def test_sigterm_does_what_ctrl_c_does_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As training, which ends the step that is under way."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    heard: list[int] = []

    def trains() -> None:
        signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt

    monkeypatch.setattr("e2sam.cli.main.build_parser", trains)
    try:
        assert main([]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before[1])
    assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == before[0]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_that_the_caller_closed_is_no_failure(
    stack_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, code in ((stack_path, 0), (stack_path.with_name("nothere.tif"), 2)):
        # What a closed stream is when Python starts.
        monkeypatch.setattr(sys, name, None)
        try:
            assert main(["info", str(path), "--json"]) == code
        finally:
            getattr(sys, name).close()
    monkeypatch.undo()
    printed = capsys.readouterr()
    assert (printed.out.count("\n"), printed.err.count("\n")) == ((0, 1) if name == "stdout" else (1, 0))


def test_a_librarys_talk_is_shown_on_request_only() -> None:
    library = logging.getLogger("lightning_fabric.utilities.rank_zero")
    for is_verbose in (True, False):
        set_up_logging(is_verbose)
        assert library.isEnabledFor(logging.INFO) == is_verbose
