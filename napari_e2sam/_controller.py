"""Joins one viewer, one session, one engine and the panels; owns no pixels and no layout."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from napari.layers import Image

from e2sam.errors import E2SamError
from napari_e2sam._canvas import Canvas
from napari_e2sam._carry_control import CarryControl
from napari_e2sam._class_control import ClassControl
from napari_e2sam._convert import STACK_KEY, UNCLEAR_KEY
from napari_e2sam._encoding_control import EncodingControl
from napari_e2sam._exchange import ExchangeControl
from napari_e2sam._input_control import InputControl
from napari_e2sam._jobs import Channel, EngineClient, Tasks, start_process
from napari_e2sam._learning_control import LearningControl
from napari_e2sam._model_control import ModelControl
from napari_e2sam._napari_keys import NapariKeys
from napari_e2sam._object_control import ObjectControl
from napari_e2sam._own_layers import bind_all, prepare
from napari_e2sam._preferences import Preferences, read_preferences, write_preferences
from napari_e2sam._prompt_control import PromptControl
from napari_e2sam._recipe_control import RecipeControl
from napari_e2sam._reopen_control import ReopenControl
from napari_e2sam._sample_data import motorcycle
from napari_e2sam._session import SessionModel
from napari_e2sam._shortcuts import SHORTCUTS, Shortcut, readable, same_key, shortcuts_with
from napari_e2sam._stack_control import StackControl
from napari_e2sam._state import Workplace
from napari_e2sam._tooltips import set_tooltips
from napari_e2sam._view_control import ViewControl
from napari_e2sam._worklist_control import WorklistControl
from napari_e2sam.widgets.channels import ChannelsPanel
from napari_e2sam.widgets.learning import LearningPanel
from napari_e2sam.widgets.model import ModelPanel
from napari_e2sam.widgets.objects import ObjectsPanel
from napari_e2sam.widgets.prompts import PromptsPanel
from napari_e2sam.widgets.stack import StackPanel
from napari_e2sam.widgets.worklist import WorklistPanel

__all__ = ["Controller", "Panels"]


@dataclass(frozen=True)
class Panels:
    """The panels of one window."""

    stack: StackPanel
    channels: ChannelsPanel
    model: ModelPanel
    prompts: PromptsPanel
    objects: ObjectsPanel
    learning: LearningPanel
    worklist: WorklistPanel


class Controller:
    """Everything that one window does.

    Parameters
    ----------
    viewer
        The viewer; each has its own controller.
    panels
        What to show and listen to.
    say
        Shows one line: text, and "info", "busy" or "error".
    session
        A session file, or None for a new one.
    start_engine
        How to start the engine; tests bring a small one.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        panels: Panels,
        say: Callable[[str, str], None],
        session: Path | None = None,
        start_engine: Callable[[], Channel] = start_process,
    ) -> None:
        self.viewer = viewer
        self._panels = panels
        self.session = SessionModel(session)
        self._say = say
        self.work = Workplace(viewer, Canvas(viewer), self.session, EngineClient(start_engine), Tasks(), self._tell)
        self.session.refused.connect(self.work.fail)
        self.stack = StackControl(panels.stack, self.work, self.open_sample)
        self.reopening = ReopenControl(panels.stack, self.work)
        self.view = ViewControl(self.work)
        self.model_input = InputControl(panels.channels, self.work)
        self.encoding = EncodingControl(panels.channels, panels.model, self.work)
        self.models = ModelControl(panels.model, self.work, self.encoding)
        self.recipes = RecipeControl(panels.channels, self.work, self.encoding.encode)
        self.prompts = PromptControl(panels.prompts, self.work)
        self.exchange = ExchangeControl(panels.objects, self.work)
        self.objects = ObjectControl(panels.objects, self.work, self.exchange.ask, self.prompts.when_answered)
        self.classes = ClassControl(panels.objects, self.work)
        self.carrying = CarryControl(panels.objects, self.work, self.stack.planes.go_on, self.prompts.begin)
        self.learning = LearningControl(panels.learning, self.work, self.models)
        # A stand-in for the engine has no cache that another process could fill.
        self.worklist = WorklistControl(panels.worklist, self.work, prefetches=start_engine is start_process)
        panels.prompts.accept_asked.connect(self.objects.accept)
        self.work.state.scene_changed.connect(self.objects.redraw)
        self._is_closed = False
        self._actions = self._named_actions()
        self.preferences = Preferences()
        self.shortcuts: tuple[Shortcut, ...] = tuple(SHORTCUTS)
        self._keys = NapariKeys(panels.stack)
        self._keys.changed.connect(self._on_keys)
        self._bind()
        self._prefer()
        if self.session.file.message:
            say(self.session.file.message, "error")

    def start(self, model: str = "tiny", goes_on: bool = False) -> None:
        """Load a model and look at the layers that are there; a session that goes on has its own image first."""
        # A program that ends with its window open ends it while all that it holds is there.
        atexit.register(self.close)
        self.work.tasks.run(prepare, lambda _: None, self.work.fail)
        self.models.start(model)
        self.stack.start(picks=not self.reopening.start(beside_others=goes_on))

    def close(self, remove_layers: bool = False) -> bool:
        """Let go of the viewer, end the engine, close the session; a second time does nothing, and says so (False)."""
        if self._is_closed:
            return False
        self._is_closed = True
        atexit.unregister(self.close)
        # A window that closes has no line to say it in.
        self.session.refused.disconnect(self.work.fail)
        parts = (self._keys, self.learning, self.worklist, self.objects, self.prompts, self.stack, self.view)
        off_thread = self.work.engine, self.work.tasks
        with ExitStack() as steps:
            # From the last to the first; each is done whatever becomes of the others.
            steps.callback(self.session.close)
            steps.callback(self.work.canvas.close, remove_layers)
            for part in reversed((*parts, *off_thread)):
                steps.callback(part.close)
            steps.callback(self._unbind)
        return True

    def _tell(self, text: str, kind: str) -> None:
        """Show one line; where there is none, that the session could not be written stays in view."""
        if not text and self.session.trouble:
            text, kind = self.session.trouble, "error"
        self._say(text, kind)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that the session brings back when it goes on: those that we opened, and the stack in use."""
        is_kept = self.session.has_stack and bool(self.session.record.paths)
        chosen = self.stack.chosen if is_kept else ()
        return tuple(
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Image)
            and not self.work.canvas.is_ours(layer)
            and (layer in chosen or STACK_KEY in layer.metadata or UNCLEAR_KEY in layer.metadata)
        )

    def open_sample(self) -> None:
        """Open the sample stack."""
        self.work.say("Opening the sample", "busy")
        self.work.tasks.run(motorcycle, self._add_layers, self.work.fail)

    def do(self, action: str) -> None:
        """Run an action of the shortcut table by its name."""
        self._actions[action]()

    def _add_layers(self, layers: list[tuple[Any, dict[str, Any], str]]) -> None:
        for data, settings, _ in layers:
            if not settings.get("metadata", {}).get("e2sam_composite"):
                self.viewer.add_image(data, **settings)

    def _named_actions(self) -> dict[str, Callable[[], Any]]:
        actions: dict[str, Callable[[], Any]] = {
            "accept": self.objects.accept,
            "clear": self.prompts.clear,
            "hover": self.prompts.toggle_hover,
            "undo": self.objects.undo,
            "redo": self.objects.redo,
            "edit": self.objects.edit,
            "delete": self.objects.delete,
            "merge": self.objects.merge,
            "review": self.objects.review,
            "next": self.objects.next_unreviewed,
            "carry": self.carrying.carry,
            "most doubt": self.worklist.go_to_doubt,
            "next click": self.prompts.toggle_next_click,
        }
        for tool in ("points", "box", "scribble", "move"):
            actions[f"tool {tool}"] = partial(self.prompts.take_tool, tool)
        for number in range(9):
            actions[f"preset {number}"] = partial(self.encoding.take_preset, number)
            actions[f"class {number}"] = partial(self.classes.choose_at, number)
        for number in range(3):
            actions[f"candidate {number}"] = partial(self.prompts.choose_candidate, number)
        return actions

    def prefer(self, preferences: Preferences) -> None:
        """Keep preferences, and take their keys at once.

        Raises
        ------
        E2SamError
            If two actions have the same key, or the preferences cannot be kept.
        """
        shortcuts = shortcuts_with(preferences.keys)
        write_preferences(preferences)
        self._take(preferences, shortcuts)

    def _take(self, preferences: Preferences, shortcuts: tuple[Shortcut, ...]) -> None:
        """Let these hold: bound, shown in napari's table, and named by the panels."""
        self._unbind()
        self.preferences, self.shortcuts = preferences, shortcuts
        self._bind()
        self._keys.publish(shortcuts)
        for panel in vars(self._panels).values():
            set_tooltips(panel, shortcuts)
        self._panels.objects.set_keys({one.action: readable(one.key) for one in shortcuts if one.key})

    def _on_keys(self, made: Mapping[str, str]) -> None:
        """Keep the keys that the user has given to actions in napari's table; not those that two would have."""
        ours = {shortcut.action: shortcut.key for shortcut in SHORTCUTS}
        try:
            # Another window may have kept something else meanwhile.
            before = read_preferences()
            keys = {**before.keys, **made}
            kept = {action: key for action, key in keys.items() if not same_key(key, ours[action])}
            if kept != self.preferences.keys:
                self.prefer(replace(before, keys=kept))
        except E2SamError as error:
            self.work.fail(str(error))
            self._keys.publish(self.shortcuts)

    def _prefer(self) -> None:
        """Begin as the user prefers; a file that cannot be used is a line in the panel, no more."""
        try:
            preferences = read_preferences()
            shortcuts = shortcuts_with(preferences.keys)
        except E2SamError as error:
            self.work.fail(str(error))
            self._take(self.preferences, self.shortcuts)
            return
        self._take(preferences, shortcuts)
        self._panels.channels.composite.setChecked(preferences.shows_model_input)
        if preferences.hovers:
            self.prompts.set_hover(True)

    def _unbind(self) -> None:
        keys = [(shortcut.key, None) for shortcut in self.shortcuts if shortcut.key]
        bind_all(self.viewer, keys)
        self.work.canvas.bind_keys(keys)

    def _bind(self) -> None:
        keys = [(one.key, self._key_action(one.action)) for one in self.shortcuts if one.key]
        bind_all(self.viewer, keys)
        self.work.canvas.bind_keys(keys)

    def _key_action(self, action: str) -> Callable[[Any], None]:
        def run(viewer: Any) -> None:
            try:
                self.do(action)
            except E2SamError as error:
                self.work.fail(str(error))

        return run
