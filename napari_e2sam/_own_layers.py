"""The layers that a window makes in a viewer: kept by reference, never found by name, made when they are needed."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes
from napari.utils.colormaps import CyclicLabelColormap
from numpy.typing import NDArray

from e2sam.data.masks import Box
from napari_e2sam._composite import Composite
from napari_e2sam._convert import Scene
from napari_e2sam._undrawn import canvas_of

__all__ = ["PROMPT_COLOURS", "OwnLayers", "at_once", "bind_all", "prepare"]

PROMPT_COLOURS = {1: "#3ddc6a", 0: "#ff4d4d"}
"""Colour of a point outside (0) and inside (1) of the object."""

_OVER_NAMES = {"blink": "channel", "doubt": "next click", "composite": "model input"}
# Past this many pixels, the layer of the current mask is cut to the mask: a texture of all of them takes long to make.
_HUGE_IMAGE = 1 << 24
# What napari's list of layers shows of one. At any other event of a layer it is laid out and drawn again as a whole.
_LISTED = ("name", "visible", "loaded", "locked", "thumbnail")
# Least and most width of a point, pixels of the screen.
_POINT_ON_SCREEN = (10, 14)


class OwnLayers:
    """Makes, places and takes away our layers in one viewer; what they show and tell is the canvas's.

    Parameters
    ----------
    viewer
        The viewer.
    made
        Called with the name and the layer that was made.
    gone
        Called with a layer that is no longer ours.
    deleted
        Called with the name of a layer that the user took away.

    Attributes
    ----------
    scene
        What the layers lie over, or None before a stack is open.
    is_writing
        Whether we are writing layers ourselves: their events are not the user's then.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        made: Callable[[str, Layer], None],
        gone: Callable[[Layer], None],
        deleted: Callable[[str], None],
    ) -> None:
        self.viewer = viewer
        self.scene: Scene | None = None
        self.is_writing = False
        self._made = made
        self._gone = gone
        self._deleted = deleted
        self._layers: dict[str, Layer] = {}
        self._stale: Layer | None = None
        self._keys: tuple[tuple[str, Callable[[Any], None] | None], ...] = ()
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self, remove_layers: bool) -> None:
        """Let go of the viewer; the layers stay unless they are to be removed."""
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in tuple(self._layers.values()):
            self._gone(layer)
            if remove_layers and layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._layers.clear()

    def get(self, name: str) -> Any:
        """A layer by our name for it, or None where it is not there."""
        return self._layers.get(name)

    def is_ours(self, layer: Layer) -> bool:
        """Whether we made a layer."""
        return any(layer is ours for ours in self._layers.values())

    def open(self, scene: Scene | None) -> None:
        """Take our layers to a scene, above what it shows; those of another size or place are made anew.

        None leaves the scene, and takes them away.
        """
        before = self.scene
        self.scene = scene
        if (
            scene is not None
            and before is not None
            and (before.size, before.scale, before.translate) == (scene.size, scene.scale, scene.translate)
        ):
            self._hide_stale()
            self._raise()
            return
        is_alone = all(self.is_ours(layer) for layer in self.viewer.layers)
        with self.writing():
            for name in tuple(self._layers):
                self.drop(name)
                if is_alone:
                    self._draw_frame()
        if scene is not None:
            # Not in a later turn: drawn without any layer of ours between, the canvas has crashed.
            self.points()

    def _hide_stale(self) -> None:
        """Hide the model input until that of this scene comes: it would hide the image."""
        layer = self._layers.get("composite")
        if layer is not None and layer.visible:
            # Not taken away: it keeps the user's opacity, and a new layer takes long to show.
            self._stale = layer
            layer.visible = False

    def _raise(self) -> None:
        """Bring our layers above all others, in the order that they have."""
        layers = self.viewer.layers
        places = [place for place, layer in enumerate(layers) if self.is_ours(layer)]
        if places and places[0] != len(layers) - len(places):
            with self.writing():
                layers.move_multiple(places, len(layers))

    def make_one(self) -> bool:
        """Make one of the layers that will be needed, and say whether it was the last.

        napari takes long to show a new layer, so that each is made in a turn of its own.
        """
        if self.scene is None:
            return True
        for name, make in (("mask", self.mask), ("objects", self.objects)):
            if name not in self._layers:
                make()
                return False
        return True

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While we write layers, their events are not the user's."""
        before, self.is_writing = self.is_writing, True
        try:
            yield
        finally:
            self.is_writing = before

    @property
    def _place(self) -> dict[str, Any]:
        assert self.scene is not None
        return {"scale": self.scene.scale, "translate": self.scene.translate}

    def bind_keys(self, keys: Sequence[tuple[str, Callable[[Any], None] | None]]) -> None:
        """Bind keys on our own layers too: napari asks the active layer first, and points take letters such as A."""
        self._keys = tuple(keys)
        for layer in self._layers.values():
            bind_all(layer, self._keys)

    def _add(self, name: str, layer: Layer, below: str = "") -> None:
        self._layers[name] = layer
        bind_all(layer, self._keys)
        layers = self.viewer.layers
        active = layers.selection.active
        # napari makes a new layer the active one and shows its controls: for nothing, where another one stays active.
        told = layers.selection.events.blocker_all() if active in layers else nullcontext()
        with self.writing(), told:
            layers.append(layer)
            if below in self._layers:
                layers.move(layers.index(layer), layers.index(self._layers[below]))
            if active in layers:
                layers.selection.active = active
        self._spare(layer)
        self._made(name, layer)

    def _spare(self, layer: Layer) -> None:
        """Have napari do nothing for nothing at the changes that each click brings.

        Ours lie in the image, so that what changes in them changes no extent and no slider.
        """
        if (measure := getattr(self.viewer, "_on_layers_change", None)) is not None:
            for emitter in (layer.events.data, layer.events.translate):
                emitter.disconnect(measure)
        if (list_again := getattr(self.viewer.layers, "_reemit_child_event", None)) is not None:
            layer.events.disconnect(list_again)
            for name in _LISTED:
                layer.events[name].connect(list_again)
        if isinstance(layer, Points):
            # A picture of points in the list tells nothing, and would have the list drawn again at each of them.
            layer.events.thumbnail.block()

    def drop(self, name: str) -> None:
        """Take a layer away, where it is there."""
        layer = self._layers.pop(name, None)
        if layer is not None:
            self._gone(layer)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _draw_frame(self) -> None:
        """Draw the canvas at once: where nothing is drawn while our layers go, the next image may crash napari."""
        # A window that is being closed has no canvas any more.
        with suppress(RuntimeError):
            canvas = canvas_of(self.viewer)
            if canvas is not None:
                canvas.native.repaint()

    # -- layers, made when they are first needed and again after the user deleted them -------------------------------

    def objects(self) -> Labels:
        """The layer of accepted objects; its numbers begin with 16 bits, of which napari draws the data themselves."""
        if "objects" not in self._layers:
            assert self.scene is not None
            layer = Labels(
                np.zeros(self.scene.size, np.uint16),
                name="objects",
                opacity=0.6,
                colormap=_object_colours(),
                **self._place,
            )
            self._add("objects", layer, below="mask" if "mask" in self._layers else "points")
        return self._layers["objects"]

    def mask(self) -> Labels:
        """The layer of the current mask."""
        if "mask" not in self._layers:
            assert self.scene is not None
            layer = Labels(
                np.zeros((1, 1) if self.has_cropped_mask else self.scene.size, np.uint8),
                name="mask",
                opacity=0.65,
                colormap={0: "transparent", None: "#35c9ff"},
                **self._place,
            )
            layer.editable = False
            self._add("mask", layer, below="box" if "box" in self._layers else "points")
        return self._layers["mask"]

    def shapes(self) -> Shapes:
        """The layer of the box prompt, and of scribbles."""
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
            self._add("box", layer, below="points")
        return self._layers["box"]

    def points(self) -> Points:
        """The layer of point prompts."""
        if "points" not in self._layers:
            layer = Points(
                np.zeros((0, 2)),
                ndim=2,
                name="prompts",
                size=self._point_size(),
                symbol="disc",
                face_color=PROMPT_COLOURS[1],
                border_color="white",
                border_width=0.15,
                # On the screen, so that a point hides no small object, however far the view is zoomed in.
                canvas_size_limits=_POINT_ON_SCREEN,
                features={"label": np.zeros(0, int)},
                feature_defaults={"label": 1},
                **self._place,
            )
            self._add("points", layer)
            _add_at_once(layer)
        return self._layers["points"]

    def _point_size(self) -> float:
        assert self.scene is not None
        return max(1.0, max(self.scene.size) / 75)

    def _screen_width(self) -> float:
        assert self.scene is not None
        return max(1.0, max(self.scene.size) / 400)

    @property
    def has_cropped_mask(self) -> bool:
        """Whether the image is so large that the mask's layer is no larger than the mask."""
        assert self.scene is not None
        return self.scene.size[0] * self.scene.size[1] > _HUGE_IMAGE

    def show_over(self, name: str, pixels: Composite | NDArray[Any] | None, box: Box | None) -> None:
        """Show a picture over a box of the scene, in colour or as (h, w) in [0, 1]; None takes it away.

        `name` is "composite", "blink" or "doubt".
        """
        if pixels is None or self.scene is None:
            self.drop(name)
            return
        data = pixels.levels if isinstance(pixels, Composite) else pixels
        shape = (data[0] if isinstance(data, list) else data).shape
        height, width = self.scene.size
        x0, y0, x1, y1 = box or (0, 0, width, height)
        ratio = np.array(((y1 - y0) / shape[0], (x1 - x0) / shape[1]))
        scale = ratio * self.scene.scale
        translate = (ratio / 2 - 0.5 + (y0, x0)) * self.scene.scale + self.scene.translate
        layer = self._layers.get(name)
        if layer is not None and layer.data.shape == shape:
            with self.writing():
                layer.data = data
                if not np.allclose(layer.scale, scale) or not np.allclose(layer.translate, translate):
                    layer.scale, layer.translate = scale, translate
                if self._stale is not None and layer is self._stale:
                    self._stale, layer.visible = None, True
            return
        self.drop(name)
        kind = (
            {"rgb": True}
            if len(shape) == 3
            else {"colormap": "magma", "blending": "additive", "contrast_limits": (0, 1)}
        )
        layer = Image(
            data, name=_OVER_NAMES[name], scale=scale, translate=translate, multiscale=isinstance(data, list), **kind
        )
        self._add(name, layer, below="objects" if name != "doubt" and "objects" in self._layers else "points")

    def _on_removed(self, event: Any) -> None:
        for name, layer in tuple(self._layers.items()):
            if layer is event.value:
                self._gone(layer)
                del self._layers[name]
                self._deleted(name)


