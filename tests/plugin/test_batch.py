"""The Batch widget runs the command and reads its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from e2sam.data.io import write_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam.widgets import batch

pytestmark = pytest.mark.only_on("pyqt6")


def test_a_folder_is_segmented_and_counted(qtbot: Any, tmp_path: Path, monkeypatch: Any) -> None:
    data = np.random.default_rng(0).integers(0, 255, (3, 40, 48)).astype(np.uint8)
    write_stack(tmp_path / "a.tif", ChannelStack(data, tuple(ChannelSpec(name) for name in "abc")))
    widget = batch.BatchWidget()
    qtbot.addWidget(widget)
    widget.source.value, widget.target.value = tmp_path, tmp_path / "out"
    qtbot.waitUntil(lambda: widget.channels.count() == 3, timeout=60_000)
    assert widget.chosen_channels == () and "--channels" not in widget.command
    widget.channels.item(0).setCheckState(Qt.CheckState.Checked)
    widget.channels.item(2).setCheckState(Qt.CheckState.Checked)
    assert widget.command[-2:] == ["--channels", "a,c"]
    # A coarse grid of clicks is enough here.
    command = [*widget.command, "--points-per-side", "4", "--workers", "1"]
    monkeypatch.setattr(batch.BatchWidget, "command", command)
    widget.start.click()
    assert not widget.start.isEnabled()
    qtbot.waitUntil(widget.start.isEnabled, timeout=120_000)
    assert widget.status.text() == "Done: 1 stack.", widget.log.toPlainText()
    assert (tmp_path / "out" / "a_labels.tif").is_file()
    assert widget.progress.maximum() == widget.progress.value() == 1
    assert "1 of 1: " in widget.log.toPlainText()
    widget.start.click()
    qtbot.waitUntil(widget.start.isEnabled, timeout=120_000)
    assert widget.status.text() == "Done: 1 stack, 1 of them there already."


def test_a_batch_is_cancelled_and_channels_are_read(qtbot: Any, tmp_path: Path, monkeypatch: Any) -> None:
    widget = batch.BatchWidget()
    qtbot.addWidget(widget)
    widget.source.value = tmp_path
    qtbot.waitUntil(lambda: "Expected a folder of stacks, got none" in widget.status.text(), timeout=60_000)
    np.save(tmp_path / "unclear.npy", np.zeros((4, 6, 40, 48), np.uint8))
    widget.read_channels()
    qtbot.waitUntil(lambda: "channel" in widget.status.text(), timeout=60_000)
    widget.axis.value = "1"
    qtbot.waitUntil(lambda: widget.channels.count() == 6, timeout=60_000)
    assert widget.command[-2:] == ["--channel-axis", "1"]
    widget.axis.value = ""
    (tmp_path / "unclear.npy").unlink()
    for band in ("red", "nir"):
        np.save(tmp_path / f"{band}.npy", np.zeros((40, 48), np.uint8))
    widget.folders.value = True
    qtbot.waitUntil(lambda: [widget.channels.item(row).text() for row in range(2)] == ["nir", "red"], timeout=60_000)
    assert "--folders" in widget.command

    # A stand-in that tells of two stacks, works on the third, and stops when it is asked to.
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('1 of 3: a', '2 of 3: b', sep='\\n', file=sys.stderr, flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    monkeypatch.setattr(batch.BatchWidget, "command", ["-c", script])
    widget.start.click()
    qtbot.waitUntil(lambda: (widget.progress.value(), widget.progress.maximum()) == (2, 3), timeout=30_000)
    widget.cancel.click()
    assert "under way" in widget.status.text()
    qtbot.waitUntil(widget.start.isEnabled, timeout=30_000)
    assert widget.status.text().startswith("Stopped after 2;")
