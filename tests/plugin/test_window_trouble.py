"""What goes wrong beside the work itself: models that do not come, engines that end, sessions on a full disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import fake
import numpy as np
import pytest
from conftest import Window
from qtpy.QtWidgets import QMessageBox

from e2sam.data.session import Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._worker import Engine

pytestmark = pytest.mark.only_on("pyqt6")


def test_masks_come_from_the_model_that_the_window_names(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, state, may_go_on = window.controller.models, window.state, Event()
    predict, made_by = fake.FakePredictor.predict_prompts, []

    def predict_prompts(self: Any, *given: Any, **named: Any) -> Any:
        made_by.append(self.model.fingerprint)
        return predict(self, *given, **named)

    def fetch(self: Any, body: Any, arrays: Any, job: Any) -> Any:
        may_go_on.wait(10)
        return {"name": body["name"]}, {}

    monkeypatch.setattr(fake.FakePredictor, "predict_prompts", predict_prompts)
    monkeypatch.setattr(Engine, "fetch", fetch, raising=False)
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    layer = window.open(stack)
    # One is loaded already when another that the user has chosen since cannot be.
    models.choose("other")
    models.choose("broken.safetensors")
    window.wait(lambda: state.is_encoded)
    assert "got 'broken.safetensors'" in window.widget.status.text()
    window.click(30, 30)
    assert (state.model["name"], set(made_by)) == ("tiny", {"fake-tiny"})

    # One is still being fetched when the user goes back.
    models._models = tuple(replace(row, state="absent") if row.name == "other" else row for row in models._models)
    models.choose("other")
    models.choose("tiny")
    may_go_on.set()
    window.wait(lambda: state.is_encoded)
    made_by.clear()
    window.click(34, 34)
    assert made_by[-1] == "fake-tiny" == window.session.draft.conditions.model
    window.wait(lambda: all(row.state != "absent" for row in models._models if row.name == "other"))

    # What fails is not wanted any more.
    models.choose("broken.safetensors")
    models.choose("tiny")
    window.wait(lambda: state.is_encoded)
    assert window.widget.status.text() == ""

    window.controller.encoding.hold()
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    window.controller.encoding.go_on()
    assert not state.is_encoded, "nothing is open"


def test_a_session_whose_model_is_gone_goes_on_with_another(
    viewer: Any, qtbot: Any, tmp_path: Path, stack: Any
) -> None:
    with Session.open(tmp_path / "a.e2sam") as session:
        session.set_model("broken.safetensors", "f")
    window = Window(viewer, qtbot, session=tmp_path / "a.e2sam")
    window.open(stack)
    assert window.state.model["name"] == "tiny"
    told = window.widget.status.text()
    assert "got 'broken.safetensors'" in told and told.endswith("Meanwhile tiny is used.")
    # What the session was made with is remembered: its file may come back.
    assert window.session.file.model["name"] == "broken.safetensors"
    window.click(30, 30)
    assert window.session.draft.conditions.model == "fake-tiny"
    window.close()


def test_without_any_model_a_click_waits_for_none(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    models, state = window.controller.models, window.state
    models._go_without()
    state.is_encoded = False
    window.canvas.points_layer.add([[30, 30]])
    assert window.widget.status.text() == "Expected a loaded model, got none: choose one in Model."
    models.choose("tiny")
    window.wait(lambda: window.session.draft.candidates)
    assert window.widget.status.text() == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_ends_at_its_work_is_not_given_it_for_ever(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, engine, starts, status = window.state, window.controller.work.engine, [], window.widget.status
    prepare, load, start = Engine.prepare, Engine.load, engine._start

    def dies_of_four(self: Any, body: Any, arrays: Any, job: Any) -> Any:
        if len(body["channels"]) > 3:
            raise SystemExit
        return prepare(self, body, arrays, job)

    def dies_of_other(self: Any, body: Any, arrays: Any, job: Any) -> Any:
        if body["name"] == "other":
            raise SystemExit
        return load(self, body, arrays, job)

    monkeypatch.setattr(Engine, "prepare", dies_of_four)
    monkeypatch.setattr(Engine, "load", dies_of_other)
    monkeypatch.setattr(engine, "_start", lambda: (starts.append(1), start())[1])
    window.open(stack)
    window.tick("red", "green", "nir")
    table = window.panels.channels.table
    table.tick([3], True)
    window.wait(lambda: state.refusal)
    assert status.text() == "The engine ended while encoding: choose a smaller model or fewer channels."
    window.wait(lambda: not engine.is_busy)
    assert (len(starts), state.is_encoded, status.text()) == (2, False, state.refusal)
    table.tick([3], False)
    window.wait(lambda: state.is_encoded)
    assert status.text() == ""

    # At loading: the model before goes on. Without one there, nothing does until the user chooses.
    window.controller.models.choose("other")
    window.wait(lambda: state.is_encoded)
    assert status.text() == "The engine ended while loading other: choose a smaller model."
    assert (state.model["name"], len(starts)) == ("tiny", 4)
    state.model = {}
    window.controller.models.choose("other")
    window.wait(lambda: len(starts) == 5 and not engine.is_busy)
    assert window.panels.model.details.text() == "No model is loaded."
    window.controller.models.choose("tiny")
    window.wait(lambda: state.is_encoded)
    assert (len(starts), status.text()) == (6, "")


def test_a_session_that_cannot_be_written_stops_nothing(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(1).uniform(0, 1, (3, 4, 80, 96)).astype(np.float32)
    window.open(ChannelStack(data, tuple(map(ChannelSpec, "abcd")), leading="T"))
    connection, status = window.session.file._journal._connection, window.widget.status
    window.tick("a", "b")
    connection.execute("PRAGMA query_only = 1")
    window.viewer.dims.set_current_step(0, 2)
    window.wait(lambda: window.state.is_encoded)
    assert window.session.plane == (2,)
    window.tick("a", "c")
    window.controller.models.choose("other")
    window.wait(lambda: window.state.is_encoded and window.state.model["name"] == "other")
    assert status.text().startswith("Expected a session that can be written")

    connection.execute("PRAGMA query_only = 0")
    window.click(30, 30)
    assert status.text() == ""
    assert window.session.draft.conditions.channels == ("a", "c")

    connection.execute("PRAGMA query_only = 1")
    window.canvas.camera.zoom *= 1.5
    close = window.controller.prompts.close
    monkeypatch.setattr(window.controller.prompts, "close", lambda: (close(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        window.controller.close()
    assert not window.session.file.is_open
    assert window.controller.work.engine._closed
