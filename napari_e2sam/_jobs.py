"""Work off the window's thread: requests to the engine process, tasks in threads."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from e2sam.errors import E2SamError
from napari_e2sam._wire import Message, receive, send

__all__ = ["Channel", "EngineClient", "Request", "Tasks", "start_process", "start_thread"]

_log = logging.getLogger(__name__)
# Long enough for another thread to wake up.
_YIELD_S = 0.0003


@dataclass(frozen=True)
class Channel:
    """Two pipes to an engine and the way to end it."""

    reading: BinaryIO
    writing: BinaryIO
    end: Callable[[], None]


def start_process() -> Channel:
    """An engine in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_e2sam._worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def end() -> None:
        # Nothing is lost by killing it: it keeps no state that the window does not have, and its cache is atomic.
        process.kill()
        process.wait()

    return Channel(cast(BinaryIO, process.stdout), cast(BinaryIO, process.stdin), end)


def start_thread(engine: Any) -> Channel:
    """An engine in a thread, for tests and for scripts that bring their own."""
    from napari_e2sam._worker import serve

    from_window, to_engine = os.pipe()
    from_engine, to_window = os.pipe()
    engine_reads, engine_writes = os.fdopen(from_window, "rb"), os.fdopen(to_window, "wb")

    def run() -> None:
        with engine_reads, engine_writes:
            try:
                serve(engine, engine_reads, engine_writes)
            except (BrokenPipeError, ValueError):
                _log.debug("the window left")

    thread = threading.Thread(target=run, name="e2sam-engine", daemon=True)
    thread.start()
    return Channel(os.fdopen(from_engine, "rb"), os.fdopen(to_engine, "wb"), lambda: None)


@dataclass(frozen=True)
class Request:
    """What to ask of the engine and whom to tell.

    Attributes
    ----------
    what
        Name of a method of `napari_e2sam._worker.Engine`.
    body, arrays
        Its input; see `napari_e2sam._wire.Message`.
    done
        Called with the answer on the window's thread.
    failed
        Called with one line for the user, on the window's thread.
    progress
        Called with a share in 0..1 and a line.
    lane
        Of the requests in one lane one is under way; a newer one replaces the one that waits.
    """

    what: str
    body: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    done: Callable[[Message], None] | None = None
    failed: Callable[[str], None] | None = None
    progress: Callable[[float, str], None] | None = None
    lane: str = ""


