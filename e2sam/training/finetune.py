"""Fine-tuning: stage 2, from corrections or labelled sets; the new model is taken only if it is not worse."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from e2sam.data.corrections import Correction, CorrectionSet
from e2sam.data.io.datasets import LabelledSet
from e2sam.errors import CheckpointError, TrainingError
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.packed import fastest_dtype
from e2sam.training.config import TrainStep
from e2sam.training.devices import is_first_process, starts_first
from e2sam.training.finetune_config import FinetuneConfig, FinetuneResult
from e2sam.training.loop import run_training
from e2sam.training.state import only_run, told_of_unfinished, unfinished
from e2sam.training.task import LoopSettings, Outcome, TrainingTask
from e2sam.training.tuning import plain_copy
from e2sam.weights.checkpoint import load_checkpoint, read_checkpoint_info, save_checkpoint

__all__ = ["FinetuneConfig", "FinetuneResult", "finetune"]

# Weights averaged over about the last ten steps: few labels make single steps go astray.
_AVERAGING = 0.9
_VALIDATIONS = 5


class Figures(Protocol):
    """Figures of one model on the held-out labels."""

    def to_json(self) -> dict[str, Any]: ...


class Head(Protocol):
    """What fine-tuning needs to know of a head; made once for the model and once for its twin.

    A head is trained in one run or, where `folds` says so, in several: each is a head of its own, with its own labels.
    """

    base: E2SAM
    notice: str
    """What of the data was left out, in a line for the user; empty where nothing was."""

    @property
    def steps(self) -> int:
        """Steps of all its runs together."""
        ...

    @property
    def seconds(self) -> float:
        """Wall-clock time for the steps; 0 = no limit."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        ...

    def task(self, save_as: Callable[[Path, E2SAM, Outcome], None], identity: Mapping[str, Any]) -> TrainingTask:
        """The task to train."""
        ...

    def folds(self) -> Sequence[Head]:
        """The runs to make; a head of a single run is its own."""
        ...

    def settle(self, trained: Sequence[E2SAM]) -> Sequence[E2SAM]:
        """What to judge, given the trained model of each run."""
        ...

    def combined(self, settled: Sequence[E2SAM]) -> E2SAM:
        """The one model that the settled ones come to."""
        ...

    def before(self) -> Any:
        """Figures before training."""
        ...

    def judge(self, settled: Sequence[E2SAM]) -> Any:
        """Figures of the settled models, each on what its run held out."""
        ...

    def compare(self, before: Any, after: Any) -> dict[str, Any]:
        """Differences, with "not_worse"."""
        ...

    def rejected(self) -> E2SAM:
        """The model that stays where the new one is worse."""
        ...

    @property
    def split(self) -> dict[str, Any]:
        """How labels were divided."""
        ...

    def twin(self) -> Head | None:
        """The same on red, green and blue alone; None where the model sees nothing else."""
        ...


