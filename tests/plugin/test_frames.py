"""A click and its mask are drawn in one frame, and never held back for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from qtpy.QtWidgets import QLabel, QMainWindow

from napari_e2sam._frames import FrameHold


class Painted(QLabel):
    """Counts how often it was drawn."""

    count = 0

    def paintEvent(self, event: Any) -> None:
        self.count += 1
        super().paintEvent(event)


@pytest.fixture
def shown(qtbot: Any) -> Iterator[Painted]:
    main = QMainWindow()
    label = Painted("before")
    main.setCentralWidget(label)
    qtbot.addWidget(main)
    main.show()
    qtbot.waitExposed(main)
    qtbot.wait(50)
    yield label


def test_what_was_held_back_is_drawn(shown: Painted, qtbot: Any) -> None:
    hold, before = FrameHold(shown), shown.count
    hold.hold(60_000)
    for number in range(3):
        shown.setText(str(number))
        qtbot.wait(5)
    assert shown.count == before
    hold.release()
    qtbot.waitUntil(lambda: shown.count > before)
    drawn = shown.count
    shown.setText("after")
    qtbot.waitUntil(lambda: shown.count > drawn)


def test_nothing_is_held_back_for_long(shown: Painted, qtbot: Any) -> None:
    hold, before = FrameHold(shown), shown.count
    hold.hold(20)
    shown.setText("held")
    qtbot.waitUntil(lambda: shown.count > before)


def test_a_widget_without_a_window_is_left_alone(qtbot: Any) -> None:
    label = QLabel()
    qtbot.addWidget(label)
    hold = FrameHold(label)
    hold.hold(10)
    hold.release()
