"""The `.e2sam` file: one SQLite database with stacks, prompts, objects, history and training runs.

Every method that changes something is one transaction and has returned only when it is durable; then the listeners are
told. Nothing needs to be saved. Undo and redo walk an append-only history that survives closing.

Open and close
    Session.open(path, create=True, read_only=False); close(); also a context manager
    path, id, is_open, is_read_only, message (why it is read-only: another window has it open, no right to write)
    subscribe(listener) -> unsubscribe; listener(Change(kind, verb, objects, regions, drafts, has_classes))
    refresh() -> bool: a read-only session follows the writer
Stacks (not undoable)
    add_stack(stack, name="", paths=None, reading=None, full_hash=False) -> StackRecord; the same content is found again
    stacks(); stack(id); load_stack(id) -> ChannelStack, aligned
    missing_stacks(); changed_stacks(); relocate(id, paths, allow_changed=False); find_missing(folder)
    accept_changed(id)
    set_selection(id, names); set_alignment(id, {channel: (dx, dy)}); set_done(id)
    set_recipes(id, recipes, channel=""): undoable
Settings (not undoable)
    model / set_model(name, fingerprint); view / set_view(json); active / set_active(stack_id, plane)
    overlap / set_overlap("newest" | "oldest"); worklist / set_worklist(paths)
    presets / add_preset(channel names)
Draft: the object under way on a plane (undoable)
    draft(stack_id, plane=()) -> Draft(prompts, candidates, chosen, conditions, object_id); drafts()
    set_prompts(stack_id, plane, prompts)
    set_prediction(stack_id, plane, candidates, chosen=0, conditions=None, prompts=None): one undo step with its prompt
    choose_candidate(stack_id, plane, chosen); clear_draft(stack_id, plane)
    reedit(object_id) -> Draft: begin from an accepted object; accept_draft then puts the mask in its place
Objects (undoable)
    accept_draft(stack_id, plane, class_id) -> ObjectRecord
    accept(stack_id, plane, NewObject(MaskCrop.of(mask), class_id, score, prompts, conditions, origin, is_reviewed))
    accept_many(stack_id, plane, new_objects); replace(id, new); delete(ids); merge(ids); split(id, parts=None)
    import_objects([((stack_id, plane), class_name, NewObject), ...])
    set_class(ids, class_id); set_reviewed(ids, is_reviewed); paint(stack_id, plane, box, before, after, class_id)
Reading objects (from memory)
    objects(stack_id=None, plane=None); object(id); mask(id) -> MaskCrop; masks(stack_id, plane); prompts_of(id)
    planes(); object_at(stack_id, plane, x, y); next_unreviewed(after)
    labels(stack_id, plane, overlap=None) -> (H, W) int32
    labels_in(stack_id, plane, box) -> (h, w) int32: what a window redraws for each `Change.regions`
Classes (undoable)
    classes(); add_class(name, colour, key); update_class(id, ...); remove_class(id, to=None)
History
    undo(), redo() -> HistoryStep; next_undo(), next_redo() -> HistoryStep or None (for menus); history(newest)
    state() -> bytes: canonical form of everything undoable
Training runs (not undoable)
    begin_training(kind, config, parent) -> TrainingRun; update_training(id, status, metrics, checkpoint)
    training_runs(); training_run(id)

`plane` is the position on the leading axes, () where there are none; boxes are x0, y0, x1, y1 with the end outside.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> import numpy as np
>>> from e2sam.data.masks import MaskCrop
>>> from e2sam.data.stack import ChannelSpec, ChannelStack
>>> stack = ChannelStack(np.zeros((1, 8, 9), np.uint8), (ChannelSpec("depth"),))
>>> mask = np.zeros((8, 9), bool)
>>> mask[2:4, 3:6] = True
>>> with tempfile.TemporaryDirectory() as folder, Session.open(Path(folder) / "a.e2sam") as session:
...     record = session.add_stack(stack)
...     accepted = session.accept(record.id, (), NewObject(MaskCrop.of(mask)))
...     int(session.labels(record.id).max()), accepted.area
(1, 6)
"""

from __future__ import annotations

from e2sam.data.session.records import (
    Candidate,
    Change,
    ClassRecord,
    Conditions,
    Draft,
    HistoryStep,
    NewObject,
    ObjectRecord,
    Plane,
    Region,
    StackRecord,
    TrainingRun,
)
from e2sam.data.session.session import Session

__all__ = [
    "Candidate",
    "Change",
    "ClassRecord",
    "Conditions",
    "Draft",
    "HistoryStep",
    "NewObject",
    "ObjectRecord",
    "Plane",
    "Region",
    "Session",
    "StackRecord",
    "TrainingRun",
]
