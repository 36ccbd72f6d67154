"""A student in a real viewer: it encodes what is opened, and says which images it cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fake
import numpy as np
import pytest
from conftest import Window

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError
from napari_e2sam._convert import STACK_KEY

pytestmark = pytest.mark.only_on("pyqt5")

OWN = ("red", "nir", "depth")
REFUSAL = (
    "Expected the channels that student was trained on, got a stack without red, nir, depth: "
    "choose another model in Model, or another image."
)


@pytest.fixture
def window(viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    """A window that begins with a student of three of the stack's channels."""
    load = fake.load_model

    def load_model(name: str, device: str = "auto") -> Any:
        if name not in ("student", "unnamed"):
            return load(name, device)
        names = OWN if name == "student" else ("ch1", "ch2")
        return SimpleNamespace(
            config=SimpleNamespace(
                architecture="fake", channels=tuple(map(ChannelSpec, names)), recipes=(), image_size=64
            ),
            fingerprint=f"fake-{name}",
            device="cpu",
        )

    class Predictor(fake.FakePredictor):
        def set_stack(self, stack: ChannelStack, channels: Any = "auto", recipes: Any = None) -> None:
            if any(channel.name not in stack.names for channel in self.model.config.channels):
                raise ChannelError("Give a mapping, or missing='fill'.")
            super().set_stack(stack, channels, recipes)

    monkeypatch.setattr(fake, "load_model", load_model)
    monkeypatch.setattr(fake, "FakePredictor", Predictor)
    made = Window(viewer, qtbot, model="student")
    made.wait(lambda: made.state.model)
    yield made
    made.controller.close()


def _unnamed(num_channels: int) -> ChannelStack:
    data = np.random.default_rng(2).uniform(0, 1, (num_channels, 80, 96)).astype(np.float32)
    return ChannelStack(data, tuple(ChannelSpec(f"ch{index + 1}") for index in range(num_channels)))


def test_a_student_encodes_an_image_as_soon_as_it_is_open(window: Any, stack: ChannelStack) -> None:
    first = window.open(stack)
    assert window.state.names == OWN
    assert window.panels.channels.table.selection == stack.indices(OWN)
    assert window.panels.channels.count.text() == "3 of 5, all that the model was trained on"
    window.click(30, 30)
    window.controller.do("accept")

    # One that it does not know is ticked: the line says which, and unticked it goes on.
    table = window.panels.channels.table
    table.tick([1], True)
    assert window.widget.status.text() == (
        "Expected channels that student was trained on, got green: "
        "untick it in Channels, or choose another model in Model."
    )
    assert not window.state.is_encoded
    table.tick([1], False)
    window.wait(lambda: window.state.is_encoded)
    assert window.widget.status.text() == ""

    # What another model was given of an image is more than the student takes of it.
    window.controller.models.choose("tiny")
    window.wait(lambda: window.state.model["name"] == "tiny" and window.state.is_encoded)
    window.tick("green", "nir")
    window.viewer.layers.remove(first)
    window.wait(lambda: not window.session.has_stack)
    window.controller.models.choose("student")
    window.wait(lambda: window.state.model["name"] == "student")
    window.open(stack)
    assert window.state.names == ("nir",)


def test_another_model_goes_on_where_a_student_was_refused(window: Any, qtbot: Any) -> None:
    window.open(ChannelStack(_unnamed(5).data, tuple(map(ChannelSpec, (*OWN, "a", "b")))))
    assert "Encoded in" in window.panels.model.details.text()
    stack = _unnamed(3)
    layer = window.viewer.add_image(stack.data, metadata={STACK_KEY: stack}, rgb=False)
    window.controller.stack.choose((layer,))
    window.wait(lambda: window.widget.status.text() == REFUSAL)
    qtbot.wait(100)
    assert not window.state.is_encoded
    assert "Encoded in" not in window.panels.model.details.text()
    window.widget.say("", "info")
    window.canvas.points_layer.add([[30, 30]])
    assert window.widget.status.text() == REFUSAL, "a click does not wait for what never comes"

    window.controller.models.choose("tiny")
    window.wait(lambda: window.state.is_encoded and window.session.draft.candidates)
    assert window.state.names == tuple(stack.names[index] for index in window.panels.channels.table.selection)
    assert len(window.state.names) == 3
    assert window.widget.status.text() == ""

    # And back to the model that was there before a student came.
    window.controller.models.choose("student")
    window.wait(lambda: window.widget.status.text() == REFUSAL)
    window.controller.models.roll_back()
    window.wait(lambda: window.state.is_encoded)
    assert window.state.model["name"] == "tiny"
    assert window.widget.status.text() == ""


def test_a_student_without_names_takes_as_many_channels(window: Any) -> None:
    window.controller.models.choose("unnamed")
    window.wait(lambda: window.state.model["name"] == "unnamed")
    stack = _unnamed(3)
    layer = window.viewer.add_image(stack.data, metadata={STACK_KEY: stack}, rgb=False)
    window.wait(lambda: "Expected 2 channels, as unnamed was trained on, got 3" in window.widget.status.text())
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.session.has_stack)
    window.open(_unnamed(2))
    assert window.state.names == ("ch1", "ch2")
