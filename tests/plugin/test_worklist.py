"""A folder as a worklist: the list itself, its panel, and the images in a real viewer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from e2sam.data.io import read_stack
from e2sam.data.masks import MaskCrop
from e2sam.data.session import NewObject, Session
from e2sam.errors import StackError
from napari_e2sam import _prefetch
from napari_e2sam._worklist import Worklist, images_in
from napari_e2sam._worklist_control import WorklistControl
from napari_e2sam.widgets.worklist import WorklistPanel

pytestmark = pytest.mark.only_on("pyqt6")

NAMES = ("b1.tif", "b2.tif", "b10.tif")


def write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((3, 40, 48)).astype(np.float32)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX", "channels": ["a", "b", "c"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, a label image, and a file of another kind."""
    place = tmp_path / "images"
    place.mkdir()
    for seed, name in enumerate(NAMES):
        write_image(place / name, seed)
    tifffile.imwrite(place / "b1_labels.tif", np.zeros((40, 48), np.uint8))
    (place / "notes.txt").write_text("x")
    return place


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session.open(tmp_path / "a.e2sam") as opened:
        yield opened


def test_images_come_in_the_order_of_their_numbers(folder: Path, tmp_path: Path) -> None:
    assert [path.name for path in images_in(folder)] == list(NAMES)
    with pytest.raises(StackError, match="got nothing"):
        images_in(tmp_path / "nowhere")
    with pytest.raises(StackError, match="got a file"):
        images_in(folder / "notes.txt")


def test_the_images_of_a_session_are_its_worklist_where_it_has_none(folder: Path, session: Session) -> None:
    session.add_stack(read_stack(folder / "b2.tif"))
    assert Worklist(session).items == ()
    session.add_stack(read_stack(folder / "b1.tif"))
    assert [item.path.name for item in Worklist(session).items] == ["b2.tif", "b1.tif"]


def test_next_previous_done_remaining(folder: Path, session: Session) -> None:
    worklist = Worklist(session)
    assert (worklist.current, worklist.remaining, worklist.next_to_do()) == (None, 0, None)
    worklist.open(folder)
    assert worklist.current == folder / "b1.tif"
    assert worklist.neighbours() == (folder / "b2.tif",)
    with pytest.raises(StackError, match="opened image"):
        worklist.set_done()
    for name in NAMES[:2]:
        session.add_stack(read_stack(folder / name))
    session.accept(2, (), NewObject(MaskCrop(np.ones((2, 2), bool), 3, 3)))
    worklist.set_done()
    assert [item.state for item in worklist.items] == ["done", "begun", "new"]
    assert (worklist.num_done, worklist.remaining) == (1, 2)
    assert worklist.next_to_do() == folder / "b2.tif"
    assert worklist.neighbours() == (folder / "b10.tif", folder / "b1.tif")
    assert worklist.step(1) == folder / "b10.tif"
    assert worklist.step(1) is None
    assert worklist.next_to_do() == folder / "b2.tif", "from the beginning again"
    worklist.set_done()
    worklist.set_done(False)
    assert worklist.remaining == 2
    assert not worklist.find(folder / "notes.txt")
    assert worklist.find(folder / "b1.tif")


def test_the_list_and_what_is_done_come_back(folder: Path, session: Session) -> None:
    worklist = Worklist(session)
    worklist.open(folder)
    session.add_stack(read_stack(folder / "b1.tif"))
    worklist.set_done()
    again = Worklist(session)
    assert [item.state for item in again.items] == ["done", "new", "new"]
    again.open(folder)
    assert again.current == folder / "b2.tif", "begins with what is not done"
    (folder / "empty").mkdir()
    with pytest.raises(StackError, match="got none"):
        again.open(folder / "empty")
    assert len(again.items) == 3


def test_the_panel_shows_and_asks(folder: Path, session: Session, qtbot: Any) -> None:
    panel = WorklistPanel()
    qtbot.addWidget(panel)
    assert not panel.done.isEnabled()
    worklist = Worklist(session)
    worklist.open(folder)
    panel.set_items(worklist.items, 0)
    assert panel.text.text() == "1 of 3, 3 to do"
    assert (panel.previous.isEnabled(), panel.following.isEnabled()) == (False, True)
    asked: list[Any] = []
    panel.step_asked.connect(asked.append)
    panel.item_chosen.connect(asked.append)
    panel.done_changed.connect(asked.append)
    panel.following.click()
    panel.items.setCurrentRow(2)
    panel.done.click()
    assert asked == [1, 2, True]
    panel.set_items(worklist.items, 1)
    assert asked == [1, 2, True], "showing asks nothing"


