"""The engine is told what part of the image the user sees, by a click and by the pointer alone."""

from __future__ import annotations

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
