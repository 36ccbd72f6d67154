"""Joins the Objects panel, the objects layer and the session: accept, undo, edit, delete, merge, review."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from e2sam.data.masks import Box, MaskCrop, unite
from e2sam.data.session import Change, HistoryStep, NewObject, ObjectRecord
from e2sam.errors import E2SamError
from napari_e2sam._jobs import Request
from napari_e2sam._rows import ObjectRow
from napari_e2sam._state import Workplace
from napari_e2sam._wire import Message
from napari_e2sam.widgets.objects import ObjectsPanel

__all__ = ["ObjectControl"]

# Objects that change together are drawn by squares of this side, as many in one turn as fit into the time.
_SQUARE = 512
# A larger one is cut into strips of so many pixels: writing all of one that covers a large image would hold the window.
_STRIP = 1 << 20
# In the first turn the rest of what the user did has to be shown too.
_DRAWING_FIRST_S, _DRAWING_S, _DRAWS_ON_AFTER_MS = 0.01, 0.03, 5


class ObjectControl:
    """Shows the objects of the session and does with them what the user asks; every action is undoable.

    Parameters
    ----------
    panel, work
        The panel, and the parts of the window.
    exchange
        Asks for an import or an export.
    when_answered
        As `PromptControl.when_answered`.
    """

    def __init__(
        self,
        panel: ObjectsPanel,
        work: Workplace,
        exchange: Callable[[str], None],
        when_answered: Callable[[Callable[[], None]], bool],
    ) -> None:
        self._panel = panel
        self._work = work
        self._when_answered = when_answered
        self._everything: tuple[int, tuple[int, ...]] | None = None
        self._news = ""
        self._waiting: list[Box] = []
        self._rows: dict[int, tuple[ObjectRecord, ObjectRow]] = {}
        self._drawing = QTimer()
        self._drawing.setInterval(_DRAWS_ON_AFTER_MS)
        self._drawing.timeout.connect(self._draw_on)
        self._actions: dict[str, Callable[[], None]] = {
            "edit": self.edit,
            "delete": self.delete,
            "merge": self.merge,
            "split": self.split,
            "next": self.next_unreviewed,
            "everything": self.everything,
            "everything_here": self.everything_here,
            "undo": self.undo,
            "redo": self.redo,
            "import": lambda: exchange("import"),
            "export": lambda: exchange("export"),
        }
        panel.action_asked.connect(lambda name: self._try(self._actions[name]))
        panel.chosen.connect(self._on_chosen)
        panel.reviewed_changed.connect(self._on_reviewed_changed)
        panel.overlap_chosen.connect(self._on_overlap_chosen)
        work.session.changed.connect(self._on_change)
        work.canvas.painted.connect(self._on_painted)
        work.canvas.objects_made.connect(self._draw_all)
        work.canvas.objects_deleted.connect(self._on_objects_deleted)
        work.engine.lost.connect(self._end_everything)
        work.state.encoded.connect(self._on_encoded)
        panel.set_overlap(work.session.file.overlap)

    def _try(self, action: Callable[[], Any]) -> None:
        self._work.forget_error()
        try:
            action()
            return
        except E2SamError as error:
            self._work.fail(str(error))

    # -- actions -------------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Keep the mask under way as an object, as soon as it is there."""
        session = self._work.session
        if self._when_answered(self.accept):
            self._work.say("Accepted as soon as the mask is there", "busy")
            return

        def accept() -> None:
            session.file.accept_draft(*session.place, session.class_id)
            layer = self._work.canvas.objects_layer
            is_hidden = layer is not None and not layer.visible
            self._work.say("Accepted; the layer of the objects is hidden." if is_hidden else "", "info")

        self._try(accept)

    def undo(self) -> None:
        """Take the last step back, where it was made on this image."""
        file = self._work.session.file
        self._walk(file.next_undo(), file.undo)

    def redo(self) -> None:
        """Do the last undone step again, where it was made on this image."""
        file = self._work.session.file
        self._walk(file.next_redo(), file.redo)

    def _walk(self, step: HistoryStep | None, action: Callable[[], Any]) -> None:
        if step is None:
            return
        if reason := self._work.session.reason_against(step):
            self._work.fail(reason)
        else:
            self._try(action)

    def edit(self) -> None:
        """Take the chosen object back into prompts."""
        chosen = self._panel.chosen_ids
        if len(chosen) == 1:
            self._try(lambda: self._work.session.file.reedit(chosen[0]))
            self._work.canvas.take_tool("points")

    def delete(self) -> None:
        """Delete the chosen objects."""
        if chosen := self._panel.chosen_ids:
            self._try(lambda: self._work.session.file.delete(chosen))

    def merge(self) -> None:
        """Join the chosen objects."""
        if chosen := self._panel.chosen_ids:
            self._try(lambda: self._work.session.file.merge(chosen))

    def split(self) -> None:
        """Split the chosen objects into their separate parts."""

        def split() -> None:
            failed: E2SamError | None = None
            for number in chosen:
                try:
                    self._work.session.file.split(number)
                except E2SamError as error:
                    failed = error
            if failed is not None:
                raise failed

        if chosen := self._panel.chosen_ids:
            self._try(split)

    def review(self) -> None:
        """Mark the chosen objects as reviewed, and go on to the next."""
        if chosen := self._panel.chosen_ids:
            self._on_reviewed_changed(chosen, True)
            self.next_unreviewed()

    def next_unreviewed(self) -> None:
        """Choose the next object that nobody has looked at, and bring it into view."""
        if not self._work.session.has_stack:
            self._try(lambda: self._work.session.place)
            return
        chosen = self._panel.chosen_ids
        here = {record.id for record in self._work.session.objects}
        after = chosen[-1] if chosen else 0
        record = self._work.session.file.next_unreviewed(after)
        if record is None or record.id not in here:
            waiting = [one for one in self._work.session.objects if not one.is_reviewed]
            record = waiting[0] if waiting else None
        if record is None:
            self._work.say("Every object of this image is reviewed.", "info")
            return
        self._panel.choose([record.id])
        self._work.canvas.make_objects()
        self._work.canvas.look_at(record.box)

    def _on_reviewed_changed(self, numbers: list[int], is_reviewed: bool) -> None:
        self._try(lambda: self._work.session.file.set_reviewed(numbers, is_reviewed))

    def _on_overlap_chosen(self, policy: str) -> None:
        self._try(lambda: self._work.session.file.set_overlap(policy))
        self._draw_all()

    # -- segment everything --------------------------------------------------------------------------------------------

    def everything(self) -> None:
        """Segment every object of the image; asked again while it runs, stop."""
        self._segment_everything(None)

    def everything_here(self) -> None:
        """Segment every object that shows whole on the screen; asked again while it runs, stop."""
        view = self._work.canvas.view
        if view is None and self._everything is None:
            self._work.fail("Expected the image on the screen, got none of it: move it into view.")
            return
        self._segment_everything(view)

    def _segment_everything(self, window: Box | None) -> None:
        work = self._work
        if self._everything is not None:
            work.engine.cancel("everything")
            return
        try:
            work.state.check_encoded()
        except E2SamError as error:
            work.fail(str(error))
            return
        self._everything = work.session.place
        self._panel.set_segmenting(True)
        work.engine.request(
            Request(
                "everything",
                {} if window is None else {"window": [int(side) for side in window]},
                done=lambda message: self._on_everything(message, window),
                failed=self._on_everything_failed,
                progress=lambda share, text: work.say(f"{text}: {100 * share:.0f} %", "busy"),
                lane="everything",
            )
        )

    def _end_everything(self) -> tuple[int, tuple[int, ...]] | None:
        place, self._everything = self._everything, None
        self._panel.set_segmenting(False)
        return place

    def _on_everything_failed(self, text: str) -> None:
        self._end_everything()
        if not self._work.state.is_encoded:
            # The line is emptied when what came first is encoded.
            self._news = text
        self._work.fail(text)

    def _on_encoded(self) -> None:
        if self._news:
            self._work.fail(self._news)
            self._news = ""

    def _on_everything(self, message: Message, window: Box | None) -> None:
        place = self._end_everything()
        labels = message.arrays["labels"]
        class_id = self._work.session.class_id
        work = self._work
        x0, y0 = (0, 0) if window is None else window[:2]

        def add() -> int:
            if place is None:
                return 0
            taken = work.session.file.labels_in(*place, (x0, y0, x0 + labels.shape[1], y0 + labels.shape[0])) > 0
            found = objects_of(labels, taken, class_id, (x0, y0))
            if found:
                work.session.file.accept_many(*place, found)
            return len(found)

        def show(count: int) -> None:
            work.session.tell()
            work.say(f"{count} objects found; they wait for your review.", "info")

        # Writing hundreds of masks takes too long for the window's own thread.
        work.tasks.run(add, show, work.fail)

    # -- painting ------------------------------------------------------------------------------------------------------

    def _on_painted(self, box: Box, labels: NDArray[np.int32], is_painted: NDArray[np.bool_]) -> None:
        session = self._work.session
        if not session.has_stack:
            return
        # Beside the stroke the layer may not show yet what the session holds.
        before = session.file.labels_in(*session.place, box)
        after = np.where(is_painted, labels, before)
        try:
            session.file.paint(*session.place, box, before, after, session.class_id)
        except E2SamError as error:
            self._work.canvas.draw_labels(box, before)
            self._work.fail(str(error))
        # napari writes some strokes only after it has told of them: what the session holds is drawn once more.
        place = session.place
        QTimer.singleShot(0, lambda: self._settle(place, box))

    def _settle(self, place: tuple[int, tuple[int, ...]], box: Box) -> None:
        session = self._work.session
        if session.file.is_open and session.has_stack and session.place == place:
            self._work.canvas.draw_labels(box, session.file.labels_in(*place, box))

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _on_change(self, change: Change) -> None:
        session = self._work.session
        if not session.has_stack:
            self._show_history()
            return
        if change.kind == "refresh":
            self._draw_all()
        here = [region.box for region in change.regions if (region.stack_id, region.plane) == session.place]
        new = self._come_with(change)
        if new is not None:
            self._add_row(new)
        elif change.objects or change.has_classes or change.kind == "refresh":
            self._show_rows()
        self._show_history()
        if here and not (new is not None and self._draw_new(new)):
            self._waiting += squares_of(here)
            self._draw_waiting(_DRAWING_FIRST_S)

    def _come_with(self, change: Change) -> ObjectRecord | None:
        """The object that a change has brought here, where it has changed nothing else."""
        objects = self._work.session.objects
        if not objects or change.objects != {objects[-1].id} or change.has_classes:
            return None
        return objects[-1] if objects[-1].id not in self._rows and len(objects) == len(self._rows) + 1 else None

    def _draw_new(self, new: ObjectRecord) -> bool:
        """Draw an object that has come, and nothing of the others, where that can be done now."""
        x0, y0, x1, y1 = new.box
        if self._waiting or (x1 - x0) * (y1 - y0) > _STRIP:
            return False
        file = self._work.session.file
        self._work.canvas.draw_object(file.mask(new.id), new.id, file.overlap == "newest")
        return True

    def close(self) -> None:
        """Draw no more; the timer ends at its next turn."""
        self._waiting.clear()

    def _draw_waiting(self, seconds: float) -> None:
        """Draw what has changed, for as long as the window may be held; the rest in its next turns."""
        session = self._work.session
        end = perf_counter() + seconds
        while self._waiting and session.has_stack:
            box = self._waiting.pop(0)
            self._work.canvas.draw_labels(box, session.file.labels_in(*session.place, box))
            if perf_counter() > end:
                break
        if self._waiting:
            self._drawing.start()
        else:
            self._drawing.stop()

    def _draw_on(self) -> None:
        """Take another turn of drawing, unless the user waits for a mask."""
        if not self._work.engine.is_asked("predict"):
            self._draw_waiting(_DRAWING_S)

    def _draw_all(self) -> None:
        session = self._work.session
        self._waiting.clear()
        if session.has_stack and self._work.canvas.objects_layer is not None:
            self._work.canvas.draw_all_labels(session.file.labels(*session.place) if session.objects else None)

    def redraw(self) -> None:
        """Draw everything again, as after another stack was opened."""
        self._draw_all()
        self._show_rows()
        self._show_history()

    @property
    def _class_names(self) -> dict[int, str]:
        return {record.id: record.name for record in self._work.session.file.classes()}

    def _add_row(self, new: ObjectRecord) -> None:
        row = _row_of(new, self._class_names)
        self._rows[new.id] = new, row
        self._panel.add_row(row, self._work.canvas.colour_of)

    def _show_rows(self) -> None:
        session, classes = self._work.session, self._class_names
        known, self._rows = self._rows, {}
        for record in session.objects:
            before = known.get(record.id)
            # A record never changes: another one takes its place.
            if before is None or before[0] is not record or before[1].class_name != classes.get(record.class_id):
                before = record, _row_of(record, classes)
            self._rows[record.id] = before
        self._panel.set_rows([row for _, row in self._rows.values()], self._work.canvas.colour_of)

    def _show_history(self) -> None:
        session = self._work.session
        can: list[bool] = []
        texts: list[str] = []
        for step in (session.file.next_undo(), session.file.next_redo()):
            reason = "" if step is None else session.reason_against(step)
            can.append(step is not None and not reason)
            texts.append(reason or ("" if step is None else step.label))
        self._panel.set_history(can[0], can[1], *texts)

    def _on_objects_deleted(self) -> None:
        if self._work.session.objects:
            self._work.say("The objects are safe in the session: choose one in Objects to see them again.", "info")

    def _on_chosen(self, numbers: list[int]) -> None:
        if numbers:
            self._work.canvas.make_objects()
        layer = self._work.canvas.objects_layer
        if layer is not None and len(numbers) == 1:
            layer.selected_label = numbers[0]


