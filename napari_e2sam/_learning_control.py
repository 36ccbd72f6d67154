"""Joins the Learning panel with training in a child process, the session's runs and the model in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2sam.data.session import Change
from e2sam.errors import E2SamError
from napari_e2sam._model_control import ModelControl
from napari_e2sam._state import Workplace
from napari_e2sam._training_process import Training
from napari_e2sam.widgets.learning import LearningPanel

__all__ = ["LearningControl"]


class LearningControl:
    """Starts one training at a time, shows it, and puts its model in use when the user says so."""

    def __init__(self, panel: LearningPanel, work: Workplace, models: ModelControl) -> None:
        self._panel = panel
        self._work = work
        self._models = models
        self._training = Training()
        self._run = 0
        self._kind = ""
        self._out = ""
        panel.finetune_asked.connect(lambda settings: self.begin("finetune", settings))
        panel.inherit_asked.connect(lambda settings: self.begin("inherit", settings))
        panel.cancel_asked.connect(self._training.cancel)
        panel.use_asked.connect(self._on_use)
        panel.roll_back_asked.connect(models.roll_back)
        models.taken.connect(self._on_model)
        self._training.stepped.connect(self._on_step)
        self._training.finished.connect(self._on_finished)
        self._training.failed.connect(self._on_failed)
        work.session.changed.connect(self._on_change)
        self._count()

    def close(self) -> None:
        """End a run that is under way."""
        if self._training.is_running:
            self._record("cancelled")
        self._training.close()

    @property
    def is_running(self) -> bool:
        """Whether a training is under way."""
        return self._training.is_running

    def begin(self, kind: str, settings: dict[str, Any]) -> None:
        """Start a training, "finetune" or "inherit", with the settings of its configuration."""
        work = self._work
        if not work.state.model or not work.session.has_stack:
            work.fail("Expected a stack and a model, got none: open an image first.")
            return
        file = work.session.file
        folder = work.session.path.with_suffix(".models")
        try:
            run = file.begin_training(kind, settings, work.state.model["fingerprint"])
        except E2SamError as error:
            work.fail(str(error))
            return
        self._run, self._kind = run.id, kind
        self._panel.set_running(True)
        self._panel.set_message("Preparing: encoding the images once" if kind == "finetune" else "Preparing")
        self._training.start(
            {
                "kind": kind,
                "session": str(work.session.path),
                "stack_id": work.session.place[0],
                "model": work.state.model["name"],
                "out": str(folder / f"{kind}-{run.id}.safetensors"),
                "settings": settings,
            }
        )

    def _record(self, status: str, **values: Any) -> None:
        try:
            self._work.session.file.update_training(self._run, status, **values)
        except E2SamError as error:
            self._work.fail(str(error))

    def _on_step(self, step: dict[str, Any]) -> None:
        self._panel.show_step(step["step"], step["total"], step["loss"], step["metrics"])
        if step["message"]:
            self._panel.set_message(step["message"])

    def _on_finished(self, result: dict[str, Any]) -> None:
        self._panel.set_running(False)
        self._out = result["out"]
        is_better = bool(result["accepted"])
        figures = {"before": result["before"], "after": result["after"]}
        self._record("done" if is_better else "rejected", metrics=figures, checkpoint=Path(self._out))
        self._panel.set_message("")
        # Of a fine-tuning the result says so itself.
        advice = "" if is_better or self._kind == "finetune" else " It is not better than before: the old model stays."
        self._panel.set_result(result["message"] + advice, can_use=is_better)
        news = "a new model waits in Learning" if is_better else "the old model stays"
        self._work.say(f"Training is done: {news}.", "info")

    def _on_failed(self, text: str) -> None:
        self._panel.set_running(False)
        self._panel.set_message(text)
        self._record("cancelled" if "cancelled" in text else "failed")

    def _on_use(self) -> None:
        self._models.choose(self._out)

    def _on_model(self, name: str) -> None:
        """A model is in use: only now is it known that the trained one could be loaded."""
        can_roll_back = self._models.can_roll_back
        if name == self._out:
            self._panel.set_result(None)
            self._panel.set_can_roll_back(can_roll_back)
        elif not can_roll_back:
            self._panel.set_can_roll_back(False)

    def _on_change(self, change: Change) -> None:
        if change.objects or change.kind == "refresh":
            self._count()

    def _count(self) -> None:
        objects = self._work.session.file.objects()
        self._panel.set_corrections(sum(record.is_reviewed for record in objects))
