"""Labelled sets on disk: folders of pairs, SHIFT and SFDD-H8 in the layouts of their releases, sessions.

`open_dataset` finds what there is without reading a pixel; each item is read when it is loaded.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from e2sam.data.io.labels import is_labels_name, read_labels
from e2sam.data.io.registry import STACK_SUFFIXES, read_stack, stem_of
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import StackError

__all__ = ["H8_CHANNELS", "SHIFT_CLASSES", "LabelledItem", "LabelledSet", "decode_depth", "open_dataset"]

# As `export` names the planes of a series (NAME_T000_Z001_labels) and as `predict` does (NAME_labels_0000_0001).
_LABELS = re.compile(r"(?P<name>.+?)(?P<axes>(_[TZ]\d{3,})*)_labels(?P<numbers>(_\d{4,})*)\.(?i:png|tiff?)")
_MOST_NAMED = 5
_log = logging.getLogger(__name__)
_SPLITS = ("train", "val", "test")
_DATA = "a session (.e2sam), a folder of images with labels, shift:DIR or h8:DIR"

SHIFT_CLASSES = (
    "unlabeled",
    "building",
    "fence",
    "other",
    "pedestrian",
    "pole",
    "road line",
    "road",
    "sidewalk",
    "vegetation",
    "vehicle",
    "wall",
    "traffic sign",
    "sky",
    "ground",
    "bridge",
    "rail track",
    "guard rail",
    "traffic light",
    "static",
    "dynamic",
    "water",
    "terrain",
)
"""Class names of SHIFT by id, those of CARLA."""

_H8_WAVELENGTHS_UM = (0.47, 0.51, 0.64, 0.86, 1.6, 2.3, 3.9, 6.2, 6.9, 7.3, 8.6, 9.6, 10.4, 11.2, 12.4, 13.3)

H8_CHANNELS = tuple(
    ChannelSpec(f"B{number:02d}", wavelength_nm=micrometres * 1000)
    for number, micrometres in enumerate(_H8_WAVELENGTHS_UM, start=1)
)
"""The 16 bands of Himawari-8's imager (AHI) with their centre wavelengths."""

Loader = Callable[[], tuple[ChannelStack, NDArray[np.int32]]]


