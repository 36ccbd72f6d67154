"""Our layers in one viewer: prompts, box, mask, objects, model input; kept by reference, never found by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from psygnal import Signal

from e2sam.data.masks import Box, MaskCrop, unite
from e2sam.data.prompts import Prompts
from napari_e2sam._convert import Scene, box_of_corners, corners_of_box, points_of_xy, xy_of_points

__all__ = ["Canvas"]

_COLOURS = {1: "#3ddc6a", 0: "#ff4d4d"}
# Past this many changed pixels, index arrays cost more than one full redraw.
_MOST_INDEXED = 600_000
_OVER_NAMES = {"blink": "channel", "doubt": "next click", "composite": "model input"}
_WIDE_IMAGE = 1 << 25
# Past this many pixels, the layer of the current mask is cut to the mask: a texture of all of them takes long to make.
_HUGE_IMAGE = 1 << 24


class Canvas:
    """Draws a session in a viewer and tells what the user did there; knows neither session nor engine."""

    points_changed = Signal(object, object)  # (P, 2) pixel (x, y), (P,) labels
    box_drawn = Signal(object)  # (x0, y0, x1, y1)
    line_drawn = Signal(object)  # (P, 2) pixel (x, y) along a scribble
    pointed_at = Signal(object)  # (x, y) under the pointer, or None outside of the image
    painted = Signal(object, object)  # box that the user painted in the objects layer, and its labels (h, w) after it
    objects_made = Signal()  # the objects layer is new and empty
    plane_changed = Signal()
    tool_changed = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        # With its first layers napari imports pandas and reads a table of units, for more than half a second: now, and
        # not when the first image opens.
        Points(np.zeros((0, 2)))
        self.viewer = viewer
        self._scene: Scene | None = None
        self._is_writing = False
        self._layers: dict[str, Layer] = {}
        self._keys: tuple[tuple[str, Callable[[Any], None] | None], ...] = ()
        self._mask_box: Box | None = None
        self._has_labels = False
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.dims.events.current_step.connect(self._on_step)
        viewer.mouse_move_callbacks.append(self._on_move)

    def close(self, remove_layers: bool = False) -> None:
        """Let go of the viewer; our layers stay unless they are to be removed."""
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.viewer.layers.selection.events.active.disconnect(self._on_active)
        self.viewer.dims.events.current_step.disconnect(self._on_step)
        if self._on_move in self.viewer.mouse_move_callbacks:
            self.viewer.mouse_move_callbacks.remove(self._on_move)
        for layer in tuple(self._layers.values()):
            self._disconnect(layer)
            if remove_layers and layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._layers.clear()

    # -- what is ours ------------------------------------------------------------------------------------------------

    def is_ours(self, layer: Layer) -> bool:
        """Whether we made a layer."""
        return any(layer is ours for ours in self._layers.values())

    @property
    def objects_layer(self) -> Labels | None:
        """The layer of accepted objects, or None before a stack is open."""
        return self._layers.get("objects")

    @property
    def points_layer(self) -> Points | None:
        """The layer of point prompts, or None before a stack is open."""
        return self._layers.get("points")

    @property
    def mask_layer(self) -> Labels | None:
        """The layer of the current mask, or None before a stack is open."""
        return self._layers.get("mask")

    @property
    def composite_layer(self) -> Image | None:
        """The layer that shows what the model sees, or None where it is not shown."""
        return self._layers.get("composite")

    def open(self, scene: Scene) -> None:
        """Take our layers to a scene; those of another size or place are made anew."""
        before = self._scene
        self._scene = scene
        if before is not None and (before.size, before.scale, before.translate) == (
            scene.size,
            scene.scale,
            scene.translate,
        ):
            return
        for name in tuple(self._layers):
            self._drop(name)
        self._points()

    def make_one(self) -> bool:
        """Make one of the layers that will be needed, and say whether it was the last.

        napari takes long to show a new layer, so that each is made in a turn of its own.
        """
        if self._scene is None:
            return True
        for name, make in (("mask", self._mask), ("objects", self._objects)):
            if name not in self._layers:
                make()
                return False
        return True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """While we write layers, their events are not the user's."""
        before, self._is_writing = self._is_writing, True
        try:
            yield
        finally:
            self._is_writing = before

    @property
    def _place(self) -> dict[str, Any]:
        assert self._scene is not None
        return {"scale": self._scene.scale, "translate": self._scene.translate}

    def bind_keys(self, keys: Sequence[tuple[str, Callable[[Any], None] | None]]) -> None:
        """Bind keys on our own layers too: napari asks the active layer first, and points take letters such as A."""
        self._keys = tuple(keys)
        for layer in self._layers.values():
            bind_all(layer, self._keys)

    def _add(self, name: str, layer: Layer, below: str = "") -> None:
        self._layers[name] = layer
        bind_all(layer, self._keys)
        active = self.viewer.layers.selection.active
        with self._writing():
            self.viewer.layers.append(layer)
            if below in self._layers:
                self.viewer.layers.move(self.viewer.layers.index(layer), self.viewer.layers.index(self._layers[below]))
            if active is not None and active in self.viewer.layers:
                self.viewer.layers.selection.active = active

    def _drop(self, name: str) -> None:
        layer = self._layers.pop(name, None)
        if layer is not None:
            self._disconnect(layer)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _disconnect(self, layer: Layer) -> None:
        for emitter, callback in (
            ("data", self._on_points),
            ("data", self._on_shapes),
            ("paint", self._on_paint),
        ):
            events = getattr(layer.events, emitter, None)
            if events is not None:
                events.disconnect(callback)

    # -- layers, made when they are first needed and again after the user deleted them -------------------------------

    def _objects(self) -> Labels:
        if "objects" not in self._layers:
            assert self._scene is not None
            height, width = self._scene.size
            dtype = np.uint16 if height * width > _WIDE_IMAGE else np.int32
            layer = Labels(np.zeros((height, width), dtype), name="objects", opacity=0.6, **self._place)
            layer.events.paint.connect(self._on_paint)
            self._add("objects", layer, below="mask" if "mask" in self._layers else "points")
            self._has_labels = False
            self.objects_made.emit()
        return self._layers["objects"]

    def _mask(self) -> Labels:
        if "mask" not in self._layers:
            assert self._scene is not None
            layer = Labels(
                np.zeros((1, 1) if self._has_cropped_mask else self._scene.size, np.uint8),
                name="mask",
                opacity=0.65,
                colormap={0: "transparent", None: "#35c9ff"},
                **self._place,
            )
            self._mask_box = None
            layer.editable = False
            self._add("mask", layer, below="box" if "box" in self._layers else "points")
        return self._layers["mask"]

    def _shapes(self) -> Shapes:
        if "box" not in self._layers:
            layer = Shapes(
                None,
                ndim=2,
                name="box",
                face_color="transparent",
                edge_color="#ffd23d",
                edge_width=self._screen_width(),
                **self._place,
            )
            layer.events.data.connect(self._on_shapes)
            self._add("box", layer, below="points")
        return self._layers["box"]

    def _points(self) -> Points:
        if "points" not in self._layers:
            layer = Points(
                np.zeros((0, 2)),
                ndim=2,
                name="prompts",
                size=self._point_size(),
                symbol="disc",
                face_color=_COLOURS[1],
                border_color="white",
                border_width=0.15,
                features={"label": np.zeros(0, int)},
                feature_defaults={"label": 1},
                **self._place,
            )
            layer.mouse_drag_callbacks.insert(0, self._on_press)
            layer.events.data.connect(self._on_points)
            self._add("points", layer)
        return self._layers["points"]

    def _point_size(self) -> float:
        assert self._scene is not None
        return max(4.0, max(self._scene.size) / 75)

    def _screen_width(self) -> float:
        assert self._scene is not None
        return max(1.0, max(self._scene.size) / 400)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def show_prompts(self, prompts: Prompts) -> None:
        """Draw points and box."""
        if self._scene is None:
            return
        with self._writing():
            self._show_points(self._points(), prompts)
            shapes = self._layers.get("box")
            if shapes is not None and len(shapes.data):
                shapes.data = []
            if prompts.box is not None:
                self._shapes().add_rectangles(corners_of_box([float(value) for value in prompts.box]))

    def _show_points(self, layer: Points, prompts: Prompts) -> None:
        shown = xy_of_points(layer.data)
        labels = np.asarray(layer.features["label"], int)
        is_same = shown.shape == prompts.points.shape and np.allclose(shown, prompts.points, atol=1e-3)
        if is_same and np.array_equal(labels, prompts.labels):
            return
        # Each of these makes napari draw again, so none is set without need.
        if layer.selected_data:
            layer.selected_data = set()
        # Told of new data, napari measures all layers again: prompts lie in the image and change no extent.
        with layer.events.data.blocker():
            layer.data = points_of_xy(prompts.points)
        if len(prompts.points):
            layer.features = {"label": prompts.labels.astype(int)}
            layer.face_color = [_COLOURS[int(label)] for label in prompts.labels]

    def show_mask(self, mask: MaskCrop | None) -> None:
        """Draw the current mask; only the bounding boxes of the old and the new one are touched."""
        if self._scene is None:
            return
        layer = self._mask()
        if self._has_cropped_mask:
            self._show_cropped(layer, mask)
            return
        before, self._mask_box = self._mask_box, None if mask is None else mask.box
        boxes = [box for box in (before, self._mask_box) if box is not None]
        if boxes:
            box = boxes[0] if len(boxes) == 1 else unite(*boxes)
            pixels = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8) if mask is None else mask.window(box)
            self._write(layer, box, pixels)

    @property
    def _has_cropped_mask(self) -> bool:
        """Whether the image is so large that the mask's layer is no larger than the mask."""
        assert self._scene is not None
        return self._scene.size[0] * self._scene.size[1] > _HUGE_IMAGE

    def _show_cropped(self, layer: Labels, mask: MaskCrop | None) -> None:
        assert self._scene is not None
        # As with prompts: a mask lies in the image, and its kind of pixels stays the same.
        with self._writing(), layer.events.data.blocker():
            if mask is None:
                layer.data = np.zeros((1, 1), np.uint8)
                return
            layer.data = mask.pixels.view(np.uint8)
            layer.translate = np.array((mask.y0, mask.x0)) * self._scene.scale + self._scene.translate

    def _write(self, layer: Labels, box: Box, labels: NDArray[Any]) -> None:
        """Write into a box of a label layer, and redraw only what changed."""
        x0, y0, x1, y1 = box
        window = layer.data[y0:y1, x0:x1]
        changed = window != labels
        if not changed.any():
            return
        if layer.data.dtype.itemsize <= 2:
            # Of such a layer napari draws the data themselves, and of them the box of the pixels that it is given.
            corners = _extremes(changed)
            before = window[corners]
            np.copyto(window, labels, casting="unsafe")
            window[corners] = before
            rows, columns = corners
        else:
            rows, columns = np.nonzero(changed)
        with self._writing():
            if rows.size > _MOST_INDEXED:
                window[...] = labels
                layer.refresh(extent=False)
                return
            values = np.asarray(labels[rows, columns], layer.data.dtype)
            layer.data_setitem((rows + y0, columns + x0), values)

    def draw_labels(self, box: Box, labels: NDArray[Any]) -> None:
        """Write `labels` into `box` of the objects layer; nothing else of it is touched."""
        if self._scene is None:
            return
        layer = self._objects()
        self._has_labels = True
        self._write(layer, box, labels)

    def draw_all_labels(self, labels: NDArray[Any] | None) -> None:
        """Write the whole objects layer, (H, W), or empty it; an empty one is left alone."""
        layer = self._layers.get("objects")
        if layer is None or (labels is None and not self._has_labels):
            return
        self._has_labels = labels is not None
        with self._writing():
            layer.data[...] = 0 if labels is None else labels
            layer.refresh(extent=False)

    def show_composite(self, pixels: NDArray[np.uint8] | None) -> None:
        """Draw what the model sees, (h, w, 3) over the whole scene, below everything of ours; None takes it away."""
        self._show_over("composite", pixels, None)

    def show_blink(self, pixels: NDArray[np.uint8] | None) -> None:
        """Draw one channel (h, w, 3) over the picture while channels are compared; None takes it away."""
        self._show_over("blink", pixels, None)

    def show_doubt(self, doubt: NDArray[np.float32] | None, box: Box | None = None) -> None:
        """Draw where the next click tells most, (h, w) in [0, 1] over a box of the scene; None takes it away."""
        self._show_over("doubt", doubt, box)

    def _show_over(self, name: str, pixels: NDArray[Any] | None, box: Box | None) -> None:
        if pixels is None or self._scene is None:
            self._drop(name)
            return
        height, width = self._scene.size
        x0, y0, x1, y1 = box or (0, 0, width, height)
        ratio = np.array(((y1 - y0) / pixels.shape[0], (x1 - x0) / pixels.shape[1]))
        scale = ratio * self._scene.scale
        translate = (ratio / 2 - 0.5 + (y0, x0)) * self._scene.scale + self._scene.translate
        layer = self._layers.get(name)
        if layer is not None and layer.data.shape == pixels.shape:
            with self._writing():
                layer.data = pixels
                if not np.allclose(layer.scale, scale) or not np.allclose(layer.translate, translate):
                    layer.scale, layer.translate = scale, translate
            return
        self._drop(name)
        kind = (
            {"rgb": True}
            if pixels.ndim == 3
            else {"colormap": "magma", "blending": "additive", "contrast_limits": (0, 1)}
        )
        layer = Image(pixels, name=_OVER_NAMES[name], scale=scale, translate=translate, **kind)
        self._add(name, layer, below="objects" if name != "doubt" and "objects" in self._layers else "points")

    def colour_of(self, number: int) -> tuple[float, float, float]:
        """Colour in which an object is drawn, red, green, blue in 0..1."""
        layer = self._layers.get("objects")
        colour = None if layer is None else layer.get_color(number)
        return (0.5, 0.5, 0.5) if colour is None else (float(colour[0]), float(colour[1]), float(colour[2]))

    def look_at(self, box: Box) -> None:
        """Bring a box into view where it is not."""
        assert self._scene is not None
        centre = np.array(((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)) * self._scene.scale + self._scene.translate
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
        layer = self._layers.get("objects")
        if layer is None or self._scene is None:
            return None
        (y0, x0), (y1, x1) = layer.corner_pixels[:, -2:].tolist()
        height, width = self._scene.size
        box = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
        return box if box[2] - box[0] > 1 and box[3] - box[1] > 1 else None

    # -- tools -------------------------------------------------------------------------------------------------------

    def take_tool(self, name: str) -> None:
        """Arm a tool: "points", "box", "scribble" or "move"."""
        if self._scene is None:
            return
        points = self._points()
        target: Layer = self._shapes() if name in ("box", "scribble") else points
        with self._writing():
            if "box" in self._layers:
                self._layers["box"].mode = {"box": "add_rectangle", "scribble": "add_polyline"}.get(name, "pan_zoom")
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
            layer.current_face_color = _COLOURS[label]

    def _on_points(self, event: Any) -> None:
        if self._is_writing or str(getattr(event, "action", "changed")) not in ("added", "removed", "changed"):
            return
        layer = self._layers.get("points")
        if layer is None or self._scene is None:
            return
        xy = xy_of_points(layer.data)
        labels = np.asarray(layer.features["label"], np.int32)
        height, width = self._scene.size
        inside = (xy >= 0).all(axis=1) & (xy[:, 0] <= width) & (xy[:, 1] <= height)
        self.points_changed.emit(xy[inside], labels[inside])

    def _on_shapes(self, event: Any) -> None:
        if self._is_writing or str(getattr(event, "action", "")) not in ("added", "changed"):
            return
        layer = self._layers.get("box")
        if layer is None or not len(layer.data) or self._scene is None:
            return
        corners, kind = layer.data[-1], layer.shape_type[-1]
        if kind == "rectangle":
            box = box_of_corners(corners, self._scene.size)
            if box is not None:
                self.box_drawn.emit(box)
        elif str(getattr(event, "action", "")) == "added":
            self.line_drawn.emit(xy_of_points(corners))

    def _on_paint(self, event: Any) -> None:
        if self._is_writing:
            return
        strokes = [_stroke(atom, event.source.data.shape) for atom in event.value]
        rows = np.concatenate([stroke[0] for stroke in strokes])
        columns = np.concatenate([stroke[1] for stroke in strokes])
        if rows.size == 0:
            return
        x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
        after = np.array(event.source.data[y0:y1, x0:x1])
        # napari tells of some strokes before it has written them.
        for stroke_rows, stroke_columns, value in strokes:
            after[stroke_rows - y0, stroke_columns - x0] = value
        self._has_labels = True
        self.painted.emit((x0, y0, x1, y1), after)

    def _on_move(self, viewer: ViewerModel, event: Any) -> None:
        if self._scene is None or len(self.pointed_at) == 0:
            return
        layer = self._layers.get("points")
        if layer is None or viewer.layers.selection.active is not layer:
            return
        x, y = xy_of_points([layer.world_to_data(event.position)])[0]
        inside = 0 <= x <= self._scene.size[1] and 0 <= y <= self._scene.size[0]
        self.pointed_at.emit((float(x), float(y)) if inside else None)

    def _on_active(self, event: Any) -> None:
        if self._is_writing:
            return
        active = self.viewer.layers.selection.active
        mode = str(getattr(active, "mode", ""))
        tools = {"add": "points", "select": "move", "add_rectangle": "box", "add_polyline": "scribble"}
        is_prompt = active is not None and active in (self._layers.get("points"), self._layers.get("box"))
        self.tool_changed.emit(tools.get(mode, "") if is_prompt else "")

    def _on_removed(self, event: Any) -> None:
        for name, layer in tuple(self._layers.items()):
            if layer is event.value:
                self._disconnect(layer)
                del self._layers[name]

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


def _extremes(changed: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of four chosen pixels, or fewer, whose bounding box is that of all."""
    rows, columns = np.flatnonzero(changed.any(axis=1))[[0, -1]], np.flatnonzero(changed.any(axis=0))[[0, -1]]
    places = {(int(row), int(np.argmax(changed[row]))) for row in rows}
    places |= {(int(np.argmax(changed[:, column])), int(column)) for column in columns}
    found = np.array(sorted(places), np.intp)
    return found[:, 0], found[:, 1]


def _stroke(atom: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp], Any]:
    """Rows, columns and new label of one of napari's strokes: (index arrays, old, new), or a masked box.

    Since napari 0.9 the brush, fill and polygon give a box of slices, a mask in it or None for all of it, and what was
    there before.
    """
    place, value = atom[0], atom[-1]
    if not isinstance(place[-1], slice):
        return np.atleast_1d(place[-2]), np.atleast_1d(place[-1]), value
    (top, bottom, _), (left, right, _) = (part.indices(length) for part, length in zip(place, shape, strict=True))
    mask = np.ones((bottom - top, right - left), bool) if atom[1] is None else np.asarray(atom[1], bool)
    rows, columns = np.nonzero(mask.reshape(bottom - top, right - left))
    return rows + top, columns + left, value


def bind_all(layer_or_viewer: Any, keys: Sequence[tuple[str, Callable[[Any], None] | None]]) -> None:
    """Bind keys, over whatever they did before."""
    for key, action in keys:
        layer_or_viewer.bind_key(key, action, overwrite=True)
