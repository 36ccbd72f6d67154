"""Joins the Model panel with the engine: which models there are, fetching and loading one, going back to the last."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from psygnal import Signal
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_e2sam._encoding_control import EncodingControl
from napari_e2sam._jobs import Request
from napari_e2sam._rows import ModelRow, model_text
from napari_e2sam._state import Workplace
from napari_e2sam._wire import Message
from napari_e2sam.widgets.model import ModelPanel

__all__ = ["ModelControl"]

# An engine that ended at the same work so often is not given it again.
_MOST_ENDS = 2


class ModelControl:
    """Keeps the engine's model that of the window."""

    taken = Signal(str)  # name of the model that is in use now

    def __init__(self, panel: ModelPanel, work: Workplace, encoding: EncodingControl) -> None:
        self._panel = panel
        self._work = work
        self._encoding = encoding
        self._models: tuple[ModelRow, ...] = ()
        self._wanted, self._default = "", "tiny"
        # What the engine said of the model that it holds: another than that of the window while the user changes it.
        self._held: dict[str, Any] = {}
        self._previous: list[str] = []
        self._is_going_back = False
        # Said again when the image is encoded, at which the line is emptied.
        self._news = ""
        self._num_ends, self._is_down = 0, False
        panel.model_chosen.connect(self.choose)
        panel.browse_asked.connect(self._on_browse)
        work.engine.lost.connect(self._on_engine_lost)
        work.state.encoded.connect(self._on_encoded)

    def start(self, model: str) -> None:
        """List the models and load one; `model` where the session's own is gone."""
        self._default = model
        self._list()
        self.choose(self._work.session.file.model.get("name", "") or model)

    def choose(self, name: str) -> None:
        """Load a model by name or path; one that is not here is fetched if the user agrees."""
        self._is_going_back = False
        self._take(name)

    def _list(self) -> None:
        self._work.engine.request(Request("models", done=self._on_models, failed=self._work.fail))

    def _take(self, name: str) -> None:
        row = next((row for row in self._models if row.name == name), None)
        if row is not None and row.state in ("absent", "part") and not self._may_fetch(row):
            self._show_models()
            return
        self._wanted, self._news, self._num_ends = name, "", 0
        self._work.state.lacks_model = False
        self._encoding.hold()
        if self._is_down:
            self._restart()
        if row is not None and row.state in ("absent", "part"):
            self._work.engine.request(
                Request(
                    "fetch",
                    {"name": name},
                    done=lambda message: self._on_fetched(name),
                    failed=partial(self._on_load_failed, name),
                    progress=self._panel.set_progress,
                    lane="load",
                )
            )
            return
        self._load(name)

    def _on_fetched(self, name: str) -> None:
        if name == self._wanted:
            self._load(name)
        # After it: what is listed names the model in use.
        self._list()

    def _load(self, name: str) -> None:
        self._panel.set_details(f"Loading {Path(name).name}...")
        self._work.engine.request(
            Request(
                "load",
                {"name": name},
                done=self._on_loaded,
                failed=partial(self._on_load_failed, name),
                progress=self._panel.set_progress,
                lane="load",
            )
        )

    def _may_fetch(self, row: ModelRow) -> bool:
        answer = QMessageBox.question(
            self._panel,
            "Fetch a model",
            f"{row.text}\n\nIts weights are not on this computer. Download them now?",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _on_models(self, message: Message) -> None:
        self._models = tuple(
            ModelRow(entry["name"], f"{entry['name']}: {entry['about']}", entry["state"])
            for entry in message.body["models"]
        )
        self._show_models()

    def _show_models(self) -> None:
        rows = list(self._models)
        current = self._work.state.model.get("name", self._wanted)
        if current and all(row.name != current for row in rows):
            rows.append(ModelRow(current, Path(current).name, "file"))
        self._panel.set_models(rows, current)

    def _on_loaded(self, message: Message) -> None:
        self._panel.set_progress(None, "")
        self._held = dict(message.body)
        if self._held["name"] == self._wanted:
            self._use(self._held)

    def _use(self, model: dict[str, Any]) -> None:
        """Go on with the model that the engine holds."""
        work, name = self._work, model["name"]
        before = work.state.model.get("name")
        if self._is_going_back and self._previous[-1:] == [name]:
            self._previous.pop()
        elif before and before != name:
            self._previous.append(before)
        self._is_going_back = False
        self._wanted, work.state.model, work.state.lacks_model = name, model, False
        if not self._news:
            work.session.keep(lambda file: file.set_model(name, model["fingerprint"]))
        self._show_models()
        self._panel.set_details(model_text(model))
        self._encoding.take_model(model)
        self.taken.emit(name)

    def _on_load_failed(self, name: str, text: str) -> None:
        if name != self._wanted:
            # The user has chosen another one meanwhile.
            return
        self._panel.set_progress(None, "")
        self._is_going_back = False
        self._work.fail(text)
        model, held = self._work.state.model, self._held
        if not (held or model):
            self._go_on_with_default(name, text)
        elif held is model:
            self._show_loaded()
            self._encoding.go_on()
        elif model and model["name"] not in (name, held.get("name")):
            # On the way here the engine was given another one, or was started again.
            self._wanted, self._news = model["name"], text
            self._show_models()
            self._load(self._wanted)
        elif held:
            self._news = text
            self._use(held)
        else:
            self._go_on_with_default(name, text)

    def _go_on_with_default(self, name: str, text: str) -> None:
        """Load the default model where none could be, such as a student whose file was moved; the session keeps its."""
        if name == self._default:
            self._go_without()
            return
        self._wanted, self._news = self._default, f"{text} Meanwhile {Path(self._default).name} is used."
        self._load(self._default)

    def _go_without(self) -> None:
        """Have no model: neither the one that was chosen nor the one before can be loaded."""
        self._work.state.model, self._work.state.lacks_model = {}, True
        self._show_loaded()
        self._encoding.go_on()

    def _show_loaded(self) -> None:
        model = self._work.state.model
        self._wanted = model.get("name", "")
        self._panel.set_details(model_text(model) if model else "No model is loaded.")
        self._show_models()

    def _on_browse(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self._panel, "Open a model", "", "Models (*.safetensors *.pth)")
        if name:
            self.choose(name)

    @property
    def can_roll_back(self) -> bool:
        """Whether another model was in use before."""
        return bool(self._previous)

    def roll_back(self) -> None:
        """Go back to the model that was in use before."""
        if self._previous:
            self._is_going_back = True
            self._take(self._previous[-1])

    # -- an engine that ends -------------------------------------------------------------------------------------------

    def _on_encoded(self) -> None:
        self._num_ends = 0
        if self._news:
            self._work.fail(self._news)
            self._news = ""

    def _on_engine_lost(self) -> None:
        is_loading, self._held = self._held.get("name", "") != self._wanted, {}
        is_at_work = is_loading or self._encoding.is_under_way
        self._num_ends += is_at_work
        self._encoding.forget()
        self._panel.set_progress(None, "")
        if not is_at_work or self._num_ends < _MOST_ENDS:
            self._restart()
            self._work.fail("The engine stopped and was started again; nothing accepted was lost.")
        elif is_loading:
            self._leave_model()
        else:
            self._restart()
            self._encoding.give_up()
        if self._wanted:
            self._load(self._wanted)

    def _leave_model(self) -> None:
        """Go back to the model before, or on without any: the engine ends while it loads the one that was chosen."""
        model = self._work.state.model
        self._news = f"The engine ended while loading {Path(self._wanted).name}: choose a smaller model."
        self._work.fail(self._news)
        if not model or model["name"] == self._wanted:
            self._is_down = True
            self._go_without()
            return
        self._restart()
        self._wanted, self._is_going_back = model["name"], False
        self._show_models()

    def _restart(self) -> None:
        self._is_down = False
        self._work.engine.restart()
        if not self._models:
            # The last one ended before it said which there are.
            self._list()
