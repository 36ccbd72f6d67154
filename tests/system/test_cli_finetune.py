"""`e2sam finetune`, then `predict` and `evaluate` with what it made: pairs, SHIFT and H8 layouts, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from e2sam.cli.learn import _Watched
from e2sam.cli.main import main
from e2sam.modeling.build import build_with_weights
from e2sam.training.config import TrainStep
from e2sam.training.finetune import FinetuneConfig, finetune
from e2sam.weights.checkpoint import read_checkpoint_info, save_checkpoint
from e2sam.weights.zoo import load_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The embedded model at a frame of 64 pixels."""
    model = load_model("tiny", device="cpu")
    small = build_with_weights(replace(model.config, image_size=64), model.state_dict())
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small.safetensors", small, {"stage": "test"})


def write_pairs(folder: Path) -> Path:
    """One image of five channels with nine bright discs, and their instances."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    data = generator.normal(40, 6, (5, 64, 64))
    labels = np.zeros((64, 64), np.uint8)
    rows, columns = np.mgrid[:64, :64]
    for number in range(9):
        disc = (rows - 10 - 21 * (number // 3)) ** 2 + (columns - 10 - 21 * (number % 3)) ** 2 < 40
        labels[disc] = number + 1
        data[:, disc] += 120
    tifffile.imwrite(
        folder / "discs.tif", data.clip(0, 255).astype(np.uint8), photometric="minisblack", metadata={"axes": "CYX"}
    )
    Image.fromarray(labels).save(folder / "discs_labels.png")
    return folder


def write_shift(folder: Path, frames: int = 3, size: tuple[int, int] = (40, 64)) -> Path:
    """SHIFT's layout: pictures, depth packed into three bytes, class ids in the red plane; lists with time of day."""
    generator = np.random.default_rng(1)
    lines = []
    for number in range(frames):
        labels = np.full(size, 7, np.uint8)
        labels[: size[0] // 2] = 13
        labels[-16:, 8 * number : 8 * number + 20] = 10
        labels[:, -2:] = 0
        colour = np.stack([labels * 11] * 3, axis=-1).astype(np.uint8)
        metres = np.where(labels == 13, 900.0, np.where(labels == 10, 12.0, 40.0)) + generator.random(size)
        packed = np.round(metres / 1000 * (256**3 - 1)).astype(np.uint32)
        depth = np.stack([packed & 255, packed >> 8 & 255, packed >> 16], axis=-1).astype(np.uint8)
        ids = np.stack([labels, np.zeros_like(labels), np.zeros_like(labels)], axis=-1)
        for kind, picture, suffix in (("imgRGB", colour, "img_front.jpg"), ("depth", depth, "depth_front.png")):
            (folder / kind / "seq").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / "seq" / f"{number:08d}_{suffix}")
        (folder / "semseg" / "seq").mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(folder / "semseg" / "seq" / f"{number:08d}_semseg_front.png")
        lines.append(f"seq/{number:08d},night")
    (folder / "train.txt").write_text("\n".join(lines[:-1]) + "\n")
    (folder / "val.txt").write_text(lines[-1] + "\n")
    return folder