@dataclass(frozen=True, eq=False)
class LabelledItem:
    """One labelled image.

    Attributes
    ----------
    name
        Unique within its set.
    split
        "train", "val", "test", or "" where the set does not say.
    loader
        Reads it.
    series
        What the planes of one series or volume share; "" for an image by itself.
    """

    name: str
    split: str
    loader: Loader
    series: str = ""

    def load(self) -> tuple[ChannelStack, NDArray[np.int32]]:
        """The stack, and its labels (H, W) int32.

        Raises
        ------
        StackError
            If one cannot be read, or their sizes differ.
        """
        stack, labels = self.loader()
        if labels.shape != stack.size:
            raise StackError(f"Expected labels of {self.name} as {stack.size} (H, W), got {labels.shape}.")
        return stack, labels


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Labelled images of one kind.

    Attributes
    ----------
    items
        The images, sorted by name.
    kind
        "instances" (each object its own number) or "classes" (each pixel its class).
    ignore_index
        The label that means "not labelled", or None where every pixel is labelled.
    classes
        Class names by id where the set defines them, else empty.
    """

    items: tuple[LabelledItem, ...]
    kind: str
    ignore_index: int | None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[LabelledItem]:
        return iter(self.items)

    def of_split(self, split: str) -> tuple[LabelledItem, ...]:
        """Items of one split."""
        return tuple(item for item in self.items if item.split == split)


def open_dataset(spec: str | Path, kind: str | None = None) -> LabelledSet:
    """Find a labelled set.

    Parameters
    ----------
    spec
        - a folder of pairs: `NAME.tif` (or .npy, .png, a zarr store, a folder of channels, ...) beside
          `NAME_labels.png` or `.tif`, 0 = unlabelled; of a series, labels of a plane as `export` and `predict` name
          them; in subfolders `train`, `val`, `test` where there is a split;
        - `shift:DIR`: SHIFT, `DIR/imgRGB/<sequence>/<frame>_img_front.jpg` with `depth/` and `semseg/` beside;
          lists `train.txt`, `val.txt`, `test.txt` in DIR, a line each `<sequence>/<frame>[,time of day]`, give the
          split; `shift:DIR?time=night` keeps the frames of one time of day, `?list=FILE` takes one list only;
        - `h8:DIR`: SFDD-H8, `DIR/<split>/<id>.npy` (H, W, 16 or more) with `conn_<id>_300_sp.png` or `<id>.png`;
        - a session `NAME.e2sam`.
    kind
        What the labels of pairs or of a session mean: "instances" (default) or "classes". SHIFT and H8 hold classes.

    Raises
    ------
    StackError
        If the place does not exist or holds no labelled image.
    """
    if kind not in (None, "instances", "classes"):
        raise StackError(f"Expected labels of kind 'instances' or 'classes', got {kind!r}.")
    text = str(spec)
    for prefix, opener in (("shift:", _open_shift), ("h8:", _open_h8)):
        if text.startswith(prefix):
            place, _, query = text.removeprefix(prefix).partition("?")
            options = {key: values[-1] for key, values in parse_qs(query).items()}
            if kind == "instances":
                raise StackError(f"Expected a set of instances, got {text}, which holds classes: use --head semantic.")
            return opener(_checked_folder(place), options)
    path = Path(text)
    if path.suffix == ".e2sam":
        return _open_session(path, kind or "instances")
    return _open_pairs(_checked_folder(text, _DATA), kind or "instances")


def decode_depth(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Metres from SHIFT's depth pictures.

    Parameters
    ----------
    pixels
        (H, W, 3 or more) uint8, R, G, B: R is the lowest byte.

    Returns
    -------
    ndarray
        (H, W) float32 in 0..1000: (R + 256 G + 65536 B) / (256^3 - 1) * 1000.
    """
    red, green, blue = (pixels[..., plane].astype(np.float64) for plane in range(3))
    metres: NDArray[np.float32] = ((red + 256 * green + 65536 * blue) / (256**3 - 1) * 1000).astype(np.float32)
    return metres


def _open_pairs(folder: Path, kind: str) -> LabelledSet:
    def loader(image: Path, plane: tuple[int, ...], labels: Path) -> Loader:
        return lambda: (_plane_of(read_stack(image), plane, image), _read_labels(labels))

    items: dict[tuple[Path, tuple[int, ...]], LabelledItem] = {}
    alone = []
    for split in ("", *_SPLITS):
        place = folder / split
        if not place.is_dir():
            continue
        images: dict[str, list[Path]] = {}
        for entry in filter(_is_image, place.iterdir()):
            images.setdefault(stem_of(entry), []).append(entry)
        for labels in sorted(place.iterdir()):
            if (match := _LABELS.fullmatch(labels.name)) is None:
                continue
            found = _image_of(images, match)
            if found is None:
                alone.append(labels.name)
                continue
            series = f"{split}/{stem_of(found[0])}".lstrip("/")
            name = "_".join((series, *(f"{at:04d}" for at in found[1])))
            items.setdefault(found, LabelledItem(name, split, loader(*found, labels), series))
    if not items:
        raise StackError(
            f"Expected pairs NAME.tif and NAME_labels.png or NAME_labels.tif, got none in {folder}: name them so."
        )
    if alone:
        _log.warning("No image beside %d of the labels in %s: %s.", len(alone), folder, ", ".join(alone[:_MOST_NAMED]))
    return LabelledSet(tuple(sorted(items.values(), key=lambda item: (item.split, item.name))), kind, 0)


def _is_image(entry: Path) -> bool:
    """Whether a stack could be read there: a file, a zarr store, or a folder of channels."""
    is_file = entry.suffix.lower() in STACK_SUFFIXES and not is_labels_name(entry.name)
    return not entry.name.startswith(".") and (is_file or entry.is_dir())


def _image_of(images: Mapping[str, list[Path]], match: re.Match[str]) -> tuple[Path, tuple[int, ...]] | None:
    """The image that labels belong to, and its plane: (), or what their name says of a series."""
    name, axes, numbers = match.group("name"), match.group("axes") or "", match.group("numbers")
    plane = tuple(int(number) for number in re.findall(r"\d+", numbers))
    found = images.get(f"{name}{axes}", [])
    if not found and axes:
        found, plane = images.get(name, []), tuple(int(number) for number in re.findall(r"\d+", axes))
    if len(found) > 1:
        raise StackError(
            f"Expected one image for each labels file, got several named {name} in {found[0].parent}: rename one."
        )
    return (found[0], plane) if found else None