def test_a_folder_is_worked_through_in_the_window(window: Any, folder: Path, qtbot: Any) -> None:
    panel = WorklistPanel()
    qtbot.addWidget(panel)
    control = WorklistControl(panel, window.controller.work, prefetches=False)
    names = [folder / name for name in NAMES]

    def shown(path: Path) -> bool:
        scene = window.state.scene
        return scene is not None and scene.stack.source == path and window.state.is_encoded

    panel.folder_chosen.emit(folder)
    window.wait(lambda: shown(names[0]))
    window.tick("c", "a")
    window.click(20, 20)
    window.controller.do("accept")
    window.wait(lambda: panel.items.item(0).text().startswith("\N{MIDDLE DOT}"))
    for mark, left in (("\N{CHECK MARK}", 2), ("\N{MIDDLE DOT}", 3)):
        panel.done.click()
        assert panel.items.item(0).text().startswith(mark)
        assert panel.text.text() == f"1 of 3, {left} to do"
        assert window.session.record.is_done == panel.done.isChecked() == (left == 2)
    panel.to_do.click()
    window.wait(lambda: shown(names[1]))
    assert window.state.names == ("c", "a"), "the next image is prepared with the channels chosen here"
    assert panel.items.item(0).text().startswith("\N{CHECK MARK}")
    assert panel.text.text() == "2 of 3, 2 to do"
    assert [layer.name for layer in window.viewer.layers].count("b1") == 0, "one image is shown at a time"
    panel.previous.click()
    window.wait(lambda: shown(names[0]))
    window.wait(lambda: len(window.session.objects) == 1)
    for _ in range(3):
        panel.to_do.click()
        window.wait(lambda: shown(control.worklist.current))
    assert control.worklist.remaining == 0
    control.open_folder(folder / "nowhere")
    assert "got nothing" in window.widget.status.text()
    control.close()


def test_an_unclear_channel_axis_is_asked_for_once(window: Any, tmp_path: Path, qtbot: Any) -> None:
    place = tmp_path / "unclear"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a1", (4, 6, 40, 48)), ("a2", (4, 6, 52, 44)), ("a3", (4, 7, 40, 48))):
        np.save(place / f"{name}.npy", rng.uniform(0, 1, shape).astype(np.float32))
    panel = WorklistPanel()
    qtbot.addWidget(panel)
    control = WorklistControl(panel, window.controller.work, prefetches=False)
    stack_panel = window.panels.stack

    def shown(name: str, num_channels: int) -> bool:
        scene = window.state.scene
        return (
            scene is not None
            and scene.stack.source == place / name
            and scene.stack.num_channels == num_channels
            and window.state.is_encoded
        )

    def choose(text: str) -> None:
        texts = [stack_panel.axis.itemText(position) for position in range(stack_panel.axis.count())]
        stack_panel.axis_chosen.emit(texts.index(text))

    panel.folder_chosen.emit(place)
    window.wait(lambda: shown("a1.npy", 4))
    assert "is a guess" in stack_panel.warning.text()
    choose("axis 1: 6 channels")
    window.wait(lambda: shown("a1.npy", 6))
    assert stack_panel.warning.text() == ""
    assert window.viewer.layers[0].data.shape == (4, 6, 40, 48)
    assert window.session.record.reading == {"channel_axis": 1}
    window.click(20, 20)
    window.controller.do("accept")
    window.wait(lambda: panel.items.item(0).text().startswith("\N{MIDDLE DOT}"))

    # The next of the same kind is read alike, may still be read otherwise, and one of another kind asks again.
    panel.to_do.click()
    window.wait(lambda: shown("a2.npy", 6))
    assert stack_panel.warning.text() == ""
    assert panel.items.item(0).text().startswith("\N{CHECK MARK}")
    assert stack_panel.axis.currentText() == "axis 1: 6 channels"
    choose("axis 0: 4 channels")
    window.wait(lambda: shown("a2.npy", 4))
    assert window.viewer.layers[0].data.shape == (6, 4, 52, 44)
    choose("axis 1: 6 channels")
    window.wait(lambda: shown("a2.npy", 6))
    panel.to_do.click()
    window.wait(lambda: shown("a3.npy", 4))
    assert "is a guess" in stack_panel.warning.text()

    # An image is read again as it was.
    panel.items.setCurrentRow(0)
    window.wait(lambda: shown("a1.npy", 6))
    assert len(window.session.file.objects(window.session.stack_id)) == 1
    assert control.worklist.remaining == 1
    # A guess that nobody has worked with stays one.
    panel.items.setCurrentRow(2)
    window.wait(lambda: shown("a3.npy", 4))
    assert "is a guess" in stack_panel.warning.text()
    control.close()


