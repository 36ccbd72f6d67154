"""The Batch widget runs the command and reads its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from e2sam.data.io import write_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam.widgets import batch


def test_a_folder_is_segmented_and_counted(qtbot: Any, tmp_path: Path, monkeypatch: Any) -> None:
    data = np.random.default_rng(0).integers(0, 255, (3, 40, 48)).astype(np.uint8)
    write_stack(tmp_path / "a.tif", ChannelStack(data, tuple(ChannelSpec(name) for name in "abc")))
    widget = batch.BatchWidget()
    qtbot.addWidget(widget)
    widget.source.value, widget.target.value = tmp_path, tmp_path / "out"
    # A coarse grid of clicks is enough here.
    command = [*widget.command, "--points-per-side", "4", "--workers", "1"]
    monkeypatch.setattr(batch.BatchWidget, "command", command)
    widget.start.click()
    assert not widget.start.isEnabled()
    qtbot.waitUntil(widget.start.isEnabled, timeout=120_000)
    assert widget.status.text() == "Done: 1 stack.", widget.log.toPlainText()
    assert (tmp_path / "out" / "a_labels.tif").is_file()
    widget.start.click()
    qtbot.waitUntil(widget.start.isEnabled, timeout=120_000)
    assert widget.status.text() == "Done: 1 stack, 1 of them there already."
