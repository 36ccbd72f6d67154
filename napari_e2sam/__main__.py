"""``python -m napari_e2sam [STACK...] [--session F] [--model M]``: the viewer with the plugin docked."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import napari

from e2sam.data.stack import split_names
from e2sam.errors import E2SamError
from napari_e2sam import _sample_data
from napari_e2sam._reader import read
from napari_e2sam.widgets.main import SegmentWidget

__all__ = ["main", "open_window", "spare_collections"]


def open_window(
    stacks: Sequence[Path] = (),
    session: Path | None = None,
    model: str = "tiny",
    show: bool = True,
    reading: Mapping[str, Any] | None = None,
) -> tuple[napari.Viewer, SegmentWidget]:
    """A viewer with stacks loaded (the sample where there is neither stack nor session) and the plugin docked.

    `reading` holds further arguments of `e2sam.read_stack`, for every stack.
    """
    layers = [layer for stack in stacks for layer in read(str(stack), **(reading or {}))]
    if not layers and session is None:
        layers = _sample_data.motorcycle()
    viewer = napari.Viewer(title="E2SAM", show=show)
    for data, settings, _ in layers:
        viewer.add_image(data, **settings)
    widget = SegmentWidget(viewer, session=session, model=model)
    viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
    return viewer, widget


def spare_collections() -> None:
    """Have the garbage collector leave out what is there now; only for a process that is all the window's.

    napari and Qt are some 300,000 objects. Looking through them again and again would hold the window for longer than a
    click may take.
    """
    gc.collect()
    gc.freeze()


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the window and stay until it is closed."""
    parser = argparse.ArgumentParser(
        prog="python -m napari_e2sam", description="Segment many-channel images by clicks."
    )
    parser.add_argument("stacks", nargs="*", type=Path, metavar="STACK", help="images to open")
    parser.add_argument("--session", type=Path, help="session file to go on with, or to begin")
    parser.add_argument("--model", default="tiny", help="name or file of the model")
    parser.add_argument("--channel-axis", help="position of the channel axis, or a letter for each axis")
    parser.add_argument("--channel-names", help="names of all channels, with commas between")
    parser.add_argument("--nodata", type=float, help="stored value that means 'not measured'")
    options = parser.parse_args(arguments)
    names = None if options.channel_names is None else split_names(options.channel_names)
    reading = {"channel_axis": options.channel_axis, "channel_names": names, "nodata": options.nodata}
    try:
        open_window(options.stacks, options.session, options.model, reading=reading)
    except (E2SamError, OSError) as error:
        sys.stderr.write(f"e2sam: {error}\n")
        return 2
    spare_collections()
    napari.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
