"""What a street scene is seen through: perspective, light, and sketches that become layers of the canvas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from e2sam.data.synthetic.canvas import VISIBLE_CONTRAST, Canvas, Layer
from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.textures import Planes, smooth_field

__all__ = ["NEAREST", "Lamp", "Light", "Points", "Sketch", "Street", "View", "capsule", "disc"]

Points = NDArray[np.float64]

# Nothing nearer to the camera than this is drawn, metres.
NEAREST = 0.4
# Thermal values before the scene's own contrast, about a mean of 0.4.
_WARMTH = {"sky": 0.05, "person": 0.9, "vehicle": 0.45, "leaf": 0.36, "road": 0.44, "pavement": 0.42, "verge": 0.37}
_KINDS_OF_MATTER = ("sky", "road", "pavement", "verge", "line", "wall", "leaf", "vehicle", "person", "metal", "sign")


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera above a street.

    Attributes
    ----------
    size
        (H, W) pixels.
    focal, centre, horizon
        Focal length, column and row of the point straight ahead, pixels.
    height
        Of the camera above the ground, metres.
    yaw, offset, bend
        Angle between camera and street (radians), lateral place of the camera (m), curvature of the street (1/m).
    reach
        Exponent by which the depth plane falls with distance.
    """

    size: tuple[int, int]
    focal: float
    centre: float
    horizon: float
    height: float
    yaw: float
    offset: float
    bend: float
    reach: float

    def place(self, along: float, lateral: float) -> tuple[float, float]:
        """(X, Z) metres, right of and ahead of the camera, of a place of the street."""
        t = lateral - self.offset + self.bend * along**2
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return float(t * cos + along * sin), float(along * cos - t * sin)

    def heading(self, along: float) -> float:
        """Direction of the street there: 0 leads away from the camera, positive to the right."""
        return float(self.yaw + np.arctan(2 * self.bend * along))

    def is_tiny(self, distance: float, height: float) -> bool:
        """Whether something so high (m) at Z metres would be too few pixels to tell what it is."""
        return self.focal * height / distance < 9

    def project(self, world: Points) -> Points:
        """Outline (N, 3) of X, Y up, Z in metres to (M, 2) pixel (x, y), cut where it comes too near."""
        near = world[:, 2] < NEAREST
        if near.all():
            return np.zeros((0, 2))
        if near.any():
            kept: list[Points] = []
            for here, then, is_near, was_near in zip(
                world, np.roll(world, -1, 0), near, np.roll(near, -1), strict=True
            ):
                if not is_near:
                    kept.append(here)
                if is_near != was_near:
                    kept.append(here + (then - here) * (NEAREST - here[2]) / (then[2] - here[2]))
            world = np.array(kept, np.float64)
        scale = self.focal / world[:, 2]
        return np.stack((self.centre + scale * world[:, 0], self.horizon + scale * (self.height - world[:, 1])), 1)

    def depth(self, distance: Planes | float) -> Planes:
        """Value of the depth plane at Z metres, larger = nearer."""
        nearest = self.focal * self.height / (self.size[0] - self.horizon)
        return np.asarray(0.03 + 0.9 * np.clip(nearest / np.maximum(distance, nearest), 0, 1) ** self.reach, np.float32)


@dataclass(frozen=True, eq=False)
class Light:
    """Gain (3,) of all that does not shine, fog (3,) and its density (1/m), the shadows' shift (m per m of height)."""

    gain: Planes
    fog: Planes
    density: float
    is_night: bool
    sun: tuple[float, float] | None
    shadow: float


@dataclass(frozen=True, eq=False)
class Lamp:
    """What glows at night: pixel (x, y), radius in pixels, colour (3,), and the label that it belongs to."""

    x: float
    y: float
    radius: float
    colour: Planes
    label: int