def _plane_of(stack: ChannelStack, plane: tuple[int, ...], image: Path) -> ChannelStack:
    """The scene that labels belong to; those without numbers to the first one."""
    at = plane or (0,) * len(stack.leading)
    if len(at) != len(stack.leading) or any(
        place >= length for place, length in zip(at, stack.num_planes, strict=True)
    ):
        counts = " x ".join(map(str, stack.num_planes)) or "no"
        raise StackError(f"Expected labels of one of {counts} planes of {image.name}, got labels of {plane}.")
    return stack.plane(*at)


def _check_names(items: Sequence[LabelledItem], folder: Path) -> None:
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StackError(f"Expected one image for each labels file, got several named {twice[0]} in {folder}.")


def _open_shift(folder: Path, options: dict[str, str]) -> LabelledSet:
    images = _checked_folder(folder / "imgRGB")
    lists = [folder / options["list"]] if "list" in options else [folder / f"{split}.txt" for split in _SPLITS]
    frames: list[tuple[str, str, str]] = []
    for path in lists:
        if path.is_file():
            split = path.stem if path.stem in _SPLITS else ""
            frames += [(frame, split, time) for frame, time in _read_list(path)]
        elif "list" in options:
            raise StackError(f"Expected a list of frames, got none at {path}.")
    if not frames:
        found = sorted(images.glob("*/*_img_front.jpg"))
        frames = [(f"{path.parent.name}/{path.name.removesuffix('_img_front.jpg')}", "", "") for path in found]
    wanted = options.get("time")
    chosen = [(frame, split) for frame, split, time in frames if wanted is None or time == wanted]
    if not chosen:
        raise StackError(f"Expected frames <sequence>/<frame>_img_front.jpg, got none in {images} (time: {wanted}).")
    items = tuple(LabelledItem(frame, split, _shift_loader(folder, frame)) for frame, split in sorted(chosen))
    _check_names(items, folder)
    return LabelledSet(items, "classes", 0, SHIFT_CLASSES)


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """(frame, time of day) of each line; a frame may be written as its id or as the path of its image."""
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.reader(file):
            if line and line[0].strip():
                parts = Path(line[0].strip()).parts[-2:]
                time = line[1].strip() if len(line) > 1 else ""
                yield "/".join(parts).removesuffix("_img_front.jpg"), time


def _shift_loader(folder: Path, frame: str) -> Loader:
    def load() -> tuple[ChannelStack, NDArray[np.int32]]:
        image = folder / "imgRGB" / f"{frame}_img_front.jpg"
        colour = _read_picture(image)
        depth = decode_depth(_read_picture(folder / "depth" / f"{frame}_depth_front.png"))
        labels = _read_red(folder / "semseg" / f"{frame}_semseg_front.png")
        if colour.shape[:2] != depth.shape:
            raise StackError(f"Expected depth of {frame} as {colour.shape[:2]} (H, W), got {depth.shape}.")
        data = np.concatenate((np.moveaxis(colour[..., :3], -1, 0).astype(np.float32), depth[None]))
        names = (ChannelSpec("R", kind="colour"), ChannelSpec("G", kind="colour"), ChannelSpec("B", kind="colour"))
        return ChannelStack(data, (*names, ChannelSpec("depth", unit="m", kind="depth")), source=image), labels

    return load


def _open_h8(folder: Path, options: dict[str, str]) -> LabelledSet:
    del options
    items = []
    places = [place for place in sorted(folder.iterdir()) if place.is_dir()] or [folder]
    for place in places:
        split = next((split for split in _SPLITS if place.name.startswith(split)), "")
        for cube in sorted((*place.glob("*.npy"), *place.glob("*.npz"))):
            masks = (place / f"conn_{cube.stem}_300_sp.png", place / f"{cube.stem}.png")
            mask = next((path for path in masks if path.is_file()), None)
            if mask is not None:
                items.append(LabelledItem(f"{place.name}/{cube.stem}", split, _h8_loader(cube, mask)))
    if not items:
        raise StackError(f"Expected <split>/<id>.npy with conn_<id>_300_sp.png or <id>.png, got none in {folder}.")
    return LabelledSet(tuple(items), "classes", None, ("clear", "fog"))


