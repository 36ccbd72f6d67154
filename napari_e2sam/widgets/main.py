"""The docked widget: every panel in one scrolling column, and the line that says what happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QDockWidget,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from e2sam.errors import E2SamError
from napari_e2sam._controller import Controller, Panels
from napari_e2sam._jobs import Channel, start_process
from napari_e2sam._preferences import Preferences
from napari_e2sam._session import SessionModel
from napari_e2sam._shortcuts import shortcut_table
from napari_e2sam._tooltips import set_tooltips
from napari_e2sam.widgets.channels import ChannelsPanel
from napari_e2sam.widgets.learning import LearningPanel
from napari_e2sam.widgets.model import ModelPanel
from napari_e2sam.widgets.objects import ObjectsPanel
from napari_e2sam.widgets.preferences import PreferencesForm
from napari_e2sam.widgets.prompts import PromptsPanel
from napari_e2sam.widgets.stack import StackPanel
from napari_e2sam.widgets.worklist import WorklistPanel

__all__ = ["LearnWidget", "Section", "SegmentWidget"]

_ELSEWHERE_MS = 50
_STATUS_COLOURS = {"info": "", "busy": "color: #3f9fd8;", "error": "color: #ff6b6b; font-weight: bold;"}


class Section(QWidget):
    """A panel under a heading that folds it away."""

    toggled = Signal(bool)

    def __init__(self, title: str, content: QWidget, is_open: bool = True) -> None:
        super().__init__()
        self._title = title
        self.heading = QToolButton(text=title, checkable=True, checked=is_open)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        # A summary may be longer than the dock is wide; the dock must not grow with it.
        self.heading.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.heading.setStyleSheet(
            "QToolButton { font-weight: bold; border: none; text-align: left; padding: 0px 2px; }"
        )
        self.content = content
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        self.heading.toggled.connect(self._on_toggled)
        self._on_toggled(is_open)

    def set_summary(self, text: str) -> None:
        """Show one line beside the title, so that a folded panel still says what matters."""
        self.heading.setText(f"{self._title}:  {text}" if text else self._title)

    def set_open(self, is_open: bool) -> None:
        """Fold or unfold."""
        self.heading.setChecked(is_open)

    def _on_toggled(self, is_open: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)
        self.toggled.emit(is_open)


class SegmentWidget(QWidget):
    """Segment objects of a stack with any number of channels, by clicks.

    A viewer has one at a time: asked for another, it brings the one that is docked into sight, and that is what stays.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    session
        A session file to go on with; None begins a new one.
    model
        Name or path of the model to begin with.
    start_engine
        How to start the engine.
    goes_on
        Whether the session's own image comes first, before those that are open.
    """

    _opens_learning = False

    def __new__(cls, napari_viewer: napari.Viewer, *arguments: Any, **options: Any) -> Any:
        there = _docked_in(napari_viewer)
        return super().__new__(cls) if there is None else _Elsewhere(there, cls._opens_learning)

    def __init__(
        self,
        napari_viewer: napari.Viewer,
        session: Path | None = None,
        model: str = "tiny",
        start_engine: Callable[[], Channel] = start_process,
        goes_on: bool = False,
    ) -> None:
        super().__init__()
        self._start_engine, self._model = start_engine, model
        self._is_docked = False
        self.panels = Panels(
            StackPanel(),
            ChannelsPanel(),
            ModelPanel(),
            PromptsPanel(),
            ObjectsPanel(),
            LearningPanel(),
            WorklistPanel(),
        )
        self._lay_out()
        set_tooltips(self)
        # napari lends plugins a viewer that warns of all that is private: ours has to be quieter than its own layers.
        viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.controller = Controller(viewer, self.panels, self.say, session, start_engine)
        controller = self.controller
        # The closure keeps the controller alive until Qt has taken the widget down, however that happens.
        self.destroyed.connect(lambda: controller.close())
        self.controller.start(model, goes_on)

    def _lay_out(self) -> None:
        self.sections = {
            "stack": Section("Stack", self.panels.stack),
            "worklist": Section("Worklist", self.panels.worklist, is_open=False),
            "channels": Section("Channels", self.panels.channels),
            "model": Section("Model", self.panels.model, is_open=False),
            "prompts": Section("Prompts", self.panels.prompts),
            "objects": Section("Objects", self.panels.objects),
            "learning": Section("Learning", self.panels.learning, is_open=False),
        }
        column = QWidget()
        stacked = QVBoxLayout(column)
        stacked.setContentsMargins(0, 0, 0, 0)
        stacked.setSpacing(1)
        for name, section in self.sections.items():
            stacked.addWidget(section, 10 if name == "objects" else 0)
        stacked.addStretch(1)
        self.panels.stack.summarized.connect(self._on_stack_summarized)
        for name in ("model", "prompts", "objects", "learning"):
            getattr(self.panels, name).summarized.connect(self.sections[name].set_summary)
        self.scroll = QScrollArea()
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setWidget(column)
        for section in self.sections.values():
            section.heading.clicked.connect(partial(self._bring_into_sight, section))
        self._column = column
        # Never wider than what is seen of it, whatever a panel asks for: there is no bar to reach the rest with.
        column.setMinimumWidth(1)
        column.installEventFilter(self)
        self.status = QLabel(wordWrap=True)
        self.status.setMinimumHeight(18)
        self.session = QToolButton(text="Session", objectName="session")
        self.session.clicked.connect(self._on_session)
        self.keys = QToolButton(text="Keys", objectName="keys")
        self.keys.clicked.connect(self._on_keys)
        self.prefer = QToolButton(text="Preferences", objectName="preferences")
        self.prefer.clicked.connect(self._on_prefer)
        self._bottom = QHBoxLayout()
        self._bottom.addWidget(self.status, 1)
        self._bottom.addStretch()
        self._bottom.addWidget(self.prefer)
        self._bottom.addWidget(self.session)
        self._bottom.addWidget(self.keys)
        self._outer = QVBoxLayout(self)
        self._outer.setContentsMargins(2, 2, 2, 2)
        self._outer.addWidget(self.scroll, 1)
        self._outer.addLayout(self._bottom)

    def _fit_width(self) -> None:
        """As wide as the panels need beside the scroll bar, so that the bar never covers them."""
        if not self._column.isVisible():
            # Buttons have their width from the viewer's theme, which comes with the dock.
            return
        bar = self.scroll.verticalScrollBar()
        width = max(bar.sizeHint().width(), bar.width() if bar.isVisible() else 0)
        self.scroll.setMinimumWidth(self._column.minimumSizeHint().width() + width + 2)

    def sizeHint(self) -> QSize:
        # No wider than it must be: the picture has what is left.
        return QSize(self.minimumSizeHint().width(), super().sizeHint().height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Fit the width whenever a panel, or the theme, asks for another."""
        if watched is self._column and event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Show):
            self._fit_width()
        return bool(super().eventFilter(watched, event))

    def changeEvent(self, event: QEvent) -> None:
        """Taken out of its dock, as by the dock's X, it ends: nobody sees any more what it would go on doing."""
        super().changeEvent(event)
        if event.type() != QEvent.Type.ParentChange:
            return
        if self.parent() is not None:
            self._is_docked = True
        elif self._is_docked:
            self._is_docked = False
            # Not while Qt is still taking it out.
            QTimer.singleShot(0, self._end)

    def _end(self) -> None:
        if self.controller.close(remove_layers=True):
            show_info(f"All that was accepted is saved in {self.controller.session.path}.")
        self.deleteLater()

    def _on_stack_summarized(self, text: str, needs_attention: bool) -> None:
        self.sections["stack"].set_summary(text)
        self.sections["stack"].set_open(needs_attention)

    def say(self, text: str, kind: str) -> None:
        """Show one line about what happens; the log has the rest of what nobody expected."""
        self.status.setText(text.partition("\n")[0])
        # Qt styles and lays out the whole dock again for a style sheet, even for the same one.
        if self.status.styleSheet() != _STATUS_COLOURS[kind]:
            self.status.setStyleSheet(_STATUS_COLOURS[kind])
        self._place_status()

    def _place_status(self) -> None:
        """Beside the buttons where it fits in one line, else over them, as wide as the panel."""
        buttons = (self.prefer, self.session, self.keys)
        room = self.width() - sum(button.sizeHint().width() + self._bottom.spacing() for button in buttons)
        fits = self.status.fontMetrics().horizontalAdvance(self.status.text()) < room
        if fits != (self._bottom.indexOf(self.status) >= 0):
            if fits:
                self._outer.removeWidget(self.status)
                self._bottom.insertWidget(0, self.status, 1)
            else:
                self._bottom.removeWidget(self.status)
                self._outer.insertWidget(1, self.status)

    def _on_session(self) -> None:
        path = self.controller.session.path
        name, _ = QFileDialog.getSaveFileName(
            self,
            f"Everything is saved in {path.name}. Go on with, or begin, another session",
            str(path),
            "Sessions (*.e2sam)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if not name:
            return
        # What follows the last dot is part of a name.
        chosen = Path(name if name.lower().endswith(".e2sam") else f"{name}.e2sam")
        if chosen != path:
            self.go_on_with(chosen)

    def come_into_sight(self, opens_learning: bool) -> None:
        """Raise the dock, and unfold the Learning panel where that is wanted."""
        dock = self.parent()
        while dock is not None and not isinstance(dock, QDockWidget):
            dock = dock.parent()
        if dock is not None:
            dock.show()
            dock.raise_()
        if opens_learning:
            self.sections["learning"].set_open(True)
            self._bring_into_sight(self.sections["learning"], True)

    def go_on_with(self, path: Path) -> None:
        """Leave this session, which needs no saving, and open another in its place; the user's own layers stay."""
        viewer, start_engine = self.controller.viewer, self._start_engine
        try:
            SessionModel(path).close()
        except E2SamError as error:
            self.say(str(error), "error")
            return
        images = self.controller.images
        model = self.controller.work.state.model.get("name", self._model)
        self.controller.close(remove_layers=True)
        viewer.window.remove_dock_widget(self)
        if all(layer in images for layer in viewer.layers):
            viewer.layers.clear()
        # Beside layers of the user the images stay: napari's canvas on Qt 5 draws deleted buffers when sliders go and
        # come back over a layer that stays.
        widget = SegmentWidget(viewer, path, model, start_engine, goes_on=True)
        viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")

    def _on_prefer(self) -> None:
        self.form = PreferencesForm(self.controller.preferences)
        self.form.asked.connect(self._on_preferences)
        self.form.native.setParent(self, Qt.WindowType.Dialog)
        self.form.native.setWindowTitle("Preferences")
        self.form.native.adjustSize()
        self.form.native.show()

    def _on_preferences(self, preferences: Preferences) -> None:
        try:
            self.controller.prefer(replace(preferences, keys=self.controller.preferences.keys))
        except E2SamError as error:
            self.form.fail(str(error))
            return
        self.form.native.close()

    def _on_keys(self) -> None:
        box = QMessageBox(self)
        box.setWindowTitle("Keys")
        box.setText(
            shortcut_table(self.controller.shortcuts) + "<p>To change them: napari's preferences, Shortcuts.</p>"
        )
        box.exec()

    def _bring_into_sight(self, section: Section, is_open: bool) -> None:
        """Scroll to a panel that the user has unfolded, once it has its place: it may lie below what is seen."""
        if is_open:
            QTimer.singleShot(0, lambda: self.scroll.ensureWidgetVisible(section, 0, 0))


class LearnWidget(SegmentWidget):
    """The same window with the Learning panel open."""

    _opens_learning = True

    def _lay_out(self) -> None:
        super()._lay_out()
        self.sections["learning"].heading.setChecked(True)
        for name in ("channels", "objects"):
            self.sections[name].heading.setChecked(False)


class _Elsewhere(QLabel):
    """What napari docks for a moment where the viewer has the panels already."""

    def __init__(self, there: SegmentWidget, opens_learning: bool) -> None:
        super().__init__("The panels of E2SAM are open in this viewer already.")
        self._viewer = there.controller.viewer
        there.come_into_sight(opens_learning)
        # Once napari has docked it.
        QTimer.singleShot(_ELSEWHERE_MS, self._leave)

    def _leave(self) -> None:
        # It may not have been docked, or the window may be gone.
        with suppress(LookupError, RuntimeError):
            self._viewer.window.remove_dock_widget(self)


def _docked_in(viewer: napari.Viewer) -> SegmentWidget | None:
    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    return window.findChild(SegmentWidget) if window is not None else None
