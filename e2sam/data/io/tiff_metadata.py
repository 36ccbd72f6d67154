"""What a TIFF says about its axes, channels, missing values and place on the ground."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np

from e2sam.data.stack import ChannelSpec, GeoReference

__all__ = ["GEO_TAGS", "channels_of", "geo_reference_of", "nodata_of", "stated_axes", "tags_to_write"]

_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
GEO_TAGS = (_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS)
"""Codes of the tags that hold a GeoTIFF's reference."""

_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
# Keys of the GeoKey directory (OGC GeoTIFF 1.1).
_RASTER_TYPE_KEY, _GEOGRAPHIC_KEY, _PROJECTED_KEY = 1025, 2048, 3072
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767
_NANOMETRES = {"nm": 1.0, "um": 1000.0, "µm": 1000.0, "μm": 1000.0, "Å": 0.1, "": 1.0}


def stated_axes(file: Any, series: Any) -> str:
    """A letter for each axis of a series (see `RawImage.axes`), or empty where the file leaves them open."""
    axes = str(series.axes).upper()
    if series.kind == "shaped":
        # tifffile writes the shape always, the axes only when its caller knew them.
        metadata = _shaped(file, series)
        if "axes" in metadata and len(str(metadata["axes"])) == len(series.shape):
            axes = str(metadata["axes"]).upper()
        elif not axes.endswith("S"):
            return ""
    letters = "".join(letter if letter in "TZCYXS" else "P" for letter in axes)
    return letters if letters.count("Y") == 1 and letters.count("X") == 1 else ""


def channels_of(file: Any, series: Any) -> tuple[ChannelSpec, ...]:
    """Channels as OME-XML, a JSON description, GDAL's metadata or ImageJ's labels name them; the first that do."""
    found = _ome_channels(file, series) or _json_channels(file, series) or _gdal_channels(series.keyframe)
    return found or _imagej_channels(file, series)


def _shaped(file: Any, series: Any) -> Mapping[str, Any]:
    """The JSON that tifffile wrote for a series."""
    every: Sequence[Mapping[str, Any]] = file.shaped_metadata or ({},)
    return every[_number_of(file, series) if len(every) == len(file.series) else 0]


def _number_of(file: Any, series: Any) -> int:
    return next((number for number, one in enumerate(file.series) if one is series), 0)


def _ome_channels(file: Any, series: Any) -> tuple[ChannelSpec, ...]:
    text = file.ome_metadata
    if not text:
        return ()
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return ()
    images = root.findall("{*}Image")
    number = _number_of(file, series) if len(images) == len(file.series) else 0
    pixels = images[number].find("{*}Pixels") if images else None
    if pixels is None:
        return ()
    return tuple(_ome_channel(channel) for channel in pixels.findall("{*}Channel"))


def _ome_channel(channel: ElementTree.Element) -> ChannelSpec:
    name = channel.get("Name") or channel.get("Fluor") or ""
    length = _number(channel.get("EmissionWavelength"))
    scale = _NANOMETRES.get(channel.get("EmissionWavelengthUnit", "nm"), 1.0)
    fluorescent = bool(channel.get("Fluor")) or channel.get("ContrastMethod") == "Fluorescence"
    return ChannelSpec(
        name, wavelength_nm=None if length is None else length * scale, kind="stain" if fluorescent else ""
    )


def _json_channels(file: Any, series: Any) -> tuple[ChannelSpec, ...]:
    """`channels` of a JSON description: names, or objects with name, unit, wavelength_nm, kind, nodata."""
    metadata = _json_of(file, series)
    channels = metadata.get("channels") or metadata.get("channel_names") or metadata.get("Channel", {})
    if isinstance(channels, Mapping):
        channels = channels.get("Name", [])
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        return ()
    specs = tuple(_json_channel(channel) for channel in channels)
    units, lengths = metadata.get("units", ()), metadata.get("wavelengths_nm", ())
    if isinstance(units, Sequence) and not isinstance(units, str) and len(units) == len(specs):
        specs = tuple(replace(spec, unit=str(unit or "")) for spec, unit in zip(specs, units, strict=True))
    if isinstance(lengths, Sequence) and len(lengths) == len(specs):
        specs = tuple(replace(spec, wavelength_nm=_number(nm)) for spec, nm in zip(specs, lengths, strict=True))
    return specs


def _json_channel(channel: Any) -> ChannelSpec:
    if not isinstance(channel, Mapping):
        return ChannelSpec("" if channel is None else str(channel))
    name = channel.get("name")
    return ChannelSpec(
        name="" if name is None else str(name),
        unit=str(channel.get("unit") or ""),
        wavelength_nm=_number(channel.get("wavelength_nm")),
        kind=str(channel.get("kind") or ""),
        nodata=_number(channel.get("nodata")),
    )


