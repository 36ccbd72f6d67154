"""A session's actions: what each does, what it tells its listeners, and what comes back on reopening."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.masks import MaskCrop
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.prompts import Prompts
from e2sam.data.session import Candidate, Change, Conditions, NewObject, Region, Session
from e2sam.data.stack import ChannelSpec, ChannelStack, GeoReference
from e2sam.errors import ChannelError, E2SamError, PromptError, SessionError

SIZE = (20, 30)
GEO = GeoReference(
    tags=((33550, 12, 3, (10.0, 10.0, 0.0)), (34737, 2, 4, "WGS"), (50844, 1, 2, b"\x01\x02")),
    pixel_to_world=((10.0, 0.0, 500.0), (0.0, -10.0, 900.0)),
    epsg=32633,
)
CONDITIONS = Conditions(("R", "depth"), (ChannelRecipe("none", 0, 255), ChannelRecipe("log_depth", 0.1, 3.7)), "abc123")


def block(x0: int, y0: int, x1: int, y1: int) -> MaskCrop:
    return MaskCrop(np.ones((y1 - y0, x1 - x0), bool), x0, y0)


def clicks(*points: tuple[float, float, int]) -> Prompts:
    array = np.array(points, np.float32).reshape(-1, 3)
    return Prompts(array[:, :2], array[:, 2].astype(np.int32))


def new_object(*box: int, class_id: int = 1) -> NewObject:
    return NewObject(block(*box), class_id, 0.75, clicks((box[0] + 0.5, box[1] + 0.5, 1)), CONDITIONS)


def plain_stack(leading: str = "", planes: tuple[int, ...] = ()) -> ChannelStack:
    return ChannelStack(
        np.zeros((*planes, 2, *SIZE), np.uint8),
        (ChannelSpec("R"), ChannelSpec("depth", "m", kind="depth", nodata=0)),
        geo=GEO,
        leading=leading,
    )


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session.open(tmp_path / "a.e2sam") as opened:
        opened.add_stack(plain_stack(), name="scene")
        yield opened


def test_everything_comes_back_on_reopening(tmp_path: Path) -> None:
    path = tmp_path / "a.e2sam"
    with Session.open(path) as session:
        stack = session.add_stack(plain_stack(), name="scene", reading={"channel_axis": 0})
        session.set_selection(stack.id, ("depth",))
        session.set_recipes(stack.id, CONDITIONS.recipes)
        session.set_alignment(stack.id, {"depth": (2.5, -1)})
        session.set_model("tiny", "abc123")
        session.set_view({"zoom": 2.5, "center": [1, 2]})
        session.set_active(stack.id, ())
        session.set_overlap("oldest")
        assert session.presets == ()
        for names in (("depth", "R"), ("R",), ("depth", "R")):
            session.add_preset(names)
        with pytest.raises(ChannelError, match="at least 1 channel"):
            session.add_preset(())
        cell = session.add_class("cell", "#112233", "c")
        accepted = session.accept(stack.id, (), new_object(3, 4, 8, 9, class_id=cell.id))
        logits = np.linspace(-20, 20, 64, dtype=np.float32).reshape(8, 8)
        prompts = Prompts(*_points(clicks((1, 2, 1), (3, 4, 0))), np.array([1, 2, 3, 4], np.float32), logits)
        session.set_prompts(stack.id, (), prompts)
        session.set_prediction(stack.id, (), [Candidate(block(0, 0, 2, 2), 0.5), Candidate(None, 0.1)], 0, CONDITIONS)
        run = session.begin_training("finetune", {"steps": 10}, "tiny")
        session.update_training(run.id, "done", {"iou": 0.5}, tmp_path / "m.safetensors")
        state = session.state()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.e2sam"], "one file is left, without log or lock"
    with Session.open(path) as session:
        assert session.state() == state
        found = session.stack(stack.id)
        assert (found.selection, found.recipes) == (("depth",), CONDITIONS.recipes)
        assert (found.alignment, found.reading) == ({"depth": (2.5, -1.0)}, {"channel_axis": 0})
        assert (found.channels, found.geo, found.size) == (plain_stack().channels, GEO, SIZE)
        assert (session.model, session.view) == (
            {"name": "tiny", "fingerprint": "abc123"},
            {"zoom": 2.5, "center": [1, 2]},
        )
        assert (session.active, session.overlap) == ((stack.id, ()), "oldest")
        assert session.presets == (("depth", "R"), ("R",))
        assert session.object(accepted.id) == accepted
        assert accepted.conditions == CONDITIONS
        assert [(one.name, one.colour, one.key) for one in session.classes()][1] == ("cell", "#112233", "c")
        draft = session.draft(stack.id)
        np.testing.assert_array_equal(draft.prompts.points, prompts.points)
        np.testing.assert_array_equal(draft.prompts.labels, prompts.labels)
        np.testing.assert_array_equal(draft.prompts.box, prompts.box)
        np.testing.assert_allclose(draft.prompts.mask, logits, atol=1 / 64)
        assert [candidate.score for candidate in draft.candidates] == [0.5, 0.1]
        assert draft.candidates[1].mask is None
        (run,) = session.training_runs()
        assert (run.status, run.metrics, run.checkpoint) == ("done", {"iou": 0.5}, tmp_path / "m.safetensors")
        assert run.finished
        assert session.next_undo() is not None


def _points(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    return prompts.points, prompts.labels


def test_labels_follow_the_overlap_policy(session: Session) -> None:
    session.accept(1, (), new_object(2, 2, 10, 10))
    session.accept(1, (), new_object(6, 6, 14, 14))
    newest = session.labels(1)
    assert newest.dtype == np.int32
    assert (newest[3, 3], newest[7, 7], newest[12, 12], newest[0, 0]) == (1, 2, 2, 0)
    assert session.labels(1, overlap="oldest")[7, 7] == 1
    session.set_overlap("oldest")
    assert session.labels(1)[7, 7] == 1
    np.testing.assert_array_equal(session.labels_in(1, (), (5, 4, 9, 12)), session.labels(1)[4:12, 5:9])
    assert session.object_at(1, (), 7.9, 7.2) == 1
    assert session.object_at(1, (), 0.5, 0.5) is None
    assert session.object_at(1, (), -1, 99) is None
    with pytest.raises(SessionError, match="overlap"):
        session.set_overlap("random")


def test_listeners_learn_the_smallest_boxes(session: Session) -> None:
    changes: list[Change] = []
    stop = session.subscribe(changes.append)
    first = session.accept(1, (), new_object(3, 4, 8, 9))
    session.set_class([first.id], session.add_class("b").id)
    session.replace(first.id, new_object(5, 5, 6, 6))
    session.undo()
    session.delete([first.id])
    stop()
    session.undo()
    old, new = Region(1, (), (3, 4, 8, 9)), Region(1, (), (5, 5, 6, 6))
    assert [(change.kind, change.verb, change.regions) for change in changes] == [
        ("do", "accept", (old,)),
        ("do", "classes", ()),
        ("do", "class", ()),
        ("do", "replace", (old, new)),
        ("undo", "replace", (new, old)),
        ("do", "delete", (old,)),
    ]
    assert changes[0].objects == {first.id}
    assert changes[1].has_classes


def test_a_click_and_its_mask_are_one_step(session: Session) -> None:
    session.set_prompts(1, (), clicks((1, 1, 1)))
    session.set_prediction(1, (), [Candidate(block(0, 0, 3, 3), 0.5)], 0, CONDITIONS)
    session.set_prompts(1, (), clicks((1, 1, 1), (9, 9, 0)))
    session.set_prediction(1, (), [Candidate(block(0, 0, 2, 2), 0.6)], 0, CONDITIONS)
    step = session.undo()
    assert (step.verb, step.label) == ("prompt", "Add a point outside")
    draft = session.draft(1)
    assert len(draft.prompts.points) == 1
    mask = draft.candidates[0].mask
    assert mask is not None and mask.box == (0, 0, 3, 3), "the mask of the first click is back without a prediction"
    session.redo()
    mask = session.draft(1).candidates[0].mask
    assert mask is not None and mask.box == (0, 0, 2, 2)
    session.undo()
    session.undo()
    assert session.draft(1).is_empty
    with pytest.raises(SessionError, match="Expected an action to undo"):
        session.undo()


def test_accepting_a_draft_ends_it_and_undo_brings_it_back(session: Session) -> None:
    with pytest.raises(SessionError, match="click on the object first"):
        session.accept_draft(1)
    session.set_prompts(1, (), clicks((1, 1, 1)))
    session.set_prediction(1, (), [Candidate(None, 0.9), Candidate(block(0, 0, 3, 3), 0.5)], 1, CONDITIONS)
    accepted = session.accept_draft(1)
    assert (accepted.area, accepted.score, accepted.conditions, accepted.is_reviewed) == (9, 0.5, CONDITIONS, True)
    assert session.draft(1).is_empty
    assert session.prompts_of(accepted.id).points.tolist() == [[1, 1]]
    session.undo()
    assert session.objects() == ()
    assert session.draft(1).chosen == 1


def test_a_prediction_after_an_undo_leaves_the_redo(session: Session) -> None:
    begun = session.state()
    session.set_prompts(1, (), clicks((1, 1, 1)))
    # The second click came before the answer to the first.
    session.set_prompts(1, (), clicks((1, 1, 1), (9, 9, 1)))
    session.set_prediction(1, (), [Candidate(block(0, 0, 2, 2), 0.6)], 0, CONDITIONS)
    both = session.state()
    session.undo()
    for side in (3, 4):
        session.set_prediction(1, (), [Candidate(block(0, 0, side, side), 0.5)], 0, CONDITIONS)
        mask = session.draft(1).candidates[0].mask
        assert mask is not None and mask.area == side**2
    step = session.next_redo()
    assert step is not None and step.label == "Add a point inside"
    session.redo()
    assert session.state() == both
    session.undo()
    assert session.draft(1).candidates == ()
    session.set_prediction(1, (), [Candidate(block(0, 0, 3, 3), 0.5)], 0, CONDITIONS)
    session.undo()
    assert session.state() == begun
    session.redo()
    session.redo()
    assert session.state() == both
    # What is done from there is a branch of its own.
    session.undo()
    session.set_prediction(1, (), [Candidate(block(0, 0, 3, 3), 0.5)], 0, CONDITIONS)
    amended = session.state()
    session.accept_draft(1)
    assert session.next_redo() is None
    session.undo()
    assert session.state() == amended
    session.redo()
    assert [record.area for record in session.objects()] == [9]


def test_a_mask_prompt_keeps_the_conditions_it_was_predicted_under(session: Session) -> None:
    session.set_prompts(1, (), clicks((1, 1, 1)))
    session.set_prediction(1, (), [Candidate(block(0, 0, 3, 3), 0.5)], 0, CONDITIONS)
    session.set_prompts(1, (), replace(clicks((1, 1, 1), (2, 2, 1)), mask=np.ones((4, 4), np.float32)))
    assert session.draft(1).conditions == CONDITIONS
    assert session.draft(1).prompts.mask is not None
    # Predicted under others, without it.
    other = Conditions(("red",), (), "other")
    session.set_prediction(
        1, (), [Candidate(block(0, 0, 2, 2), 0.5)], 0, other, replace(session.draft(1).prompts, mask=None)
    )
    draft = session.draft(1)
    assert (draft.conditions, draft.prompts.mask, len(draft.prompts.points)) == (other, None, 2)
    session.undo()
    assert len(session.draft(1).prompts.points) == 1


def test_a_predicted_mask_is_at_hand_and_follows_no_later_change(session: Session) -> None:
    kept, open_to_change = MaskCrop.of(np.ones((3, 4), bool)), block(5, 5, 9, 9)
    session.set_prompts(1, (), clicks((1, 1, 1)))
    session.set_prediction(1, (), [Candidate(kept, 0.9), Candidate(open_to_change, 0.5)], 0, CONDITIONS)
    open_to_change.pixels[...] = False
    first, second = (candidate.mask for candidate in session.draft(1).candidates)
    assert first is kept
    assert second is not None
    assert second.area == 16


def test_an_accepted_object_is_edited_again_from_its_prompts(session: Session) -> None:
    accepted = session.accept(1, (), new_object(3, 4, 8, 9))
    draft = session.reedit(accepted.id)
    assert draft.prompts.points.tolist() == [[3.5, 4.5]]
    session.set_prompts(1, (), clicks((3.5, 4.5, 1), (10, 4, 1)))
    session.set_prediction(1, (), [Candidate(block(3, 4, 12, 9), 0.8)], 0, CONDITIONS)
    changed = session.accept_draft(1)
    assert (changed.id, changed.area, len(session.objects())) == (accepted.id, 45, 1)
    assert changed.created == accepted.created


def test_merge_split_delete(session: Session) -> None:
    one = session.accept(1, (), new_object(0, 0, 4, 4))
    two = session.accept(1, (), new_object(10, 10, 12, 12))
    three = session.accept(1, (), new_object(4, 0, 6, 4))
    merged = session.merge([one.id, two.id, three.id])
    assert (merged.id, merged.area, merged.box, merged.score) == (1, 28, (0, 0, 12, 12), None)
    assert len(session.prompts_of(1).points) == 3
    parts = session.split(1)
    assert [(part.id, part.area) for part in parts] == [(1, 24), (4, 4)], "numbers are not used again"
    assert session.prompts_of(4).points.tolist() == [[10.5, 10.5]]
    with pytest.raises(SessionError, match="at least 2 separate parts"):
        session.split(4)
    session.delete([1, 4])
    assert session.labels(1).max() == 0
    session.undo()
    assert [one.id for one in session.objects()] == [1, 4]
    with pytest.raises(SessionError, match="to merge"):
        session.merge([1])


def test_paint_changes_makes_and_deletes_objects(session: Session) -> None:
    session.accept(1, (), new_object(2, 2, 6, 6))
    session.accept(1, (), new_object(10, 2, 12, 4))
    box = (4, 0, 13, 8)
    before = session.labels_in(1, (), box)
    after = before.copy()
    after[2:4, 2:4] = 1  # beside object 1: x 6..8, y 2..4
    after[before == 2] = 9  # over all of object 2, with a label that is new
    changes: list[Change] = []
    session.subscribe(changes.append)
    assert session.paint(1, (), box, before, after) == {1, 2, 9}
    np.testing.assert_array_equal(session.labels_in(1, (), box), after)
    assert session.object(1).area == 20
    assert session.object(9).origin == "paint"
    assert session.accept(1, (), new_object(20, 10, 22, 12)).id == 10
    session.undo()
    session.undo()
    np.testing.assert_array_equal(session.labels_in(1, (), box), before)
    with pytest.raises(SessionError, match="labels of box"):
        session.paint(1, (), box, before[:2], after[:2])


def test_paint_keeps_what_lies_hidden_below(session: Session) -> None:
    session.accept(1, (), new_object(2, 2, 10, 10))
    session.accept(1, (), new_object(6, 6, 14, 14))
    before = session.labels(1)
    after = before.copy()
    after[12:14, 12:14] = 0
    session.paint(1, (), (0, 0, SIZE[1], SIZE[0]), before, after)
    assert session.object(1).area == 64
    assert session.object(2).area == 60


def test_review_walks_through_what_is_waiting(session: Session) -> None:
    found = [NewObject(block(x, 0, x + 2, 2), origin="automatic", is_reviewed=False) for x in (0, 4, 8)]
    ids = [one.id for one in session.accept_many(1, (), found)]
    waiting = session.next_unreviewed()
    assert waiting is not None and waiting.id == ids[0]
    session.set_reviewed(ids[:2])
    waiting = session.next_unreviewed(after=ids[2])
    assert waiting is not None and waiting.id == ids[2]
    session.set_reviewed(ids)
    assert session.next_unreviewed() is None
    session.undo()
    session.undo()
    session.undo()
    assert session.objects() == (), "many objects at once are one step"


def test_planes_are_apart(tmp_path: Path) -> None:
    with Session.open(tmp_path / "a.e2sam") as session:
        stack = session.add_stack(plain_stack("TZ", (2, 3)))
        session.set_prompts(stack.id, (0, 1), clicks((1, 1, 1)))
        session.set_prompts(stack.id, (1, 2), clicks((2, 2, 1)))
        session.accept(stack.id, (1, 2), new_object(3, 4, 8, 9))
        assert session.planes() == ((stack.id, (1, 2)),)
        assert session.drafts() == ((stack.id, (0, 1)),)
        assert session.labels(stack.id, (0, 1)).max() == 0
        assert session.labels(stack.id, (1, 2)).max() == 1
        for plane in ((), (2, 0), (0, -1), (0, 0, 0)):
            with pytest.raises(SessionError, match="Expected a plane"):
                session.accept(stack.id, plane, new_object(3, 4, 8, 9))


def test_classes(session: Session) -> None:
    cell = session.add_class("cell")
    assert (cell.id, cell.colour) == (2, "#56b4e9")
    session.update_class(cell.id, name="nucleus", key="n")
    accepted = session.accept(1, (), new_object(0, 0, 2, 2, class_id=cell.id))
    with pytest.raises(SessionError, match="without objects"):
        session.remove_class(cell.id)
    state = session.state()
    for wrong_place in (cell.id, 99):
        with pytest.raises(SessionError, match="class"):
            session.remove_class(cell.id, to=wrong_place)
    session.remove_class(cell.id, to=1)
    assert session.object(accepted.id).class_id == 1
    assert [record.name for record in session.classes()] == ["object"]
    assert session.next_undo().label == "Remove class nucleus"
    with pytest.raises(SessionError, match="at least 1 class"):
        session.remove_class(1)
    session.undo()
    assert session.state() == state, "the class and its objects come back in one step"
    session.redo()
    assert session.add_class("next").id == 3, "numbers are not used again"
    for wrong in (
        lambda: session.add_class("next"),
        lambda: session.add_class(" "),
        lambda: session.add_class("x", "red"),
        lambda: session.update_class(3, name="object"),
        lambda: session.remove_class(99),
        lambda: session.set_class([accepted.id], 99),
        lambda: session.accept(1, (), new_object(0, 0, 2, 2, class_id=99)),
    ):
        with pytest.raises(SessionError):
            wrong()


def test_a_branch_is_kept_when_something_new_is_done_after_undo(session: Session) -> None:
    session.accept(1, (), new_object(0, 0, 2, 2))
    session.undo()
    session.accept(1, (), new_object(5, 5, 7, 7))
    assert session.next_redo() is None
    steps = session.history()
    assert [(step.verb, step.stands) for step in steps] == [("accept", False), ("accept", True)]


def test_what_an_action_refuses_changes_nothing(session: Session) -> None:
    session.accept(1, (), new_object(0, 0, 2, 2))
    state = session.state()
    changes: list[Change] = []
    session.subscribe(changes.append)
    for wrong in (
        lambda: session.accept(1, (), new_object(25, 5, 31, 7)),
        lambda: session.accept(2, (), new_object(0, 0, 2, 2)),
        lambda: session.accept_many(1, (), [new_object(0, 0, 2, 2), new_object(0, 0, 2, 2, class_id=5)]),
        lambda: session.delete([1, 77]),
        lambda: session.choose_candidate(1, (), 0),
        lambda: session.set_prediction(1, (), [Candidate(None, 0.5)], 3),
        lambda: session.set_selection(1, ("NIR",)),
        lambda: session.set_recipes(1, CONDITIONS.recipes[:1]),
        lambda: session.set_recipes(1, ["none", "none"]),  # type: ignore[list-item]
        lambda: session.set_selection(1, 5),  # type: ignore[arg-type]
        lambda: session.set_alignment(1, {"R": 5}),  # type: ignore[dict-item]
        lambda: session.set_alignment(1, {"a": 5}),  # type: ignore[dict-item]
        lambda: session.set_alignment(1, {"R": (float("nan"), 0)}),
        lambda: session.add_class(5),  # type: ignore[arg-type]
        lambda: session.add_class("a", 5),  # type: ignore[arg-type]
        lambda: session.add_class("a", key=5),  # type: ignore[arg-type]
        lambda: session.accept(1, (), np.ones(SIZE, bool)),  # type: ignore[arg-type]
        lambda: session.accept(1, (), NewObject(np.ones(SIZE, bool))),  # type: ignore[arg-type]
        lambda: session.accept(1, (), replace(new_object(0, 0, 2, 2), prompts=None)),  # type: ignore[arg-type]
        lambda: session.accept(1, None, new_object(0, 0, 2, 2)),  # type: ignore[arg-type]
        lambda: session.accept([], (), new_object(0, 0, 2, 2)),  # type: ignore[arg-type]
        lambda: session.split(1, [1, 2]),  # type: ignore[list-item]
        lambda: session.delete(5),  # type: ignore[arg-type]
        lambda: session.delete([[]]),  # type: ignore[list-item]
        lambda: session.merge(5),  # type: ignore[arg-type]
        lambda: session.set_prompts(1, (), None),  # type: ignore[arg-type]
        lambda: session.set_view({"camera": session}),
        lambda: session.set_view(None),  # type: ignore[arg-type]
        lambda: session.set_worklist(5),  # type: ignore[arg-type]
        lambda: session.set_worklist([5]),  # type: ignore[list-item]
        lambda: session.add_stack(np.ones(SIZE, bool)),  # type: ignore[arg-type]
        lambda: session.split(1, [block(0, 0, 1, 1), block(29, 0, 31, 1)]),
        lambda: session.redo(),
    ):
        with pytest.raises(E2SamError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert session.state() == state
    assert changes == []


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(PromptError, match="at least 1 pixel"):
        MaskCrop.of(np.zeros((4, 4), bool))


def test_a_closed_session_says_so(tmp_path: Path) -> None:
    session = Session.open(tmp_path / "a.e2sam")
    session.close()
    session.close()
    for asked in (lambda: session.set_view({}), session.history, session.refresh, session.next_redo, session.classes):
        with pytest.raises(SessionError, match="Expected an open session, got a closed one"):
            asked()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "0.5", True, 10**400])
def test_a_score_is_a_finite_number(session: Session, score: Any) -> None:
    new = replace(new_object(0, 0, 2, 2), score=score)
    for attempt in (
        lambda: session.accept(1, (), new),
        lambda: session.accept_many(1, (), [new]),
        lambda: session.import_objects([((1, ()), "object", new)]),
    ):
        with pytest.raises(SessionError, match="score as a finite number"):
            attempt()
    assert session.objects() == ()


def test_a_score_that_an_earlier_version_took_is_unknown(session: Session, tmp_path: Path) -> None:
    session.accept(1, (), new_object(0, 0, 2, 2))
    session.close()
    with sqlite3.connect(tmp_path / "a.e2sam") as connection:
        connection.execute("UPDATE object SET score = 9e999")
    connection.close()
    with Session.open(tmp_path / "a.e2sam") as again:
        assert again.object(1).score is None


def test_state_is_readable_json(session: Session) -> None:
    session.accept(1, (), new_object(0, 0, 2, 2))
    tables = json.loads(session.state())
    assert set(tables) == {"class", "object", "draft", "counter", "stack"}
    assert len(tables["object"]) == 1
