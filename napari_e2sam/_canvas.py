"""What a window draws in its viewer and hears from it: prompts, box, mask, objects, model input, the pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points
from napari.utils.colormaps.standardize_color import transform_color
from numpy.typing import NDArray
from psygnal import Signal

from e2sam.data.masks import Box, MaskCrop, unite
from e2sam.data.prompts import Prompts
from e2sam.errors import PromptError
from napari_e2sam._composite import Composite
from napari_e2sam._convert import Scene, box_of_corners, corners_of_box, points_of_xy, xy_of_points
from napari_e2sam._label_pixels import make_room, painted_box, put_labels
from napari_e2sam._own_layers import PROMPT_COLOURS, OwnLayers, at_once
from napari_e2sam._undrawn import Undrawn

__all__ = ["Canvas"]

# Longest side of what the layer of the current mask holds, where it is cut to the mask.
_LARGEST_TEXTURE = 2048
# Of a point outside and of one inside, as napari keeps colours.
_COLOURS = transform_color([PROMPT_COLOURS[label] for label in (0, 1)])


class Canvas:
    """Draws a session in a viewer and tells what the user did there; knows neither session nor engine."""

    points_changed = Signal(object, object)  # (P, 2) pixel (x, y), (P,) labels
    box_drawn = Signal(object)  # (x0, y0, x1, y1)
    line_drawn = Signal(object)  # (P, 2) pixel (x, y) along a scribble
    pointed_at = Signal(object)  # (x, y) under the pointer, or None outside of the image
    painted = Signal(object, object, object)  # box in the objects layer, labels (h, w), and where they were painted
    objects_made = Signal()  # the objects layer is new and empty
    points_made = Signal()  # the points layer is new and empty
    objects_deleted = Signal()  # the user has taken the objects layer away
    composite_deleted = Signal()  # the user has taken the layer of the model's input away
    refused = Signal(str)  # why what the user drew is no prompt; it is to be taken off again
    plane_changed = Signal()
    tool_changed = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        # With its first layers napari imports pandas and reads a table of units, for more than half a second: now, and
        # not when the first image opens.
        Points(np.zeros((0, 2)))
        self.viewer = viewer
        self._undrawn = Undrawn(viewer)
        self._own = OwnLayers(viewer, self._on_made, self._on_gone, self._on_deleted)
        self._mask_box: Box | None = None
        # Corners of the box that is drawn.
        self._box: NDArray[np.float64] | None = None
        self._has_labels = False
        # Colours by number, of a colormap: the table of objects asks for all it shows at each change.
        self._colours: tuple[object, dict[int, tuple[float, float, float]]] = (None, {})
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_step)
        viewer.mouse_move_callbacks.append(self._on_move)
        viewer.events.mouse_over_canvas.connect(self._on_over)

    def close(self, remove_layers: bool = False) -> None:
        """Let go of the viewer; our layers stay unless they are to be removed."""
        self.viewer.layers.selection.events.active.disconnect(self._on_active)
        self.viewer.dims.events.current_step.disconnect(self._on_step)
        if self._on_move in self.viewer.mouse_move_callbacks:
            self.viewer.mouse_move_callbacks.remove(self._on_move)
        self.viewer.events.mouse_over_canvas.disconnect(self._on_over)
        self._undrawn.close()
        self._own.close(remove_layers)

    # -- what is ours ------------------------------------------------------------------------------------------------

    def is_ours(self, layer: Layer) -> bool:
        """Whether we made a layer."""
        return self._own.is_ours(layer)

    def open(self, scene: Scene | None) -> None:
        """Take our layers to a scene; those of another size or place are made anew. None takes them away."""
        self._own.open(scene)

    def make_one(self) -> bool:
        """Make one of the layers that will be needed, and say whether it was the last."""
        return self._own.make_one()

    def bind_keys(self, keys: Sequence[tuple[str, Callable[[Any], None] | None]]) -> None:
        """Bind keys on our own layers too: napari asks the active layer first, and points take letters such as A."""
        self._own.bind_keys(keys)

    def _on_made(self, name: str, layer: Layer) -> None:
        """Listen to a layer that is new and empty."""
        if name in ("points", "box"):
            layer.events.visible.connect(self._on_active)
        if name == "points":
            layer.mouse_drag_callbacks.insert(0, self._on_press)
            layer.events.data.connect(self._on_points)
            self.points_made.emit()
        elif name == "box":
            layer.events.data.connect(self._on_shapes)
        elif name == "mask":
            self._mask_box = None
        elif name == "composite":
            self._undrawn.cover_with(layer)
        elif name == "objects":
            layer.events.paint.connect(self._on_paint)
            self._has_labels = False
            self.objects_made.emit()

    def _on_gone(self, layer: Layer) -> None:
        self._undrawn.uncover(layer)
        for emitter, callback in (
            ("data", self._on_points),
            ("data", self._on_shapes),
            ("paint", self._on_paint),
            ("visible", self._on_active),
        ):
            events = getattr(layer.events, emitter, None)
            if events is not None:
                events.disconnect(callback)

    def _on_deleted(self, name: str) -> None:
        if name == "objects":
            self.objects_deleted.emit()
        elif name == "composite":
            self.composite_deleted.emit()

    def make_objects(self) -> None:
        """Make the layer of accepted objects, where the user has taken it away."""
        if self._own.scene is not None:
            self._own.objects()

    @property
    def objects_layer(self) -> Labels | None:
        """The layer of accepted objects, or None before a stack is open."""
        return self._own.get("objects")

    @property
    def points_layer(self) -> Points | None:
        """The layer of point prompts, or None before a stack is open."""
        return self._own.get("points")

    @property
    def mask_layer(self) -> Labels | None:
        """The layer of the current mask, or None before a stack is open."""
        return self._own.get("mask")

    @property
    def composite_layer(self) -> Image | None:
        """The layer that shows what the model sees, or None where it is not shown."""
        return self._own.get("composite")

    # -- drawing -----------------------------------------------------------------------------------------------------

    def show_prompts(self, prompts: Prompts) -> None:
        """Draw points and box."""
        if self._own.scene is None:
            return
        with self._own.writing():
            self._show_points(self._own.points(), prompts)
            shapes = self._own.get("box")
            if shapes is not None and len(shapes.data):
                shapes.data = []
            self._box = None
            if prompts.box is not None:
                self._box = corners_of_box([float(value) for value in prompts.box])
                self._own.shapes().add_rectangles(self._box)

    def _show_points(self, layer: Points, prompts: Prompts) -> None:
        shown = xy_of_points(layer.data)
        labels = np.asarray(layer.features["label"], int)
        is_same = shown.shape == prompts.points.shape and np.allclose(shown, prompts.points, atol=1e-3)
        if is_same and np.array_equal(labels, prompts.labels):
            return
        with at_once(layer), layer.events.data.blocker():
            if layer.selected_data:
                layer.selected_data = set()
            layer.data = points_of_xy(prompts.points)
            # With each colour napari draws the points that it has sliced: they must be among those that are there.
            layer.set_view_slice()
            if len(prompts.points):
                layer.features = {"label": prompts.labels.astype(int)}
                colours = _COLOURS[prompts.labels]
                if not np.array_equal(layer.face_color, colours):
                    layer.face_color = colours

    def show_mask(self, mask: MaskCrop | None) -> None:
        """Draw the current mask; only the bounding boxes of the old and the new one are touched."""
        if self._own.scene is None or (mask is None and self._own.get("mask") is None):
            return
        layer = self._own.mask()
        self._undrawn.leave_out_empty(None if mask is not None else layer)
        if self._own.has_cropped_mask:
            self._show_cropped(layer, mask)
            return
        before, self._mask_box = self._mask_box, None if mask is None else mask.box
        boxes = [box for box in (before, self._mask_box) if box is not None]
        if boxes:
            box = boxes[0] if len(boxes) == 1 else unite(*boxes)
            pixels = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8) if mask is None else mask.window(box)
            with self._own.writing():
                put_labels(layer, box, pixels)

    def _show_cropped(self, layer: Labels, mask: MaskCrop | None) -> None:
        assert self._own.scene is not None
        # As with prompts: a mask lies in the image, and its kind of pixels stays the same.
        with self._own.writing(), at_once(layer, extent=True), layer.events.data.blocker():
            if mask is None:
                layer.data = np.zeros((1, 1), np.uint8)
                return
            # A mask of most of a large image is smooth, and its texture takes long to make: every n-th pixel will do.
            step = -(-max(mask.shape) // _LARGEST_TEXTURE)
            scale = np.asarray(self._own.scene.scale, float)
            layer.data = mask.thinned(step).view(np.uint8)
            if not np.allclose(layer.scale, step * scale):
                layer.scale = step * scale
            corner = np.array((mask.y0, mask.x0)) + (step - 1) / 2
            layer.translate = corner * scale + self._own.scene.translate

    def draw_labels(self, box: Box, labels: NDArray[Any]) -> None:
        """Write `labels` into `box` of the objects layer; nothing else of it is touched."""
        if self._own.scene is None:
            return
        layer = self._own.objects()
        self._has_labels = True
        with self._own.writing():
            make_room(layer, labels)
            put_labels(layer, box, labels)

    def draw_object(self, mask: MaskCrop, number: int, covers: bool) -> None:
        """Draw one more object where its mask is; it covers the others, or shows where none of them is."""
        if self._own.scene is None:
            return
        x0, y0, x1, y1 = mask.box
        there = self._own.objects().data[y0:y1, x0:x1]
        shown = mask.pixels if covers else mask.pixels & (there == 0)
        # The layer may hold no numbers as large yet.
        self.draw_labels(mask.box, np.where(shown, np.int32(number), there.astype(np.int32)))

    def draw_all_labels(self, labels: NDArray[Any] | None) -> None:
        """Write the whole objects layer, (H, W), or empty it; an empty one is left alone."""
        layer = self._own.get("objects")
        if layer is None or (labels is None and not self._has_labels):
            return
        self._has_labels = labels is not None
        with self._own.writing():
            if labels is not None:
                make_room(layer, labels)
            layer.data[...] = 0 if labels is None else labels
            layer.refresh(extent=False)

    def show_composite(self, picture: Composite | None) -> None:
        """Draw what the model sees over the whole scene, below everything of ours; None takes it away."""
        self._own.show_over("composite", picture, None)

    def refresh_composite(self) -> None:
        """Draw what the model sees once more: more of it is known."""
        if (layer := self.composite_layer) is not None:
            layer.refresh(extent=False, thumbnail=False)

    def show_blink(self, picture: Composite | None) -> None:
        """Draw one channel over the picture while channels are compared; None takes it away."""
        self._own.show_over("blink", picture, None)

    def show_doubt(self, doubt: NDArray[np.float32] | None, box: Box | None = None) -> None:
        """Draw where the next click tells most, (h, w) in [0, 1] over a box of the scene; None takes it away."""
        self._own.show_over("doubt", doubt, box)

    def colour_of(self, number: int) -> tuple[float, float, float]:
        """Colour in which an object is drawn, red, green, blue in 0..1."""
        layer = self._own.get("objects")
        if layer is None:
            return (0.5, 0.5, 0.5)
        if self._colours[0] is not layer.colormap:
            self._colours = layer.colormap, {}
        known = self._colours[1]
        if number not in known:
            # Not the layer's own answer, which is black for all but the chosen one while only that is shown.
            red, green, blue = layer.colormap.map(number)[:3]
            known[number] = float(red), float(green), float(blue)
        return known[number]

    def look_at(self, box: Box) -> None:
        """Bring a box into view where it is not."""
        assert self._own.scene is not None
        centre = (
            np.array(((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)) * self._own.scene.scale + self._own.scene.translate
        )
        camera = self.camera
        camera.center = (camera.center[0], float(centre[0]), float(centre[1]))

    @property
    def camera(self) -> Any:
        """The viewer's camera."""
        # napari 0.9 moved the camera into the scene; older ones have it on the viewer.
        return self.viewer.scene.camera if hasattr(self.viewer, "scene") else self.viewer.camera

    @property
    def view(self) -> Box | None:
        """The part of the image on the screen, or None where nothing was drawn or nothing of it shows."""
        layer = self._own.get("objects")
        if layer is None or self._own.scene is None:
            return None
        (y0, x0), (y1, x1) = layer.corner_pixels[:, -2:].tolist()
        height, width = self._own.scene.size
        box = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
        return box if box[2] - box[0] > 1 and box[3] - box[1] > 1 else None

    # -- tools -------------------------------------------------------------------------------------------------------

    def take_tool(self, name: str) -> None:
        """Arm a tool: "points", "box", "scribble" or "move"; its layer shows, for a hidden one takes no click."""
        if self._own.scene is None:
            return
        points = self._own.points()
        target: Layer = self._own.shapes() if name in ("box", "scribble") else points
        with self._own.writing():
            if name and not target.visible:
                target.visible = True
            if (shapes := self._own.get("box")) is not None:
                shapes.mode = {"box": "add_rectangle", "scribble": "add_polyline"}.get(name, "pan_zoom")
            points.mode = {"points": "add", "move": "select"}.get(name, "pan_zoom")
            self.viewer.layers.selection.active = target
        if name == "points":
            # A click sets a point, a drag still moves the view.
            points.mouse_pan = True
        self.tool_changed.emit(name)

    # -- what the user does ------------------------------------------------------------------------------------------

    def _on_press(self, layer: Points, event: Any) -> None:
        """Before napari adds the point: say which kind it will be."""
        if str(layer.mode) != "add":
            return
        is_outside = event.button == 2 or "Shift" in event.modifiers or "Control" in event.modifiers
        label = 0 if is_outside else 1
        layer.selected_data = set()
        if int(layer.feature_defaults["label"].iloc[0]) != label:
            layer.feature_defaults = {"label": label}
        # napari takes the label of the last point for that of the next one, but not its colour.
        layer.current_face_color = PROMPT_COLOURS[label]

    def _on_points(self, event: Any) -> None:
        if self._own.is_writing or str(getattr(event, "action", "changed")) not in ("added", "removed", "changed"):
            return
        layer = self._own.get("points")
        if layer is None or self._own.scene is None:
            return
        xy = xy_of_points(layer.data)
        labels = np.asarray(layer.features["label"], np.int32)
        try:
            Prompts.checked(xy, labels, None, np.zeros((1, 1)), self._own.scene.size)
        except PromptError as error:
            self.refused.emit(str(error))
            return
        self.points_changed.emit(xy, labels)

    def _on_shapes(self, event: Any) -> None:
        if self._own.is_writing or str(getattr(event, "action", "")) not in ("added", "changed"):
            return
        layer = self._own.get("box")
        if layer is None or not len(layer.data) or self._own.scene is None:
            return
        corners, kind = layer.data[-1], layer.shape_type[-1]
        if kind == "rectangle" and self._box is not None and np.allclose(corners, self._box, atol=1e-3):
            # A line that is too short, which napari has dropped, was drawn beside it.
            return
        if kind == "rectangle":
            box = box_of_corners(corners, self._own.scene.size)
            if box is not None:
                self.box_drawn.emit(box)
            else:
                height, width = self._own.scene.size
                (x0, y0), (x1, y1) = xy_of_points(corners).min(axis=0), xy_of_points(corners).max(axis=0)
                self.refused.emit(
                    f"Expected a box over the image of {width} x {height} pixels, at least 1 wide and high, "
                    f"got {x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f}."
                )
        elif str(getattr(event, "action", "")) == "added":
            self.line_drawn.emit(xy_of_points(corners))

    def _on_paint(self, event: Any) -> None:
        if self._own.is_writing:
            return
        if (stroke := painted_box(event)) is not None:
            self._has_labels = True
            self.painted.emit(*stroke)

    def _on_move(self, viewer: ViewerModel, event: Any) -> None:
        if self._own.scene is None or len(self.pointed_at) == 0:
            return
        layer = self._own.get("points")
        if layer is None or viewer.layers.selection.active is not layer:
            return
        x, y = xy_of_points([layer.world_to_data(event.position)])[0]
        inside = 0 <= x <= self._own.scene.size[1] and 0 <= y <= self._own.scene.size[0]
        self.pointed_at.emit((float(x), float(y)) if inside else None)

    def _on_over(self, event: Any) -> None:
        # Off the canvas the pointer moves unheard.
        if not self.viewer.mouse_over_canvas:
            self.pointed_at.emit(None)

    def _on_active(self, event: Any) -> None:
        if self._own.is_writing:
            return
        active = self.viewer.layers.selection.active
        mode = str(getattr(active, "mode", ""))
        tools = {"add": "points", "select": "move", "add_rectangle": "box", "add_polyline": "scribble"}
        is_prompt = active is not None and active in (self._own.get("points"), self._own.get("box"))
        if is_prompt and not active.visible:
            self.tool_changed.emit("hidden")
        else:
            self.tool_changed.emit(tools.get(mode, "") if is_prompt else "")

    def _on_step(self, event: Any) -> None:
        self.plane_changed.emit()

    def plane(self, layer: Layer, leading: str) -> tuple[int, ...]:
        """Position of the viewer's sliders on the leading axes of a stack's layer."""
        step = self.viewer.dims.current_step
        first = self.viewer.dims.ndim - layer.ndim
        return tuple(
            int(np.clip(step[first + axis], 0, layer.data.shape[axis] - 1))
            if not layer.multiscale
            else int(step[first + axis])
            for axis in range(len(leading))
        )