def _object_colours() -> CyclicLabelColormap:
    """Light colours, each unlike the one before: napari's own begin with a brown that is lost in a dark image."""
    # Steps of the golden ratio spread hues evenly however many there are; those of the mask's colour are left out.
    hues = [hue for hue in (0.1 + np.arange(60) * 0.618034) % 1 if abs(hue - 0.545) > 0.06]
    colours = [(*colorsys.hls_to_rgb(hue, (0.66, 0.78)[place % 2], 0.95), 1.0) for place, hue in enumerate(hues)]
    return CyclicLabelColormap(colors=np.array([(0.0, 0.0, 0.0, 0.0), *colours], np.float32), background_value=0)


@contextmanager
def at_once(layer: Layer, extent: bool = False) -> Iterator[None]:
    """Take several changes of a layer as one: napari slices and draws it again after each of them.

    Prompts lie in the image: they change no `extent`.
    """
    try:
        with getattr(layer, "_block_refresh", nullcontext)():
            yield
    finally:
        layer.refresh(thumbnail=False, extent=extent)


def _add_at_once(layer: Points) -> None:
    """Have a click add its point as one change."""
    add = layer.add

    def add_at_once(coords: NDArray[Any]) -> None:
        with at_once(layer):
            add(coords)

    # napari's tool looks it up at each click.
    layer.add = add_at_once


def prepare() -> None:
    """Work out, in a thread and before it is needed, what the first layer of labels would hold the window for.

    With it napari makes a polygon whose outline could be dashed: vispy draws all patterns, and keeps them.
    """
    with suppress(ImportError):
        from vispy.visuals.line.dash_atlas import DashAtlas

        DashAtlas()


def bind_all(layer_or_viewer: Any, keys: Sequence[tuple[str, Callable[[Any], None] | None]]) -> None:
    """Bind keys, over whatever they did before."""
    for key, action in keys:
        layer_or_viewer.bind_key(key, action, overwrite=True)
