"""Commands `info` and `channels`, and the options of every command that opens a stack."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from e2sam.cli.output import emit
from e2sam.cli.values import count
from e2sam.data.stack import split_names
from e2sam.errors import StackError

if TYPE_CHECKING:
    from e2sam.data.channels import ChannelScore, ChannelStatistics, Suggestion
    from e2sam.data.stack import ChannelSpec, ChannelStack

__all__ = [
    "add_commands",
    "add_reading_arguments",
    "add_search_arguments",
    "add_selection_argument",
    "add_stack_arguments",
    "selection_of",
    "stack_of",
]

_log = logging.getLogger(__name__)

# Up to this many values `info` looks at every one, else at a sample.
_MAX_EXACT_VALUES = 1 << 26
_MAX_LINES = 40


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `info` and `channels`."""
    info = commands.add_parser(
        "info",
        parents=[common],
        help="what a stack holds",
        description="Shape, type, channels with unit, range and share of valid pixels, and geo-reference of a stack.",
        epilog="example: e2sam info scene.tif",
    )
    add_stack_arguments(info)
    info.set_defaults(run=_info)
    channels = commands.add_parser(
        "channels",
        parents=[common],
        help="rank channels and suggest selections",
        description="Rank the channels of a stack by what each adds to those before it, and suggest selections.",
        epilog="example: e2sam channels scene.tif --top 5",
    )
    add_stack_arguments(channels)
    channels.add_argument("--top", type=count, default=5, metavar="K", help="number of suggestions (default 5)")
    channels.set_defaults(run=_channels)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional STACK and the options by which it is read; `stack_of` opens it."""
    parser.add_argument("stack", metavar="STACK", help="image file, zarr store, or folder of single-channel files")
    add_reading_arguments(parser)
    parser.add_argument("--scene", metavar="INDEX[,INDEX]", help="position on the axes before the channels (T, Z)")


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a user may know of a file that the file does not say."""
    parser.add_argument(
        "--channel-axis",
        metavar="AXIS",
        help="position of the channel axis (0, -1, ...), or a letter for each axis, such as TCYX",
    )
    parser.add_argument("--channel-names", metavar="A,B,C", help="names of all channels, in order")
    parser.add_argument("--nodata", type=float, metavar="VALUE", help="stored value that means 'not measured'")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how stacks behind files and folders are found and read."""
    parser.add_argument("--folders", action="store_true", help="the images of a folder are the channels of one stack")
    add_reading_arguments(parser)


def add_selection_argument(parser: argparse.ArgumentParser) -> None:
    """Add the channels that a model is given; `selection_of` reads them."""
    parser.add_argument(
        "--channels",
        default="auto",
        metavar="A,B,C",
        help="selected channels (default: suggested); a name that has a comma in quotes",
    )


def selection_of(text: str, stack: ChannelStack | None = None) -> tuple[str, ...] | Literal["auto"]:
    """What stands behind --channels: names, or "auto".

    Raises
    ------
    ChannelError
        If `stack` is given and lacks one of them, or one stands twice.
    """
    if text == "auto":
        return "auto"
    names = split_names(text)
    if stack is not None:
        stack.indices(names)
    return names


def stack_of(options: argparse.Namespace, *, whole: bool = False) -> ChannelStack:
    """Open the stack that a command was given.

    Parameters
    ----------
    options
        Of a parser with `add_stack_arguments`.
    whole
        Whether a series or volume is welcome; else one scene of it must be named.

    Raises
    ------
    StackError, ChannelError
        As `read_stack`; and if it is a series or volume and no scene was named.
    """
    stack, notes = _opened(options, whole)
    for note in notes:
        _log.info(note)
    return stack


def _opened(options: argparse.Namespace, whole: bool) -> tuple[ChannelStack, list[str]]:
    from e2sam.data.io import read_with_notes

    names = None if options.channel_names is None else split_names(options.channel_names)
    stack, notes = read_with_notes(Path(options.stack), options.channel_axis, names, nodata=options.nodata)
    if options.scene is not None:
        try:
            return stack.plane(*(int(part) for part in options.scene.split(","))), notes
        except ValueError:
            raise StackError(f"Expected --scene as INDEX or INDEX,INDEX, got {options.scene!r}.") from None
    if stack.leading and not whole:
        shown = ", ".join(f"{axis} of {length}" for axis, length in zip(stack.leading, stack.num_planes, strict=True))
        raise StackError(
            f"Expected one scene, got a stack with {shown}: name one with --scene, or the axis that holds the channels "
            "with --channel-axis."
        )
    return stack, notes


def _info(options: argparse.Namespace) -> None:
    stack, notes = _opened(options, whole=True)
    result = {"path": str(options.stack), **_described(stack), "notes": notes}
    emit(result, options.json, _info_lines(stack, result))


def _described(stack: ChannelStack) -> dict[str, Any]:
    from e2sam.data.sampling import scene_of

    scene = scene_of(stack)
    sampled = scene.num_channels * scene.size[0] * scene.size[1] > _MAX_EXACT_VALUES
    geo = stack.geo
    return {
        "shape": list(stack.data.shape),
        "axes": f"{stack.leading}CYX",
        "dtype": str(np.dtype(stack.data.dtype)),
        "channels": list(_channel_facts(scene, sampled)),
        "sampled": sampled,
        "geo": None if geo is None else {"epsg": geo.epsg, "pixel_to_world": geo.pixel_to_world},
    }


def _channel_facts(scene: ChannelStack, sampled: bool) -> Iterator[dict[str, Any]]:
    from e2sam.data.normalize import auto_kinds
    from e2sam.data.sampling import sample_pixels

    sample, known = sample_pixels(scene) if sampled else (None, None)
    for index, (spec, kind) in enumerate(zip(scene.channels, auto_kinds(scene), strict=True)):
        if sample is None or known is None:
            values = scene.read(channels=[index])
            valid = scene.valid_of(values, [index])
        else:
            values, valid = sample[index], known[index]
        measured = values[valid]
        yield {
            "name": spec.name,
            "unit": spec.unit,
            "min": measured.min() if measured.size else None,
            "max": measured.max() if measured.size else None,
            "valid_share": round(measured.size / max(values.size, 1), 6),
            "kind": spec.kind,
            "wavelength_nm": spec.wavelength_nm,
            "nodata": spec.nodata,
            "recipe": kind,
        }


def _info_lines(stack: ChannelStack, result: dict[str, Any]) -> Iterator[str]:
    height, width = stack.size
    yield f"{stack.source}: {stack.num_channels} channels, {width} x {height} pixels, {result['dtype']}"
    for axis, length in zip(stack.leading, stack.num_planes, strict=True):
        yield f"{axis}: {length} scenes; the figures are those of the middle one"
    if result["sampled"]:
        yield "figures from a sample of the pixels"
    if stack.geo is not None:
        yield f"geo-reference: {'EPSG ' + str(stack.geo.epsg) if stack.geo.epsg else 'without a known EPSG code'}"
    width_of_name = max(len(name) for name in stack.names[:_MAX_LINES])
    for spec, facts in list(zip(stack.channels, result["channels"], strict=True))[:_MAX_LINES]:
        yield f"  {spec.name:{width_of_name}}  {_channel_line(spec, facts)}"
    if stack.num_channels > _MAX_LINES:
        yield f"  ... {stack.num_channels - _MAX_LINES} more (--json shows all)"
    yield from result["notes"]


def _channel_line(spec: ChannelSpec, facts: dict[str, Any]) -> str:
    parts = ["no valid pixel" if facts["min"] is None else f"{facts['min']:g} .. {facts['max']:g} {spec.unit}".rstrip()]
    if facts["valid_share"] < 1:
        parts.append(f"{100 * (1 - facts['valid_share']):.1f} % invalid")
    if spec.nodata is not None:
        parts.append(f"{spec.nodata:g} = not measured")
    if spec.wavelength_nm is not None:
        parts.append(f"{spec.wavelength_nm:g} nm")
    if spec.kind:
        parts.append(spec.kind)
    return ", ".join([*parts, f"recipe {facts['recipe']}"])


def _channels(options: argparse.Namespace) -> None:
    from e2sam.data.channels import channel_statistics, rank_channels, suggest_selections

    stack = stack_of(options, whole=True)
    statistics = channel_statistics(stack)
    ranking = rank_channels(stack, statistics)
    suggested = suggest_selections(stack, options.top, statistics)
    result = {
        "path": str(options.stack),
        "measure": "information x (1 - largest |correlation| with a better channel); "
        "triples: optimum index factor (Chavez et al. 1982)",
        "ranking": [{"name": score.name, "score": score.score, **_figures(score)} for score in ranking],
        "suggested": [list(suggestion.names) for suggestion in suggested],
        "suggestions": [
            {"channels": list(suggestion.names), "score": suggestion.score, "reason": suggestion.reason}
            for suggestion in suggested
        ],
        "all_invalid": _all_invalid(stack, statistics),
    }
    emit(result, options.json, _channels_lines(ranking, suggested))


def _figures(score: ChannelScore) -> dict[str, float]:
    return {
        "information": score.information,
        "entropy": score.entropy,
        "signal_to_noise": score.signal_to_noise,
        "redundancy": score.redundancy,
        "valid_share": score.valid_share,
    }


def _all_invalid(stack: ChannelStack, statistics: ChannelStatistics) -> list[str]:
    return [name for name, share in zip(stack.names, statistics.valid_share, strict=True) if share == 0]


def _channels_lines(ranking: list[ChannelScore], suggested: list[Suggestion]) -> Iterator[str]:
    width = max(7, *(len(score.name) for score in ranking[:_MAX_LINES]))
    yield f"{'channel':{width}}   score  information  entropy  signal/noise  redundancy  valid"
    for score in ranking[:_MAX_LINES]:
        yield (
            f"{score.name:{width}}  {score.score:6.3f}  {score.information:11.3f}  {score.entropy:7.2f}  "
            f"{score.signal_to_noise:12.1f}  {score.redundancy:10.2f}  {100 * score.valid_share:4.0f} %"
        )
    if len(ranking) > _MAX_LINES:
        yield f"... {len(ranking) - _MAX_LINES} more (--json shows all)"
    yield "suggested:" if suggested else "nothing to suggest: no channel has a valid pixel"
    for suggestion in suggested:
        yield f"  {', '.join(suggestion.names)}  ({suggestion.reason}, {suggestion.score:.3f})"
