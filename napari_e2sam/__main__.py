"""``python -m napari_e2sam [STACK...] [--session F] [--model M]``: the viewer with the plugin docked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import napari

from e2sam.errors import E2SamError
from napari_e2sam import _sample_data
from napari_e2sam._reader import read
from napari_e2sam.widgets.main import SegmentWidget

__all__ = ["main", "open_window"]


def open_window(
    stacks: Sequence[Path] = (), session: Path | None = None, model: str = "tiny", show: bool = True
) -> tuple[napari.Viewer, SegmentWidget]:
    """A viewer with stacks loaded (the sample where there is neither stack nor session) and the plugin docked."""
    layers = [layer for stack in stacks for layer in read(str(stack))]
    if not layers and session is None:
        layers = _sample_data.motorcycle()
    viewer = napari.Viewer(title="E2SAM", show=show)
    for data, settings, _ in layers:
        viewer.add_image(data, **settings)
    widget = SegmentWidget(viewer, session=session, model=model)
    viewer.window.add_dock_widget(widget, name="E2SAM Segment", area="right")
    return viewer, widget


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the window and stay until it is closed."""
    parser = argparse.ArgumentParser(
        prog="python -m napari_e2sam", description="Segment many-channel images by clicks."
    )
    parser.add_argument("stacks", nargs="*", type=Path, metavar="STACK", help="images to open")
    parser.add_argument("--session", type=Path, help="session file to go on with, or to begin")
    parser.add_argument("--model", default="tiny", help="name or file of the model")
    options = parser.parse_args(arguments)
    try:
        open_window(options.stacks, options.session, options.model)
    except (E2SamError, OSError) as error:
        sys.stderr.write(f"e2sam: {error}\n")
        return 2
    napari.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
