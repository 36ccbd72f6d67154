"""Forms for export and import of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, Label, PushButton
from psygnal import Signal
from qtpy.QtWidgets import QComboBox

__all__ = ["ExportForm", "ExportRequest", "ImportForm", "ImportRequest"]

_FORMATS = (
    ("Label TIFF, geo-reference kept", "tiff"),
    ("Label PNG", "png"),
    ("COCO JSON, with channels and model", "coco"),
    ("GeoJSON outlines", "geojson"),
)
_SUFFIXES = {"tiff": ".tif", "png": ".png", "coco": ".json", "geojson": ".geojson"}
_KNOWN = (*_SUFFIXES.values(), ".tiff")
# A longer name in a list is cut, so that it makes no dialog wider than a screen.
_SHOWN = 24
_HERE, _ALL = "this image", "all images of the session"
_OBJECTS, _CLASSES = "object numbers", "class numbers"


@dataclass(frozen=True)
class ExportRequest:
    """What the user wants exported: the arguments of `e2sam.data.export.export`.

    `may_overwrite` says that the dialog of files has asked already.
    """

    format: str
    out: Path
    all_stacks: bool
    values: str
    only_reviewed: bool
    may_overwrite: bool = False


@dataclass(frozen=True)
class ImportRequest:
    """What the user wants imported: a label image or a COCO file."""

    path: Path
    class_name: str
    is_reviewed: bool


class _Target(FileEdit):
    """A file to write; `chosen` is the one that was not typed."""

    chosen: Path | None = None

    def set_value(self, value: Any) -> None:
        super().set_value(value)
        self.chosen = Path(self.get_value())


class ExportForm(Container):
    """Asks how objects are to be written.

    Parameters
    ----------
    folder
        Where the first proposed file lies.
    stem
        Its name without suffix.
    """

    asked = Signal(ExportRequest)

    def __init__(self, folder: Path, stem: str = "objects") -> None:
        self._format = ComboBox(
            name="format", label="Format", choices=_FORMATS, value="tiff", tooltip="What is written."
        )
        self._what = ComboBox(
            name="images", label="Images", choices=(_HERE, _ALL), tooltip="Several images give a folder of labels."
        )
        self._values = ComboBox(
            name="values",
            label="Labels hold",
            choices=(_OBJECTS, _CLASSES),
            tooltip="Class numbers are what a semantic head learns.",
        )
        self._reviewed = CheckBox(
            name="reviewed", text="Only reviewed objects", tooltip="Leave out what nobody has looked at."
        )
        self._out = _Target(name="out", label="To", mode="w", value=folder / f"{stem}.tif", tooltip="File to write.")
        self._export = PushButton(
            name="export", text="Export", tooltip="Write the file; it appears whole or not at all."
        )
        self._error = Label(name="error", label=" ", value="")
        self._error.native.setWordWrap(True)
        self._error.native.setMinimumWidth(1)
        choices = [self._format, self._what, self._values, self._reviewed, self._out]
        super().__init__(widgets=[*choices, self._error, self._export], labels=True)
        self._error.visible = False
        self._format.changed.connect(self._on_changed)
        self._what.changed.connect(self._on_changed)
        self._export.clicked.connect(lambda: self.asked.emit(self.request))
        self._on_changed()

    def fail(self, text: str) -> None:
        """Say what is wrong with what was asked for."""
        self._error.value = text
        self._error.visible = bool(text)

    @property
    def request(self) -> ExportRequest:
        """What the form says."""
        out = Path(self._out.value)
        return ExportRequest(
            format=self._format.value,
            out=out,
            all_stacks=self._what.value == _ALL,
            values="classes" if self._values.value == _CLASSES else "objects",
            only_reviewed=bool(self._reviewed.value),
            may_overwrite=out == self._out.chosen,
        )

    def _on_changed(self) -> None:
        """Propose a name that fits the format: a folder for the label images of several images."""
        kind = self._format.value
        is_image = kind in ("tiff", "png")
        self._values.enabled = is_image
        out = Path(self._out.value)
        is_folder = is_image and self._what.value == _ALL
        self._out.mode = "d" if is_folder else "w"
        if not out.name:
            return
        # What follows the last dot is part of the name, unless it is a suffix.
        bare = out.with_suffix("") if out.suffix.lower() in _KNOWN else out
        self._out.value = bare if is_folder else bare.with_name(f"{bare.name}{_SUFFIXES[kind]}")
        # Proposed here, and seen by no dialog that would have asked.
        self._out.chosen = None


class ImportForm(Container):
    """Asks which labels are to be taken as objects.

    Parameters
    ----------
    folder
        Where the dialog begins.
    classes
        Names of the classes that a label image's objects can be given.
    """

    asked = Signal(ImportRequest)

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._path = FileEdit(
            name="path",
            label="From",
            mode="r",
            filter="Labels (*.tif *.tiff *.png *.npy);;COCO (*.json)",
            value=folder,
            tooltip="A label image of this image's size, or a COCO file that names it.",
        )
        self._class = ComboBox(
            name="object_class", label="Class", choices=tuple(classes), tooltip="Class of a label image's objects."
        )
        self._class.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._class.native.setMinimumContentsLength(_SHOWN)
        self._reviewed = CheckBox(
            name="reviewed", text="Already reviewed", tooltip="Take them as looked at by a person."
        )
        self._import = PushButton(
            name="take", text="Import", tooltip="Add them as objects; one step that can be undone."
        )
        super().__init__(widgets=[self._path, self._class, self._reviewed, self._import], labels=True)
        self._path.changed.connect(self._on_path)
        self._import.clicked.connect(lambda: self.asked.emit(self.request))

    @property
    def request(self) -> ImportRequest:
        """What the form says."""
        return ImportRequest(Path(self._path.value), str(self._class.value), bool(self._reviewed.value))

    def _on_path(self) -> None:
        # A COCO file brings its own classes.
        self._class.enabled = Path(self._path.value).suffix.lower() != ".json"
