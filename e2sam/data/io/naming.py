"""What a channel's name says for certain: kind, unit, wavelength, and the value that means "not measured"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from e2sam.data.stack import ChannelSpec

__all__ = ["described", "unique_names"]

_WAVELENGTH = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*(nm|um|µm|μm)(?![a-z])", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s_\-./()\[\]]+")
_COLOURS = ({"r", "g", "b"}, {"red", "green", "blue"})
_POLARISATIONS = {"hh", "hv", "vh", "vv"}
_STAINS = {"dapi", "hoechst", "gfp", "rfp", "yfp", "cfp", "mcherry", "cy3", "cy5", "fitc", "tritc"}
_UNITS = {"db": "dB", "px": "px", "mm": "mm", "cm": "cm", "m": "m"}

# Centre wavelengths, nm: Sentinel-2A MSI; Landsat 7 ETM+; Landsat 8 OLI (ESA and USGS band tables).
_SENTINEL2 = {
    "B01": 442.7, "B02": 492.4, "B03": 559.8, "B04": 664.6, "B05": 704.1, "B06": 740.5, "B07": 782.8, "B08": 832.8,
    "B8A": 864.7, "B09": 945.1, "B10": 1373.5, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip
_LANDSAT7 = {"B1": 482.5, "B2": 565.0, "B3": 660.0, "B4": 837.5, "B5": 1650.0, "B7": 2220.0}
_LANDSAT8 = {"B1": 443.0, "B2": 482.0, "B3": 561.5, "B4": 654.5, "B5": 865.0, "B6": 1608.5, "B7": 2200.5}
_BAND = re.compile(r"(B\d+)[ _-](blue|green|red|nir|swir\d?|coastal\w*)", re.IGNORECASE)


def described(channels: Sequence[ChannelSpec], dtype: np.dtype[Any]) -> tuple[ChannelSpec, ...]:
    """Complete channels by what their names say; what the file stated itself is never changed.

    Depth channels of integer sensors and files, except 8-bit pictures of depth, take 0 as "not measured": range cameras
    store it where they saw nothing.
    """
    bands = _satellite_bands([channel.name for channel in channels])
    lower = {channel.name.lower() for channel in channels}
    colours = next((names for names in _COLOURS if names <= lower), set())
    return tuple(_described(channel, dtype, bands, colours) for channel in channels)


def _described(channel: ChannelSpec, dtype: np.dtype[Any], bands: dict[str, float], colours: set[str]) -> ChannelSpec:
    words = [word.lower().rstrip("0123456789") for word in _SEPARATORS.split(channel.name) if word]
    kind = channel.kind or _kind(channel.name, set(words), bands, colours)
    unit = channel.unit or _unit(words, kind)
    wavelength, nodata = channel.wavelength_nm, channel.nodata
    if wavelength is None:
        wavelength = bands.get(channel.name, _written_wavelength(channel.name))
    if nodata is None and kind == "depth" and dtype != np.uint8 and "vis" not in words:
        nodata = 0.0
    return replace(channel, kind=kind, unit=unit, wavelength_nm=wavelength, nodata=nodata)


def _kind(name: str, words: set[str], bands: dict[str, float], colours: set[str]) -> str:
    if name.lower() in colours:
        return "colour"
    if name in bands:
        return "reflectance"
    if words & {"disparity", "disp"}:
        return "disparity"
    if "depth" in words:
        return "depth"
    if words & {"thermal", "lwir", "tir"}:
        return "thermal"
    if "sar" in words or name.lower() in _POLARISATIONS or ("db" in words and words & _POLARISATIONS):
        return "sar"
    return "stain" if words & _STAINS else ""


def _unit(words: Sequence[str], kind: str) -> str:
    """A unit is believed as the last word of a name whose kind it fits: "depth_m", "disparity_px", "SAR_HH_dB"."""
    last = words[-1] if len(words) > 1 else ""
    fits = {"depth": {"mm", "cm", "m"}, "disparity": {"px"}, "sar": {"db"}}
    return _UNITS[last] if last in fits.get(kind, {"db"}) else ""


def _written_wavelength(name: str) -> float | None:
    found = _WAVELENGTH.search(name)
    if found is None:
        return None
    return float(found[1]) * (1 if found[2].lower() == "nm" else 1000)


def _satellite_bands(names: Sequence[str]) -> dict[str, float]:
    """Wavelengths by name where the names can only be those of Sentinel-2, Landsat 7 or Landsat 8."""
    if "B8A" in names:
        return {name: _SENTINEL2[name] for name in names if name in _SENTINEL2}
    words = {name: found for name in names if (found := _BAND.fullmatch(name))}
    blue = [found[1].upper() for found in words.values() if found[2].lower() == "blue"]
    table = {"B1": _LANDSAT7, "B2": _LANDSAT8}.get(blue[0] if len(blue) == 1 else "", {})
    return {name: table[found[1].upper()] for name, found in words.items() if found[1].upper() in table}


def unique_names(names: Sequence[str]) -> list[str]:
    """Names in order, the second of its kind with " 2" behind it."""
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in result:
            number += 1
            candidate = f"{name} {number}"
        result.append(candidate)
    return result
