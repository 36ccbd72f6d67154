"""Corrections: accepted masks with their prompts, channels, normalization and model, as training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from e2sam.data.io.datasets import LabelledItem, LabelledSet, open_dataset
from e2sam.data.masks import MaskCrop, masks_of_labels
from e2sam.data.prompts import Prompts
from e2sam.data.session import Conditions, ObjectRecord, Plane, Session, StackRecord
from e2sam.data.stack import ChannelStack
from e2sam.errors import SessionError

__all__ = ["Correction", "CorrectionImage", "CorrectionSet"]


@dataclass(frozen=True, eq=False)
class CorrectionImage:
    """One scene (C, H, W) that corrections lie on.

    Attributes
    ----------
    key
        Unique within the set, and the same when the set is opened again.
    size
        (height, width) in pixels.
    loader
        Opens the stack of this scene.
    split
        "train", "val", "test", or "" where the source does not say.
    series
        What the planes of one series or volume share; "" for an image by itself.
    """

    key: str
    size: tuple[int, int]
    loader: Callable[[], ChannelStack] = field(repr=False)
    split: str = ""
    series: str = ""

    @property
    def group(self) -> str:
        """What a split by image goes by: neighbouring planes show the same objects."""
        return self.series or self.key

    def load(self) -> ChannelStack:
        """The (C, H, W) stack."""
        return self.loader()


@dataclass(frozen=True, eq=False)
class Correction:
    """One accepted mask.

    Pixels of its image outside of every correction are not background: they are unlabelled, and training ignores them.

    Attributes
    ----------
    key
        Unique within the set, and the same when the set is opened again.
    image
        The scene it lies on.
    mask
        Its pixels, cut to their bounding box.
    prompts
        What the user said; empty where labels were imported.
    conditions
        Channels, recipes and model that it was made with; empty where labels were imported.
    class_name
        Its class.
    is_reviewed
        Whether a person has looked at it.

    Examples
    --------
    >>> import numpy as np
    >>> from e2sam.data.stack import ChannelSpec, ChannelStack
    >>> stack = ChannelStack(np.zeros((1, 16, 16), np.uint8), (ChannelSpec("depth"),))
    >>> image = CorrectionImage("scene", stack.size, lambda: stack)
    >>> one = Correction("1", image, MaskCrop(np.ones((4, 6), bool), 2, 3))
    >>> one.mask.box, len(CorrectionSet((one,)))
    ((2, 3, 8, 7), 1)
    """

    key: str
    image: CorrectionImage
    mask: MaskCrop
    prompts: Prompts = field(default_factory=Prompts)
    conditions: Conditions = field(default_factory=Conditions)
    class_name: str = ""
    is_reviewed: bool = True

    @property
    def split(self) -> str:
        """Split of its image."""
        return self.image.split


@dataclass(frozen=True, eq=False)
class CorrectionSet:
    """Corrections of any number of images.

    Examples
    --------
    >>> corrections = CorrectionSet(())
    >>> len(corrections), corrections.images
    (0, ())
    """

    corrections: tuple[Correction, ...]

    def __len__(self) -> int:
        return len(self.corrections)

    def __iter__(self) -> Iterator[Correction]:
        return iter(self.corrections)

    @classmethod
    def open(cls, spec: str | Path) -> CorrectionSet:
        """Corrections of a session (`NAME.e2sam`), or of any labelled set that `open_dataset` takes."""
        if str(spec).endswith(".e2sam"):
            with Session.open(spec, create=False, read_only=True) as session:
                return cls.from_session(session)
        return cls.from_dataset(open_dataset(spec))

    @classmethod
    def from_session(cls, session: Session, with_unreviewed: bool = False) -> CorrectionSet:
        """Corrections of an open session; they can be used after it is closed.

        An object counts if a person made it or looked at it: masks of "segment everything" and imports count once they
        are reviewed, or all with `with_unreviewed`.
        """
        classes = {record.id: record.name for record in session.classes()}
        found = []
        for stack_id, plane in session.planes():
            record = session.stack(stack_id)
            image = _image_of(session.path, record, plane)
            for one in session.objects(stack_id, plane):
                if with_unreviewed or one.is_correction:
                    found.append(_correction_of(session, one, image, classes[one.class_id]))
        return cls(tuple(found))

    @classmethod
    def from_dataset(cls, dataset: LabelledSet, minimum_area: int = 4) -> CorrectionSet:
        """Every instance of a labelled set as a correction; of classes, every connected region of one class.

        Fewer than `minimum_area` pixels are no object to learn from.

        Reads all labels; stacks are opened again when they are needed.
        """
        return cls(tuple(one for item in dataset for one in _corrections_of_item(dataset, item, minimum_area)))

    @property
    def images(self) -> tuple[CorrectionImage, ...]:
        """The scenes, each once, in the order of their first correction."""
        return tuple({one.image.key: one.image for one in self.corrections}.values())

    def of_image(self, key: str) -> CorrectionSet:
        """Corrections of one scene."""
        return CorrectionSet(tuple(one for one in self.corrections if one.image.key == key))

    def of_split(self, split: str) -> CorrectionSet:
        """Corrections of one split."""
        return CorrectionSet(tuple(one for one in self.corrections if one.split == split))

    def chosen(self, keys: Sequence[str]) -> CorrectionSet:
        """Corrections of the given keys."""
        wanted = set(keys)
        return CorrectionSet(tuple(one for one in self.corrections if one.key in wanted))

    def labels(self, key: str) -> NDArray[np.int32]:
        """(H, W) int32 of one scene: 1 + position of the correction in the set, 0 = unlabelled, to be ignored."""
        found = [(number, one) for number, one in enumerate(self.corrections, start=1) if one.image.key == key]
        if not found:
            raise SessionError(f"Expected an image with corrections, got {key!r}.")
        labels = np.zeros(found[0][1].image.size, np.int32)
        for number, one in found:
            x0, y0, x1, y1 = one.mask.box
            labels[y0:y1, x0:x1][one.mask.pixels] = number
        return labels


def _image_of(path: Path, record: StackRecord, plane: Plane) -> CorrectionImage:
    def load() -> ChannelStack:
        with Session.open(path, create=False, read_only=True) as session:
            return session.load_stack(record.id, unchanged=True).plane(*plane)

    # By content, not by place: the same image keeps its side of a split when it moves.
    key = ":".join((record.content, ",".join(map(str, plane))))
    return CorrectionImage(key, record.size, load, series=record.content)


def _correction_of(session: Session, one: ObjectRecord, image: CorrectionImage, class_name: str) -> Correction:
    return Correction(
        f"{session.id}:{one.id}",
        image,
        session.mask(one.id),
        session.prompts_of(one.id),
        one.conditions,
        class_name,
        one.is_reviewed,
    )


def _load_stack_of(item: LabelledItem) -> ChannelStack:
    return item.load()[0]


def _corrections_of_item(dataset: LabelledSet, item: LabelledItem, minimum_area: int) -> Iterator[Correction]:
    stack, labels = item.load()
    image = CorrectionImage(item.name, stack.size, partial(_load_stack_of, item), item.split, item.series)
    del stack
    for label, whole in masks_of_labels(labels):
        if label == dataset.ignore_index:
            continue
        name = dataset.classes[label] if label < len(dataset.classes) else str(label)
        parts = [whole.pixels] if dataset.kind == "instances" else _regions(whole.pixels)
        for number, part in enumerate(parts):
            if np.count_nonzero(part) >= minimum_area:
                mask = MaskCrop.of(part, *whole.box[:2])
                key = f"{item.name}:{label}" + (f":{number}" if dataset.kind == "classes" else "")
                class_name = name if dataset.kind == "classes" else ""
                yield Correction(key, image, mask, class_name=class_name)


def _regions(pixels: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    labels, count = ndimage.label(pixels, structure=np.ones((3, 3), bool))
    return (labels == number for number in range(1, count + 1))
