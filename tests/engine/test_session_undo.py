"""Undo and redo as a property: whatever was done, n undos give the bytes of n steps ago, also after reopening."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.session import Candidate, NewObject, Session
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import SessionError

SIZE = (16, 18)


def begin(path: Path) -> Session:
    session = Session.open(path)
    session.add_stack(ChannelStack(np.zeros((1, *SIZE), np.uint8), (ChannelSpec("a"),)))
    return session


def crop_of(number: int) -> MaskCrop:
    """A mask that a number stands for."""
    generator = np.random.default_rng(number)
    height, width = generator.integers(1, 7, 2)
    mask = generator.random((height, width)) < 0.8
    mask[0, 0] = True
    return MaskCrop.of(mask, int(generator.integers(0, SIZE[1] - 7)), int(generator.integers(0, SIZE[0] - 7)))


def prompts_of(number: int) -> Prompts:
    generator = np.random.default_rng(number)
    points = generator.uniform(0, 16, (number % 4, 2)).astype(np.float32)
    return Prompts(points, generator.integers(0, 2, len(points)).astype(np.int32))


def recipes_of(number: int) -> tuple[ChannelRecipe, ...] | None:
    """A normalization of the one channel, or that of the stack as it was opened."""
    return None if number % 4 == 0 else (ChannelRecipe("range").with_range(0.1, 0.2 + number % 7),)


def pick(session: Session, number: int) -> int:
    """An object that a number stands for."""
    ids = [record.id for record in session.objects()]
    if not ids:
        raise SessionError("no object yet")
    return ids[number % len(ids)]


def paint(session: Session, number: int) -> None:
    generator = np.random.default_rng(number)
    x, y = (int(value) for value in generator.integers(0, 10, 2))
    box = (x, y, x + 5, y + 4)
    before = session.labels_in(1, (), box)
    labels = [0, 1 + number % 40, *(record.id for record in session.objects())]
    after = np.where(generator.random(before.shape) < 0.6, labels[number % len(labels)], before)
    session.paint(1, (), box, before, after)


ACTIONS: dict[str, Callable[[Session, int], Any]] = {
    "prompt": lambda session, n: session.set_prompts(1, (), prompts_of(n)),
    "predict": lambda session, n: session.set_prediction(1, (), [Candidate(crop_of(n), 0.5), Candidate(None, 0)]),
    "candidate": lambda session, n: session.choose_candidate(1, (), n % 2),
    "clear": lambda session, n: session.clear_draft(1),
    "accept": lambda session, n: session.accept(1, (), NewObject(crop_of(n), prompts=prompts_of(n))),
    "accept_draft": lambda session, n: session.accept_draft(1),
    "accept_many": lambda session, n: session.accept_many(1, (), [NewObject(crop_of(n + i)) for i in range(n % 3)]),
    "reedit": lambda session, n: session.reedit(pick(session, n)),
    "replace": lambda session, n: session.replace(pick(session, n), NewObject(crop_of(n))),
    "delete": lambda session, n: session.delete([pick(session, n)]),
    "merge": lambda session, n: session.merge([pick(session, n), pick(session, n + 1)]),
    "split": lambda session, n: session.split(pick(session, n)),
    "class": lambda session, n: session.set_class([pick(session, n)], 1 + n % 3),
    "review": lambda session, n: session.set_reviewed([pick(session, n)], bool(n % 2)),
    "add_class": lambda session, n: session.add_class(f"class {n % 5}"),
    "rename_class": lambda session, n: session.update_class(1 + n % 3, name=f"class {n % 6}"),
    "remove_class": lambda session, n: session.remove_class(1 + n % 3, to=1 + n % 2),
    "paint": paint,
    "recipes": lambda session, n: session.set_recipes(1, recipes_of(n), "a"),
    "import": lambda session, n: session.import_objects([((1, ()), f"class {n % 7}", NewObject(crop_of(n)))]),
}

STEPS = st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 1000)), min_size=1, max_size=20)


def run(session: Session, steps: list[tuple[str, int]], states: list[bytes]) -> None:
    """Do the steps that the session takes; `states` gets the state after each step of its history."""
    for name, number in steps:
        before = session.next_undo()
        try:
            ACTIONS[name](session, number)
        except SessionError:
            assert session.state() == states[-1]
            continue
        if session.next_undo() == before:
            states[-1] = session.state()
        else:
            states.append(session.state())


def check_memory(session: Session) -> None:
    """What is held in memory is what a fresh reading of the file finds."""
    with Session.open(session.path, read_only=True) as fresh:
        assert fresh.objects() == session.objects()
        assert fresh.stacks() == session.stacks()
        np.testing.assert_array_equal(fresh.labels(1), session.labels(1))


@settings(max_examples=20, deadline=None)
@given(first=STEPS, num_undone=st.integers(0, 25), second=STEPS)
def test_n_undos_give_the_bytes_of_n_steps_ago(
    first: list[tuple[str, int]], num_undone: int, second: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        session = begin(Path(folder) / "a.e2sam")
        states = [session.state()]
        run(session, first, states)
        # Some steps back, and from there on another way.
        for _ in range(min(num_undone, len(states) - 1)):
            session.undo()
            states.pop()
            assert session.state() == states[-1]
        num_states = len(states)
        run(session, second, states)
        check_memory(session)
        session.close()
        session = Session.open(Path(folder) / "a.e2sam")
        for state in reversed(states[:-1]):
            session.undo()
            assert session.state() == state
        assert session.next_undo() is None
        check_memory(session)
        for state in states[1:]:
            session.redo()
            assert session.state() == state
        # What was undone at first can be redone only as long as nothing else was done.
        if num_undone == 0 or len(states) > num_states:
            assert session.next_redo() is None
        check_memory(session)
        session.close()


def test_three_hundred_steps_go_back_and_forth(tmp_path: Path) -> None:
    session = begin(tmp_path / "a.e2sam")
    generator = np.random.default_rng(7)
    names = sorted(ACTIONS)
    states = [session.state()]
    while len(states) <= 300:
        run(session, [(names[generator.integers(len(names))], int(generator.integers(1000)))], states)
    for state in reversed(states[:-1]):
        session.undo()
        assert session.state() == state
    for _ in range(300):
        session.redo()
    assert session.state() == states[-1]
    session.close()


def test_a_late_prediction_goes_and_comes_with_its_prompt_and_leaves_redo_alone(tmp_path: Path) -> None:
    session = begin(tmp_path / "a.e2sam")
    start = session.state()
    ACTIONS["prompt"](session, 1)
    prompted = session.state()
    ACTIONS["accept"](session, 1)
    accepted = session.state()
    session.undo()
    ACTIONS["predict"](session, 1)
    predicted = session.state()
    assert len({start, prompted, accepted, predicted}) == 4
    for _ in range(2):
        session.undo()
        assert session.state() == start
        session.redo()
        assert session.state() == predicted
    # What was undone before it is still there, and knows nothing of it.
    session.redo()
    assert session.state() == accepted and session.next_redo() is None
    for state in (prompted, start):
        session.undo()
        assert session.state() == state
    session.redo()
    assert session.state() == prompted
    session.close()
