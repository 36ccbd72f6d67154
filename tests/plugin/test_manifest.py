"""The manifest: valid, and every target of it there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManifest

import napari_e2sam
from e2sam.data.stack import ChannelStack
from napari_e2sam._reader import get_reader
from napari_e2sam._writer import write_labels

MANIFEST = PluginManifest.from_file(Path(napari_e2sam.__file__).parent / "napari.yaml")


@pytest.mark.parametrize("command", MANIFEST.contributions.commands, ids=lambda command: command.id)
def test_every_target_can_be_imported(command: Any) -> None:
    module, name = command.python_name.split(":")
    assert callable(getattr(import_module(module), name))


def test_every_contribution_names_a_command() -> None:
    contributions = MANIFEST.contributions
    known = {command.id for command in contributions.commands}
    used = [
        entry.command
        for entries in (contributions.readers, contributions.writers, contributions.widgets, contributions.sample_data)
        for entry in entries
    ]
    used += [entry.command for entries in contributions.menus.values() for entry in entries]
    assert set(used) <= known
    assert [widget.display_name for widget in contributions.widgets] == ["Segment", "Learn", "Batch"]
    assert "napari/layers/segment" in contributions.menus


@pytest.mark.parametrize("sample", MANIFEST.contributions.sample_data, ids=lambda sample: sample.key)
def test_samples_are_stacks(sample: Any) -> None:
    command = next(entry for entry in MANIFEST.contributions.commands if entry.id == sample.command)
    module, name = command.python_name.split(":")
    ((data, settings, kind),) = getattr(import_module(module), name)()
    stack = settings["metadata"]["e2sam_stack"]
    assert kind == "image"
    assert isinstance(stack, ChannelStack)
    assert stack.num_channels in (4, 16)
    assert data.shape == stack.data.shape


def test_the_reader_reads_and_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "scene.npy"
    np.save(path, np.random.default_rng(0).uniform(0, 1, (5, 30, 40)).astype(np.float32))
    read = get_reader(str(path))
    assert read is not None
    ((data, settings, _),) = read(str(path))
    assert np.asarray(data).shape == (5, 30, 40)
    assert settings["metadata"]["e2sam_stack"].num_channels == 5
    assert get_reader(str(tmp_path / "notes.txt")) is None
    labels = np.zeros((30, 40), np.int32)
    labels[3:9, 4:8] = 300
    (written,) = write_labels(str(tmp_path / "labels.tif"), labels, {})
    from e2sam.data.io import read_labels

    np.testing.assert_array_equal(read_labels(written), labels)
