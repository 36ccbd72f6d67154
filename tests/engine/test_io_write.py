"""Stacks written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from e2sam.data.io import read_stack, write_stack
from e2sam.data.stack import ChannelSpec, ChannelStack
from e2sam.errors import StackError

NAMES = st.text("abcdefghijklm 0123456789_", min_size=1, max_size=8).map(lambda name: f"x{name.strip()}")
SPECS = st.builds(
    ChannelSpec,
    name=NAMES,
    unit=st.sampled_from(["", "m", "dB", "degC"]),
    wavelength_nm=st.none() | st.floats(300, 14_000),
    kind=st.sampled_from(["thermal", "sar", "stain"]),
    nodata=st.none() | st.integers(0, 9).map(float),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    specs=st.lists(SPECS, min_size=1, max_size=5, unique_by=lambda spec: spec.name),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.float64]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_round_trip(
    specs: list[ChannelSpec], dtype: type, size: tuple[int, int], data: st.DataObject, tmp_path: Path
) -> None:
    pixels = data.draw(st_numpy.arrays(dtype, (len(specs), *size)))
    stack = ChannelStack(pixels, tuple(specs))
    again = read_stack(write_stack(tmp_path / "stack.tif", stack))
    assert again.channels == stack.channels
    assert again.data.dtype == pixels.dtype
    np.testing.assert_array_equal(again.read(), pixels)
    assert [file.name for file in tmp_path.iterdir()] == ["stack.tif"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    stack = ChannelStack(np.zeros((2, 1, 4, 4)), (ChannelSpec("a"),), leading="T")
    with pytest.raises(StackError, match="single scene"):
        write_stack(tmp_path / "a.tif", stack)
    with pytest.raises(StackError, match="ending in"):
        write_stack(tmp_path / "a.png", stack.plane(0))


def test_arguments_of_another_type(tmp_path: Path) -> None:
    stack = ChannelStack(np.zeros((1, 4, 4)), (ChannelSpec("a"),))
    with pytest.raises(StackError, match="got None"):
        write_stack(None, stack)  # type: ignore[arg-type]
    with pytest.raises(StackError, match="Expected a ChannelStack"):
        write_stack(tmp_path / "a.tif", stack.data)  # type: ignore[arg-type]
