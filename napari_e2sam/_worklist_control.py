"""Joins the Worklist panel with session and viewer: shows the current image, prepares its neighbours."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image

from e2sam.data.session import Change
from e2sam.errors import E2SamError, StackError
from napari_e2sam._convert import UNCLEAR_KEY, UnclearFile
from napari_e2sam._prefetch_process import PrefetchProcess
from napari_e2sam._reader import read
from napari_e2sam._state import Workplace
from napari_e2sam._worklist import Worklist
from napari_e2sam.widgets.worklist import WorklistPanel

__all__ = ["WorklistControl"]


class WorklistControl:
    """Works through a folder of images.

    Parameters
    ----------
    panel, work
        The panel, and what every controller is given.
    prefetches
        Whether images are encoded and compared in the background.
    """

    def __init__(self, panel: WorklistPanel, work: Workplace, prefetches: bool = True) -> None:
        self._panel = panel
        self._work = work
        self._prefetches = prefetches
        self._prefetching = PrefetchProcess()
        self._prefetching.prepared.connect(self._on_prepared)
        self._prefetching.finished.connect(self._on_prefetched)
        self._used: tuple[str, tuple[str, ...], int | None] = ("", (), None)
        # By model, channels and channel axis: the user may come back to them.
        self._known: dict[tuple[str, tuple[str, ...], int | None], dict[Path, float | None]] = {}
        self._doubts: dict[Path, float | None] = {}
        self._compares_all = False
        self._goes_to_doubt = False
        # The image that is being read to be shown.
        self._reading: Path | None = None
        self._layer: Image | None = None
        self._chosen: UnclearFile | None = None
        self._selection: tuple[str, ...] = ()
        self.worklist = Worklist(work.session.file)
        panel.folder_chosen.connect(self.open_folder)
        panel.step_asked.connect(self.step)
        panel.item_chosen.connect(self._on_item_chosen)
        panel.done_changed.connect(self.set_done)
        panel.next_to_do_asked.connect(self.done_and_next)
        panel.doubt_asked.connect(self.go_to_doubt)
        self.worklist.changed.connect(self._update)
        work.session.changed.connect(self._on_change)
        work.state.encoded.connect(self._on_encoded)
        self._update()

    def close(self) -> None:
        """End the background encoding."""
        self._prefetching.close()

    def open_folder(self, folder: Path) -> None:
        """Take a folder as the worklist and show its first image that is not done."""
        try:
            self.worklist.open(folder)
        except E2SamError as error:
            self._work.fail(str(error))
            return
        self.show()

    def step(self, direction: int) -> None:
        """Show the next or previous image."""
        if self.worklist.step(direction) is not None:
            self.show()

    def set_done(self, is_done: bool = True) -> bool:
        """Tick the current image off, if it is the one that is shown; whether that went well."""
        try:
            self._check_shown()
            self.worklist.set_done(is_done)
        except E2SamError as error:
            self._work.fail(str(error))
            self._update()
            return False
        return True

    def done_and_next(self) -> None:
        """Tick the current image off and show the next one that is not done; pass one that cannot be shown."""
        if (self._is_shown or self._is_coming) and not self.set_done():
            return
        if self.worklist.next_to_do() is not None:
            self.show()
        elif self.worklist.remaining:
            self._work.say("Every other image of the worklist is done, or could not be read.", "info")
        else:
            self._work.say("Every image of the worklist is done.", "info")

    @property
    def _is_shown(self) -> bool:
        """Whether the current image is the one in front of the user."""
        path = self._shown_path
        return path is not None and path == self.worklist.current

    @property
    def _shown_path(self) -> Path | None:
        """File of the image in front of the user; None where there is none."""
        state = self._work.state
        if state.scene is None or state.scene.stack.source is None or state.layer not in self._work.viewer.layers:
            return None
        return Path(state.scene.stack.source).absolute()

    @property
    def _is_coming(self) -> bool:
        """Whether the current image may still be on its way to the user."""
        return self._reading is not None or self._work.tasks.is_busy

    def _check_shown(self) -> None:
        if self._is_shown or not self.worklist.items:
            return
        item = self.worklist.items[self.worklist.position]
        if item.trouble:
            raise StackError(f"{item.path.name} could not be read: {item.trouble}")
        advice = "wait until it is" if self._is_coming else "open it first"
        raise StackError(f"Expected {item.path.name} to be shown, got another image or none: {advice}.")

    def show(self) -> None:
        """Open the current image in place of the one shown before."""
        path = self.worklist.current
        if path is None:
            return
        self._goes_to_doubt = False
        if self._is_shown:
            self._layer = self._work.state.layer
            if self._reading is not None:
                # The user came back before another one was there.
                self._reading = None
                self._work.say("", "info")
            return
        self._reading = path
        self._work.say(f"Opening {path.name}", "busy")
        read_it = partial(_layers_of, path, self.worklist.axis_of(path), self._chosen)
        self._work.tasks.run(
            read_it, partial(self._on_read, path), partial(self._on_read_failed, path), lane="worklist"
        )

    def _on_read_failed(self, path: Path, text: str) -> None:
        """Say why an image is not shown, and go back in the list to the one that is."""
        if path != self._reading:
            return
        self._reading = None
        self.worklist.set_trouble(path, text)
        if (shown := self._shown_path) is not None:
            self.worklist.find(shown)
        self._work.fail(f"{path.name} could not be read: {text}")

    def _on_read(self, path: Path, layers: list[tuple[Any, dict[str, Any], str]]) -> None:
        if path != self._reading:
            return
        self._reading = None
        self.worklist.set_trouble(path, "")
        viewer = self._work.viewer
        before = self._layer
        data, settings, _ = layers[0]
        self._layer = None
        if before is not None and before in viewer.layers:
            viewer.layers.remove(before)
        self._layer = viewer.add_image(data, **settings)
        # Below ours at once: drawn above them in one turn and below them in the next, the canvas has crashed.
        ours = [place for place, layer in enumerate(viewer.layers) if self._work.canvas.is_ours(layer)]
        if ours:
            viewer.layers.move(len(viewer.layers) - 1, ours[0])
        self._work.state.layer_asked.emit(self._layer)

    def _on_item_chosen(self, position: int) -> None:
        if position != self.worklist.position and self.worklist.go_to(position) is not None:
            self.show()

    def _on_change(self, change: Change) -> None:
        if change.kind in ("do", "undo", "redo") and self._goes_to_doubt:
            # Who goes on working here is not taken elsewhere.
            self._goes_to_doubt = False
            self._work.say("Images are compared in the background: ask again when you are done here.", "info")
        # An image counts as begun with its first object and as new again without one.
        if change.objects or change.kind == "refresh" or change.verb in ("stack", "done"):
            self._update()
        if change.verb == "place":
            self._keep_selection()

    def _keep_selection(self) -> None:
        """Go on with the channels chosen for the image before: this one was prepared with them."""
        session, names = self._work.session, self._selection
        if not names or not session.has_stack or session.file.is_read_only:
            return
        record = session.record
        is_next = record.selection is None and self.worklist.current in record.paths
        if is_next and set(names) <= {channel.name for channel in record.channels}:
            session.keep(lambda file: file.set_selection(record.id, names))

    def _on_encoded(self) -> None:
        work = self._work
        scene = work.state.scene
        if scene is not None and scene.stack.source is not None:
            if self.worklist.find(Path(scene.stack.source)) and work.session.record.selection is not None:
                # Those in use: a student takes fewer than were chosen.
                self._selection = work.state.names
            unclear = None if work.state.layer is None else work.state.layer.metadata.get(UNCLEAR_KEY)
            if unclear is not None and scene.channel_axis is not None and not scene.warning:
                # Asked once for a folder: the next image like this one is read like it.
                self._chosen = replace(unclear, axis=scene.channel_axis)
        self._prefetch()

    def _prefetch(self) -> None:
        """Prepare the neighbours of the current image with the model and the channels in use, for the next step."""
        state = self._work.state
        if not self._prefetches or not state.model or not state.names:
            return
        axis = None if self._chosen is None else self._chosen.axis
        used = (state.model["name"], state.names, axis)
        if used != self._used:
            self._used, self._doubts, self._compares_all = used, self._known.setdefault(used, {}), False
        wanted = [*self.worklist.neighbours(), *(self.worklist.waiting if self._compares_all else ())]
        left = [path for path in dict.fromkeys(wanted) if path not in self._doubts]
        self._prefetching.prepare(state.model["name"], state.names, left, axis)

    # -- the image of most doubt ---------------------------------------------------------------------------------------

    def go_to_doubt(self) -> None:
        """Go to the image whose candidate masks disagree most, when all are compared; asked again, of those so far."""
        work, waiting = self._work, self.worklist.waiting
        if not self.worklist.items:
            work.fail("Expected a worklist, got none: open a folder in Worklist.")
            return
        if not waiting:
            work.say("Every other image of the worklist is done.", "info")
            return
        try:
            work.state.check_encoded()
        except E2SamError as error:
            work.fail(str(error))
            return
        if self._num_left and not self._goes_to_doubt:
            self._compares_all = self._goes_to_doubt = True
            self._prefetch()
            self._tell_comparing()
            return
        self._goes_to_doubt = False
        known = {path: doubt for path in waiting if (doubt := self._doubts.get(path)) is not None}
        if not known:
            left = self._num_left
            work.say("Comparing goes on: no image is ready yet." if left else "No image could be compared.", "info")
            return
        best = max(known, key=lambda path: known[path])
        self.worklist.find(best)
        self.show()

    @property
    def _num_left(self) -> int:
        return sum(path not in self._doubts for path in self.worklist.waiting)

    def _tell_comparing(self) -> None:
        left = self._num_left
        images = f"{left} image{'' if left == 1 else 's'}"
        self._work.say(f"Comparing the candidate masks of {images} in the background; go on meanwhile.", "busy")

    def _on_prepared(self, path: Path, doubt: float | None) -> None:
        self._doubts[path] = doubt
        self._update()
        if self._goes_to_doubt:
            if self._num_left:
                self._tell_comparing()
            else:
                self.go_to_doubt()

    def _on_prefetched(self) -> None:
        # What the process died on is not tried again.
        if self._goes_to_doubt and self._num_left:
            self._doubts.update(dict.fromkeys(path for path in self.worklist.waiting if path not in self._doubts))
            self.go_to_doubt()

    def _update(self) -> None:
        items = [replace(item, doubt=self._doubts.get(item.path)) for item in self.worklist.items]
        self._panel.set_items(items, self.worklist.position)


def _layers_of(path: Path, known: int | None, chosen: UnclearFile | None) -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of an image; an unclear one with the axis it was read with before, or that was chosen for one like it."""
    (data, settings, kind), *others = read(str(path))
    unclear = settings.get("metadata", {}).get(UNCLEAR_KEY)
    if unclear is None:
        return [(data, settings, kind), *others]
    if known is None and chosen is not None and chosen.axis is not None and _are_alike(unclear, chosen, chosen.axis):
        known = chosen.axis
    return [(data, {**settings, "metadata": {UNCLEAR_KEY: replace(unclear, axis=known)}}, kind)]


def _are_alike(one: UnclearFile, other: UnclearFile, axis: int) -> bool:
    return len(one.shape) == len(other.shape) and one.shape[axis] == other.shape[axis]
