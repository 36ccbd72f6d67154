"""Joins the Channels panel with the recipes of the stack: kind and range of each channel, kept in the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from e2sam.data.normalize import ChannelRecipe, fit_recipes
from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError
from napari_e2sam._composite import step_of
from napari_e2sam._ranges import read_range
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.channels import ChannelsPanel

__all__ = ["RecipeControl"]


class RecipeControl:
    """Normalizes channels as the user wants it.

    Parameters
    ----------
    panel, work
        The panel, and what every controller is given.
    encode
        Has the engine encode again.
    """

    def __init__(self, panel: ChannelsPanel, work: Workplace, encode: Callable[[], None]) -> None:
        self._panel = panel
        self._work = work
        self._encode = encode
        panel.recipe_chosen.connect(self.set_kind)
        panel.range_typed.connect(self.set_range)

    def set_kind(self, index: int, kind: str) -> None:
        """Fit a recipe of another kind to the channel at `index`."""
        self._take(index, lambda: self._fitted(index, kind))

    def set_range(self, index: int, text: str) -> None:
        """Give a channel the range that was typed; "auto" brings back the recipe that it had when it was opened."""
        try:
            given = read_range(text)
        except E2SamError as error:
            self._work.fail(str(error))
            return
        kind = self._work.state.recipes[index].kind
        if given is None:
            self._take(index, lambda: self._as_opened(index))
        else:
            self._take(index, lambda: self._fitted(index, kind).with_range(*given))

    def _fitted(self, index: int, kind: str) -> ChannelRecipe:
        stack = self._work.state.plane_of(self._work.session.plane)
        pixels = stack.read(channels=[index], step=step_of(stack))
        return fit_recipes(ChannelStack(pixels, (stack.channels[index],)), kind)[0]

    def _as_opened(self, index: int) -> ChannelRecipe:
        scene = self._work.state.scene
        assert scene is not None
        # All channels: those of a photograph, and of a spectrum, have a range together.
        return fit_recipes(scene.stack.plane(*(count // 2 for count in scene.stack.num_planes)))[index]

    def _take(self, index: int, make: Callable[[], ChannelRecipe]) -> None:
        """Make a recipe in a thread, show it, keep it, and have the mask follow."""
        work, state = self._work, self._work.state
        scene = state.scene

        def done(recipe: ChannelRecipe) -> None:
            if state.scene is not scene:
                return
            work.say("", "info")
            row = replace(state.rows[index], recipe=recipe.kind, used=recipe.value_range)
            state.recipes = (*state.recipes[:index], recipe, *state.recipes[index + 1 :])
            state.rows = (*state.rows[:index], row, *state.rows[index + 1 :])
            self._panel.set_rows(state.rows)
            self._panel.set_selection(state.selection)
            if not work.session.file.is_read_only:
                work.session.file.set_recipes(work.session.place[0], state.recipes)
            if index in state.selection:
                self._encode()

        work.tasks.run(make, done, work.fail)