def _h8_loader(cube: Path, mask: Path) -> Loader:
    def load() -> tuple[ChannelStack, NDArray[np.int32]]:
        data = _read_cube(cube)
        stack = ChannelStack(data, H8_CHANNELS, source=cube)
        return stack, _read_fog(mask, stack.size)

    return load


def _read_cube(path: Path) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        array = loaded["x"] if path.suffix == ".npz" else loaded
    except (OSError, ValueError, KeyError) as error:
        raise StackError(f"Expected a NumPy array of bands, got {path} ({error}).") from error
    count = len(H8_CHANNELS)
    if array.ndim != 3 or array.shape[2] < count:
        raise StackError(f"Expected {path} as (H, W, {count} or more), got {array.shape}.")
    # A 17th plane, where there is one, is the label of another task.
    bands: NDArray[Any] = np.moveaxis(array[..., :count], -1, 0)
    return bands


def _read_fog(path: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    from skimage.transform import resize

    picture = _read_picture(path)
    plane = (picture if picture.ndim == 2 else picture[..., 0]).astype(np.float32) / 255
    if plane.shape != size:
        plane = resize(plane, size, order=1, anti_aliasing=False, mode="edge")
    fog: NDArray[np.int32] = (plane >= 0.5).astype(np.int32)
    return fog


def _open_session(path: Path, kind: str) -> LabelledSet:
    from e2sam.data.session import Session

    with Session.open(path, create=False, read_only=True) as session:
        places = session.planes()
        names = {record.id: record.name for record in session.stacks()}
        classes = {record.id: record.name for record in session.classes()}
    if not places:
        raise StackError(f"Expected accepted objects, got none in {path}: accept some first.")

    def loader(stack_id: int, plane: tuple[int, ...]) -> Loader:
        def load() -> tuple[ChannelStack, NDArray[np.int32]]:
            with Session.open(path, create=False, read_only=True) as session:
                labels = session.labels(stack_id, plane)
                records = session.objects(stack_id, plane)
                table = np.zeros(1 + max(record.id for record in records), np.int32)
                for record in records:
                    # What nobody has looked at is unlabelled.
                    table[record.id] = (record.class_id if kind == "classes" else record.id) * record.is_correction
                labels = table[labels]
                return session.load_stack(stack_id, unchanged=True).plane(*plane), labels

        return load

    items = [
        LabelledItem(
            f"{stack_id}-{names[stack_id]}{''.join(f'-{at}' for at in plane)}",
            "",
            loader(stack_id, plane),
            str(stack_id),
        )
        for stack_id, plane in places
    ]
    shown = tuple(classes.get(number, "") or "unlabelled" for number in range(1 + max(classes)))
    return LabelledSet(tuple(items), kind, 0, shown if kind == "classes" else ())


def _checked_folder(place: str | Path, expected: str = "a folder") -> Path:
    path = Path(place)
    if not path.is_dir():
        raise StackError(f"Expected {expected}, got {'a file' if path.exists() else 'nothing'} at {path}.")
    return path


def _read_picture(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(imagecodecs.imread(path))
    except FileNotFoundError as error:
        raise StackError(f"Expected a picture, got nothing at {path}.") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise StackError(f"Expected a picture, got {path} ({' '.join(str(error).split())[:120]}).") from error


def _read_red(path: Path) -> NDArray[np.int32]:
    """(H, W) int32 from the red plane of a picture, where SHIFT stores class ids."""
    picture = _read_picture(path)
    return (picture if picture.ndim == 2 else picture[..., 0]).astype(np.int32)


def _read_labels(path: Path) -> NDArray[np.int32]:
    array = read_labels(path)
    if array.size and int(array.max()) > np.iinfo(np.int32).max:
        raise StackError(f"Expected labels up to {np.iinfo(np.int32).max}, got {int(array.max())} in {path}.")
    return array.astype(np.int32)