class Sketch:
    """A window of the frame in which one thing is drawn, part by part."""

    def __init__(self, size: tuple[int, int], outline: Points, margin: int = 2) -> None:
        low, high = (np.zeros(2), np.zeros(2)) if not len(outline) else (outline.min(0), outline.max(0))
        self.left, self.top = (int(value) for value in np.clip(np.floor(low) - margin, 0, (size[1], size[0])))
        right, bottom = (int(value) for value in np.clip(np.ceil(high) + margin, 0, (size[1], size[0])))
        self.shape = (max(0, bottom - self.top), max(0, right - self.left))
        self.coverage: Planes = np.zeros(self.shape, np.float32)
        self.colour: Planes = np.zeros((3, *self.shape), np.float32)
        self.glow: Planes = np.zeros(self.shape, np.float32)
        self.heat: Planes = np.zeros(self.shape, np.float32)
        self.lamps: list[tuple[float, float, float, Planes]] = []

    @property
    def is_empty(self) -> bool:
        """Whether the thing is out of the frame."""
        return min(self.shape) == 0

    def fill(
        self,
        outline: Points,
        colour: Planes,
        opacity: float = 1.0,
        glow: float = 0.0,
        heat: float = 0.0,
        is_body: bool = True,
    ) -> None:
        """Fill a polygon (N, 2); what is no body marks only what is there already."""
        if len(outline) < 3 or self.is_empty:
            return
        x0, y0 = np.clip(np.floor(outline.min(0)) - (self.left, self.top), 0, self.shape[::-1]).astype(int)
        x1, y1 = np.clip(np.ceil(outline.max(0)) + 1 - (self.left, self.top), 0, self.shape[::-1]).astype(int)
        if x0 >= x1 or y0 >= y1:
            return
        window = (slice(y0, y1), slice(x0, x1))
        alpha = _filled(outline - (self.left + x0, self.top + y0), (y1 - y0, x1 - x0)) * np.float32(opacity)
        self._blend(window, alpha, colour, glow, heat, is_body)

    def stamp(self, alpha: Planes, top: int, left: int, colour: Planes) -> None:
        """Add a coverage (h, w) with its colours (3,) or (3, h, w), at a place of the frame."""
        y0, x0 = max(top, self.top), max(left, self.left)
        y1 = min(top + alpha.shape[0], self.top + self.shape[0])
        x1 = min(left + alpha.shape[1], self.left + self.shape[1])
        if y0 >= y1 or x0 >= x1:
            return
        inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        window = (slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left))
        self._blend(window, alpha[inner], colour if colour.ndim == 1 else colour[(slice(None), *inner)], 0, 0, True)

    def _blend(
        self, window: tuple[slice, slice], alpha: Planes, colour: Planes, glow: float, heat: float, is_body: bool
    ) -> None:
        covered = self.coverage[window]
        if is_body:
            # What is drawn first takes its own colour, and not a share of black, where it covers a pixel in part.
            share = (alpha / np.maximum(alpha + covered * (1 - alpha), 1e-6)).astype(np.float32)
            np.minimum(covered + alpha, 1, out=covered)
        else:
            share = alpha
        patch = self.colour[(slice(None), *window)]
        target = np.asarray(colour, np.float32)
        patch += share * ((target[:, None, None] if target.ndim == 1 else target) - patch)
        self.glow[window] += share * (np.float32(glow) - self.glow[window])
        self.heat[window] += share * (np.float32(heat) - self.heat[window])


def _filled(outline: Points, size: tuple[int, int]) -> Planes:
    """Coverage (h, w) of a polygon in pixel (x, y) of its window."""
    scale = 4 if max(size) <= 160 else 2
    image = Image.new("L", (size[1] * scale, size[0] * scale))
    # Far beyond the window, coordinates would overflow what draws.
    corners = np.clip(outline * scale - 0.5, -20000, 20000)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return np.asarray(image.reduce(scale), np.float32) / np.float32(255)


