"""The window with the real engine in its own process, and a training run in another; both may die without harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import FakePredictor
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication, QDialog

from e2sam.data.io import write_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam import _training_process
from napari_e2sam.widgets.main import SegmentWidget

pytestmark = pytest.mark.only_on("pyqt5")

CHILD = """
import json, sys, time
task = json.loads(sys.stdin.readline())
for step in range(3):
    print(json.dumps({"step": step + 1, "total": 3, "loss": 1 / (step + 1), "metrics": {}, "message": ""}), flush=True)
result = {"before": {}, "after": {}, "accepted": True, "message": "IoU 0.61 before, 0.70 after.", "out": "tiny"}
print(json.dumps(result), flush=True)
"""


def _scene() -> ChannelStack:
    """A bright disc in four channels."""
    rows, columns = np.mgrid[:96, :128]
    disc = ((rows - 50) ** 2 + (columns - 60) ** 2 < 24**2).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.02, (4, 96, 128)).astype(np.float32)
    return ChannelStack(disc + noise, tuple(ChannelSpec(name) for name in ("a", "b", "c", "d")))


def test_the_real_engine_answers_and_may_die(
    viewer: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a folder, whose images are prepared and compared in a process beside the engine."""
    folder, scene = tmp_path / "images", _scene()
    folder.mkdir()
    write_stack(folder / "first.tif", scene)
    write_stack(folder / "next.tif", replace(scene, data=scene.data[:, ::-1]))
    (folder / "unreadable.tif").write_bytes(b"II*\0")
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
    controller = widget.controller
    state, session, items = controller.work.state, controller.session, widget.panels.worklist.items
    passes: list[int] = []
    on_encoded = controller.encoding._on_encoded

    def count(message: Any, body: Any) -> None:
        passes.append(message.body["encoder_passes"])
        on_encoded(message, body)

    monkeypatch.setattr(controller.encoding, "_on_encoded", count)
    try:
        controller.worklist.open_folder(folder)
        qtbot.waitUntil(lambda: state.is_encoded, timeout=120_000)
        assert state.model["architecture"] == "tiny"
        controller.work.canvas.points_layer.add([[49.5, 59.5]])
        qtbot.waitUntil(lambda: len(session.draft.candidates) == 3, timeout=60_000)
        chosen = session.draft.candidates[session.draft.chosen]
        assert chosen.mask is not None
        assert session.draft.conditions.model == state.model["fingerprint"]
        qtbot.waitUntil(lambda: controller.work.canvas.composite_layer is not None, timeout=20_000)

        # The engine is killed: the window says so, starts another, and the prompt is answered again.
        controller.work.engine._channel.end()
        qtbot.waitUntil(lambda: "started again" in widget.status.text(), timeout=20_000)
        assert not state.is_encoded
        qtbot.waitUntil(lambda: state.is_encoded, timeout=120_000)
        controller.work.canvas.points_layer.add([[49.5, 70.5]])
        qtbot.waitUntil(
            lambda: len(session.draft.prompts.points) == 2 and len(session.draft.candidates) > 0, timeout=60_000
        )

        # Nobody asked for the next image to be prepared.
        qtbot.waitUntil(lambda: "doubt" in items.item(1).text(), timeout=60_000)
        assert passes[0] > 0
        passes.clear()
        # The last one is looked at when doubt is asked for, and left out; the other is there without a pass.
        controller.do("most doubt")
        qtbot.waitUntil(lambda: state.is_encoded and session.record.name == "next.tif", timeout=120_000)
        assert passes == [0]
        assert items.item(2).text().endswith("unreadable.tif")
    finally:
        controller.close()


def test_what_nobody_expected_is_one_line(window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("sizes do not match\n  at line 1\n  at line 2")

    window.open(stack)
    status, told = window.widget.status, len(notification_manager.records)
    with monkeypatch.context() as patch:
        patch.setattr(FakePredictor, "predict_prompts", fail)
        window.canvas.points_layer.add([[30, 30]])
        window.wait(lambda: status.text())
    assert status.text() == "RuntimeError: sizes do not match"
    assert status.palette().color(status.foregroundRole()).name() == "#ff6b6b"
    assert [shown for shown in QApplication.topLevelWidgets() if isinstance(shown, QDialog) and shown.isVisible()] == []
    assert len(notification_manager.records) == told

    # The click is kept, and the next one is answered as if nothing had been.
    window.click(34, 30)
    assert len(window.session.draft.prompts.points) == 2
    assert status.text() == ""


def test_learning_shows_its_curve_and_gives_the_model(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(_training_process, "_PROGRAM", (str(script),))
    window.open(stack)
    panel = window.panels.learning
    assert not panel.finetune.isEnabled()
    window.click(30, 30)
    window.controller.do("accept")
    assert panel.finetune.text() == "Fine-tune on 1 object"
    window.controller.models.choose("other")
    window.wait(lambda: window.state.model["name"] == "other" and window.state.is_encoded)
    heading = window.widget.sections["learning"].heading
    panel.finetune.click()
    assert panel.cancel.isVisibleTo(panel)
    assert heading.text() == "Learning:  preparing"
    window.wait(lambda: not window.controller.learning.is_running)
    assert [value for _, value in panel.curves.curves["loss"]] == [1.0, 0.5, 1 / 3]
    assert "0.70 after" in panel.result.text()
    # A folded panel says so too: users go on annotating meanwhile.
    assert heading.text() == "Learning:  new model ready"
    assert window.widget.status.text() == "Training is done: a new model waits in Learning."
    (run,) = window.session.file.training_runs()
    assert (run.kind, run.status) == ("finetune", "done")
    panel.use.click()
    window.wait(lambda: window.state.model["name"] == "tiny" and window.state.is_encoded)
    assert heading.text() == "Learning"
    assert len(window.session.objects) == 1
    panel.roll_back.click()
    window.wait(lambda: window.state.model.get("name") == "other" and window.state.is_encoded)

    # What is accepted during a run is for the next one, which begins only after it.
    panel.set_running(True)
    panel.set_corrections(2)
    assert (panel.finetune.text(), panel.finetune.isEnabled()) == ("Fine-tune on 2 objects", False)
    panel.set_running(False)
    assert panel.finetune.isEnabled()
