"""kill -9 at a random moment of scripted annotation, 200 times: what was acknowledged is there on reopening.

The child process does random actions and writes a line after each has returned. Children are forked from one server
that has imported what they need, so that 200 of them take seconds.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from e2sam.data.session import Session
from e2sam.data.stack import ChannelSpec, ChannelStack

NUM_KILLS = 200

SERVER = """
import os, sys
import numpy as np
from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.data.session import Candidate, NewObject, Session
from e2sam.errors import SessionError

assert "torch" not in sys.modules


def say(*words):
    # One system call, so that a line is whole or not there.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


def work(path, seed):
    generator = np.random.default_rng(seed)
    session = Session.open(path)
    assert not session.is_read_only, session.message
    say("open")
    while True:
        x, y, kind = (int(value) for value in generator.integers((90, 90, 10)))
        mask = MaskCrop.of(generator.random((8, 8)) < 0.7, x, y)
        ids = [record.id for record in session.objects()]
        try:
            if kind < 4:
                done = "accept", session.accept(1, (), NewObject(mask)).id
            elif kind == 4:
                logits = generator.normal(size=(64, 64)).astype(np.float32)
                prompts = Prompts(np.array([[x, y]], np.float32), np.ones(1, np.int32), mask=logits)
                session.set_prompts(1, (), prompts)
                session.set_prediction(1, (), [Candidate(mask, 0.5)])
                done = "draft", 0
            elif kind == 5 and ids:
                session.delete([ids[x % len(ids)]])
                done = "delete", ids[x % len(ids)]
            elif kind == 6 and len(ids) > 1:
                done = "merge", session.merge(ids[:2]).id
            elif kind == 7 and ids:
                session.set_reviewed([ids[0]], bool(x % 2))
                done = "review", ids[0]
            elif kind == 8:
                session.undo()
                done = "undo", 0
            else:
                session.redo()
                done = "redo", 0
        except SessionError:
            continue
        # Acknowledged only now: the number of moves so far, and what stands.
        moves = session._journal.rows("SELECT count(*) FROM move")[0][0]
        objects = ",".join(str(record.id) for record in session.objects())
        say(*done, moves, session._journal.head, objects or "-")


for line in sys.stdin:
    path, seed = line.rsplit(maxsplit=1)
    child = os.fork()
    if child == 0:
        work(path, int(seed))
    say("child", child)
    os.waitpid(child, 0)
    say("gone")
"""


class Lines:
    """Whole lines of a pipe as they come."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._ready: list[str] = []

    def next(self, timeout_s: float) -> str | None:
        end = time.monotonic() + timeout_s
        while not self._ready:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                return None
            *whole, self._rest = (self._rest + os.read(self._descriptor, 65536)).split(b"\n")
            self._ready += [line.decode() for line in whole]
        return self._ready.pop(0)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the preloaded server forks")
def test_two_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "a.e2sam"
    with Session.open(path) as session:
        session.add_stack(ChannelStack(np.zeros((1, 100, 100), np.uint8), (ChannelSpec("a"),)))
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert server.stdin is not None and server.stdout is not None
    lines = Lines(server.stdout.fileno())
    acknowledged = 0
    try:
        for number in range(NUM_KILLS):
            server.stdin.write(f"{path} {number}\n".encode())
            newest = _run_and_kill(lines, chance)
            with Session.open(path) as session:
                assert not session.is_read_only, "the lock died with its process"
                moves = session._journal.rows("SELECT count(*) FROM move")[0][0]
                if newest is not None:
                    acknowledged += 1
                    _check(session, newest, moves)
                for record in session.objects():
                    assert session.mask(record.id).area == record.area
                    session.prompts_of(record.id)
                session.draft(1)
                before = session.state()
                if session.next_undo() is not None:
                    session.undo()
                    session.redo()
                assert session.state() == before
    finally:
        server.stdin.close()
        server.wait(timeout=30)
        server.stdout.close()
    assert acknowledged > NUM_KILLS * 0.7, "most kills hit a child at work"


def _run_and_kill(lines: Lines, chance: random.Random) -> str | None:
    """Let a child work for a random moment, kill it, and give its last acknowledgement."""
    child = 0
    is_open = False
    newest: str | None = None
    while not (child and is_open):
        line = lines.next(60)
        assert line is not None, "the child did not begin"
        if line.startswith("child"):
            child = int(line.split()[1])
        is_open = is_open or line == "open"
    # Some whole actions, then a moment within the next.
    for _ in range(chance.randint(0, 6)):
        newest = lines.next(60)
    time.sleep(chance.uniform(0, 0.003))
    os.kill(child, signal.SIGKILL)
    while (line := lines.next(60)) != "gone":
        assert line is not None
        newest = line
    return newest


def _check(session: Session, newest: str, moves: int) -> None:
    *_, expected, head, objects = newest.split()
    # The action under way may have become durable without having been acknowledged; a draft is two actions.
    assert 0 <= moves - int(expected) <= 2, newest
    if moves == int(expected):
        assert session._journal.head == int(head)
        assert [record.id for record in session.objects()] == [int(one) for one in objects.split(",") if one != "-"]
    else:
        kept = session._journal.rows("SELECT head FROM move ORDER BY id LIMIT 1 OFFSET ?", (int(expected) - 1,))
        assert kept == [(int(head),)], "what was acknowledged is in the history where it was"