def _json_of(file: Any, series: Any) -> Mapping[str, Any]:
    metadata = _shaped(file, series)
    if metadata:
        return dict(metadata)
    try:
        parsed = json.loads(series.keyframe.description or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _gdal_channels(page: Any) -> tuple[ChannelSpec, ...]:
    """Band descriptions, units and wavelengths of GDAL's XML (tag 42112); only if every band has a description."""
    tag = page.tags.get(_GDAL_METADATA)
    if tag is None:
        return ()
    try:
        root = ElementTree.fromstring(str(tag.value).strip("\x00 "))
    except ElementTree.ParseError:
        return ()
    facts: dict[int, dict[str, str]] = {}
    for item in root.findall("Item"):
        sample = item.get("sample")
        if sample is not None and sample.isdigit():
            role = item.get("role") or item.get("name") or ""
            facts.setdefault(int(sample), {})[role.lower()] = (item.text or "").strip()
    if sorted(facts) != list(range(len(facts))) or not all("description" in fact for fact in facts.values()):
        return ()
    return tuple(_gdal_channel(facts[sample]) for sample in range(len(facts)))


def _gdal_channel(fact: Mapping[str, str]) -> ChannelSpec:
    length = _number(fact.get("wavelength"))
    scale = {"micrometers": 1000.0, "um": 1000.0, "µm": 1000.0}.get(fact.get("wavelength_units", "").lower(), 1.0)
    return ChannelSpec(
        fact["description"],
        unit=fact.get("unittype", ""),
        wavelength_nm=None if length is None else length * scale,
    )


def _imagej_channels(file: Any, series: Any) -> tuple[ChannelSpec, ...]:
    metadata = file.imagej_metadata or {}
    labels = metadata.get("Labels")
    axes = str(series.axes)
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        return ()
    names = [str(label).splitlines()[0] if str(label) else "" for label in labels]
    if "C" in axes and len(names) > series.shape[axes.index("C")]:
        # One label for each plane, channels running fastest.
        names = names[: series.shape[axes.index("C")]]
    return tuple(ChannelSpec(name) for name in names) if len(set(names)) == len(names) else ()


def nodata_of(file: Any, series: Any) -> float | None:
    """GDAL's nodata value (tag 42113), or `nodata` of a JSON description."""
    tag = series.keyframe.tags.get(_GDAL_NODATA)
    written = _json_of(file, series).get("nodata") if tag is None else str(tag.value).strip("\x00 ")
    return _number(written)


def geo_reference_of(page: Any) -> GeoReference | None:
    """The GeoTIFF tags of a page as they stand, with what they mean."""
    raw = [page.tags[code] for code in GEO_TAGS if code in page.tags]
    if not raw:
        return None
    values = {tag.code: tag.value for tag in raw}
    keys = _geo_keys(values.get(_GEO_KEYS, ()))
    epsg = keys.get(_PROJECTED_KEY) or keys.get(_GEOGRAPHIC_KEY)
    return GeoReference(
        tags=tuple((int(tag.code), int(tag.dtype), int(tag.count), _kept_value(tag)) for tag in raw),
        pixel_to_world=_affine(values, keys.get(_RASTER_TYPE_KEY) == _PIXEL_IS_POINT),
        epsg=None if epsg in (None, 0, _USER_DEFINED) else epsg,
    )


def _kept_value(tag: Any) -> Any:
    """The value of a tag; a text beyond ASCII as its bytes, since the GeoKeys give places in it by byte."""
    if not isinstance(tag.value, str) or tag.value.isascii():
        return tag.value
    handle = tag.parent.filehandle
    handle.seek(tag.valueoffset)
    return bytes(handle.read(tag.valuebytecount))


def tags_to_write(geo: GeoReference | None) -> list[tuple[int, int, int, Any, bool]]:
    """`extratags` of a geo-reference for tifffile's writer, which takes no text beyond ASCII."""
    return [
        (code, dtype, count, value.encode("ascii", "replace") if isinstance(value, str) else value, True)
        for code, dtype, count, value in (() if geo is None else geo.tags)
    ]


def _geo_keys(directory: Sequence[int]) -> dict[int, int]:
    """Keys whose value stands in the directory itself (location 0)."""
    entries = np.asarray(directory, np.int64).reshape(-1)
    rows: list[list[int]] = entries[: len(entries) // 4 * 4].reshape(-1, 4)[1:].tolist()
    return {key: value for key, location, _, value in rows if location == 0}


def _affine(
    values: Mapping[int, Any], is_point: bool
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """World position of pixel (x, y), whose top-left corner is (0, 0); GeoTIFF 1.1, annex B.6."""
    if _TRANSFORMATION in values and len(values[_TRANSFORMATION]) >= 8:
        rows = np.asarray(values[_TRANSFORMATION], float)
        matrix = np.array([[rows[0], rows[1], rows[3]], [rows[4], rows[5], rows[7]]])
    elif _PIXEL_SCALE in values and _TIEPOINT in values and len(values[_TIEPOINT]) >= 6:
        scale_x, scale_y = (float(scale) for scale in values[_PIXEL_SCALE][:2])
        column, row, _, x, y, _ = (float(value) for value in values[_TIEPOINT][:6])
        matrix = np.array([[scale_x, 0, x - column * scale_x], [0, -scale_y, y + row * scale_y]])
    else:
        return None
    if is_point:
        # The reference is to pixel centres.
        matrix[:, 2] -= matrix[:, :2] @ (0.5, 0.5)
    first, second = (tuple(float(value) for value in line) for line in matrix)
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def _number(written: Any) -> float | None:
    """A number, or the first one in a text; None where there is none."""
    if isinstance(written, int | float):
        return float(written)
    text = str(written or "").strip()
    if text.lower() in ("nan", "-nan"):
        return float("nan")
    found = re.match(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)
    return float(found[0]) if found else None