def squares_of(boxes: Iterable[Box]) -> list[Box]:
    """Few boxes that hold many: those that begin in the same square of the image are united; large ones are cut."""
    united: dict[tuple[int, int], Box] = {}
    large = []
    for box in boxes:
        if box[2] - box[0] > _SQUARE or box[3] - box[1] > _SQUARE:
            large += _strips_of(box)
            continue
        key = box[0] // _SQUARE, box[1] // _SQUARE
        united[key] = unite(united[key], box) if key in united else box
    return [*large, *united.values()]


def _strips_of(box: Box) -> list[Box]:
    """A box by whole rows: a mask is stored row by row, and so is what the graphics card is given."""
    x0, y0, x1, y1 = box
    rows = max(1, _STRIP // (x1 - x0))
    return [(x0, y, x1, min(y + rows, y1)) for y in range(y0, y1, rows)]


def objects_of(
    labels: NDArray[np.int32], taken: NDArray[np.bool_], class_id: int, corner: tuple[int, int] = (0, 0)
) -> list[NewObject]:
    """Instances of a label image (h, w) as objects to review; those that mostly lie on `taken` are left out.

    `corner` is the pixel (x, y) of the image that the label image begins at.
    """
    from scipy import ndimage

    found = []
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        if where is None:
            continue
        mask = labels[where] == number
        if np.count_nonzero(mask & taken[where]) > 0.5 * np.count_nonzero(mask):
            continue
        crop = MaskCrop.of(mask, corner[0] + where[1].start, corner[1] + where[0].start)
        found.append(NewObject(crop, class_id, None, origin="automatic", is_reviewed=False))
    return found


def _row_of(record: ObjectRecord, classes: dict[int, str]) -> ObjectRow:
    return ObjectRow(
        record.id,
        classes.get(record.class_id, str(record.class_id)),
        record.score,
        record.area,
        record.is_reviewed,
        record.conditions.channels,
    )