def test_neighbours_are_encoded_with_the_channels_in_use(folder: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    class Predictor:
        def __init__(self, model: str) -> None:
            self.model = model

        def set_stack(self, stack: Any, channels: Any, recipes: Any) -> None:
            asked.append((self.model, stack.source.name, channels, len(recipes)))

    api = SimpleNamespace(
        read_stack=read_stack, Predictor=Predictor, load_model=str, image_disagreement=lambda predictor: 0.25
    )
    (folder / "broken.tif").write_bytes(b"II*\0")
    paths = [folder / "b2.tif", folder / "broken.tif", folder / "b1_labels.tif"]
    arguments = _prefetch.command("tiny", ("a", "c"), paths)
    task = json.loads(arguments[-1])
    assert arguments[:2] == ["-m", "napari_e2sam._prefetch"]
    found = _prefetch.prefetch(api, task["model"], task["channels"], [Path(path) for path in task["paths"]])
    assert dict(found) == {paths[0]: 0.25, paths[1]: None, paths[2]: None}
    assert asked == [("tiny", "b2.tif", ("a", "c"), 3)]


def test_the_image_of_most_doubt_is_next(window: Any, folder: Path, qtbot: Any) -> None:
    panel = WorklistPanel()
    qtbot.addWidget(panel)
    control = WorklistControl(panel, window.controller.work, prefetches=False)
    worklist, told = control.worklist, control._prefetching.prepared

    def shown(name: str) -> bool:
        scene = window.state.scene
        return scene is not None and scene.stack.source == folder / name and window.state.is_encoded

    panel.folder_chosen.emit(folder)
    window.wait(lambda: shown("b1.tif"))
    panel.doubt.click()
    assert "of 2 images in the background" in window.widget.status.text()
    told.emit(folder / "b2.tif", 0.25)
    assert panel.items.item(1).text().endswith("b2.tif   doubt 0.25")
    assert worklist.current == folder / "b1.tif", "not before all are compared"
    told.emit(folder / "b10.tif", 0.5)
    window.wait(lambda: shown("b10.tif"))

    # Who goes on working is not taken elsewhere.
    panel.doubt.click()
    window.click(20, 20)
    told.emit(folder / "b1.tif", 0.75)
    assert shown("b10.tif")
    # What is done is not gone to, nor what could not be compared.
    window.controller.work.session.file.set_done(1)
    told.emit(folder / "b2.tif", None)
    panel.doubt.click()
    assert window.widget.status.text() == "No image could be compared."
    control.set_done()
    assert panel.doubt.isEnabled()
    worklist.go_to(1)
    assert not panel.doubt.isEnabled()
    control.go_to_doubt()
    assert window.widget.status.text() == "Every other image of the worklist is done."
    control.close()


def test_what_could_not_be_read_is_passed(folder: Path, session: Session) -> None:
    worklist = Worklist(session)
    worklist.open(folder)
    worklist.set_trouble(folder / "b2.tif", "cut short")
    assert [item.trouble for item in worklist.items] == ["", "cut short", ""]
    assert worklist.step(1) == folder / "b10.tif"
    worklist.set_trouble(folder / "b1.tif", "gone")
    assert worklist.next_to_do() is None
    assert worklist.step(-1) == folder / "b2.tif", "tried again where there is no other"
    worklist.set_trouble(folder / "b2.tif", "")
    assert worklist.items[1].trouble == ""


def test_the_list_stands_at_the_image_that_is_shown(window: Any, folder: Path, qtbot: Any) -> None:
    (folder / "b2.tif").write_bytes(b"II*\0")
    panel, control = window.panels.worklist, window.controller.worklist
    first, last = folder / "b1.tif", folder / "b10.tif"
    control.open_folder(folder)
    window.wait(lambda: window.state.is_encoded)
    # There and back before the other one is read.
    control.worklist.find(last)
    control.show()
    control.worklist.find(first)
    control.show()
    window.wait(lambda: not window.controller.work.tasks.is_busy)
    assert window.state.scene.stack.source == first == control.worklist.current

    # One that cannot be read: the list says so, and goes back to what is shown.
    panel.following.click()
    window.wait(lambda: "b2.tif could not be read" in window.widget.status.text())
    assert control.worklist.current == first
    assert panel.items.item(1).text().endswith("b2.tif   could not be read")
    assert "Expected" in panel.items.item(1).toolTip()
    # It is passed, and what is not on the screen yet is not ticked off.
    panel.to_do.click()
    panel.to_do.click()
    assert "Expected b10.tif to be shown" in window.widget.status.text()
    window.wait(lambda: window.state.is_encoded and window.state.scene.stack.source == last)
    assert [item.state for item in control.worklist.items] == ["done", "new", "new"]
