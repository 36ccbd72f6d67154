"""The Learning panel in a real viewer: its curves, and what it says of a run that is over."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QRectF

from e2sam.data.stack import ChannelStack
from e2sam.errors import CheckpointError
from napari_e2sam._worker import Engine
from napari_e2sam.widgets._curves import Curves

pytestmark = pytest.mark.only_on("pyqt5")


@pytest.mark.parametrize("width", [90, 200, 330, 600])
def test_the_legend_of_the_curves_fits(qtbot: Any, width: int) -> None:
    curves = Curves()
    qtbot.addWidget(curves)
    curves.resize(width, 110)
    values = {"loss": 0.0123, "IoU after 1 click": 0.981, "IoU after 3 clicks": 0.99}
    curves.add(1, values)
    curves.add(2, values)
    curves.show()
    metrics = curves.fontMetrics()
    places = [QRectF(place.x(), place.y() - 10, metrics.horizontalAdvance(text), 12) for text, place in curves.legend]
    assert all(place.left() >= 0 and place.right() <= width for place in places)
    assert not any(one.intersects(other) for one in places for other in places if one is not other)
    texts = [text for text, _ in curves.legend]
    if width > 150:
        assert texts == ["loss 0.0123", "IoU after 1 click 0.981", "IoU after 3 clicks 0.99"]
    assert not curves.grab().isNull()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("finetune", "The old model was kept, because the new one is not better. On held-out labels: no."),
        ("inherit", "Agreement with the teacher after 3 clicks, on a held-out part: 0.9."),
    ],
)
def test_that_the_old_model_stays_is_said_once(
    window: Any, stack: ChannelStack, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(stack)
    learning = window.controller.learning
    monkeypatch.setattr(learning._training, "start", lambda task: None)
    learning.begin(kind, {})
    result = {"out": "new.safetensors", "accepted": False, "before": {}, "after": {}, "message": message}
    learning._training.finished.emit(result)
    shown = window.panels.learning.result.text()
    assert shown.startswith(message)
    assert shown.count("old model") == 1
    assert not window.panels.learning.use.isVisibleTo(window.panels.learning)


def test_what_cannot_be_loaded_is_neither_used_nor_gone_back_to(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(stack)
    panel, state = window.panels.learning, window.state
    monkeypatch.setattr(window.controller.learning._training, "start", lambda task: None)
    window.controller.learning.begin("inherit", {})

    def offered() -> tuple[bool, bool]:
        return panel.use.isVisibleTo(panel), panel.roll_back.isVisibleTo(panel)

    for out, is_there in (("gone.safetensors", False), ("other", True)):
        result = {"out": out, "accepted": True, "before": {}, "after": {}, "message": "better"}
        window.controller.learning._training.finished.emit(result)
        panel.use.click()
        window.wait(lambda: state.is_encoded)
        assert offered() == (not is_there, is_there)
    assert state.model["name"] == "other"

    def fail(self: Any, body: Any, arrays: Any, job: Any) -> Any:
        raise CheckpointError(f"no {body['name']}")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "load", fail)
        panel.roll_back.click()
        window.wait(lambda: state.is_encoded)
    assert (window.widget.status.text(), state.model["name"], offered()) == ("no tiny", "other", (False, True))
    panel.roll_back.click()
    window.wait(lambda: state.is_encoded)
    assert (state.model["name"], offered()) == ("tiny", (False, False))
