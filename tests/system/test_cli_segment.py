"""The commands `segment`, `auto` and `predict`, as a user and as a program call them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import torch

from e2sam.cli.main import main
from e2sam.data.io import read_labels, read_stack
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.modeling.build import build_model, teacher_config
from e2sam.weights.checkpoint import save_checkpoint


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights: what it says matters nowhere here."""
    torch.manual_seed(0)
    return save_checkpoint(
        tmp_path_factory.mktemp("model") / "small.safetensors", build_model(teacher_config("vit_test")), {}
    )


@pytest.fixture
def stack_path(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).integers(0, 5000, (5, 40, 56), dtype=np.uint16)
    names = ["red", "green", "blue", "nir", "depth"]
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, data, photometric="minisblack", metadata={"axes": "CYX", "channels": names})
    return path


def test_names_are_typed_with_spaces_and_those_with_a_comma_in_quotes(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = 'red, green, blue, "CD4, membrane", depth'
    given = ("--channel-names", names, "--channels", '"CD4, membrane", depth')
    prompt = ("--point", "20,20", "--model", model, "--out", tmp_path / "mask.tif")
    assert called_json(capsys, "segment", stack_path, *given, *prompt)["channels"] == ["CD4, membrane", "depth"]


@pytest.mark.parametrize("command", [("segment", "--point", "20,20"), ("auto",)])
def test_what_is_read_is_never_written_over(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    before = stack_path.read_bytes()
    link = tmp_path / "link.tif"
    link.symlink_to(stack_path)
    for out in (stack_path, link, tmp_path / "." / stack_path.name):
        code, printed, error = call(
            capsys, command[0], stack_path, *command[1:], "--model", model, "--out", out, "--channels", "red"
        )
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert "another file than what is read" in error
    assert stack_path.read_bytes() == before
    # Nor is a folder of channels: an image written there would be one more of them.
    bands = tmp_path / "bands"
    bands.mkdir()
    for name in ("red", "nir"):
        tifffile.imwrite(bands / f"{name}.tif", np.full((32, 40), 7, np.uint8))
    for out in (bands / "red.tif", bands / "mask.png"):
        code, _, error = call(capsys, command[0], bands, *command[1:], "--model", model, "--out", out)
        assert code == 2 and "no image in the folder of a stack" in error
    assert sorted(path.name for path in bands.iterdir()) == ["nir.tif", "red.tif"]
    out = bands / "a_labels.tif"
    assert call(capsys, command[0], bands, *command[1:], "--model", model, "--out", out)[0] == 0
    assert read_stack(bands).names == ("nir", "red") and out.is_file()


def test_tiles_too_small_to_see_anything_in_are_refused(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = call(capsys, "auto", stack_path, "--model", model, "--out", tmp_path / "a.tif", "--tile", "8")
    assert code == 2 and "tiles of at least 32 pixels, got 8" in error


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_segment_writes_the_mask_that_it_describes(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / f"mask{suffix}"
    result = called_json(
        capsys, "segment", stack_path, "--point", "20,15", "--channels", "nir,depth", "--model", model, "--out", out
    )
    mask = read_labels(out)
    assert mask.shape == (40, 56)
    assert set(np.unique(mask)) <= {0, 1}
    assert result["area"] == mask.sum()
    rows, columns = np.nonzero(mask)
    assert result["bbox"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert result["channels"] == ["nir", "depth"]
    assert result["encoder_passes"] == 1
    assert len(result["scores"]) == 3
    assert result["score"] == max(result["scores"])
    assert result["seconds"]["encode"] > 0 and result["seconds"]["predict"] > 0

    # The same image again comes from the cache.
    again = called_json(
        capsys, "segment", stack_path, "--point", "20,15", "--channels", "nir,depth", "--model", model, "--out", out
    )
    assert again["encoder_passes"] == 0


def test_segment_takes_more_prompts_and_explains(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mask.tif"
    prompts = ("--point", "20,15", "--point", "3,4,0", "--box", "10,5,40,30")
    result = called_json(
        capsys,
        *("segment", stack_path, *prompts, "--channels", "red,green,blue,nir,depth"),
        *("--model", model, "--out", out, "--explain", "--refine"),
    )
    assert len(result["scores"]) == 1
    assert set(result["channels"]) <= set(result["selected"]) == {"red", "green", "blue", "nir", "depth"}
    assert set(result["without_channel_iou"]) == set(result["selected"])
    code, text, _ = call(capsys, "segment", stack_path, *prompts, "--model", model, "--out", out)
    assert code == 0
    assert f"{out}: " in text and "predicted IoU" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--point", "57,15"), "56 x 40"),
        (("--point", "-1,15"), "(-1, 15)"),
        (("--point", "20"), "X,Y"),
        (("--point", "20,15,2"), "X,Y"),
        (("--box", "1,2,3"), "X0,Y0,X1,Y1"),
        (("--box", "30,20,10,5"), "x0 < x1"),
        ((), "--point"),
        (("--point", "20,15", "--channels", "red,nothing"), "nothing"),
        (("--point", "20,15", "--channels", "red,red"), "red"),
        (("--point", "20,15", "--channels", ""), "name one with --channels"),
        (("--box", "5,5,20,20", "--box", "6,6,30,30"), "--box: expected once, got it twice"),
        (("--point", "20,15", "--refin"), "e2sam segment: unrecognized arguments: --refin"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    stack_path: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    out = tmp_path / "mask.tif"
    code, text, error = call(capsys, "segment", stack_path, *arguments, "--model", model, "--out", out, "--json")
    assert (code, text) == (2, "")
    assert error.count("\n") == 1 and said in error
    assert not out.exists()


def test_a_target_that_cannot_be_written_is_refused_at_once(
    stack_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "mask.bmp", tmp_path / "nowhere" / "mask.tif"):
        for command in (("segment", stack_path, "--point", "5,5"), ("auto", stack_path)):
            code, _, error = call(capsys, *command, "--model", tmp_path / "no.safetensors", "--out", out)
            assert code == 2 and "--out" in error


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that even root cannot write is Linux's")
def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    stack_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path("/proc/sys")
    for command, out in (
        (("segment", stack_path, "--point", "5,5", "--model", "no.safetensors"), place / "mask.tif"),
        (("predict", stack_path, "--model", "no.safetensors"), place / "out"),
        (("inherit", stack_path, "--teacher", "no.safetensors"), place / "student.safetensors"),
        (("finetune", stack_path, "--model", "no.safetensors"), place / "mine.safetensors"),
        (("demo",), place / "demo"),
    ):
        code, _, error = call(capsys, *command, "--out", out)
        assert (code, error.count("\n")) == (2, 1)
        assert f"Expected --out in a folder that can be written, got {place}" in error


def test_predict_wants_a_folder(stack_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(capsys, "predict", stack_path, "--out", stack_path / "below")
    assert code == 2 and f"--out to be a folder, got the file {stack_path}" in error
    code, _, error = call(capsys, "predict", stack_path, "--out", tmp_path / "a" / "b", "--probability")
    assert code == 2 and "semantic model for --probability, got tiny" in error
    assert not (tmp_path / "a").exists()


def test_channels_are_checked_before_the_model_is_loaded(
    stack_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("segment", "--point", "5,5"), ("auto",)):
        code, _, error = call(
            capsys,
            *(command[0], stack_path, *command[1:], "--channels", "red,nothing"),
            *("--model", tmp_path / "absent.safetensors", "--out", tmp_path / "a.tif"),
        )
        assert code == 2 and "got 'nothing'" in error


def test_advice_is_in_the_commands_words(
    stack_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a message stands in a table of results."""
    channels = (ChannelSpec("a"), ChannelSpec("b"))
    config = replace(teacher_config("vit_test"), channels=channels, recipes=(ChannelRecipe("none", 0, 255),) * 2)
    student = save_checkpoint(tmp_path / "student.safetensors", build_model(replace(config, merge="gated")), {})
    for command in (("segment", stack_path, "--point", "5,5", "--out", tmp_path / "a.tif"), ("predict", stack_path)):
        out = () if "--out" in command else ("--out", tmp_path / "out")
        code, told, error = call(capsys, *command, *out, "--model", student)
        assert code == 2
        assert "missing='fill'" not in told + error
        assert "with --channel-names." in error
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = call(capsys, "auto", stack_path, "--out", tmp_path / "a.tif", "--device", "cuda")
    assert code == 2 and "use --device cpu or auto" in error


def test_auto_writes_instances(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.tif"
    result = called_json(
        capsys,
        *("auto", stack_path, "--model", model, "--out", out, "--points-per-side", "4"),
        *("--min-quality", "0", "--min-stability", "0"),
    )
    labels = read_labels(out)
    assert labels.shape == (40, 56)
    assert result["objects"] == labels.max() > 0
    assert result["covered"] == pytest.approx((labels > 0).mean())
    assert result["encoder_passes"] == 1


def test_predict_goes_through_a_folder_and_does_nothing_twice(
    stack_path: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.tif").write_bytes(stack_path.read_bytes())
    arguments = ("predict", tmp_path, "--model", model, "--out", tmp_path / "out", "--workers", "1")
    arguments += ("--points-per-side", "4", "--min-quality", "0", "--min-stability", "0")
    result = called_json(capsys, *arguments)
    assert (result["stacks"], result["skipped"], result["failed"]) == (2, 0, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other_labels.tif", "stack_labels.tif"]
    again = called_json(capsys, *arguments)
    assert again["skipped"] == 2
    assert [row["objects"] for row in again["results"]] == [None, None], "nobody has counted them"
    (tmp_path / "bad.tif").write_bytes(b"no image")
    code, out, error = call(capsys, *arguments, "--json")
    assert code == 2
    assert json.loads(out)["failed"] == 1
    assert "1 of 3 stacks failed" in error and "bad.tif" in error
    code, _, error = call(capsys, "predict", tmp_path / "nothing", "--out", tmp_path / "out")
    assert code == 2 and "nothing" in error


REAL_IMAGES = sorted((Path(__file__).resolve().parents[3] / "shared" / "data").glob("*.tif"))


@pytest.mark.parametrize("path", REAL_IMAGES, ids=[path.stem for path in REAL_IMAGES])
def test_every_real_image_can_be_segmented(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4 to 580 channels; uint8, uint16 and float32; NaN, inf and 0 as missing; with the model as it is shipped."""
    stack = read_stack(path)
    height, width = stack.size
    out = tmp_path / "mask.tif"
    result = called_json(capsys, "segment", path, "--point", f"{width // 2},{height // 2}", "--out", out)
    assert read_labels(out).shape == (height, width)
    assert result["encoder_passes"] == 1
    assert set(result["channels"]) <= set(stack.names)


@pytest.mark.skipif(os.name != "posix", reason="a window asks by signal on POSIX only")
@pytest.mark.parametrize(("asked", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_predict_with_progress_stops_when_asked_even_from_the_background(
    tmp_path: Path, asked: signal.Signals, workers: str
) -> None:
    for number in range(40):
        np.save(tmp_path / f"scene{number:02d}.npy", np.random.default_rng(number).random((3, 48, 48), np.float32))
    command = [
        sys.executable,
        "-m",
        "e2sam.cli.main",
        "predict",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--progress",
    ]
    ignored = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ignored, *command, "--workers", workers, "--points-per-side", "3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("1 of 40: ") for line in process.stderr)
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(asked)
        assert process.wait(timeout=60) == 128 + asked
    assert psutil.wait_procs(helpers, timeout=10)[1] == []
    assert not list((tmp_path / "out").glob(".*"))
    assert 1 <= len(list((tmp_path / "out").glob("*_labels.tif"))) < 40
