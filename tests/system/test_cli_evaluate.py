"""`e2sam evaluate`: figures of hand-made cases, and one clear line for wrong input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from e2sam.cli.main import main
from e2sam.evaluation.clicks import ClickReport, ObjectClicks


@pytest.fixture
def square(tmp_path):
    """A white square on black in three channels, its labels, and a band whose pixels are not judged."""
    data = np.zeros((3, 64, 64), np.uint8)
    data[:, 16:48, 16:48] = 255
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 5
    labels[2:6, 2:6] = 9
    tifffile.imwrite(tmp_path / "square.tif", data, photometric="minisblack", metadata={"axes": "CYX"})
    Image.fromarray(labels).save(tmp_path / "square_labels.png")
    return tmp_path


def called(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_are_those_of_the_objects_that_were_asked_for(square, capsys):
    stack, labels = square / "square.tif", square / "square_labels.png"
    found = called(capsys, "evaluate", "clicks", stack, labels, "--limit", 3, "--min-area", 100)
    assert found["objects"] == 1 and found["per_object"][0]["area"] == 32 * 32
    assert found["iou"]["1"] == pytest.approx(found["per_object"][0]["iou"][0], abs=1e-4)
    assert found["iou"]["3"] == pytest.approx(found["per_object"][0]["iou"][-1], abs=1e-4)
    assert 1 <= found["noc"]["85"] <= 3 and found["model"] == "tiny"
    ignoring = called(capsys, "evaluate", "clicks", stack, labels, "--limit", 1, "--ignore", 9)
    assert ignoring["objects"] == 1


def test_what_was_not_clicked_has_no_figure(square, capsys, monkeypatch):
    """An object at IoU 0.82 after 2 of 2 clicks: NoC@80 is known, of 85 and 90 nobody knows."""
    measured = ClickReport((ObjectClicks("5", 1024, (0.5, 0.82)), ObjectClicks("9", 16, (0.99,))), 2)
    monkeypatch.setattr("e2sam.evaluation.clicks.ClickReport", lambda rows, limit: measured)
    found = called(
        capsys, "evaluate", "clicks", square / "square.tif", square / "square_labels.png", "--limit", 2, "--repeats", 1
    )
    assert found["limit"] == 2
    assert found["iou"] == {"1": pytest.approx(0.745), "2": pytest.approx(0.905), "3": None, "5": None, "10": None}
    assert found["noc"] == {"80": 1.5, "85": None, "90": None}
    assert found["fr20"] == {"85": None, "90": None}


def test_several_channels_are_named_and_checked_before_the_model(square, capsys):
    stack, labels = square / "square.tif", square / "square_labels.png"
    arguments = ("evaluate", "clicks", stack, labels, "--limit", 1, "--max-objects", 1)
    assert called(capsys, *arguments, "--channels", "ch2, ch0")["channels"] == ["ch2", "ch0"]
    assert main([*map(str, arguments), "--channels", "ch0,ch9", "--model", str(square / "absent.safetensors")]) == 2
    assert "got 'ch9'" in capsys.readouterr().err


def test_lines_for_a_person(square, capsys):
    stack, labels = square / "square.tif", square / "square_labels.png"
    assert main(["evaluate", "clicks", str(stack), str(labels), "--limit", "1", "--max-objects", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 objects" in printed and "IoU after clicks" in printed


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["evaluate"], "WHAT"),
        (["evaluate", "clicks", "{stack}"], "LABELS"),
        (["evaluate", "clicks", "{stack}", "{stack}"], "labels"),
        (["evaluate", "clicks", "{stack}", "{labels}", "--min-area", "5000"], "5000"),
        (["evaluate", "clicks", "{stack}", "{labels}", "--channels", "x"], "channels"),
        (["evaluate", "semantic", "{folder}", "--ignore-index", "none"], "semantic decoder"),
        (["evaluate", "semantic", "{folder}", "--split", "test"], "split test"),
        (["evaluate", "clicks", "{stack}", "{labels}", "--report", "{stack}"], ".html"),
        (["evaluate", "semantic", "{folder}", "--report", "{folder}/page.tif"], ".html"),
        (["evaluate", "clicks", "{stack}", "{labels}", "--report", "{folder}/absent/page.html"], "folder that exists"),
        (["evaluate", "clicks", "{stack}", "{labels}", "--repeats", "-1"], "at least 0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(square, capsys, arguments, wanted):
    places = {"stack": square / "square.tif", "labels": square / "square_labels.png", "folder": square}
    stack = places["stack"].read_bytes()
    try:
        code = main([argument.format(**places) for argument in arguments])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(error) == 1 and wanted.lower() in error[0].lower()
    assert places["stack"].read_bytes() == stack
