"""Real images with masks that may stand beside the repository, as sets of objects to click on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from e2sam.data.io import read_stack
from e2sam.data.stack import ChannelStack

__all__ = ["SETS", "ClickSet", "RealImage", "load_set"]

# Objects below this share of the image are too small to click on at the label's own size.
SMALLEST_SHARE = 3e-4


@dataclass(frozen=True, eq=False)
class RealImage:
    """One image of a set: its stack, the channels that all methods see, and the masks (H, W) bool of its objects."""

    stack: ChannelStack
    channels: tuple[str, ...]
    targets: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class ClickSet:
    """A set: images, their label pictures, the channels to see, and whether labels are classes or instances."""

    name: str
    files: tuple[tuple[str, str], ...]
    channels: tuple[str, ...] | None
    are_classes: bool
    ignored: tuple[int, ...] = ()
    transform: Callable[[ChannelStack, NDArray[np.int64]], ChannelStack] | None = None


def _at_label_size(stack: ChannelStack, labels: NDArray[np.int64]) -> ChannelStack:
    """Mean of the pixels behind each label where labels are a quarter of the image."""
    factor = stack.size[0] // labels.shape[0]
    block = stack.read().astype(np.float32)
    shape = (block.shape[0], labels.shape[0], factor, labels.shape[1], factor)
    pooled = block.reshape(shape).mean((2, 4))
    return ChannelStack(np.round(pooled).astype(np.uint8), stack.channels)


SETS = (
    ClickSet("shift_vehicles", (("shift_street_rgbd.tif", "shift_street_instances.png"),), ("R", "G", "B"), False),
    ClickSet("shift_regions", (("shift_street_rgbd.tif", "shift_street_semantic.png"),), ("R", "G", "B"), True, (6,)),
    ClickSet("cellpaint_cells", (("cellpaint_6ch.tif", "cellpaint_6ch_cells.png"),), ("AGP", "ER", "DNA"), False),
    ClickSet("cellpaint_nuclei", (("cellpaint_6ch.tif", "cellpaint_6ch_nuclei.png"),), ("AGP", "ER", "DNA"), False),
    ClickSet(
        "nf1_nuclei",
        tuple((f"cellpaint_nf1_{well}.tif", f"cellpaint_nf1_{well}_nuclei.png") for well in ("B7", "D7")),
        ("RFP_actin", "GFP_ER", "DAPI_nuclei"),
        True,
    ),
    ClickSet(
        "imc_cells",
        tuple((f"imc_pancreas_{core}.tif", f"imc_pancreas_{core}_cells.png") for core in ("E34", "G01", "J02")),
        ("CDH", "CD99", "H3"),
        False,
    ),
    ClickSet(
        "mfnet",
        tuple((f"mfnet_{time}_rgbt.tif", f"mfnet_{time}_labels_quarter.png") for time in ("day", "night")),
        ("R", "G", "thermal"),
        True,
        transform=_at_label_size,
    ),
    ClickSet("samson", (("samson_hsi_156band.tif", "samson_hsi_labels.png"),), None, True),
    ClickSet("sentinel2", (("sentinel2_slovenia_13band.tif", "sentinel2_slovenia_landcover.png"),), None, True),
)
# Of stacks whose channels have long names: positions of three that show most.
_POSITIONS = {"samson": (100, 50, 20), "sentinel2": (7, 3, 2)}


def load_set(found: ClickSet, folder: Path, most: int | None = None) -> list[RealImage]:
    """Images of a set with at most `most` objects each, evenly over their sizes."""
    images = []
    for picture, label_picture in found.files:
        labels = np.asarray(Image.open(folder / label_picture)).astype(np.int64)
        stack = read_stack(folder / picture)
        if found.transform is not None:
            stack = found.transform(stack, labels)
        names = found.channels or tuple(stack.names[index] for index in _POSITIONS[found.name])
        images.append(RealImage(stack, names, _some(_targets(labels, found), most)))
    return images


def _targets(labels: NDArray[np.int64], found: ClickSet) -> dict[str, NDArray[np.bool_]]:
    """Instances, or connected pieces of classes, that are large enough."""
    smallest = max(12, SMALLEST_SHARE * labels.size)
    targets = {}
    for value in np.unique(labels):
        if value == 0 or value in found.ignored:
            continue
        pieces, count = ndimage.label(labels == value) if found.are_classes else ((labels == value).astype(int), 1)
        for index in range(1, count + 1):
            piece = pieces == index
            if piece.sum() >= smallest:
                targets[f"{value}.{index}"] = piece
    return targets


def _some(targets: dict[str, NDArray[np.bool_]], most: int | None) -> dict[str, NDArray[np.bool_]]:
    if most is None or len(targets) <= most:
        return targets
    ordered: Sequence[str] = sorted(targets, key=lambda name: int(targets[name].sum()))
    picked = np.unique(np.linspace(0, len(ordered) - 1, most).round().astype(int))
    return {ordered[index]: targets[ordered[index]] for index in picked}
