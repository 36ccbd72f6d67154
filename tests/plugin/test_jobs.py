"""Work off the window's thread: the newest request wins, errors are one line, a lost engine is noticed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import fake_engine

from e2sam.errors import PromptError
from napari_e2sam import _training_process
from napari_e2sam._jobs import EngineClient, Request, Tasks, start_process, start_thread
from napari_e2sam._training_process import Training
from napari_e2sam._wire import Message
from napari_e2sam._worker import Job


class SlowEngine:
    """Answers with what it was asked, when it is allowed to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[int] = []
        self.looked_ahead = 0

    def predict(self, body: Any, arrays: Any, job: Any) -> Any:
        return {}, {}

    def shares(self, body: Any, arrays: Any, job: Any) -> Any:
        return {}, {}

    def look_ahead(self) -> None:
        self.looked_ahead += 1
        if self.looked_ahead == 2:
            raise RuntimeError("nobody asked for this")

    def echo(self, body: Any, arrays: Any, job: Any) -> Any:
        self.asked.append(body["value"])
        assert self.go.wait(10)
        return {"value": body["value"]}, {"twice": arrays["one"] * 2} if arrays else {}

    def wrong(self, body: Any, arrays: Any, job: Any) -> Any:
        raise PromptError("Expected a point, got none: click.")

    def broken(self, body: Any, arrays: Any, job: Any) -> Any:
        raise RuntimeError("shapes differ")

    def long(self, body: Any, arrays: Any, job: Any) -> Any:
        for step in range(1000):
            job.step(step / 1000, "Working")
            time.sleep(0.01)
        return {}, {}


@pytest.fixture
def engine(qapp: Any) -> Any:
    made = SlowEngine()
    client = EngineClient(lambda: start_thread(made))
    yield made, client
    made.go.set()
    client.close()


def test_of_waiting_requests_only_the_newest_is_asked(engine: Any, qtbot: Any) -> None:
    slow, client = engine
    got: list[int] = []
    for value in range(5):
        client.request(
            Request("echo", {"value": value}, done=lambda message: got.append(message.body["value"]), lane="predict")
        )
    assert client.is_asked("predict") and not client.is_asked("hover")
    slow.go.set()
    qtbot.waitUntil(lambda: got == [0, 4], timeout=5000)
    assert slow.asked == [0, 4] and not client.is_asked("predict")
    assert not client.is_busy


def test_a_forgotten_lane_tells_nobody(engine: Any, qtbot: Any) -> None:
    slow, client = engine
    got: list[Message] = []
    client.request(Request("echo", {"value": 1}, done=got.append, lane="hover"))
    client.forget("hover")
    slow.go.set()
    qtbot.waitUntil(lambda: not client.is_busy, timeout=5000)
    assert got == []


def test_arrays_and_errors_come_back(engine: Any, qtbot: Any, caplog: pytest.LogCaptureFixture) -> None:
    slow, client = engine
    slow.go.set()
    got: list[Message] = []
    errors: list[str] = []
    client.request(Request("echo", {"value": 1}, {"one": np.arange(3)}, done=got.append))
    client.request(Request("wrong", failed=errors.append))
    client.request(Request("broken", failed=errors.append))
    qtbot.waitUntil(lambda: len(errors) == 2, timeout=5000)
    assert got[0].arrays["twice"].tolist() == [0, 2, 4]
    assert errors == ["Expected a point, got none: click.", "RuntimeError: shapes differ"]


def test_the_engine_looks_ahead_after_a_mask_and_only_when_idle(engine: Any, qtbot: Any) -> None:
    slow, client = engine
    slow.go.set()
    client.request(Request("echo", {"value": 1}))
    qtbot.wait(500)
    assert slow.looked_ahead == 0
    client.request(Request("predict"))
    qtbot.waitUntil(lambda: slow.looked_ahead == 1, timeout=5000)
    qtbot.wait(500)
    assert slow.looked_ahead == 1
    # Another mask is shown. What fails there is nobody's business, and the next request is answered.
    client.request(Request("shares"))
    qtbot.waitUntil(lambda: slow.looked_ahead == 2, timeout=5000)
    got: list[Message] = []
    client.request(Request("echo", {"value": 2}, done=got.append))
    qtbot.waitUntil(lambda: len(got) == 1, timeout=5000)
    qtbot.wait(500)
    assert slow.looked_ahead == 2


def test_the_engine_looks_ahead_at_the_candidate_that_is_shown() -> None:
    engine = fake_engine()
    job = Job(lambda share, text: None, lambda: False, lambda: None)
    engine.load({"name": "tiny"}, {}, job)
    channels = [{"name": name} for name in "ab"]
    engine.prepare(
        {"stack": {"channels": channels}, "key": "1", "channels": ["a", "b"], "recipes": []},
        {"data": np.zeros((2, 40, 40), np.float32)},
        job,
    )
    engine.look_ahead()
    engine.predict({"points": [[20, 20]], "labels": [1]}, {}, job)
    engine.look_ahead()
    engine.shares({"candidate": 2}, {}, job)
    engine.look_ahead()
    engine.predict({"points": [[20, 20], [21, 20]], "labels": [1, 1]}, {}, job)
    engine.look_ahead()
    assert [candidate for _, candidate in engine._predictor.ahead] == [None, 2, None]
    engine.look({"view": [2, 3, 30, 40]}, {}, job)
    engine.look_ahead()
    assert engine._predictor.looked_at == [(2, 3, 30, 40)] and len(engine._predictor.ahead) == 3, "one at a time"


