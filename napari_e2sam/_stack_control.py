"""Joins the Stack panel with the layers of the viewer and the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from napari.layers import Image
from qtpy.QtCore import QTimer

from e2sam.data.alignment import shifted
from e2sam.data.normalize import ChannelRecipe
from e2sam.data.session import StackRecord
from e2sam.errors import E2SamError
from napari_e2sam._alignment_control import AlignmentControl
from napari_e2sam._convert import (
    AXES_KEY,
    STACK_KEY,
    UNCLEAR_KEY,
    AxisChoice,
    Scene,
    axis_choices,
    forget_file,
    move_along,
    place_of,
    same_grid,
    scene_of,
    series_choices,
    show_channels_first,
    split_with,
)
from napari_e2sam._own_layers import at_once
from napari_e2sam._plane_control import PlaneControl
from napari_e2sam._reopen_control import keep_pixels
from napari_e2sam._rows import ChannelRow, LayerRow, listed
from napari_e2sam._state import Workplace
from napari_e2sam._statistics import described
from napari_e2sam.widgets.stack import StackPanel

__all__ = ["StackControl"]

# The window answers between one new layer and the next.
_BETWEEN_MS = 15
# A layer that is dragged, or given other pixels again and again, is followed when it comes to rest.
_REST_MS = 120
_PLACED_BY = ("scale", "translate", "rotate", "shear", "affine")


class StackControl:
    """Makes a stack of the chosen layers and brings it in front of the user."""

    def __init__(self, panel: StackPanel, work: Workplace, open_sample: Callable[[], None]) -> None:
        self._panel = panel
        self._work = work
        self._chosen: tuple[Image, ...] = ()
        self._axis: int | None = None
        # Layers that no stack could be made of, and those that were hidden for another.
        self._refused: tuple[Image, ...] = ()
        self._hidden: tuple[Image, ...] = ()
        # Layers of the stack that were given other pixels, and what is to be said of the stack that is read again.
        self._replaced: tuple[Image, ...] = ()
        self._news = ""
        self._is_turning = self._is_held = False
        # What the canvas lies over; with channels that were aligned, the one in use is another one.
        self._laid: Scene | None = None
        panel.layers_chosen.connect(self._on_layers_chosen)
        panel.axis_chosen.connect(self._on_axis_chosen)
        panel.sample_asked.connect(open_sample)
        self.alignment = AlignmentControl(panel, work)
        self.planes = PlaneControl(panel, work, lambda: () if self._has_lost_layer else self._chosen)
        layers = work.viewer.layers.events
        layers.inserted.connect(self._on_inserted)
        layers.removed.connect(self._on_removed)
        work.state.layer_asked.connect(self._on_layer_asked)
        # Several layers often arrive together; they are looked at once, when all are there.
        self._later = QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._pick_by_itself)
        self._resting = QTimer()
        self._resting.setSingleShot(True)
        self._resting.setInterval(_REST_MS)
        self._resting.timeout.connect(self._follow)
        self._making = QTimer()
        # With none between, two of them come in one turn of the window.
        self._making.setInterval(_BETWEEN_MS)
        self._making.timeout.connect(self._on_make)

    def close(self) -> None:
        """Let go of the viewer."""
        self._later.stop()
        self._resting.stop()
        self._making.stop()
        self.alignment.close()
        layers = self._work.viewer.layers.events
        layers.inserted.disconnect(self._on_inserted)
        layers.removed.disconnect(self._on_removed)
        for layer in self._images():
            self._ignore(layer)

    @property
    def chosen(self) -> tuple[Image, ...]:
        """The layers that the stack is made of."""
        return self._chosen

    def start(self, picks: bool) -> None:
        """Look at the layers that are already there, and pick one where no other is about to come."""
        for layer in self._images():
            self._listen(layer)
        if picks:
            self._pick_by_itself()

    def choose(self, layers: tuple[Image, ...], axis: int | None = None) -> None:
        """Make a stack of these layers."""
        self._chosen, self._axis, self._refused, self._news = layers, axis, (), ""
        self._update_layers()
        if not layers:
            return
        for layer in layers:
            if layer in self._hidden:
                layer.visible = True
        self._hidden = tuple(layer for layer in self._hidden if layer not in layers)
        self._update_axes()
        work = self._work
        if work.state.layer is not None and work.state.layer not in layers:
            # Until the next stack is read, a click would go to the one before.
            work.canvas.take_tool("")
        work.say("Reading the stack", "busy")
        work.tasks.run(lambda: _opened(layers, axis, work), self._on_opened, self._on_refused, lane="stack")

    def _images(self) -> list[Image]:
        canvas = self._work.canvas
        return [
            layer
            for layer in self._work.viewer.layers
            if isinstance(layer, Image) and not canvas.is_ours(layer) and not layer.metadata.get("e2sam_composite")
        ]

    def _pick_by_itself(self) -> None:
        """Take the image that the user most likely means, where none is in use."""
        images, before = self._images(), self._chosen
        self._chosen = tuple(layer for layer in before if layer in images)
        self._hidden = tuple(layer for layer in self._hidden if layer in images)
        if self._chosen == self._refused:
            images = [layer for layer in images if layer not in self._refused] or images
        if images and (not self._chosen or self._chosen[0] not in images):
            active = self._work.viewer.layers.selection.active
            readers = [layer for layer in images if STACK_KEY in layer.metadata]
            picked = (readers or ([active] if active in images else images))[-1]
            alike = [layer for layer in images if layer.ndim == 2 and not layer.rgb and same_grid(layer, picked)]
            # Channels that were split into layers of one plane are one stack.
            if not picked.rgb and picked.ndim == 2 and len(alike) > 1:
                self.choose(tuple(alike))
            else:
                self.choose(split_with(picked, images))
        elif self._chosen and self._chosen != before:
            self._go_on_without(tuple(layer for layer in before if layer not in self._chosen))
        else:
            self._update_layers()
            if not images:
                if self._has_lost_layer:
                    self._leave()
                elif before:
                    # It was closed while it was read.
                    self._work.say("", "info")
                self._panel.set_axes((), -1)
                self._panel.set_summary("Open an image (File > Open, or drop it here), or take the sample.")

    def _go_on_without(self, gone: tuple[Image, ...]) -> None:
        """Make the stack of the layers that are left of several."""
        state = self._work.state
        scene = state.scene if state.layer in (*gone, *self._chosen) else None
        self.choose(self._chosen, self._axis if scene is None else scene.channel_axis)
        if scene is not None:
            self._news = f"Closed: {listed([layer.name for layer in gone])}. The stack is made of the others."

    @property
    def _has_lost_layer(self) -> bool:
        """Whether the stack in use is shown no more."""
        layer = self._work.state.layer
        return layer is not None and (layer not in self._work.viewer.layers or layer in self._hidden)

    def _leave(self) -> None:
        """Have no stack in use, as before the first one was opened; the session keeps what was made on it."""
        work = self._work
        for lane in ("prepare", "predict", "hover", "shares", "leave_one_out"):
            work.engine.forget(lane)
        work.engine.cancel("everything")
        self._making.stop()
        self._news = ""
        self.alignment.forget()
        self._panel.set_worklist(0, 0, 0, False)
        work.canvas.open(None)
        self._laid = None
        work.session.leave()
        work.state.leave()
        work.say("Image closed; its objects stay in the session.", "info")

    def _on_refused(self, text: str) -> None:
        if self._has_lost_layer:
            self._leave()
        if self._work.state.scene is None:
            self._refused = self._chosen
        elif self._work.state.layer not in self._chosen:
            self._work.canvas.take_tool("points")
        self._news = ""
        names = listed([layer.name for layer in self._chosen])
        self._panel.set_summary(f"No stack was made of {names}: tick another layer, or open another image.")
        self._work.fail(text)

    def _on_layer_asked(self, layer: Image) -> None:
        """Show one layer in place of those in use, which stay in the viewer."""
        others = tuple(other for other in self._images() if other in self._chosen and other.visible)
        for other in others:
            other.visible = False
        self._hidden += others
        self.choose((layer,))

    def _on_opened(self, opened: tuple[Scene, StackRecord, tuple[ChannelRow, ...], tuple[ChannelRecipe, ...]]) -> None:
        scene, record, rows, recipes = opened
        work = self._work
        layer = self._chosen[0] if self._chosen else None
        if layer is None:
            return
        self._is_turning = True
        try:
            show_channels_first(self._chosen, scene)
        finally:
            self._is_turning = False
        news = self._take_news(record)
        state = work.state
        state.scene, state.layer, state.rows, state.recipes = scene, layer, rows, recipes
        state.is_encoded = False
        self.alignment.forget()
        work.canvas.open(scene)
        self._laid, self._is_held = scene, False
        stack = scene.stack
        height, width = stack.size
        planes = "".join(f", {axis} {count}" for axis, count in zip(stack.leading, stack.num_planes, strict=True))
        invalid = [row.name for row in rows if row.invalid > 0.5]
        warning = " ".join(
            text
            for text in (
                news,
                scene.warning,
                f"Mostly invalid: {', '.join(invalid[:4])}{'...' if len(invalid) > 4 else ''}." if invalid else "",
            )
            if text
        )
        many = f"{stack.num_channels} channel{'s' if stack.num_channels > 1 else ''}"
        self._panel.set_summary(f"{many}, {width} x {height} px, {stack.data.dtype}{planes}", warning, is_ready=True)
        work.say("", "info")
        work.session.go_to(record.id, self.planes.here())
        self.planes.count()
        self.planes.show_channel()
        state.scene_changed.emit()
        self._making.start()

    def _take_news(self, record: StackRecord) -> str:
        """What is to be said of a stack that was read again, where it is another one now."""
        work, news, self._news = self._work, self._news, ""
        before = work.session.stack_id
        if not news or before is None or record.id == before:
            return ""
        file = work.session.file
        names = {channel.name for channel in record.channels}
        if record.selection is None and work.state.names and set(work.state.names) <= names:
            work.session.keep(lambda file: file.set_selection(record.id, work.state.names))
        count = sum(one.stack_id == before for one in file.objects())
        if not count:
            return news
        return f"{news} The session keeps the {count} object{'' if count == 1 else 's'} of the stack before."

    # -- a layer that is changed while it is in use ------------------------------------------------------------------

    def _listen(self, layer: Image) -> None:
        layer.events.name.connect(self._update_layers)
        layer.events.data.connect(self._on_replaced)
        for name in _PLACED_BY:
            layer.events[name].connect(self._on_placed)

    def _ignore(self, layer: Image) -> None:
        layer.events.name.disconnect(self._update_layers)
        layer.events.data.disconnect(self._on_replaced)
        for name in _PLACED_BY:
            layer.events[name].disconnect(self._on_placed)

    def _on_placed(self, event: Any) -> None:
        if not self._is_turning and event.source in self._chosen:
            self._resting.start()

    def _on_replaced(self, event: Any) -> None:
        layer = event.source
        if self._is_turning or layer not in self._chosen:
            return
        if layer not in self._replaced:
            self._replaced += (layer,)
        self._resting.start()

    def _follow(self) -> None:
        """Go on with the layers where they lie now, and with the pixels that they have now."""
        replaced, self._replaced = tuple(layer for layer in self._replaced if layer in self._chosen), ()
        state = self._work.state
        if not self._chosen:
            return
        if replaced:
            self._read_again(replaced)
        elif len(self._chosen) > 1 or state.layer is not self._chosen[0]:
            self.choose(self._chosen, self._axis)
            if state.layer in self._chosen:
                self._news = "Layers were moved: read again."
        else:
            self._move()

    def _read_again(self, replaced: tuple[Image, ...]) -> None:
        axes = [forget_file(layer) for layer in replaced]
        state, shape = self._work.state, self._chosen[0].data.shape
        axis = axes[0]
        if len(self._chosen) > 1 or state.scene is None or state.layer is not self._chosen[0]:
            axis = self._axis
        elif axis is not None and axis >= 0 and shape[axis] != state.scene.stack.num_channels:
            # Other pixels altogether.
            axis = None
        self.choose(self._chosen, axis)
        if state.layer in self._chosen:
            self._news = f"New pixels in {listed([one.name for one in replaced])}: read again."

    def _move(self) -> None:
        """Lay everything of ours over the image where it lies now."""
        work, state = self._work, self._work.state
        if state.scene is None or state.layer is None or self._laid is None:
            return
        try:
            after = place_of(state.layer)
        except E2SamError as error:
            self._hold_tool(True)
            work.fail(str(error))
            return
        work.forget_error()
        self._hold_tool(False)
        before = self._laid.scale, self._laid.translate
        if after == before:
            return
        for layer in work.viewer.layers:
            if work.canvas.is_ours(layer):
                with at_once(layer, extent=True):
                    move_along(layer, before, after)
        for scene in (self._laid, state.scene):
            scene.scale, scene.translate = after

    def _hold_tool(self, is_held: bool) -> None:
        """Let no click go where the image no longer lies; a layer that the user is at stays active."""
        canvas, active = self._work.canvas, self._work.viewer.layers.selection.active
        if is_held != self._is_held and active is not None and canvas.is_ours(active):
            canvas.take_tool("" if is_held else "points")
        self._is_held = is_held

    def _on_make(self) -> None:
        if self._work.canvas.make_one():
            self._making.stop()

    # -- panel and layers ----------------------------------------------------------------------------------------------

    def _update_layers(self, event: Any = None) -> None:
        images = self._images()
        self._panel.set_layers([LayerRow(id(layer), layer.name, layer in self._chosen) for layer in images])

    @property
    def _axis_choices(self) -> tuple[AxisChoice, ...]:
        return axis_choices(self._chosen[0]) if len(self._chosen) == 1 else series_choices(self._chosen)

    def _update_axes(self) -> None:
        choices, axis = self._axis_choices, self._axis
        if axis is None and len(self._chosen) == 1:
            metadata = self._chosen[0].metadata
            known = metadata.get(UNCLEAR_KEY) or metadata.get(AXES_KEY)
            axis = None if known is None else known.axis
        axes = [choice.axis for choice in choices]
        self._panel.set_axes([choice.text for choice in choices], axes.index(axis) if axis in axes else 0)

    def _on_layers_chosen(self, keys: list[int]) -> None:
        self.choose(tuple(layer for layer in self._images() if id(layer) in keys))

    def _on_axis_chosen(self, position: int) -> None:
        if choices := self._axis_choices:
            self.choose(self._chosen, choices[position].axis)

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        if isinstance(layer, Image) and not self._work.canvas.is_ours(layer):
            self._listen(layer)
            self._later.start()

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if isinstance(layer, Image):
            self._ignore(layer)
            self._later.start()


def _opened(
    layers: tuple[Image, ...], axis: int | None, work: Workplace
) -> tuple[Scene, StackRecord, tuple[ChannelRow, ...], tuple[ChannelRecipe, ...]]:
    """Everything about a stack that takes time; runs in a thread."""
    scene = scene_of(layers, axis)
    stack = scene.stack
    if stack.source is not None:
        reading = {} if scene.channel_axis is None else {"channel_axis": scene.channel_axis}
        record = work.session.file.add_stack(stack, reading=reading)
    else:
        paths = [kept] if (kept := keep_pixels(stack, work.session.path)) is not None else []
        reading = {"channel_axis": len(stack.leading)} if paths else {}
        record = work.session.file.add_stack(stack, name=layers[0].name, paths=paths, reading=reading)
    if record.channels != stack.channels:
        # What was made on it keeps the names that it had then.
        stack = replace(stack, channels=record.channels)
        scene = replace(scene, stack=stack)
    if record.alignment:
        scene = replace(scene, stack=shifted(stack, record.alignment))
    rows, recipes = described(scene.stack, record)
    return scene, record, rows, recipes
