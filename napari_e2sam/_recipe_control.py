"""Joins the Channels panel with the recipes of the stack: kind and range of each channel, undoable in the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from e2sam.data.normalize import ChannelRecipe, fit_recipes
from e2sam.data.session import Change
from e2sam.data.stack import ChannelStack
from e2sam.errors import E2SamError
from napari_e2sam._composite import step_of
from napari_e2sam._ranges import read_range
from napari_e2sam._state import Workplace
from napari_e2sam.widgets.channels import ChannelsPanel

__all__ = ["RecipeControl"]

# What is said when a recipe is changed that would change nothing.
GIVEN = "This model normalizes as it was trained: choose another in Model, such as tiny, to set recipes and ranges."


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
        work.session.changed.connect(self._on_change)

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
            self._take(index, lambda: self._all_as_opened()[index])
        else:
            self._take(index, lambda: self._fitted(index, kind).with_range(*given))

    def _fitted(self, index: int, kind: str) -> ChannelRecipe:
        stack = self._work.state.plane_of(self._work.session.plane)
        pixels = stack.read(channels=[index], step=step_of(stack))
        return fit_recipes(ChannelStack(pixels, (stack.channels[index],)), kind)[0]

    def _all_as_opened(self) -> tuple[ChannelRecipe, ...]:
        scene = self._work.state.scene
        assert scene is not None
        # All channels: those of a photograph, and of a spectrum, have a range together.
        return fit_recipes(scene.stack.plane(*(count // 2 for count in scene.stack.num_planes)))

    def _take(self, index: int, make: Callable[[], ChannelRecipe]) -> None:
        """Make a recipe in a thread, keep it, show it, and have the mask follow."""
        work, state = self._work, self._work.state
        scene, place = state.scene, work.session.place
        if state.model.get("channels"):
            work.fail(GIVEN)
            return

        def done(recipe: ChannelRecipe) -> None:
            if state.scene is not scene or work.session.place != place:
                return
            work.say("", "info")
            recipes = (*state.recipes[:index], recipe, *state.recipes[index + 1 :])
            if work.session.file.is_read_only:
                self._adopt(recipes)
                return
            try:
                work.session.file.set_recipes(place[0], recipes, state.rows[index].name)
            except E2SamError as error:
                work.fail(str(error))

        work.tasks.run(make, done, work.fail)

    def _on_change(self, change: Change) -> None:
        """Take what the session has now: a recipe that was set, or that undo and redo have changed."""
        session, state = self._work.session, self._work.state
        if change.verb != "recipes" or not session.has_stack or state.scene is None:
            return
        recipes, scene = session.record.recipes, state.scene
        if recipes is not None:
            self._adopt(recipes)
            return

        def done(recipes: tuple[ChannelRecipe, ...]) -> None:
            if state.scene is scene and session.record.recipes is None:
                self._adopt(recipes)

        self._work.tasks.run(self._all_as_opened, done, self._work.fail, lane="recipes")

    def _adopt(self, recipes: tuple[ChannelRecipe, ...]) -> None:
        state = self._work.state
        # While another stack is being opened, the session is there already and the rows are not.
        if len(recipes) != len(state.recipes):
            return
        changed = {index for index, recipe in enumerate(recipes) if recipe != state.recipes[index]}
        if not changed:
            return
        state.recipes = recipes
        state.rows = tuple(
            replace(row, recipe=recipe.kind, used=recipe.value_range)
            for row, recipe in zip(state.rows, recipes, strict=True)
        )
        self._panel.set_rows(state.rows)
        self._panel.set_selection(state.selection)
        # A student has recipes of its own: there is nothing to encode again.
        if changed & set(state.selection) and not state.model.get("channels"):
            self._encode()
