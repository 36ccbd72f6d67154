"""The engine is told what part of the image the user sees, by a click and by the pointer alone."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest
from fake import FakePredictor

from e2sam.data.stack import ChannelStack

pytestmark = pytest.mark.only_on("pyqt5")


@pytest.mark.parametrize("hovers", [False, True])
def test_the_engine_is_told_what_the_user_sees(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch, hovers: bool
) -> None:
    views: list[Any] = []
    real = FakePredictor.predict_prompts

    def watched(self: FakePredictor, prompts: Any, multimask: bool = True, view: Any = None) -> Any:
        views.append(view)
        return real(self, prompts, multimask, view)

    monkeypatch.setattr(FakePredictor, "predict_prompts", watched)
    window.open(stack)
    window.canvas.camera.zoom *= 4
    window.canvas.camera.center = (0.0, 40.0, 48.0)
    window.wait(lambda: window.canvas.view is not None and window.canvas.view[2] - window.canvas.view[0] < 60)
    if hovers:
        window.controller.prompts.set_hover(True)
        window.canvas.pointed_at.emit((48.0, 40.0))
    else:
        window.click(48, 40)
    window.wait(lambda: bool(views))
    x0, y0, x1, y1 = views[-1]
    # A part of the image, around the place; the canvas may have moved since.
    assert 0 < x0 < 48 < x1 < 96 and 0 <= y0 < 40 < y1 <= 80


def test_a_slow_look_at_what_is_on_the_screen_follows_a_mask_from_afar(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[Any] = []
    may_look, real = Event(), FakePredictor.predict_prompts

    def watched(self: FakePredictor, prompts: Any, multimask: bool = True, view: Any = None) -> Any:
        views.append(view)
        if view is not None:
            may_look.wait(10)
        return real(self, prompts, multimask, view)

    monkeypatch.setattr(FakePredictor, "predict_prompts", watched)
    monkeypatch.setattr(FakePredictor, "has_to_encode", lambda self, prompts, view: view is not None)
    window.open(stack)
    window.click(48, 40)
    window.wait(lambda: len(views) == 2)
    # The mask is there, and can be accepted, while the model looks closer.
    assert views[0] is None and tuple(views[1]) == window.canvas.view
    window.controller.do("accept")
    assert len(window.session.objects) == 1
    may_look.set()
    window.click(20, 20)
    window.wait(lambda: len(views) == 4)
    window.wait(lambda: not window.controller.work.engine.is_busy)
    assert views[2] is None and views[3] is not None and len(window.session.objects) == 1
    assert window.session.draft.candidates and len(window.session.draft.prompts.points) == 1
