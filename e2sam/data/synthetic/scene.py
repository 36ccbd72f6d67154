"""Procedural scenes of many channels with exact instance masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.synthetic import shapes
from e2sam.data.synthetic.canvas import Canvas, Layer
from e2sam.data.synthetic.counts import paint_counts
from e2sam.data.synthetic.culture import paint_culture
from e2sam.data.synthetic.land import paint_land
from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.street import paint_street
from e2sam.data.synthetic.textures import Planes, random_colour, resample, smooth_field, texture
from e2sam.data.synthetic.tissue import paint_tissue
from e2sam.errors import StackError

__all__ = ["KINDS", "Scene", "SceneOptions", "make_scene"]

KINDS = ("objects", "cells", "regions", "tissue", "culture", "street", "counts", "land")
# How often a scene of any kind is each of the first four; the others are asked for by name.
_SHARES = (0.45, 0.2, 0.2, 0.15)


@dataclass(frozen=True)
class SceneOptions:
    """What a scene is like.

    Attributes
    ----------
    kind
        "objects" on a background, many small "cells", large "regions", cells packed to "tissue", cells spread on glass,
        a "culture", tissue in "counts" of ions or photons, a "street", "land" from above, or None for any of the first
        four.
    hidden
        Share of objects that the colour planes do not show at all.
    night, haze
        Degrade the colour planes: to almost nothing but noise, or towards grey with distance. The further channels
        are left as they are.
    clean
        No blur, no noise, no illumination: for tests.
    smallest
        Least visible area of a labelled object, pixels.
    """

    kind: str | None = None
    hidden: float = 0.12
    night: bool = False
    haze: bool = False
    clean: bool = False
    smallest: int = 40


@dataclass(frozen=True, eq=False)
class Scene:
    """A finished scene.

    Attributes
    ----------
    planes
        (3 + K, H, W) float32 in [0, 1]: R, G, B, then K further channels.
    labels
        (H, W) int32, 0 = background.
    visible
        (L + 1, 1 + K) bool for labels 0..L: seen in colour, in each further channel.
    parents
        (L + 1,) int32, the label of which one is a part (a nucleus of its cell), or 0.
    """

    planes: Planes
    labels: NDArray[np.int32]
    visible: NDArray[np.bool_]
    parents: NDArray[np.int32]

    def mask(self, label: int) -> NDArray[np.bool_]:
        """(H, W) bool of an object with all its parts."""
        members = [label, *np.flatnonzero(self.parents == label).tolist()]
        return np.isin(self.labels, members)


def make_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    num_extras: int = 3,
    options: SceneOptions | None = None,
    material: Material | None = None,
) -> Scene:
    """Compose a scene.

    Parameters
    ----------
    rng
        Source of everything random: the same generator state gives the same scene.
    size
        (H, W) in pixels, each at least 32.
    num_extras
        Channels beside R, G, B; the first is depth (larger = nearer), the second thermal, the others have one
        value for each material, as reflectances or stains do.
    options
        What the scene is like.
    material
        Silhouettes and photographs; without it everything is procedural.
    """
    options = options or SceneOptions()
    if min(size) < 32:
        raise StackError(f"Expected a scene of at least 32 x 32 pixels, got {size[0]} x {size[1]}.")
    if options.kind is not None and options.kind not in KINDS:
        raise StackError(f"Expected a kind of scene of {', '.join(KINDS)}, got {options.kind!r}.")
    kind = options.kind or str(rng.choice(KINDS[: len(_SHARES)], p=_SHARES))
    canvas = Canvas.empty(num_extras, size)
    if kind == "cells":
        _cells(rng, canvas, options, material)
    elif kind == "tissue":
        paint_tissue(rng, canvas)
    elif kind == "culture":
        paint_culture(rng, canvas)
    elif kind == "counts":
        paint_counts(rng, canvas, options.clean)
    elif kind == "street":
        paint_street(rng, canvas, material)
    elif kind == "land":
        paint_land(rng, canvas, material)
    else:
        _background(rng, canvas, material)
        if kind == "regions":
            _regions(rng, canvas, options, material)
        if kind == "objects" or rng.random() < 0.5:
            _objects(rng, canvas, options, material, kind == "regions")
    planes = canvas.planes if options.clean else _camera(rng, canvas.planes, options, kind)
    return _finish(canvas, np.clip(planes, 0, 1), options)


def _extras(rng: np.random.Generator, count: int, depth: float) -> Planes:
    values = rng.random(count, dtype=np.float32)
    if count:
        values[0] = depth
    return values


def _background(rng: np.random.Generator, canvas: Canvas, material: Material | None) -> None:
    canvas.planes[:3] = texture(rng, canvas.size, material)
    for index in range(canvas.planes.shape[0] - 3):
        field = smooth_field(rng, canvas.size, float(rng.uniform(1, 6)), 2)
        low = rng.uniform(0, 0.6)
        canvas.planes[3 + index] = low + rng.uniform(0.02, 0.3) * field
    if canvas.planes.shape[0] > 3:
        # Depth: ground that comes nearer towards the bottom.
        ramp = np.linspace(0.05, rng.uniform(0.1, 0.6), canvas.size[0], dtype=np.float32)
        canvas.planes[3] = ramp[:, None]


def _coverage(rng: np.random.Generator, side: int, material: Material | None) -> tuple[Planes, Planes | None]:
    """A silhouette (side, side) and, of sprites, its own colours (3, side, side)."""
    has_sprites = material is not None and material.num_sprites > 0
    if has_sprites and rng.random() < 0.68:
        assert material is not None
        picture = shapes.sprite(rng, side, material)
        return picture[3], picture[:3]
    choice = rng.random()
    if choice < 0.3:
        return shapes.blob(rng, side, float(rng.uniform(0.05, 0.5))), None
    if choice < 0.62:
        return shapes.polygon(rng, side), None
    if choice < 0.86 or side < 24:
        return shapes.noise_shape(rng, side), None
    return shapes.curve(rng, side), None


def _objects(
    rng: np.random.Generator, canvas: Canvas, options: SceneOptions, material: Material | None, is_few: bool
) -> None:
    """Objects from far to near, some in clusters of one kind, with shadows and clutter that carries no label."""
    count = int(rng.integers(1, 6)) if is_few else int(rng.integers(3, 14))
    longest = max(canvas.size)
    sides = np.exp(rng.uniform(np.log(14), np.log(0.95 * longest), count))
    # Large ones first: they would hide the small ones.
    order = np.argsort(-sides * np.exp(rng.normal(0, 0.5, count)))
    num_extras = canvas.planes.shape[0] - 3
    for rank, index in enumerate(order):
        side = max(10, int(sides[index]))
        coverage, colours = _coverage(rng, side, material)
        depth = 0.2 + 0.75 * (rank + rng.random()) / count
        is_hidden = num_extras > 0 and rng.random() < options.hidden
        if colours is None or rng.random() < 0.35:
            colours = texture(rng, (side, side), material)
        extras = _extras(rng, num_extras, depth)
        if not is_hidden:
            extras[rng.random(num_extras) < 0.3] = np.nan
        copies = int(rng.integers(2, 7)) if side < 70 and rng.random() < 0.25 else 1
        for _ in range(copies):
            top = int(rng.integers(-side // 3, canvas.size[0] - side // 2 + 1))
            left = int(rng.integers(-side // 3, canvas.size[1] - side // 2 + 1))
            if not is_hidden and rng.random() < 0.3:
                offset = max(1, int(side * rng.uniform(0.03, 0.15)))
                shadow = ndimage.uniform_filter(coverage, max(2, side // 12))
                canvas.shade(shadow, top + offset, left + offset, float(rng.uniform(0.2, 0.7)))
            canvas.paint(rng, Layer(coverage, top, left, None if is_hidden else colours, extras))


def _cells(rng: np.random.Generator, canvas: Canvas, options: SceneOptions, material: Material | None) -> None:
    """Many similar blobs, bright on dark or dark on bright, touching, some with nuclei."""
    num_extras = canvas.planes.shape[0] - 3
    is_bright = rng.random() < 0.7
    ground = rng.uniform(0, 0.15, 3) if is_bright else rng.uniform(0.6, 1.0, 3)
    field = smooth_field(rng, canvas.size, float(rng.uniform(1, 5)), 2) - 0.5
    canvas.planes[:3] = ground.astype(np.float32)[:, None, None] + rng.uniform(0, 0.15) * field
    for index in range(num_extras):
        canvas.planes[3 + index] = rng.uniform(0, 0.1) + rng.uniform(0, 0.12) * smooth_field(rng, canvas.size, 4.0)
    side = float(np.exp(rng.uniform(np.log(12), np.log(90))))
    density = rng.uniform(0.25, 1.1)
    count = int(np.clip(density * canvas.size[0] * canvas.size[1] / side**2 / 0.6, 4, 160))
    colour = random_colour(rng)
    if is_bright:
        colour = np.maximum(colour, rng.uniform(0, 0.4, 3)).astype(np.float32) + np.float32(0.15)
    has_nuclei = rng.random() < 0.5 and side > 24
    nucleus_colour = random_colour(rng)
    grain = rng.uniform(0.05, 0.6)
    is_soft = rng.random() < 0.5
    base = rng.random(num_extras, dtype=np.float32) * (rng.random(num_extras) < 0.7)
    for _ in range(count):
        each = max(9, int(side * np.exp(rng.normal(0, 0.25))))
        coverage = shapes.blob(rng, each, 0.2) if rng.random() < 0.75 else shapes.noise_shape(rng, each)
        top = int(rng.integers(-each // 2, canvas.size[0] - each // 2))
        left = int(rng.integers(-each // 2, canvas.size[1] - each // 2))
        if is_soft:
            # A defocused cell ends where it has faded to half.
            coverage = ndimage.gaussian_filter(coverage, each * rng.uniform(0.03, 0.12))
        gain = np.float32(rng.uniform(0.45, 1.15))
        body = smooth_field(rng, (each, each), float(rng.uniform(2, 6)), 2) * grain + (1 - grain / 2)
        rim = ndimage.uniform_filter(coverage, max(2, each // 4)) if rng.random() < 0.5 else 1.0
        patch = ground.astype(np.float32)[:, None, None] + (colour - ground.astype(np.float32))[:, None, None] * (
            gain * body * rim
        )
        extras = np.clip(base * gain + 0.05 * rng.random(num_extras, dtype=np.float32), 0, 1).astype(np.float32)
        label = canvas.paint(rng, Layer(coverage, top, left, patch, extras, 0.2))
        if has_nuclei and label:
            small = max(8, int(each * rng.uniform(0.3, 0.55)))
            shift = (each - small) // 2
            inner = shapes.blob(rng, small, 0.12)
            if is_soft:
                inner = ndimage.gaussian_filter(inner, small * rng.uniform(0.03, 0.1))
            patch = nucleus_colour[:, None, None] * np.float32(rng.uniform(0.7, 1.1)) + np.zeros(
                (3, small, small), np.float32
            )
            extras = _extras(rng, num_extras, float("nan"))
            canvas.paint(rng, Layer(inner, top + shift, left + shift, patch, extras, 0.1), parent=label)


def _regions(rng: np.random.Generator, canvas: Canvas, options: SceneOptions, material: Material | None) -> None:
    """Large stuff that fills the frame: fields, sky over ground, land cover, with straight or ragged borders."""
    num_extras = canvas.planes.shape[0] - 3
    parts = _partition(rng, canvas.size)
    kinds = int(rng.integers(2, 7))
    styles = [texture(rng, canvas.size, material) for _ in range(kinds)]
    values = [_extras(rng, num_extras, float("nan")) for _ in range(kinds)]
    style_of = rng.integers(0, kinds, int(parts.max()) + 1)
    pieces, count = _components(style_of[parts])
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(pieces)
    for label in range(1, count + 1):
        window = boxes[label - 1]
        if window is None:
            continue
        solid = (pieces[window] == label).astype(np.float32)
        rows, columns = np.nonzero(solid)
        style = int(style_of[parts[window][rows[0], columns[0]]])
        layer = Layer(solid, window[0].start, window[1].start, styles[style][(slice(None), *window)], values[style])
        canvas.paint(rng, layer, is_object=bool(areas[label] >= 60))


def _components(classes: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Connected pieces of equal class, numbered from 1."""
    result = np.zeros(classes.shape, np.int32)
    count = 0
    for value in np.unique(classes):
        pieces, found = ndimage.label(classes == value)
        result[pieces > 0] = pieces[pieces > 0] + count
        count += int(found)
    return result, count