@dataclass
class _Run:
    """One training run within a fine-tuning."""

    head: Head
    config: FinetuneConfig
    candidate: Path
    outcome: Outcome = field(default_factory=Outcome)
    identity: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> Iterator[TrainStep]:
        """Train to the candidate, or find it finished where that run is resumed."""
        task = self.head.task(self._save, self._identity())
        self.identity = json.loads(json.dumps(task.identity()))
        if self.config.resume and self._is_finished():
            return
        runner = run_training(task, self._settings())
        try:
            yield from runner
        finally:
            runner.close()

    def _identity(self) -> dict[str, Any]:
        free = ("out", "resume", "twin", "seconds", "checkpoint_every", "judged_objects", "judged_clicks")
        settings = {name: value for name, value in self.config.to_json().items() if name not in free}
        return {"settings": settings, "parent": self.head.base.fingerprint, "split": self.head.split}

    def _settings(self) -> LoopSettings:
        config = self.config
        return LoopSettings(
            out=self.candidate,
            steps=self.head.steps,
            batch_size=self.head.batch_size,
            seed=config.seed,
            ema_decay=_AVERAGING if config.head == "prompt" else 0.0,
            checkpoint_every=config.checkpoint_every,
            validate_every=config.validate_every or max(5, self.head.steps // _VALIDATIONS),
            patience=config.patience,
            seconds=self.head.seconds,
            # Few labels are held out: whether the new model is taken is decided once, by the whole click protocol.
            keep="trained" if config.head == "prompt" else "best",
            resume=config.resume,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=self._precision(),
        )

    def _precision(self) -> str:
        """On processors with bfloat16 products a step of the mask decoder takes two thirds of the time in them."""
        config, device = self.config, self.head.base.device
        chosen = config.precision != "auto" or config.head != "prompt" or device.type != "cpu"
        if chosen or fastest_dtype(device) != torch.bfloat16:
            return config.precision
        return "bf16-mixed"

    def _save(self, path: Path, model: E2SAM, outcome: Outcome) -> None:
        self.outcome = outcome
        facts = {"identity": self.identity, "outcome": asdict(outcome)}
        save_checkpoint(path, plain_copy(model), {"stage": "candidate", "training": facts})

    def _is_finished(self) -> bool:
        try:
            facts = read_checkpoint_info(self.candidate).training
        except CheckpointError:
            return False
        if facts.get("identity") != self.identity:
            return False
        self.outcome = Outcome(**facts["outcome"])
        return True

    @cached_property
    def trained(self) -> E2SAM:
        """The new model, from the weights that were kept.

        Raises
        ------
        TrainingError
            If another run has written in their place.
        """
        if not self._is_finished():
            raise TrainingError(
                f"Expected the weights of this run in {self.candidate.name}, got none or another's: two runs write "
                f"{self.config.out.name} at the same time."
            )
        return load_checkpoint(self.candidate, self.head.base.device)

    def forget(self) -> None:
        """Remove what lies beside the result."""
        for suffix in ("", ".state", ".best"):
            self.candidate.with_name(self.candidate.name + suffix).unlink(missing_ok=True)


class _Training:
    """All runs of one head: the model's own, or its twin's."""

    def __init__(self, head: Head, config: FinetuneConfig, name: str) -> None:
        self.head = head
        folds = head.folds()
        names = [name] if len(folds) == 1 else [f"{name}{number + 1}" for number in range(len(folds))]
        self.runs = [
            _Run(fold, config, config.out.with_name(f"{config.out.stem}.{each}.safetensors"))
            for fold, each in zip(folds, names, strict=True)
        ]

    def steps(self) -> Iterator[TrainStep]:
        """Train all of them, one after the other; steps are counted through."""
        done = 0
        for run in self.runs:
            for step in run.steps():
                yield replace(step, step=done + step.step)
            done += run.head.steps

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run of the same output left anything to go on from."""
        return any(run.candidate.exists() or unfinished(run.candidate).exists() for run in self.runs)

    @property
    def is_sound(self) -> bool:
        """Whether each run came to weights that can be judged."""
        return all(run.outcome.accepted for run in self.runs)

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return sum(run.outcome.steps for run in self.runs)

    @cached_property
    def settled(self) -> Sequence[E2SAM]:
        """What is judged."""
        return self.head.settle([run.trained for run in self.runs])

    def forget(self) -> None:
        """Remove what lies beside the result."""
        for run in self.runs:
            run.forget()


def finetune(
    data: CorrectionSet | Sequence[Correction] | LabelledSet | str | Path, config: FinetuneConfig
) -> Generator[TrainStep, None, FinetuneResult]:
    """Learn from corrections or labels; yields every step and returns the result.

    The labels are divided before training, by image or by region with a margin. Old and new model are judged on what
    was held out; the new one is written to `config.out` only if it is not worse, else the old one is. Of few objects
    each is held out once: several models learn, each from others of them, so that all objects judge, and the mean of
    the models' weights is what is written. Closing the generator stops the run; with `resume` it goes on from the last
    checkpoint.

    Parameters
    ----------
    data
        A `CorrectionSet` or some corrections, a `LabelledSet`, or what `e2sam finetune` takes as DATA: a session, a
        folder of pairs, `shift:DIR`, `h8:DIR`.
    config
        Settings.

    Raises
    ------
    TrainingError
        If there is too little to learn from, the settings do not fit the data, or another run writes `config.out`.

    Examples
    --------
    >>> config = FinetuneConfig(out=Path("mine.safetensors"))
    >>> for step in finetune("session.e2sam", config):  # doctest: +SKIP
    ...     print(step.step, step.loss)
    """
    if not isinstance(config, FinetuneConfig):
        raise TrainingError(f"Expected a FinetuneConfig, got {config!r:.60}.")
    started = time.perf_counter()
    head = _open(_known(data), config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with only_run(config.out, starts_first(config.devices, config.num_nodes, config.strategy)):
        return (yield from _learn(head, config, started))


def _learn(head: Head, config: FinetuneConfig, started: float) -> Generator[TrainStep, None, FinetuneResult]:
    """Train, judge and write, with no other run of the same output."""
    twin = head.twin()
    total = head.steps * (1 if twin is None else 2)
    training = _Training(head, config, "candidate")
    told = told_of_unfinished(config.out, training.is_begun, config.resume)
    for message in filter(None, (told, head.notice)):
        yield TrainStep(0, total, math.nan, message=message)
    if not config.resume:
        training.forget()
    yield TrainStep(0, total, math.nan, message="Judging the model before training.")
    before = head.before()
    for step in training.steps():
        yield replace(step, total=total, metrics={k: v for k, v in step.metrics.items() if k != "accepted"})
    if not is_first_process():
        return _elsewhere(config, training)
    result = _judged(training, config, before, started)
    _write(training, config, result)
    if twin is not None:
        # The model can be used from here on; the twin only says what the other channels were worth.
        yield TrainStep(head.steps, total, math.nan, _scores(result), result.message)
        other = _Training(twin, config, "twin")
        beside = yield from _beside(other, config, head.steps, total)
        result = replace(result, twin=beside, seconds=round(time.perf_counter() - started, 2))
        _write(training, config, result)
        other.forget()
    training.forget()
    yield TrainStep(total, total, math.nan, {"accepted": float(result.accepted), **_scores(result)}, result.message)
    return result


def _beside(
    twin: _Training, config: FinetuneConfig, done: int, total: int
) -> Generator[TrainStep, None, dict[str, Any]]:
    """Train the twin and return its figures; its steps follow the `done` ones of the model."""
    if not config.resume:
        twin.forget()
    yield TrainStep(done, total, math.nan, message="Training the RGB-only twin for comparison.")
    for step in twin.steps():
        yield TrainStep(done + step.step, total, math.nan)
    figures: dict[str, Any] = twin.head.judge(twin.settled).to_json()
    return figures


def _judged(training: _Training, config: FinetuneConfig, before: Any, started: float) -> FinetuneResult:
    """Old and new model compared on what was held out."""
    head = training.head
    after = head.judge(training.settled) if training.is_sound else before
    difference = head.compare(before, after)
    accepted = training.is_sound and difference["not_worse"]
    seconds = round(time.perf_counter() - started, 2)
    return FinetuneResult(
        out=config.out,
        steps=training.num_steps,
        seconds=seconds,
        seconds_to_model=seconds,
        before=before.to_json(),
        after=after.to_json(),
        difference=difference,
        twin=None,
        split=head.split,
        accepted=accepted,
        message=f"{_message(before.to_json(), after.to_json(), accepted)} {head.notice}".rstrip(),
    )


def _known(data: object) -> CorrectionSet | LabelledSet | str | Path:
    if isinstance(data, list | tuple) and all(isinstance(one, Correction) for one in data):
        return CorrectionSet(tuple(data))
    if isinstance(data, CorrectionSet | LabelledSet | str | Path):
        return data
    raise TrainingError(f"Expected corrections, a labelled set, or the name of one, got {data!r:.60}.")


def _open(data: CorrectionSet | LabelledSet | str | Path, config: FinetuneConfig) -> Head:
    if config.head == "prompt":
        from e2sam.training.prompt_head import PromptHead

        return PromptHead.open(data, config)
    from e2sam.training.semantic_head import SemanticHead

    return SemanticHead.open(data, config)


def _elsewhere(config: FinetuneConfig, training: _Training) -> FinetuneResult:
    """The answer of a process that only helped: the first one judges and writes."""
    return FinetuneResult(
        out=config.out,
        steps=training.num_steps,
        seconds=sum(run.outcome.seconds for run in training.runs),
        seconds_to_model=sum(run.outcome.seconds for run in training.runs),
        before={},
        after={},
        difference={},
        twin=None,
        split=training.head.split,
        accepted=False,
        message="The first process has the result.",
    )


def _write(training: _Training, config: FinetuneConfig, result: FinetuneResult) -> None:
    head = training.head
    model = head.combined(training.settled) if result.accepted else head.rejected()
    facts = {name: value for name, value in result.to_json().items() if name != "out"}
    provenance = {
        "stage": "finetune" if result.accepted else "unchanged",
        "parent": head.base.fingerprint,
        "teacher": _teacher_of(config.model),
        "classes": list(model.config.semantic.classes) if model.config.semantic else [],
        "training": {"config": config.to_json(), "result": facts},
    }
    save_checkpoint(result.out, model, provenance)


def _teacher_of(model: str | Path) -> str:
    """Fingerprint of the teacher that a student inherited from; empty for teachers."""
    return read_checkpoint_info(model).teacher if Path(model).suffix == ".safetensors" else ""


def _scores(result: FinetuneResult) -> dict[str, float]:
    key = "miou" if "miou" in result.after else "score"
    figures = {"before": result.before.get(key), "after": result.after.get(key), "twin": (result.twin or {}).get(key)}
    return {name: float(value) for name, value in figures.items() if value is not None}


def _message(before: Mapping[str, Any], after: Mapping[str, Any], accepted: bool) -> str:
    if "miou" in after:
        first = "if all were the commonest class" if before.get("is_commonest_class") else "before"
        what = f"mean IoU {_shown(before['miou'])} {first}, {_shown(after['miou'])} after"
    else:
        figures = (
            ("IoU after one click", ".2f", before["iou"]["1"], after["iou"]["1"]),
            ("over five clicks and a box", ".3f", before["score"], after["score"]),
            ("clicks to 70..90 %", ".1f", before["clicks"], after["clicks"]),
        )
        what = "; ".join(f"{name} {first:{form}} before, {then:{form}} after" for name, form, first, then in figures)
    taken = "The new model is better" if accepted else "The old model was kept, because the new one is not better"
    return f"{taken}. On held-out labels: {what}."


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
