"""Carries an object to the next plane of a series or volume, as the prompts of a new one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from e2sam.data.masks import MaskCrop
from e2sam.data.prompts import Prompts
from e2sam.errors import E2SamError, PromptError
from napari_e2sam._state import LogitsGrid, Workplace
from napari_e2sam.widgets.objects import ObjectsPanel

__all__ = ["CarryControl", "is_carried", "prompts_from_mask"]

# Logits of a pixel that is surely inside, and of one surely outside: what a decoder gives of a clear mask.
_SURE_LOGIT = 10.0


class CarryControl:
    """Goes one plane on and begins an object there from the one in hand; each object of the planes stays its own.

    Parameters
    ----------
    panel
        Knows which object is chosen.
    work
        The window's parts.
    step
        Goes to the next plane; raises where there is none.
    store
        Makes prompts those of the object under way, and predicts.
    """

    def __init__(
        self, panel: ObjectsPanel, work: Workplace, step: Callable[[], None], store: Callable[[Prompts], None]
    ) -> None:
        self._panel = panel
        self._work = work
        self._step = step
        self._store = store
        panel.carry_asked.connect(self.carry)
        work.state.scene_changed.connect(self._on_scene)

    def carry(self) -> None:
        """Carry the object in hand to the next plane: the mask under way, else the chosen object, else the newest."""
        try:
            mask = self._mask_in_hand()
            self._step()
        except E2SamError as error:
            self._work.fail(str(error))
            return
        if not self._work.session.draft.is_empty:
            self._work.fail("Expected no object under way on this plane, got one: accept it, or clear it and go back.")
            return
        self._store(prompts_from_mask(mask, self._work.state.grid))

    def _mask_in_hand(self) -> MaskCrop:
        session = self._work.session
        draft = session.draft
        if draft.candidates and (mask := draft.candidates[draft.chosen].mask) is not None:
            return mask
        chosen, here = self._panel.chosen_ids, session.objects
        if len(chosen) > 1:
            raise PromptError(f"Expected 1 object to carry to the next plane, got {len(chosen)}: choose one.")
        if not chosen and not here:
            raise PromptError("Expected an object to carry to the next plane, got none: make one on this plane.")
        return session.file.mask(chosen[0] if chosen else max(record.id for record in here))

    def _on_scene(self) -> None:
        scene = self._work.state.scene
        self._panel.set_can_carry(scene is not None and bool(scene.stack.leading))


def prompts_from_mask(mask: MaskCrop, grid: LogitsGrid | None) -> Prompts:
    """Prompts that mean the object of a mask.

    Parameters
    ----------
    mask
        Where the object lies.
    grid
        Where the model takes mask prompts for this image; None where it takes none.

    Returns
    -------
    Prompts
        The pixel deepest inside, the box around the mask, and the mask itself as logits where there is a `grid`.
    """
    x0, y0, x1, y1 = mask.box
    depth = distance_transform_edt(np.pad(mask.pixels, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return Prompts(
        np.array([[x0 + column + 0.5, y0 + row + 0.5]], np.float32),
        np.ones(1, np.int32),
        np.array([x0, y0, x1, y1], np.float32),
        None if grid is None else _logits_of(mask, grid),
    )


def is_carried(logits: NDArray[np.float32]) -> bool:
    """Whether a mask prompt is a mask that was carried here, which says the same to every model."""
    return bool((np.abs(logits) == _SURE_LOGIT).all())


def _logits_of(mask: MaskCrop, grid: LogitsGrid) -> NDArray[np.float32]:
    """The mask at the centres of a grid, (rows, columns) float32 logits."""
    x0, y0, x1, y1 = mask.box
    rows = np.floor((np.arange(grid.rows) + 0.5) * grid.row_step).astype(int)
    columns = np.floor((np.arange(grid.columns) + 0.5) * grid.column_step).astype(int)
    logits = np.full((grid.rows, grid.columns), -_SURE_LOGIT, np.float32)
    down, across = np.flatnonzero((rows >= y0) & (rows < y1)), np.flatnonzero((columns >= x0) & (columns < x1))
    inside = mask.pixels[np.ix_(rows[down] - y0, columns[across] - x0)]
    logits[np.ix_(down, across)] = np.where(inside, _SURE_LOGIT, -_SURE_LOGIT)
    return logits