def test_long_work_reports_and_stops(engine: Any, qtbot: Any) -> None:
    _, client = engine
    shares: list[float] = []
    errors: list[str] = []
    client.request(Request("long", failed=errors.append, progress=lambda share, text: shares.append(share)))
    qtbot.waitUntil(lambda: len(shares) > 3, timeout=5000)
    client.cancel("long")
    qtbot.waitUntil(lambda: errors == ["Stopped."], timeout=5000)


def test_an_engine_that_dies_is_noticed_and_started_again(qapp: Any, qtbot: Any) -> None:
    client = EngineClient(start_process)
    lost: list[bool] = []
    client.lost.connect(lambda: lost.append(True))
    try:
        client._channel.end()
        qtbot.waitUntil(lambda: lost == [True], timeout=20_000)
        client.restart()
        got: list[Message] = []
        client.request(Request("models", done=got.append))
        qtbot.waitUntil(lambda: len(got) == 1, timeout=60_000)
        assert "tiny" in [entry["name"] for entry in got[0].body["models"]]
    finally:
        client.close()


def test_of_tasks_in_a_lane_only_the_newest_answers(qapp: Any, qtbot: Any) -> None:
    tasks = Tasks()
    got: list[int] = []
    errors: list[str] = []
    gate = threading.Event()

    def work(value: int) -> int:
        gate.wait(5)
        return value

    for value in range(6):
        tasks.run(lambda value=value: work(value), got.append, errors.append, lane="stack")
    tasks.run(lambda: 1 / 0, got.append, errors.append)
    gate.set()
    qtbot.waitUntil(lambda: not tasks.is_busy, timeout=5000)
    tasks.close()
    assert got == [5]
    assert errors == ["ZeroDivisionError: division by zero"]


CHILD = """
import json, sys, time
task = json.loads(sys.stdin.readline())
for step in range(task["settings"]["steps"]):
    print(json.dumps({"step": step + 1, "total": 3, "loss": 1 / (step + 1), "metrics": {}, "message": ""}), flush=True)
    time.sleep(task["settings"].get("wait", 0))
if "error" in task:
    print(json.dumps({"error": task["error"]}), flush=True)
elif "out" in task:
    print(json.dumps({"out": task["out"], "before": {}, "after": {}, "accepted": True, "message": "ok"}), flush=True)
"""


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"out": "m.safetensors", "settings": {"steps": 3}}, ("finished", "m.safetensors")),
        (
            {"error": "Expected corrections, got 0.", "settings": {"steps": 0}},
            ("failed", "Expected corrections, got 0."),
        ),
        ({"settings": {"steps": 1}}, ("failed", "The training process ended without a result")),
        ({"settings": {"steps": 50, "wait": 1}}, ("failed", "Training was cancelled.")),
    ],
)
def test_training_runs_in_a_child(
    task: Any, expected: tuple[str, str], qapp: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(_training_process, "_PROGRAM", (str(script),))
    training = Training()
    steps: list[dict[str, Any]] = []
    ends: list[tuple[str, str]] = []
    training.stepped.connect(steps.append)
    training.finished.connect(lambda result: ends.append(("finished", result["out"])))
    training.failed.connect(lambda text: ends.append(("failed", text)))
    training.start(task)
    assert training.is_running
    if task["settings"]["steps"] == 50:
        qtbot.waitUntil(lambda: len(steps) >= 1, timeout=20_000)
        training.cancel()
    qtbot.waitUntil(lambda: len(ends) == 1, timeout=20_000)
    assert ends[0][0] == expected[0]
    assert ends[0][1].startswith(expected[1])
    assert not training.is_running


def test_a_cancelled_run_leaves_no_files(
    qapp: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(_training_process, "_PROGRAM", (str(script),))
    folder = tmp_path / "a.models"
    folder.mkdir()
    rest = ["run-2.safetensors.state", "run-2.safetensors.best", "run-2.candidate1.safetensors", ".run-2.abc.part"]
    kept = ["run-1.safetensors", "run-22.safetensors", "run-2.safetensors"]
    for name in (*rest, *kept):
        (folder / name).write_bytes(b"")
    training = Training()
    ends: list[str] = []
    training.failed.connect(ends.append)
    training.start({"out": str(folder / "run-2.safetensors"), "settings": {"steps": 50, "wait": 1}})
    training.cancel()
    qtbot.waitUntil(lambda: len(ends) == 1, timeout=20_000)
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)
