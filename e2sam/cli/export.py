"""`e2sam export`: labels out of a session."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from e2sam.cli.output import check_target, emit

__all__ = ["add_commands"]

# Label images may go to a folder.
_SUFFIXES = {"coco": (".json",), "geojson": (".geojson", ".json")}


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `export` to the command line."""
    parser = commands.add_parser(
        "export",
        parents=[common],
        help="write the objects of a session as label images, COCO or GeoJSON",
        description="Write the objects of a session. The images are not needed; the session may be open in a window. "
        "Several planes are written to NAME_labels files in a folder, which `e2sam finetune` reads beside the images.",
        epilog="example: e2sam export cells.e2sam --format coco --out cells.json",
    )
    parser.add_argument("session", metavar="SESSION", type=Path, help="the .e2sam file")
    parser.add_argument("--format", required=True, choices=("tiff", "png", "coco", "geojson"), help="what to write")
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="file, or folder for several label images")
    parser.add_argument("--stack", type=int, metavar="N", help="only this stack of the session")
    parser.add_argument(
        "--values", choices=("objects", "classes"), default="objects", help="what label images hold (default: objects)"
    )
    parser.add_argument("--reviewed", action="store_true", help="only objects marked as reviewed")
    parser.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> None:
    from e2sam.data.export import export
    from e2sam.data.session import Session

    check_target("--out", options.out, _SUFFIXES.get(options.format, ()), (options.session,))
    with Session.open(options.session, create=False, read_only=True) as session:
        written = export(
            session,
            options.format,
            options.out,
            stack_id=options.stack,
            values=options.values,
            only_reviewed=options.reviewed,
        )
    paths = [str(path) for path in written.paths]
    result = {
        "out": paths[0] if len(paths) == 1 else str(options.out),
        "paths": paths,
        "format": options.format,
        "objects": written.num_objects,
    }
    emit(result, options.json, [*paths, f"{written.num_objects} objects written"])
