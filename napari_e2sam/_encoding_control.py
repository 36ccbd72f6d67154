"""Joins the Channels panel with the engine: selection and encoding."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from e2sam.data.channels import Suggestion, suggest_selections
from e2sam.errors import E2SamError
from napari_e2sam._convert import describe_stack
from napari_e2sam._jobs import Request
from napari_e2sam._rows import listed, model_text
from napari_e2sam._state import LogitsGrid, Workplace
from napari_e2sam._statistics import presets_of
from napari_e2sam._wire import Message
from napari_e2sam.widgets.channels import ChannelsPanel
from napari_e2sam.widgets.model import ModelPanel

__all__ = ["EncodingControl"]

_keys = count(1)
_NONE_TICKED = "Expected at least 1 selected channel, got 0: tick one in Channels."
_ENDED = "The engine ended while encoding: choose a smaller model or fewer channels."
# What `read_stack` calls a channel that its file does not name.
_NO_NAME = re.compile(r"ch\d+")


class EncodingControl:
    """Keeps the engine's stack and selection those of the window."""

    def __init__(self, channels: ChannelsPanel, model: ModelPanel, work: Workplace) -> None:
        self._channels = channels
        self._model = model
        self._work = work
        self._presets: tuple[tuple[str, tuple[int, ...]], ...] = ()
        self._suggestions: tuple[Suggestion, ...] = ()
        self._was_encoded = self._is_held = False
        self._key = ""
        self._sent_key = ""
        channels.selection_changed.connect(self._on_selection)
        channels.suggestion_asked.connect(self.suggest)
        channels.preset_chosen.connect(self.take_preset)
        channels.preset_saved.connect(self._on_preset_saved)
        work.state.scene_changed.connect(self._on_scene)

    # -- model ---------------------------------------------------------------------------------------------------------

    def take_model(self, model: dict[str, Any]) -> None:
        """Encode with another model, which the engine has loaded."""
        work, state = self._work, self._work.state
        self._channels.table.set_trained(bool(model["channels"]))
        self._sent_key, self._is_held = "", False
        if not state.selection or state.refusal == _ENDED:
            return
        if state.refusal:
            # It was said of the model before.
            work.forget_error()
        self._select(self._taken(state.selection), store=False)

    def hold(self) -> None:
        """Nothing is encoded, or counts as encoded, while the engine loads another model that the user chose."""
        state = self._work.state
        self._was_encoded |= state.is_encoded
        state.is_encoded, self._is_held = False, True
        if state.refusal == _ENDED:
            self._work.forget_error()
            state.refusal = ""

    def go_on(self) -> None:
        """The engine goes on with the model, and what is encoded, that it had before `hold`."""
        state, self._is_held = self._work.state, False
        if not self._was_encoded:
            self.encode()
            return
        state.is_encoded = True
        draft = self._work.session.draft
        if not draft.prompts.is_empty and not draft.candidates:
            state.encoded.emit()

    def forget(self) -> None:
        """The engine holds nothing any more."""
        self._work.state.is_encoded = self._was_encoded = False
        self._sent_key = ""

    def give_up(self) -> None:
        """Encode nothing more by itself: the engine ends at it. What the user does next is tried."""
        self._refuse(_ENDED)

    @property
    def is_under_way(self) -> bool:
        """Whether the engine is at an encoding, or about to be."""
        state = self._work.state
        is_wanted = state.scene is not None and bool(state.selection) and bool(state.model)
        return is_wanted and not state.is_encoded and not state.refusal

    # -- selection -----------------------------------------------------------------------------------------------------

    def _on_scene(self) -> None:
        state = self._work.state
        self._key, self._was_encoded = f"stack {next(_keys)}", False
        if state.scene is None:
            self._presets, self._suggestions = (), ()
            self._channels.set_rows(())
            self._channels.set_presets(())
            self._channels.set_reason("")
            self._model.set_progress(None, "")
            return
        names = [row.name for row in state.rows]
        stored = self._work.session.record.selection
        self._channels.set_rows(state.rows)
        self._suggestions = ()
        self._update_presets()
        self._channels.set_reason("")
        if stored is not None and all(name in names for name in stored):
            self._select(self._taken(tuple(names.index(name) for name in stored)), store=False)
        elif self._work.session.plane and state.selection and max(state.selection) < len(names):
            self._select(self._taken(state.selection), store=False)
        else:
            state.selection, state.refusal = (), ""
            self.suggest()

    def suggest(self) -> None:
        """Propose a selection, and take it."""
        work = self._work
        if work.state.scene is None:
            work.fail("Expected a stack, got none: open an image, or take the sample in Stack.")
            return
        stack = work.state.plane_of(work.session.plane)
        work.say("Comparing channels", "busy")
        work.tasks.run(lambda: tuple(suggest_selections(stack)), self._on_suggested, work.fail, lane="suggest")

    def _on_suggested(self, suggestions: tuple[Suggestion, ...]) -> None:
        state = self._work.state
        if state.scene is None:
            # The image was closed meanwhile.
            return
        self._work.say("", "info")
        if not suggestions or not state.rows:
            self._select(self._taken(tuple(range(min(3, len(state.rows))))))
            return
        self._suggestions = suggestions
        self._update_presets()
        names = [row.name for row in state.rows]
        best = suggestions[0]
        reason = best.reason
        selection = self._taken(())
        if selection:
            reason = "all that the model was trained on"
        else:
            selection = tuple(names.index(name) for name in best.names)
        self._select(selection, store=False)
        self._channels.set_reason(reason)
        self._show_presets()

    def take_preset(self, position: int) -> None:
        """Take the selection of a preset, counted from 0."""
        if 0 <= position < len(self._presets):
            self._select(self._presets[position][1])
            reasons = {suggestion.names: suggestion.reason for suggestion in self._suggestions}
            self._channels.set_reason(reasons.get(self._work.state.names, ""))

    def _update_presets(self) -> None:
        state = self._work.state
        assert state.scene is not None
        suggested = [suggestion.names for suggestion in self._suggestions]
        self._presets = presets_of(state.scene.stack, self._work.session.file.presets, suggested)

    def _show_presets(self) -> None:
        chosen = [entry[1] for entry in self._presets]
        selection = self._work.state.selection
        texts = [
            f"{name}" if name.startswith("Suggested") or position > 8 else f"{name} (Alt+{position + 1})"
            for position, (name, _) in enumerate(self._presets)
        ]
        self._channels.set_presets(texts, chosen.index(selection) if selection in chosen else -1)

    def _on_preset_saved(self) -> None:
        work = self._work
        if work.state.scene is None:
            return
        try:
            work.session.file.add_preset(work.state.names)
        except E2SamError as error:
            work.fail(str(error))
            return
        self._update_presets()
        self._show_presets()

    def _on_selection(self, selection: tuple[int, ...]) -> None:
        if not selection:
            self._deselect()
            return
        self._work.say("", "info")
        self._channels.set_reason("")
        self._select(selection)

    def _deselect(self) -> None:
        """No channel is ticked: nothing is encoded, and what waits to be is dropped."""
        self._work.state.selection = ()
        self._show_presets()
        self._refuse(_NONE_TICKED)

    def _refuse(self, why: str) -> None:
        """Encode nothing, and say why; what waits to be is dropped."""
        work, state = self._work, self._work.state
        state.refusal, state.is_encoded, self._was_encoded = why, False, False
        work.engine.forget("prepare")
        self._model.set_progress(None, "")
        self._model.set_details(model_text(state.model))
        work.fail(why)

    def _taken(self, selection: tuple[int, ...]) -> tuple[int, ...]:
        """What the model takes of a selection: a student its own channels only, and all of them rather than none."""
        own, names = self._work.state.model.get("channels", ()), [row.name for row in self._work.state.rows]
        if not own or not set(own) <= set(names):
            return selection
        return tuple(index for index in selection if names[index] in own) or tuple(map(names.index, own))

    @property
    def _why_not(self) -> str:
        """Why the model cannot take the selection, or ""."""
        state = self._work.state
        own, names = state.model.get("channels", ()), [row.name for row in state.rows]
        if not own:
            return ""
        model = Path(state.model["name"]).name
        missing = [name for name in own if name not in names]
        if missing:
            return (
                f"Expected the channels that {model} was trained on, got a stack without {listed(missing)}: "
                "choose another model in Model, or another image."
            )
        if all(map(_NO_NAME.fullmatch, own)) and len(own) != len(names):
            return (
                f"Expected {len(own)} channels, as {model} was trained on, got {len(names)}: "
                "choose another model in Model, or another image."
            )
        others = [name for name in state.names if name not in own]
        if others:
            return (
                f"Expected channels that {model} was trained on, got {listed(others)}: "
                f"untick {'it' if len(others) == 1 else 'them'} in Channels, or choose another model in Model."
            )
        return ""

    def _select(self, selection: tuple[int, ...], store: bool = True) -> None:
        work = self._work
        work.state.selection, work.state.refusal = selection, ""
        self._channels.set_selection(selection)
        self._show_presets()
        if store:
            work.session.keep(lambda file: file.set_selection(work.session.place[0], work.state.names))
        self.encode()

    # -- encoding ------------------------------------------------------------------------------------------------------

    def encode(self) -> None:
        """Have the engine encode stack and selection; the newest wish wins."""
        work, state = self._work, self._work.state
        if state.scene is None or not state.selection or not state.model:
            return
        state.is_encoded = self._was_encoded = False
        if self._is_held:
            # By then it is known which model it is to be.
            return
        if why := self._why_not:
            self._refuse(why)
            return
        state.refusal = ""
        key, scene, plane = self._key, state.scene, work.session.plane
        alignment = work.session.record.alignment
        body: dict[str, Any] = {
            "key": key,
            "channels": list(state.selection),
            "recipes": [recipe.to_json() for recipe in state.recipes],
        }
        if self._sent_key == key:
            self._ask(body, {})
            return

        def send(described: tuple[dict[str, Any], dict[str, NDArray[Any]]]) -> None:
            if key == self._key and not work.state.refusal:
                # The selection may have moved on while the pixels were read.
                body["channels"] = list(work.state.selection)
                body["recipes"] = [recipe.to_json() for recipe in work.state.recipes]
                self._ask({**body, "stack": described[0]}, described[1])

        work.tasks.run(lambda: describe_stack(scene, plane, alignment), send, work.fail, lane="describe")

    def _ask(self, body: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self._work.engine.request(
            Request(
                "prepare",
                body,
                arrays,
                done=lambda message: self._on_encoded(message, body),
                failed=self._on_encoding_failed,
                progress=self._model.set_progress,
                lane="prepare",
            )
        )

    def _on_encoded(self, message: Message, body: dict[str, Any]) -> None:
        work, state = self._work, self._work.state
        self._model.set_progress(None, "")
        self._sent_key = body["key"]
        if self._is_held or body["key"] != self._key or tuple(body["channels"]) != state.selection:
            return
        state.is_encoded = True
        state.matrix = message.arrays.get("matrix0")
        grid = message.body["grid"]
        state.grid = None if grid is None else LogitsGrid(**grid)
        seconds = message.body["seconds"]
        self._model.set_details(f"{model_text(state.model)}\nEncoded in {seconds:.2f} s: {message.body['views'][0]}")
        work.say("", "info")
        state.encoded.emit()

    def _on_encoding_failed(self, text: str) -> None:
        self._model.set_progress(None, "")
        self._sent_key = ""
        self._work.fail(text)
