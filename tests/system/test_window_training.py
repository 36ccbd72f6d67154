"""The child process in which the window trains: what it is asked on standard input, what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from e2sam.data.io import read_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.data.synthetic import synthetic_stack
from e2sam.weights.checkpoint import read_checkpoint_info


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Three objects of a scene of six channels, accepted in a session."""
    stack, labels = synthetic_stack(3, 6, (96, 96))
    masks = [mask for mask in (labels == number for number in np.unique(labels)[1:]) if mask.sum() >= 60]
    tifffile.imwrite(tmp_path / "a.tif", stack.read(), photometric="minisblack", metadata={"axes": "CYX"})
    path = tmp_path / "a.e2sam"
    with Session.open(path) as file:
        record = file.add_stack(read_stack(tmp_path / "a.tif"))
        for mask in masks[:3]:
            file.accept(record.id, (), NewObject(MaskCrop.of(mask)))
        assert len(file.objects()) == 3
    return path


def train(session: Path, kind: str, **settings: object) -> list[dict]:
    task = {"kind": kind, "session": str(session), "stack_id": 1, "model": "tiny", "settings": settings}
    task["out"] = str(session.parent / f"{kind}.safetensors")
    child = [sys.executable, "-m", "napari_e2sam._training"]
    given = json.dumps(task) + "\n"
    # It ends with an error code where it answers with an error.
    done = subprocess.run(child, input=given, capture_output=True, text=True, timeout=300, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_fine_tuning_trains_one_model_for_the_objects_and_no_twin(session: Path) -> None:
    *steps, result = train(session, "finetune", steps=3, mirrors=False, judged_clicks=2)
    assert {step["total"] for step in steps} == {3}, "a twin would count as many again"
    assert [step["step"] for step in steps if step["loss"] is not None] == [1, 2, 3]
    assert set(result) == {"out", "before", "after", "accepted", "message"} and result["before"]["objects"] == 3
    assert read_checkpoint_info(Path(result["out"])).stage == ("finetune" if result["accepted"] else "unchanged")


def test_inheritance_makes_a_student_of_all_channels(session: Path) -> None:
    *steps, result = train(session, "inherit", steps=2)
    assert steps[-1]["step"] == 2 and "agreement_3_clicks" in result["after"]
    assert len(read_checkpoint_info(Path(result["out"])).config.channels) == 6


def test_what_cannot_be_learned_from_is_one_line(session: Path) -> None:
    assert train(session, "finetune", tune="everything") == [
        {"error": "Expected tune of none, decoder, lora, full, got 'everything'."}
    ]