def _partition(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.int64]:
    """(H, W) cells of a warped Voronoi diagram, bands, or levels of smooth noise."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    choice = rng.random()
    strength = rng.choice([0.0, 6.0, 30.0])
    if strength:
        cells = float(rng.uniform(3, 10))
        x = x + strength * (smooth_field(rng, size, cells, 3) - 0.5)
        y = y + strength * (smooth_field(rng, size, cells, 3) - 0.5)
    if choice < 0.5:
        count = int(rng.integers(3, 28))
        sites = rng.random((count, 2)) * size
        nearest = np.full(size, np.inf, np.float32)
        parts = np.zeros(size, np.int64)
        for index, (row, column) in enumerate(sites):
            distance = np.abs(y - row) + np.abs(x - column) if choice < 0.1 else (y - row) ** 2 + (x - column) ** 2
            closer = distance < nearest
            nearest[closer] = distance[closer]
            parts[closer] = index
        return parts
    if choice < 0.7:
        angle = rng.normal(0, 0.2) + (np.pi / 2 if rng.random() < 0.3 else 0)
        along = y * np.cos(angle) + x * np.sin(angle)
        cuts = np.sort(rng.uniform(along.min(), along.max(), int(rng.integers(1, 5))))
        return np.asarray(np.searchsorted(cuts, along), np.int64)
    field = smooth_field(rng, size, float(rng.uniform(2, 8)), 3)
    cuts = np.sort(rng.uniform(0.15, 0.85, int(rng.integers(1, 4))))
    return np.searchsorted(cuts, field).astype(np.int64)


def _camera(rng: np.random.Generator, planes: Planes, options: SceneOptions, kind: str) -> Planes:
    """Illumination, haze, night, blur, low resolution and noise."""
    size = (planes.shape[1], planes.shape[2])
    result = planes.copy()
    if rng.random() < 0.35:
        result[:3] *= rng.uniform(0.3, 0.9) + rng.uniform(0.2, 0.7) * smooth_field(rng, size, 2.0)
    if options.haze or (kind != "counts" and rng.random() < 0.06):
        far = 1 - result[3] if len(result) > 3 else np.ones(size, np.float32)
        result[:3] += np.clip(far * rng.uniform(0.5, 1.0), 0, 0.9) * (rng.uniform(0.6, 0.9) - result[:3])
    if options.night or (kind != "counts" and rng.random() < 0.05):
        result[:3] = result[:3] * rng.uniform(0.02, 0.15) + 0.02 * rng.standard_normal((3, *size)).astype(np.float32)
    if kind != "counts":
        # Counts have their own grid and noise.
        result = _degrade(rng, result, kind)
    if rng.random() < 0.3:
        result = np.clip(result, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.4)))
    return result.astype(np.float32)


def _degrade(rng: np.random.Generator, result: Planes, kind: str) -> Planes:
    """Low resolution or blur, and noise."""
    size = (result.shape[1], result.shape[2])
    if rng.random() < 0.3:
        # Small images are enlarged to the working size of the model, and their noise with them.
        small = _resample_area(result, rng.uniform(1.5, 6))
        strength = np.exp(rng.uniform(np.log(0.004), np.log(0.2), (len(result), 1, 1))).astype(np.float32)
        if rng.random() < 0.7:
            small += strength * rng.standard_normal(small.shape, dtype=np.float32)
        result = resample(small, size)
    elif rng.random() < 0.75:
        sigma = (
            float(rng.uniform(0.3, 1.1)) if kind not in ("cells", "tissue", "culture") else float(rng.uniform(0.4, 2.0))
        )
        result = ndimage.gaussian_filter(result, (0, sigma, sigma), truncate=2.5)
    if rng.random() < 0.6:
        grain = np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.12))))
        result += grain * rng.standard_normal(result.shape, dtype=np.float32)
    return result


def _resample_area(planes: Planes, factor: float) -> Planes:
    """Planes (C, H, W) at 1 / factor of their size, each pixel a mean of what it covers."""
    size = (max(8, int(planes.shape[1] / factor)), max(8, int(planes.shape[2] / factor)))
    blurred = ndimage.uniform_filter(planes, (0, round(factor), round(factor)))
    return resample(blurred, size)


def _finish(canvas: Canvas, planes: Planes, options: SceneOptions) -> Scene:
    """Drop what is too small to see and number the rest from 1."""
    areas = np.bincount(canvas.labels.ravel(), minlength=len(canvas.visible))
    for label, parent in enumerate(canvas.parents):
        if parent:
            areas[parent] += areas[label]
    kept = [label for label in range(1, len(canvas.visible)) if areas[label] >= options.smallest]
    renumber = np.zeros(len(canvas.visible), np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    for label, parent in enumerate(canvas.parents):
        if parent and not renumber[label]:
            # A part too small to see belongs to its whole.
            renumber[label] = renumber[parent]
    index = [0, *kept]
    return Scene(
        planes.astype(np.float32),
        renumber[canvas.labels],
        np.stack([canvas.visible[label] for label in index]),
        renumber[np.array([canvas.parents[label] for label in index])],
    )