class EngineClient(QObject):
    """Sends requests to an engine and brings the answers to the window's thread."""

    busy_changed = Signal(bool)
    lost = Signal()
    _received = Signal(object)

    def __init__(self, start: Callable[[], Channel] = start_process, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._start = start
        self._received.connect(self._on_received)
        self._open: dict[int, Request] = {}
        self._waiting: dict[str, Request] = {}
        self._ticket = 0
        self._closed = False
        self._connect()

    def _connect(self) -> None:
        self._channel = self._start()
        self._outgoing: queue.Queue[Message | None] = queue.Queue()
        self._threads = (
            threading.Thread(target=self._write, args=(self._channel, self._outgoing), daemon=True),
            threading.Thread(target=self._read, args=(self._channel,), daemon=True),
        )
        for thread in self._threads:
            thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._open)

    def is_asked(self, lane: str) -> bool:
        """Whether a request of a lane is under way."""
        return any(request.lane == lane for request in self._open.values())

    def request(self, request: Request) -> None:
        """Send a request, or hold it while an older one of its lane is under way."""
        if self._closed:
            return
        if request.lane and self.is_asked(request.lane):
            self._waiting[request.lane] = request
            return
        self._ticket += 1
        self._open[self._ticket] = request
        self._outgoing.put(Message(request.what, self._ticket, request.body, request.arrays))
        # The thread that writes needs the interpreter's lock, and would wait 5 ms for this one to give it up.
        time.sleep(_YIELD_S)
        if len(self._open) == 1:
            self.busy_changed.emit(True)

    def forget(self, lane: str) -> None:
        """Drop what waits in a lane and ignore the answer of what is under way."""
        self._waiting.pop(lane, None)
        for ticket, request in self._open.items():
            if request.lane == lane:
                self._open[ticket] = Request(request.what, lane=lane)

    def cancel(self, what: str) -> None:
        """Stop every request of one kind at its next step."""
        for ticket, request in self._open.items():
            if request.what == what:
                self._outgoing.put(Message("cancel", ticket))

    def restart(self) -> None:
        """Start a fresh engine after the last one was lost or is to be left."""
        self._channel.end()
        self._open.clear()
        self._waiting.clear()
        self._outgoing.put(None)
        self._connect()

    def close(self) -> None:
        """End the engine; no callback follows."""
        if self._closed:
            return
        self._closed = True
        self._open.clear()
        self._waiting.clear()
        self._outgoing.put(None)
        self._channel.end()
        for thread in self._threads:
            thread.join(timeout=2)

    def _write(self, channel: Channel, outgoing: queue.Queue[Message | None]) -> None:
        try:
            while (message := outgoing.get()) is not None:
                send(channel.writing, message)
        except (OSError, ValueError):
            _log.debug("the engine is gone; the reading side says so")
        with suppress(OSError):
            channel.writing.close()

    def _read(self, channel: Channel) -> None:
        try:
            while (message := receive(channel.reading)) is not None:
                self._deliver((channel, message))
        except (OSError, ValueError):
            _log.debug("the engine's pipe broke")
        channel.reading.close()
        self._deliver((channel, None))

    def _deliver(self, item: tuple[Channel, Message | None]) -> None:
        if self._closed:
            return
        try:
            self._received.emit(item)
        except RuntimeError:
            # The window was deleted between the check and here.
            return

    def _on_received(self, item: tuple[Channel, Message | None]) -> None:
        channel, message = item
        if self._closed or channel is not self._channel:
            return
        if message is None:
            self._open.clear()
            self._waiting.clear()
            self.busy_changed.emit(False)
            self.lost.emit()
            return
        if message.what == "progress":
            request = self._open.get(message.ticket)
            if request is not None and request.progress is not None:
                request.progress(message.body["share"], message.body["text"])
            return
        request = self._open.pop(message.ticket, None)
        if request is None:
            return
        self._next_of(request.lane)
        self._tell(request, message)
        if not self._open:
            self.busy_changed.emit(False)

    def _next_of(self, lane: str) -> None:
        waiting = self._waiting.pop(lane, None) if lane else None
        if waiting is not None:
            self.request(waiting)

    @staticmethod
    def _tell(request: Request, message: Message) -> None:
        if message.what == "done" and request.done is not None:
            request.done(message)
        elif message.what == "cancelled" and request.failed is not None:
            request.failed("Stopped.")
        elif message.what == "failed":
            if not message.body["expected"]:
                _log.error("%s: %s", request.what, message.body["message"])
            if request.failed is not None:
                request.failed(message.body["message"])


class Tasks(QObject):
    """Python work in threads: reading, statistics, export. Of one lane only the newest task's answer arrives."""

    busy_changed = Signal(bool)
    _finished = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="e2sam-task")
        self._finished.connect(self._on_finished)
        self._newest: dict[str, int] = {}
        # Not in the signal: one that is under way when the window closes would keep all of it alive.
        self._callbacks: dict[int, tuple[Callable[[Any], None], Callable[[str], None]]] = {}
        self._count = 0
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a task is under way."""
        return bool(self._callbacks)

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[str], None],
        lane: str = "",
    ) -> None:
        """Run `work` in a thread and call `done` with its result, or `failed` with one line, on the window's thread."""
        if self._closed:
            return
        self._count += 1
        number = self._count
        if lane:
            self._newest[lane] = number
        self._callbacks[number] = (done, failed)
        self.busy_changed.emit(True)
        self._pool.submit(self._work, work, number, lane)

    def close(self) -> None:
        """Take no more tasks; no callback follows."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._callbacks.clear()

    def _work(self, work: Callable[[], Any], number: int, lane: str) -> None:
        if self._closed or (lane and self._newest[lane] != number):
            result: tuple[str, Any] = ("dropped", None)
        else:
            result = _outcome(work)
        if self._closed:
            return
        try:
            self._finished.emit((number, lane, result))
        except RuntimeError:
            return

    def _on_finished(self, item: tuple[int, str, tuple[str, Any]]) -> None:
        number, lane, (state, value) = item
        if self._closed:
            return
        done, failed = self._callbacks.pop(number)
        if not self._callbacks:
            self.busy_changed.emit(False)
        if lane and self._newest[lane] != number:
            return
        if state == "done":
            done(value)
        elif state == "failed":
            failed(value)


def _outcome(work: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "done", work()
    except E2SamError as error:
        return "failed", str(error)
    except MemoryError:
        return "failed", "Out of memory: close other images, or take a part of this one."
    except OSError as error:
        return "failed", f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    except Exception as error:  # noqa: BLE001 - the last line of defence: the window gets one line, the log the rest
        _log.exception("a task failed")
        return "failed", f"{type(error).__name__}: {error}"
