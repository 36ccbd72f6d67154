"""Stacks, settings and training runs of a session: durable, but outside of undo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2sam.data.checks import check_kind, checked_path, is_number, is_whole, shown
from e2sam.data.content import content_hash, hash_files
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.session.core import SessionCore
from e2sam.data.session.encoding import decode_run, decode_stack, dump, encode_stack, recipes_text
from e2sam.data.session.records import Change, Plane, StackRecord, TrainingRun
from e2sam.data.session.schema import now
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError, SessionError, StackError

__all__ = ["SettingActions", "StackActions"]

_STACK_COLUMNS = 15


class StackActions(SessionCore):
    """Which images a session is about."""

    def add_stack(
        self,
        stack: ChannelStack,
        *,
        name: str = "",
        paths: Sequence[str | Path] | None = None,
        reading: Mapping[str, Any] | None = None,
        full_hash: bool = False,
    ) -> StackRecord:
        """Make a stack part of the session, or find it again by its content.

        Parameters
        ----------
        stack
            The opened stack.
        name
            What the user reads; by default the file's name.
        paths
            Files it was read from; by default `stack.files`, else `stack.source`. Empty for one that was never a file.
        reading
            Further arguments that `read_stack` was given, to be given again on reopening.
        full_hash
            Hash every byte of the files instead of a sample; see `e2sam.data.content`.
        """
        check_kind(stack, ChannelStack, "a ChannelStack, as read_stack opens one", StackError)
        if paths is None:
            paths = stack.files or ([] if stack.source is None else [stack.source])
        files = tuple(Path(path).absolute() for path in paths)
        content = self._content_of(stack, files, full_hash)
        record = StackRecord(
            id=0,
            name=name or (files[0].name if files else "stack"),
            paths=files,
            content=content,
            size=stack.size,
            num_planes=stack.num_planes,
            leading=stack.leading,
            channels=stack.channels,
            geo=stack.geo,
            reading=dict(reading or {}),
        )
        with self._guard:
            return self._add_record(record)

    def _content_of(self, stack: ChannelStack, files: tuple[Path, ...], full: bool) -> str:
        """Hash of a stack; of all bytes where a known stack has the same sample and other content."""
        mine = next((record for record in self.stacks() if record.paths == files and files), None)
        if mine is not None and _hash_as(mine.content, files) == mine.content:
            return mine.content
        content = content_hash(stack, files, full)
        known = next((record for record in self.stacks() if record.content == content), None)
        if known is None or not files or full or not _are_there(known.paths):
            return content
        whole = hash_files(files, full=True)
        return content if hash_files(known.paths, full=True) == whole else whole

    def _add_record(self, record: StackRecord) -> StackRecord:
        """Store a new stack, or find the one with its content and shape again."""
        for known in self.stacks():
            if known.content == record.content and _is_alike(known, record):
                found = known
                if record.paths and record.paths != known.paths and not _are_there(known.paths):
                    found = replace(found, paths=record.paths)
                if all(one.stack_id != known.id for one in self._objects.values()):
                    # Nothing was made on it yet: the names of today hold.
                    found = _renamed(found, record.channels)
                return found if found is known else self._update_stack("stack", found)
        number = 1 + max((known.id for known in self.stacks()), default=0)
        return self._update_stack("stack", replace(record, id=number))

    def stacks(self) -> tuple[StackRecord, ...]:
        """All stacks, in the order they were added."""
        return tuple(self._stack_records().values())

    def stack(self, stack_id: int) -> StackRecord:
        """One stack.

        Raises
        ------
        SessionError
            If there is none of this number.
        """
        records = self._stack_records()
        if not is_whole(stack_id) or stack_id not in records:
            raise SessionError(f"Expected a stack of the session ({_listed(records)}), got {shown(stack_id)}.")
        return records[stack_id]

    def load_stack(self, stack_id: int, aligned: bool = True, unchanged: bool = False) -> ChannelStack:
        """Open a stack's files again, as they were read before; with its alignment applied, unless as it is stored.

        Raises
        ------
        SessionError
            If the files are away, hold a stack of another shape, or, where it must be `unchanged`, other content than
            when its objects were made.
        """
        from e2sam.data.alignment import shifted
        from e2sam.data.io import read_stack

        record = self.stack(stack_id)
        if not record.paths or not _are_there(record.paths):
            raise SessionError(f"Expected {record.name} at {_shown(record.paths)}, got nothing: say where it is now.")
        if unchanged and _hash_as(record.content, record.paths) != record.content:
            raise SessionError(
                f"Expected the content of {record.name} when its objects were made, got another in "
                f"{_shown(record.paths)}: put the old file back, or accept the change in the window."
            )
        paths: Any = record.paths[0] if len(record.paths) == 1 else list(record.paths)
        stack = read_stack(paths, **record.reading)
        shape = (*record.num_planes, len(record.channels), *record.size)
        if tuple(stack.data.shape) != shape:
            raise SessionError(
                f"Expected {record.name} of shape {shape}, got {tuple(stack.data.shape)}: it has changed."
            )
        stack = replace(stack, channels=record.channels)
        return shifted(stack, record.alignment) if aligned and record.alignment else stack

    def missing_stacks(self) -> tuple[StackRecord, ...]:
        """Stacks whose files are not where they were."""
        return tuple(record for record in self.stacks() if record.paths and not _are_there(record.paths))

    def changed_stacks(self) -> tuple[StackRecord, ...]:
        """Stacks whose files are there but hold something else than before. Reads about 2 MiB a file."""
        there = (record for record in self.stacks() if record.paths and _are_there(record.paths))
        return tuple(record for record in there if _hash_as(record.content, record.paths) != record.content)

    def relocate(
        self, stack_id: int, paths: str | Path | Sequence[str | Path], allow_changed: bool = False
    ) -> StackRecord:
        """Say where a moved image is now.

        Raises
        ------
        SessionError
            If the content is not what it was, unless `allow_changed`.
        """
        record = self.stack(stack_id)
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        files = tuple(Path(path).absolute() for path in given)
        try:
            content = _hash_as(record.content, files)
        except StackError as error:
            raise SessionError(str(error)) from error
        if content != record.content and not allow_changed:
            raise SessionError(
                f"Expected the image {record.name} again, got another content at {_shown(files)}: "
                "choose the file it was, or accept the changed image."
            )
        return self._update_stack("relocate", replace(record, paths=files, content=content))

    def find_missing(self, folder: str | Path) -> tuple[StackRecord, ...]:
        """Look for all missing stacks in one folder, by name and content; returns those found and relocated."""
        found = []
        for record in self.missing_stacks():
            files = tuple(Path(folder).absolute() / path.name for path in record.paths)
            if _are_there(files) and _hash_as(record.content, files) == record.content:
                found.append(self.relocate(record.id, files))
        return tuple(found)

    def accept_changed(self, stack_id: int) -> StackRecord:
        """Take a changed image as it is now; its objects stay."""
        record = self.stack(stack_id)
        return self._update_stack("stack", replace(record, content=_hash_as(record.content, record.paths)))

    def set_selection(self, stack_id: int, names: Sequence[str] | None) -> StackRecord:
        """Store the selected channels, by name; None for "not chosen yet"."""
        record = self.stack(stack_id)
        if names is not None:
            _check_names(record, names)
        selection = None if names is None else tuple(names)
        return self._update_stack("selection", replace(record, selection=selection))

    def set_recipes(self, stack_id: int, recipes: Sequence[ChannelRecipe] | None, channel: str = "") -> StackRecord:
        """Store the normalization of every channel of a stack, in a step that can be undone; None for "as opened".

        `channel` is the one that it is about; the step is named after it.
        """
        record = self.stack(stack_id)
        given = list(recipes) if isinstance(recipes, Iterable) else [recipes]
        is_wrong = len(given) != len(record.channels) or not all(isinstance(one, ChannelRecipe) for one in given)
        if recipes is not None and is_wrong:
            raise ChannelError(f"Expected {len(record.channels)} recipes for {record.name}, got {shown(recipes)}.")
        with self._action("recipes", f"Normalize {channel or record.name}") as edit:
            edit.put("stack", (stack_id, None if recipes is None else recipes_text(recipes)))
        return self.stack(stack_id)

    def set_alignment(self, stack_id: int, shifts: Mapping[str, tuple[float, float]]) -> StackRecord:
        """Store the shift (dx, dy), pixels, that each named channel needs; an empty mapping takes it back."""
        record = self.stack(stack_id)
        _check_shifts(shifts)
        _check_names(record, tuple(shifts))
        alignment = {name: (float(dx), float(dy)) for name, (dx, dy) in shifts.items()}
        return self._update_stack("alignment", replace(record, alignment=alignment))

    def set_done(self, stack_id: int, is_done: bool = True) -> StackRecord:
        """Tick a stack off the worklist, or put it back."""
        return self._update_stack("done", replace(self.stack(stack_id), is_done=is_done))

    def _update_stack(self, verb: str, record: StackRecord) -> StackRecord:
        records = self._stack_records()
        with self._setting() as connection:
            marks = ", ".join("?" * _STACK_COLUMNS)
            connection.execute(f"INSERT OR REPLACE INTO stack VALUES ({marks})", encode_stack(record))
        records[record.id] = record
        self._publish(Change("setting", verb))
        return record

    def _stack_records(self) -> dict[int, StackRecord]:
        if self._stacks is None:
            rows = self._journal.rows("SELECT * FROM stack ORDER BY id")
            self._stacks = {record.id: record for record in map(decode_stack, rows)}
        return self._stacks


class SettingActions(SessionCore):
    """What is restored on reopening beside the objects: model, view, place; and the training runs."""

    @property
    def model(self) -> Mapping[str, str]:
        """The model in use: {"name", "fingerprint"}; empty where none was chosen."""
        return dict(self._setting_value("model", {}))

    def set_model(self, name: str, fingerprint: str) -> None:
        """Store the model in use: what `load_model` was given, and the fingerprint it had."""
        self._set_value("model", "model", {"name": name, "fingerprint": fingerprint})

    @property
    def view(self) -> Mapping[str, Any]:
        """Whatever the window stored of its view, as JSON."""
        return dict(self._setting_value("view", {}))

    def set_view(self, view: Mapping[str, Any]) -> None:
        """Store the view (camera, layer visibility, panels) as JSON."""
        check_kind(view, Mapping, "the view as a dictionary", SessionError)
        self._set_value("view", "view", dict(view), is_draft=True)

    @property
    def active(self) -> tuple[int, Plane] | None:
        """Stack and plane in front of the user, or None."""
        found = self._setting_value("active", None)
        return None if found is None else (found[0], tuple(found[1]))

    def set_active(self, stack_id: int, plane: Plane = ()) -> None:
        """Store which stack and plane is in front of the user."""
        self._set_value("active", "active", [stack_id, list(plane)], is_draft=True)

    @property
    def worklist(self) -> tuple[Path, ...]:
        """Images to be worked through, in their order; see `StackRecord.is_done` for what is done."""
        return tuple(Path(path) for path in self._setting_value("worklist", []))

    def set_worklist(self, paths: Sequence[str | Path]) -> None:
        """Store the images to be worked through."""
        check_kind(paths, Sequence, "a list of the images' paths", SessionError)
        files = [checked_path(path, "an image", SessionError) for path in paths]
        self._set_value("worklist", "worklist", [str(path.absolute()) for path in files])

    @property
    def overlap(self) -> str:
        """Which object a pixel shows where several lie: "newest" or "oldest"."""
        return str(self._setting_value("overlap", "newest"))

    def set_overlap(self, policy: str) -> None:
        """Choose the overlap policy."""
        if policy not in ("newest", "oldest"):
            raise SessionError(f"Expected overlap 'newest' or 'oldest', got {policy!r}.")
        self._set_value("overlap", "overlap", policy)

    @property
    def presets(self) -> tuple[tuple[str, ...], ...]:
        """Channel selections that the user kept, by name, oldest first; for every stack that has their channels."""
        return tuple(tuple(names) for names in self._setting_value("presets", []))

    def add_preset(self, names: Sequence[str]) -> None:
        """Keep a channel selection, by name; one that is kept already stays where it is."""
        if not names:
            raise ChannelError("Expected at least 1 channel for a preset, got 0: tick one in Channels.")
        with self._guard:
            kept = self.presets
            if tuple(names) not in kept:
                self._set_value("presets", "presets", [*kept, tuple(names)])

    def training_runs(self) -> tuple[TrainingRun, ...]:
        """All training runs, oldest first."""
        return tuple(decode_run(row) for row in self._journal.rows("SELECT * FROM training_run ORDER BY id"))

    def training_run(self, run_id: int) -> TrainingRun:
        """One training run."""
        rows = self._journal.rows("SELECT * FROM training_run WHERE id = ?", (run_id,))
        if not rows:
            raise SessionError(f"Expected a training run of the session, got {run_id}.")
        return decode_run(rows[0])

    def begin_training(self, kind: str, config: Mapping[str, Any], parent: str) -> TrainingRun:
        """Record that a training ("inherit" or "finetune") began from the model `parent`."""
        run_id = 1 + max((run.id for run in self.training_runs()), default=0)
        return self._write_run(TrainingRun(run_id, kind, "running", dict(config), {}, None, parent, now()))

    def update_training(
        self,
        run_id: int,
        status: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        checkpoint: str | Path | None = None,
    ) -> TrainingRun:
        """Record progress or the end of a training; what is None stays."""
        run = self.training_run(run_id)
        if status is not None and status not in ("running", "done", "cancelled", "failed", "rejected"):
            raise SessionError(f"Expected running, done, cancelled, failed or rejected, got {status!r}.")
        run = replace(
            run,
            status=status or run.status,
            metrics=run.metrics if metrics is None else dict(metrics),
            checkpoint=run.checkpoint if checkpoint is None else Path(checkpoint),
        )
        return self._write_run(replace(run, finished="" if run.status == "running" else run.finished or now()))

    def _write_run(self, run: TrainingRun) -> TrainingRun:
        checkpoint = None if run.checkpoint is None else str(run.checkpoint)
        texts = (dump(dict(run.config)), dump(dict(run.metrics)))
        row = (run.id, run.kind, run.status, *texts, checkpoint, run.parent, run.started, run.finished)
        with self._setting() as connection:
            connection.execute("INSERT OR REPLACE INTO training_run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._publish(Change("setting", "training"))
        return run


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids)) or "it has none"


def _check_names(record: StackRecord, names: Sequence[str]) -> None:
    known = {channel.name for channel in record.channels}
    if not isinstance(names, Iterable):
        raise ChannelError(f"Expected channels of {record.name}, got {shown(names)}.")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ChannelError(f"Expected channels of {record.name}, got {', '.join(map(str, unknown))}.")


def _check_shifts(shifts: Any) -> None:
    pairs = list(shifts.values()) if isinstance(shifts, Mapping) else [shifts]
    wrong = [one for one in pairs if not (isinstance(one, tuple | list) and len(one) == 2 and all(map(is_number, one)))]
    if wrong:
        raise SessionError(f"Expected a shift (dx, dy) in pixels of each channel by name, got {shown(wrong[0])}.")


def _renamed(known: StackRecord, channels: tuple[ChannelSpec, ...]) -> StackRecord:
    """The record with other channels in the places of its own."""
    if known.channels == channels:
        return known
    names = {before.name: after.name for before, after in zip(known.channels, channels, strict=True)}
    return replace(
        known,
        channels=channels,
        selection=None if known.selection is None else tuple(names[name] for name in known.selection),
        alignment={names[name]: shift for name, shift in known.alignment.items()},
    )


def _is_alike(known: StackRecord, record: StackRecord) -> bool:
    """Whether two stacks of one content have one shape, and their channels one axis and one order."""
    axes = [one.reading.get("channel_axis") for one in (known, record)]
    if None not in axes and axes[0] != axes[1]:
        return False
    shapes = [(one.num_planes, len(one.channels), one.size) for one in (known, record)]
    # The files of a folder come in its own order, those of a list in the caller's.
    is_ordered = len(known.paths) == len(record.paths) or known.channels == record.channels
    return shapes[0] == shapes[1] and is_ordered


def _are_there(paths: Sequence[Path]) -> bool:
    return all(path.exists() for path in paths)


def _hash_as(content: str, paths: Sequence[Path]) -> str:
    return hash_files(paths, full=content.startswith("full:"))


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
