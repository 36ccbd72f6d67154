"""What the window works with at the moment, shared by its controllers; evented, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from napari.components import ViewerModel
from napari.layers import Image
from numpy.typing import NDArray
from psygnal import Signal

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelStack
from e2sam.errors import PromptError
from napari_e2sam._canvas import Canvas
from napari_e2sam._convert import Scene
from napari_e2sam._jobs import EngineClient, Tasks
from napari_e2sam._rows import ChannelRow
from napari_e2sam._session import SessionModel

__all__ = ["LogitsGrid", "State", "Workplace"]


@dataclass(frozen=True)
class LogitsGrid:
    """Where a model takes mask prompts for an image.

    Attributes
    ----------
    rows, columns
        Size of a mask prompt.
    row_step, column_step
        Pixels of the image from one of its rows, or columns, to the next.
    """

    rows: int
    columns: int
    row_step: float
    column_step: float


class State:
    """Stack, selection, recipes and model in use.

    `layer_asked` brings an image layer in front of the user, instead of what is there.

    Attributes
    ----------
    scene
        The stack with its place in the viewer, or None.
    layer
        The layer that it was made of, the first of several.
    rows
        What the Channels panel shows.
    recipes
        Fitted normalization of each channel.
    selection
        Indices of the selected channels, in the user's order.
    model
        What the engine said of the loaded model; empty before one is loaded.
    refusal
        Why nothing can be encoded as things are, in a line for the user: no channel is ticked, or the model takes
        others. Empty where an encoding is there, under way or to come.
    lacks_model
        Whether no model is loaded or being loaded: none could be.
    is_encoded
        Whether the engine can answer prompts for exactly this.
    grid
        Where the model takes mask prompts for an image of this size, or None where it takes none.
    """

    scene_changed = Signal()
    encoded = Signal()
    view_rested = Signal()  # the camera has stopped moving
    layer_asked = Signal(object)  # an image layer of the viewer

    def __init__(self) -> None:
        self.scene: Scene | None = None
        self.layer: Image | None = None
        self.rows: tuple[ChannelRow, ...] = ()
        self.recipes: tuple[ChannelRecipe, ...] = ()
        self.selection: tuple[int, ...] = ()
        self.model: dict[str, Any] = {}
        self.matrix: NDArray[Any] | None = None
        self.refusal = ""
        self.lacks_model = False
        self.is_encoded = False
        self.grid: LogitsGrid | None = None

    def leave(self) -> None:
        """Have no stack in use; the model stays."""
        self.scene, self.layer = None, None
        self.rows, self.recipes, self.selection = (), (), ()
        self.matrix, self.grid = None, None
        self.refusal, self.is_encoded = "", False
        self.scene_changed.emit()

    @property
    def is_deselected(self) -> bool:
        """Whether there is no model, or no channel that it can take: no encoding is under way or to come."""
        return bool(self.refusal) or self.lacks_model

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected channels."""
        return tuple(self.rows[index].name for index in self.selection) if self.rows else ()

    @property
    def recipes_in_use(self) -> tuple[ChannelRecipe, ...]:
        """Normalization of each selected channel before the model: its own where it was trained with one."""
        recipes = self.model.get("recipes", ())
        trained = dict(zip(self.model.get("channels", ()), map(ChannelRecipe.from_json, recipes), strict=False))
        return tuple(trained.get(self.rows[index].name, self.recipes[index]) for index in self.selection)

    def check_encoded(self) -> None:
        """Say what is missing before the engine can answer.

        Raises
        ------
        PromptError
            If nothing can be encoded, or the encoding is still to come.
        """
        if self.lacks_model:
            raise PromptError("Expected a loaded model, got none: choose one in Model.")
        if self.refusal:
            raise PromptError(self.refusal)
        if not self.is_encoded:
            raise PromptError("Expected an encoded stack, got none: wait for the encoding, or choose a layer in Stack.")

    def plane_of(self, plane: tuple[int, ...]) -> ChannelStack:
        """The single scene at a plane."""
        assert self.scene is not None
        return self.scene.stack.plane(*plane)


@dataclass
class Workplace:
    """What every controller of one window is given.

    Attributes
    ----------
    viewer, canvas, session, engine, tasks, state
        The parts, one of each for a window.
    say
        Shows one line in the panel: text, and "info", "busy" or "error".
    """

    viewer: ViewerModel
    canvas: Canvas
    session: SessionModel
    engine: EngineClient
    tasks: Tasks
    say: Callable[[str, str], None]
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        show, self._shows_error = self.say, False

        def say(text: str, kind: str) -> None:
            self._shows_error = kind == "error"
            # A window that can only look says so whenever there is nothing else to say.
            show(text or self._why_read_only, kind)

        self.say = say

    @property
    def _why_read_only(self) -> str:
        file = self.session.file
        return file.message if file.is_read_only else ""

    def fail(self, text: str) -> None:
        """Show an error line."""
        self.say(text, "error")

    def forget_error(self) -> None:
        """Take an error line away, before an action that shows its own if it fails too."""
        if self._shows_error:
            self.say("", "info")