def write_h8(folder: Path) -> Path:
    """SFDD-H8's layout: (H, W, 16) uint8 cubes and masks of fog, 255 = fog, in two splits."""
    generator = np.random.default_rng(2)
    for split, count in (("train_all", 2), ("val_2021", 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            fog = np.zeros((64, 64), bool)
            fog[:, : 20 + 10 * number] = True
            cube = generator.normal(60, 5, (64, 64, 16)) + 80 * fog[..., None] * (np.arange(16) > 7)
            np.save(folder / split / f"{number}.npy", cube.clip(0, 255).astype(np.uint8))
            Image.fromarray(fog.astype(np.uint8) * 255).save(folder / split / f"conn_{number}_300_sp.png")
    return folder


def called(capsys, *arguments) -> dict:
    """What a command printed with --json."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_pairs_to_a_better_model_and_a_page_of_clicks(tmp_path, base, capsys):
    pairs = write_pairs(tmp_path / "pairs")
    out = tmp_path / "mine.safetensors"
    result = called(
        capsys, "finetune", pairs, "--model", base, "--out", out, "--steps", 12, "--no-twin",
        "--report", tmp_path / "run.html",
    )  # fmt: skip
    assert {"out", "steps", "seconds", "before", "after", "accepted"} <= set(result)
    assert result["out"] == str(out) and result["steps"] == 12 and result["split"]["kind"] == "region"
    assert result["after"]["score"] >= result["before"]["score"]
    curves = Path(result["report"]).read_text(encoding="utf-8")
    assert curves.count("<polyline") >= 2 and result["message"].split(".")[0] in curves
    page = tmp_path / "clicks.html"
    shown = called(
        capsys, "evaluate", "clicks", pairs / "discs.tif", pairs / "discs_labels.png",
        "--model", out, "--max-objects", 2, "--limit", 3, "--report", page,
    )  # fmt: skip
    assert {"objects", "iou", "box_iou", "noc", "fr20", "seconds_per_click"} <= set(shown)
    assert shown["objects"] == 2 and set(shown["iou"]) == {"1", "2", "3", "5", "10"}
    assert set(shown["noc"]) == {"80", "85", "90"} and set(shown["fr20"]) == {"85", "90"}
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 2
    assert "after 3 click" in text and "after 5 click" not in text, "nothing is said of clicks that were not made"


@pytest.mark.parametrize(
    ("kind", "writer", "classes", "ignored", "channels"),
    [
        ("shift", write_shift, 22, 0, ["R", "G", "B", "depth"]),
        ("h8", write_h8, 2, None, [f"B{n:02d}" for n in range(1, 17)]),
    ],
)
def test_the_papers_second_stage_and_inference(tmp_path, base, capsys, kind, writer, classes, ignored, channels):
    data = f"{kind}:{writer(tmp_path / kind)}"
    out = tmp_path / "stage2.safetensors"
    result = called(
        capsys, "finetune", data, "--preset", "bmvc2023", "--head", "semantic", "--model", base, "--out", out,
        "--steps", 4, "--learning-rate", 0.002,
    )  # fmt: skip
    assert result["split"]["kind"] == "given" and result["steps"] == 4
    info = read_checkpoint_info(out)
    if result["accepted"]:
        semantic = info.config.semantic
        assert semantic.decoder == "bmvc2023" and len(semantic.classes) == classes
        assert [channel.name for channel in info.config.channels] == channels
        assert semantic.tile_size == (64 if kind == "shift" else 512)
    assert info.training["config"]["preset"] == "bmvc2023"
    # Few steps need not beat the commonest class; what follows needs a semantic model whatever came of them.
    model = out if result["accepted"] else _any_semantic(tmp_path, base, capsys, data)
    predicted = called(capsys, "predict", data, "--model", model, "--out", tmp_path / "labels")
    files = sorted((tmp_path / "labels").rglob("*_labels.tif"))
    assert predicted["failed"] == 0 and len(files) == predicted["stacks"] == 3
    assert tifffile.imread(files[0]).shape == ((40, 64) if kind == "shift" else (64, 64))
    page = tmp_path / "classes.html"
    shown = called(capsys, "evaluate", "semantic", data, "--model", model, "--split", "val", "--report", page)
    assert {"miou", "per_class", "pixel_accuracy", "ignore_index"} <= set(shown)
    assert shown["ignore_index"] == ignored and shown["images"] == 1
    assert sum(row["pixels"] for row in shown["per_class"]) == (40 * 62 if kind == "shift" else 64 * 64)
    if kind == "shift":
        legacy = called(capsys, "evaluate", "semantic", data, "--model", model, "--legacy-ignore10")
        vehicles = next(row for row in legacy["per_class"] if row["class"] == "vehicle")
        assert legacy["ignore_index"] == 10 and vehicles["pixels"] == 0
    assert "<img" in page.read_text(encoding="utf-8")


def _any_semantic(tmp_path, base, capsys, data):
    out = tmp_path / "any.safetensors"
    result = called(
        capsys, "finetune", data, "--head", "semantic", "--model", base, "--out", out, "--steps", 40, "--no-twin"
    )
    assert result["accepted"]
    return out


SCRIPT = """
import os, signal, sys
from pathlib import Path
from e2sam.data.corrections import CorrectionSet
from e2sam.training.finetune import FinetuneConfig, finetune

data, model, out, killed_at, resume = sys.argv[1:]
config = FinetuneConfig(
    out=Path(out), model=model, steps=6, checkpoint_every=2, validate_every=6, mirrors=False, twin=False, device="cpu",
    judged_objects=1, judged_clicks=1, resume=resume == "resume",
)
for step in finetune(CorrectionSet.open(data), config):
    if step.loss == step.loss:
        print(step.step, repr(step.loss), flush=True)
        if step.step == int(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_run_killed_at_any_moment_resumes_with_the_same_next_loss(tmp_path, base):
    pairs = write_pairs(tmp_path / "pairs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def losses(out: str, killed_at: int, resume: str) -> dict[int, str]:
        arguments = [sys.executable, "-c", SCRIPT, str(pairs), str(base), str(tmp_path / out), str(killed_at), resume]
        ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
        assert ended.returncode == (-signal.SIGKILL if killed_at else 0), ended.stderr
        return {int(line.split()[0]): line.split()[1] for line in ended.stdout.splitlines()}

    whole = losses("whole.safetensors", 0, "new")
    moment = int(np.random.default_rng().integers(2, 6))
    before = losses("parts.safetensors", moment, "new")
    assert max(before) == moment and not (tmp_path / "parts.safetensors").exists()
    after = losses("parts.safetensors", 0, "resume")
    assert min(after) == moment // 2 * 2 + 1 and max(after) == 6
    assert {**before, **after} == whole
    one, other = (load_model(tmp_path / name, device="cpu") for name in ("whole.safetensors", "parts.safetensors"))
    assert one.fingerprint == other.fingerprint


def test_ctrl_c_stops_after_the_step_and_keeps_the_run():
    closed = []

    def steps():
        try:
            for number in range(4):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield TrainStep(number, 4, 0.5)
        finally:
            closed.append(number)

    watched = _Watched(steps())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            watched.drive("fine-tune")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert watched.last.step == 2 and closed == [2]


def test_wrong_use_is_one_line_and_exit_2(tmp_path, base, capsys):
    pairs = write_pairs(tmp_path / "pairs")
    out = str(tmp_path / "mine.safetensors")
    for arguments, wanted in (
        (["finetune", str(tmp_path / "nothing"), "--out", out], "folder"),
        (["finetune", str(pairs), "--out", str(tmp_path / "mine.pth")], ".safetensors"),
        (["finetune", str(pairs), "--out", out, "--preset", "bmvc2023"], "semantic"),
        (["finetune", str(pairs), "--out", out, "--learning-rate", "nan"], "above 0"),
        (["finetune", str(pairs), "--out", out, "--seed", "-1"], "at least 0"),
        (["finetune", str(pairs), "--out", out, "--classes", "a,b", "--ignore-index", "3"], "classes, ignore_index"),
        (["finetune", str(pairs), "--out", out, "--precision", "half"], "precision of auto, 32-true"),
        (["finetune", str(pairs), "--out", out, "--accelerator", "gpus"], "accelerator of auto, cpu"),
        (["finetune", str(pairs), "--out", out, "--strategy", "fsdp"], "strategy 'auto' or 'ddp'"),
        (["finetune", str(pairs), "--out", out, "--channels", "nir"], "nir"),
        (["finetune", str(pairs), "--out", out, "--report", str(pairs / "discs.tif")], ".html"),
        (["finetune", str(pairs), "--out", str(base), "--model", str(base)], "another file than what is read"),
        (["evaluate", "semantic", str(pairs), "--model", str(base)], "semantic decoder"),
    ):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        error = capsys.readouterr().err.strip().splitlines()
        assert code == 2
        assert wanted in error[-1] and error[-1].startswith("e2sam")
        assert not any("Judging" in line for line in error)
    assert not Path(out).exists()


def test_other_settings_are_refused_in_the_words_of_the_command(tmp_path, base, capsys):
    pairs = write_pairs(tmp_path / "pairs")
    out = tmp_path / "mine.safetensors"
    begun = FinetuneConfig(out=out, model=base, steps=4, checkpoint_every=1, twin=False, judged_objects=1)
    runner = finetune(str(pairs), begun)
    while next(runner).step < 1:
        pass
    runner.close()
    again = ["finetune", str(pairs), "--model", str(base), "--out", str(out), "--steps", "3", "--no-twin", "--resume"]
    assert main(again) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("start without --resume.") and "steps was 4 and is 3" in error
