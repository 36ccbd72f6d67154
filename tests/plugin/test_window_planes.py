"""Objects carried through the planes of a series, and everything on the screen segmented, in a real viewer."""

from __future__ import annotations

from threading import Event
from typing import Any

import fake
import numpy as np
import pytest

from e2sam.data.masks import MaskCrop
from e2sam.data.stack import ChannelSpec, ChannelStack
from napari_e2sam._carry_control import prompts_from_mask
from napari_e2sam._state import LogitsGrid

pytestmark = pytest.mark.only_on("pyqt5")


def _go_to(window: Any, plane: int) -> None:
    window.viewer.dims.set_current_step(0, plane)
    window.wait(lambda: window.session.plane == (plane,) and window.state.is_encoded)


def test_an_object_is_carried_through_a_series(window: Any) -> None:
    data = np.random.default_rng(3).uniform(0, 1, (3, 2, 80, 96)).astype(np.float32)
    window.open(ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b")), leading="T"))
    do, session = window.controller.do, window.session
    _go_to(window, 0)
    assert window.panels.objects.carry.isVisibleTo(window.panels.objects)
    do("carry")
    assert "got none" in window.widget.status.text()
    assert session.plane == (0,)

    # From an accepted object: one plane on, a point, box and mask of it, and a mask from them at once.
    window.click(40, 30)
    do("accept")
    do("carry")
    assert session.plane == (1,)
    window.wait(lambda: session.draft.candidates)
    prompts = session.draft.prompts
    assert prompts.box.tolist() == [30, 20, 50, 40]
    assert np.abs(prompts.points - [[40, 30]]).max() <= 1
    assert prompts.labels.tolist() == [1]
    assert np.argwhere(prompts.mask > 0).tolist() == [[2, 2], [2, 3]]
    assert window.canvas.mask_layer.data[30, 40] == 1
    do("accept")
    assert [len(session.file.objects(session.stack_id, (plane,))) for plane in range(3)] == [1, 1, 0]

    # On again by the button, from the mask under way, to the last plane; there it ends.
    window.click(70, 60)
    window.panels.objects.carry.click()
    window.wait(lambda: session.plane == (2,) and session.draft.candidates)
    assert session.draft.prompts.box.tolist() == [60, 50, 80, 70]
    do("carry")
    assert "got the last" in window.widget.status.text()
    assert session.plane == (2,)

    # What is under way on the next plane is not written over; going back, it is there.
    _go_to(window, 0)
    do("carry")
    assert "got one" in window.widget.status.text()
    assert session.draft.prompts.points.tolist() == [[70, 60]]


def _slide(window: Any, axis: int, position: int) -> None:
    """Move a slider below the canvas, and wait for what it brings."""
    window.viewer.window._qt_viewer.dims.slider_widgets[axis].slider.setValue(position)
    assert window.viewer.dims.current_step[axis] == position
    window.wait(lambda: window.state.is_encoded)


def test_each_slider_of_a_series_of_volumes_brings_its_planes_own_prompts_and_objects(window: Any) -> None:
    data = np.random.default_rng(3).uniform(0, 1, (2, 3, 2, 80, 96)).astype(np.float32)
    window.open(ChannelStack(data, (ChannelSpec("a"), ChannelSpec("b")), leading="TZ"))
    window.wait(lambda: window.canvas.mask_layer is not None)
    session, canvas = window.session, window.canvas

    def shown() -> tuple[tuple[int, ...], list[int], list[int], list[list[float]], int]:
        """Plane, objects in table and layer, points, and pixels of the mask."""
        labels = np.asarray(canvas.objects_layer.data)
        np.testing.assert_array_equal(labels, session.file.labels(*session.place))
        return (
            session.plane,
            [row.id for row in window.panels.objects.table.rows],
            [int(number) for number in np.unique(labels) if number],
            (canvas.points_layer.data[:, ::-1] + 0.5).tolist(),
            np.count_nonzero(canvas.mask_layer.data),
        )

    _slide(window, 0, 0)
    _slide(window, 1, 0)
    made = {}
    for number, (axis, position) in enumerate(((0, 0), (1, 1), (0, 1)), start=1):
        _slide(window, axis, position)
        window.click(20, 10 * number)
        window.controller.do("accept")
        window.click(60, 10 * number)
        plane = session.plane
        made[plane] = (plane, [number], [number], [[60, 10 * number]], np.count_nonzero(canvas.mask_layer.data))
        assert shown() == made[plane] and made[plane][-1] > 0
    assert list(made) == [(0, 0), (0, 1), (1, 1)]

    # And back, also over planes without anything; another channel is no other plane.
    for axis, position in ((1, 2), (2, 1), (1, 0), (0, 0), (1, 1), (0, 1)):
        _slide(window, axis, position)
        plane = tuple(window.viewer.dims.current_step[:2])
        assert shown() == made.get(plane, (plane, [], [], [], 0))


def test_a_stack_of_one_plane_has_nothing_to_carry_to(window: Any, stack: ChannelStack) -> None:
    window.open(stack)
    assert not window.panels.objects.carry.isVisibleTo(window.panels.objects)
    window.click(40, 30)
    window.controller.do("carry")
    assert "got one plane" in window.widget.status.text()
    assert len(window.session.draft.prompts.points) == 1


def test_the_point_lies_in_the_mask_and_the_logits_are_those_of_the_mask() -> None:
    rows, columns = np.mgrid[:60, :60]
    distance = np.hypot(rows - 30, columns - 30)
    ring = (distance < 28) & (distance > 18)
    mask = MaskCrop.of(ring, 100, 40)
    alone = prompts_from_mask(mask, None)
    x, y = (int(value) for value in alone.points[0])
    assert mask.full((200, 200))[y, x]
    assert alone.mask is None
    given = prompts_from_mask(mask, LogitsGrid(50, 50, 4.0, 4.0)).mask
    assert given is not None
    assert given.shape == (50, 50)
    np.testing.assert_array_equal(given > 0, mask.full((200, 200))[2::4, 2::4])


def test_everything_in_view_is_what_shows_on_the_screen(
    window: Any, stack: ChannelStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.open(stack)
    engine = window.controller.work.engine
    window.viewer.reset_view()
    camera = window.viewer.scene.camera if hasattr(window.viewer, "scene") else window.viewer.camera
    camera.zoom *= 5
    window.canvas.look_at((40, 40, 52, 52))
    window.wait(lambda: window.canvas.view is not None and min(window.canvas.view[:2]) > 16)
    x0, y0, x1, y1 = window.canvas.view
    assert x0 < 40
    assert x1 > 52
    assert 16 < y0 < 40
    assert 52 < y1 < 80
    buttons, status = window.panels.objects.actions_by_name, window.widget.status
    rows = window.panels.objects.table

    # A click is answered while it runs. Stopped, displaced by another selection, or left by an engine that is gone:
    # nothing is added, and the buttons are as before.
    with monkeypatch.context() as patch:
        patch.setattr(fake, "goes_on", Event())
        for end, says in (
            (lambda: (window.click(30, 30), window.controller.do("clear"), buttons["everything"].click()), "Stopped"),
            (lambda: window.tick("red"), "Find all was stopped: another image, selection or model came first."),
            (lambda: engine._received.emit((engine._channel, None)), "started again"),
        ):
            buttons["everything"].click()
            assert buttons["everything"].text() == "Stop" and not buttons["everything_here"].isEnabled()
            window.wait(lambda: "Segmenting everything: 0 %" in status.text())
            end()
            window.wait(lambda: buttons["everything"].text() == "Find all" and buttons["everything_here"].isEnabled())
            assert says in status.text()
            window.wait(lambda: window.state.is_encoded)
    assert not rows.rows and not window.session.objects

    buttons["everything_here"].click()
    assert not buttons["everything_here"].isEnabled()
    window.wait(lambda: len(rows.rows) == 1 and buttons["everything_here"].isEnabled())
    assert window.session.objects[0].box == (40, 40, 52, 52)
    assert window.canvas.objects_layer.data[45, 45] == window.session.objects[0].id

    # The rest of the image later: what is there already is not found twice.
    buttons["everything"].click()
    window.wait(lambda: len(rows.rows) == 4)
