"""Joins the Model panel with the engine: which models there are, fetching and loading one, going back to the last."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_e2sam._encoding_control import EncodingControl
from napari_e2sam._jobs import Request
from napari_e2sam._rows import ModelRow, model_text
from napari_e2sam._state import Workplace
from napari_e2sam._wire import Message
from napari_e2sam.widgets.model import ModelPanel

__all__ = ["ModelControl"]


class ModelControl:
    """Keeps the engine's model that of the window."""

    def __init__(self, panel: ModelPanel, work: Workplace, encoding: EncodingControl) -> None:
        self._panel = panel
        self._work = work
        self._encoding = encoding
        self._models: tuple[ModelRow, ...] = ()
        self._wanted = ""
        self._previous: list[str] = []
        self._is_going_back = False
        panel.model_chosen.connect(self.choose)
        panel.browse_asked.connect(self._on_browse)
        work.engine.lost.connect(self._on_engine_lost)

    def start(self, model: str) -> None:
        """List the models and load one."""
        self._work.engine.request(Request("models", done=self._on_models, failed=self._work.fail))
        self.choose(self._work.session.file.model.get("name", "") or model)

    def choose(self, name: str) -> None:
        """Load a model by name or path; one that is not here is fetched if the user agrees."""
        self._is_going_back = False
        self._take(name)

    def _take(self, name: str) -> None:
        row = next((row for row in self._models if row.name == name), None)
        if row is not None and row.state in ("absent", "part") and not self._may_fetch(row):
            self._show_models()
            return
        self._wanted = name
        self._encoding.hold()
        if row is not None and row.state in ("absent", "part"):
            self._work.engine.request(
                Request(
                    "fetch",
                    {"name": name},
                    done=lambda message: self._load(name),
                    failed=self._on_load_failed,
                    progress=self._panel.set_progress,
                    lane="load",
                )
            )
            return
        self._load(name)

    def _load(self, name: str) -> None:
        self._panel.set_details(f"Loading {Path(name).name}...")
        self._work.engine.request(
            Request(
                "load",
                {"name": name},
                done=self._on_loaded,
                failed=self._on_load_failed,
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
        model = dict(message.body)
        if model["name"] != self._wanted:
            return
        work = self._work
        before = work.state.model.get("name")
        if before and before != model["name"] and not self._is_going_back:
            self._previous.append(before)
        work.state.model = model
        if not work.session.file.is_read_only:
            work.session.file.set_model(model["name"], model["fingerprint"])
        self._show_models()
        self._panel.set_details(model_text(model))
        self._encoding.take_model(model)

    def _on_load_failed(self, text: str) -> None:
        self._panel.set_progress(None, "")
        self._work.fail(text)
        model = self._work.state.model
        self._panel.set_details(model_text(model) if model else "No model is loaded.")
        self._wanted = model.get("name", "")
        self._show_models()
        self._encoding.go_on()

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
            self._take(self._previous.pop())

    def _on_engine_lost(self) -> None:
        self._work.fail("The engine stopped and was started again; nothing accepted was lost.")
        self._encoding.forget()
        self._work.engine.restart()
        if self._wanted:
            self._load(self._wanted)
