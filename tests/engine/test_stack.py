"""Which channels a caller means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import ChannelError, StackError


def stack(*names: str) -> ChannelStack:
    return ChannelStack(np.zeros((len(names), 4, 5), np.uint8), tuple(ChannelSpec(name) for name in names))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([[[1, 2]]], "got list: pass numpy.asarray"),
        (None, "got NoneType"),
        (np.zeros((1, 4, 5), "datetime64[s]"), r"integer or floating type, got datetime64\[s\]"),
        (np.zeros((1, 4, 5), complex), "got complex128"),
        (np.full((1, 4, 5), "a"), "got <U1"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data: Any, said: str) -> None:
    with pytest.raises(StackError, match=said):
        ChannelStack(data, (ChannelSpec("a"),))


def test_channels_are_found_by_name_and_by_position() -> None:
    assert stack("R", "G", "depth").indices(("depth", 0)) == (2, 0)


def test_position_typed_as_text_is_a_position_unless_a_channel_has_that_name() -> None:
    assert stack("R", "G", "depth").indices(("2",)) == (2,)
    assert stack("2", "1", "0").indices(("2", "0")) == (0, 2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "at least 1"),
        (("X",), "'X'"),
        ((3,), "0..2"),
        ((-1,), "0..2"),
        (("3",), "0..2"),
        (("R", 0), "R twice"),
        (None, "got None"),
        (("R", None), "got None"),
        ((1.5,), "got 1.5"),
        ((True,), "got True"),
    ],
)
def test_channels_that_are_not_there(asked: Any, said: str) -> None:
    with pytest.raises(ChannelError, match=said):
        stack("R", "G", "depth").indices(asked)


def test_names_stand_once_and_fit_the_array() -> None:
    with pytest.raises(ChannelError, match="R twice"):
        stack("R", "R")
    with pytest.raises(ChannelError, match="Expected 2 channel names, got 1"):
        ChannelStack(np.zeros((2, 4, 5)), (ChannelSpec("R"),))
    with pytest.raises(StackError, match="axes CYX"):
        ChannelStack(np.zeros((4, 5)), (ChannelSpec("R"),))