def disc(centre: tuple[float, float], radius: float, corners: int = 20) -> Points:
    """Outline of a disc."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack((centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)), 1)


def capsule(first: tuple[float, float], second: tuple[float, float], radii: tuple[float, float]) -> Points:
    """Outline of a limb with round ends, of one radius at each end."""
    (x0, y0), (x1, y1) = first, second
    angle = np.arctan2(y1 - y0, x1 - x0) + np.linspace(np.pi / 2, 3 * np.pi / 2, 7)
    start = np.stack((x0 + radii[0] * np.cos(angle), y0 + radii[0] * np.sin(angle)), 1)
    end = np.stack((x1 - radii[1] * np.cos(angle), y1 - radii[1] * np.sin(angle)), 1)
    return np.concatenate((start, end))


@dataclass(eq=False)
class Street:
    """A street scene under construction.

    `values` holds for each kind of matter what the further planes (K,) show, depth left out; labels up to `ground` lie
    on the ground and take shadows.
    """

    rng: np.random.Generator
    canvas: Canvas
    material: Material | None
    view: View
    light: Light
    values: dict[str, Planes]
    lamps: list[Lamp] = field(default_factory=list)
    ground: int = 0

    @classmethod
    def begin(
        cls, rng: np.random.Generator, canvas: Canvas, material: Material | None, view: View, light: Light
    ) -> Street:
        """A street with nothing on it."""
        count = len(canvas.planes) - 3
        values: dict[str, Planes] = {}
        contrast = rng.uniform(0.45, 1.0)
        for matter in _KINDS_OF_MATTER:
            each = rng.random(count, dtype=np.float32)
            if count > 1:
                each[1] = 0.4 + contrast * (_WARMTH.get(matter, 0.4) - 0.4 + rng.normal(0, 0.03))
            values[matter] = each
        return cls(rng, canvas, material, view, light, values)

    def lit(self, colour: Planes, distance: Planes | float, glow: Planes | float = 0.0) -> Planes:
        """Colours (3, h, w) as the light and the haze leave them at Z metres."""
        gain = self.light.gain[:, None, None]
        result = colour * (gain + (1 - gain) * glow)
        fog = np.float32(1) - np.exp(np.float32(-self.light.density) * np.asarray(distance, np.float32))
        result += fog * (self.light.fog[:, None, None] - result)
        return np.asarray(result, np.float32)

    def put(
        self,
        sketch: Sketch,
        matter: str,
        distance: Planes | float,
        depth: Planes | None = None,
        is_object: bool = True,
    ) -> int:
        """Paint a finished sketch; its label. `depth` (h, w) is given where it is not one value; NaN leaves it."""
        if sketch.is_empty or not (sketch.coverage > 0.5).any():
            return 0
        extras = self.values[matter].copy()
        if matter in ("vehicle", "person", "leaf", "wall", "sign"):
            extras += self.rng.normal(0, 0.04, len(extras)).astype(np.float32)
        np.clip(extras, 0, 1, out=extras)
        if len(extras):
            extras[0] = self.view.depth(distance) if depth is None else np.nan
        window = (slice(sketch.top, sketch.top + sketch.shape[0]), slice(sketch.left, sketch.left + sketch.shape[1]))
        colour = self.lit(sketch.colour, distance, sketch.glow)
        is_seen = False
        if depth is not None and len(extras):
            is_seen = self._lay_depth(sketch.coverage, depth, window)
        label = self.canvas.paint(
            self.rng, Layer(sketch.coverage, sketch.top, sketch.left, colour, extras), is_object=is_object
        )
        if label and is_seen:
            self.canvas.visible[label][1] = True
        if len(extras) > 1 and sketch.heat.any():
            self.canvas.planes[(4, *window)] += sketch.coverage * sketch.heat
        self.lamps += [Lamp(x, y, radius, colour, label) for x, y, radius, colour in sketch.lamps]
        return label

    def _lay_depth(self, coverage: Planes, depth: Planes, window: tuple[slice, slice]) -> bool:
        """Lay depths (h, w) over the depth plane, where they are not NaN; whether they differ from what was there."""
        plane = self.canvas.planes[(3, *window)]
        change = np.where(np.isnan(depth), 0, depth - plane)
        plane += coverage * change
        solid = coverage > 0.5
        return bool(abs(float(change[solid].mean())) > VISIBLE_CONTRAST)

    def shade(self, footprint: Points, height: float) -> None:
        """Darken the ground below, and in the shadow of, what stands on a footprint (N, 2) of X, Z in metres."""
        shadows = [(footprint, 0.55)]
        if self.light.sun is not None:
            shift = np.array(self.light.sun) * height
            # A convex footprint and its shift: all that lies between them.
            steps = np.concatenate((footprint, footprint + shift))
            shadows.append((_hull(steps), self.light.shadow))
        for outline, strength in shadows:
            world = np.stack((outline[:, 0], np.zeros(len(outline)), outline[:, 1]), 1)
            pixels = self.view.project(world)
            sketch = Sketch(self.view.size, pixels, 4)
            if sketch.is_empty:
                continue
            sketch.fill(pixels, np.zeros(3, np.float32))
            soft = ndimage.uniform_filter(sketch.coverage, max(1, min(sketch.shape) // 8))
            window = (slice(sketch.top, sketch.top + soft.shape[0]), slice(sketch.left, sketch.left + soft.shape[1]))
            soft *= self.canvas.labels[window] <= self.ground
            self.canvas.shade(soft, sketch.top, sketch.left, strength)

    def finish(self) -> None:
        """What comes last: glowing lamps, and the softness of the thermal plane."""
        for lamp in self.lamps:
            self._glow(lamp)
        if len(self.canvas.planes) > 4:
            thermal = self.canvas.planes[4]
            thermal += np.float32(0.08) * (smooth_field(self.rng, self.view.size, 5.0, 2) - 0.5)
            thermal[:] = np.clip(ndimage.gaussian_filter(thermal, self.rng.uniform(0.4, 1.8), truncate=2.5), 0, 1)
        np.clip(self.canvas.planes, 0, 1, out=self.canvas.planes)

    def _glow(self, lamp: Lamp) -> None:
        """A halo around a lamp that nothing hides."""
        row, column = int(lamp.y), int(lamp.x)
        height, width = self.view.size
        if not (0 <= row < height and 0 <= column < width) or self.canvas.labels[row, column] != lamp.label:
            return
        reach = int(np.clip(lamp.radius * 4, 2, 0.2 * max(height, width)))
        y0, x0, y1, x1 = max(row - reach, 0), max(column - reach, 0), row + reach + 1, column + reach + 1
        patch = self.canvas.planes[:3, y0:y1, x0:x1]
        y, x = np.ogrid[y0 : y0 + patch.shape[1], x0 : x0 + patch.shape[2]]
        away = np.hypot(y - lamp.y, x - lamp.x).astype(np.float32) / np.float32(reach)
        patch += lamp.colour[:, None, None] * (np.clip(1 - away, 0, 1) ** 3 * np.float32(0.9))


def _hull(points: Points) -> Points:
    """Convex hull (M, 2) of points (N, 2), by the monotone chain."""
    ordered = sorted((float(x), float(y)) for x, y in points)
    chains = []
    for row in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for x, y in row:
            while len(chain) > 1 and (
                (chain[-1][0] - chain[-2][0]) * (y - chain[-2][1]) <= (chain[-1][1] - chain[-2][1]) * (x - chain[-2][0])
            ):
                chain.pop()
            chain.append((x, y))
        chains += chain[:-1]
    return np.array(chains)
