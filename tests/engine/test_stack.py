"""Which channels a caller means."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2sam.data.alignment import shifted
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


@pytest.mark.parametrize(
    "channels", [("a", "b", "c", "d"), "abcd", 5, None, [ChannelSpec("a"), ChannelSpec("b"), ChannelSpec("c"), None]]
)
def test_channels_that_are_no_specs_are_refused(channels: Any) -> None:
    with pytest.raises(ChannelError, match="Expected a ChannelSpec for each channel"):
        ChannelStack(np.zeros((4, 5, 6), np.uint8), channels)


@pytest.mark.parametrize(
    "values",
    [{"name": 0}, {"name": None}, {"unit": None}, {"kind": 3}, {"nodata": "x"}, {"nodata": 10**400}]
    + [{"wavelength_nm": wrong} for wrong in ("650", [1], True)],
)
def test_a_spec_of_wrong_types_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ChannelError, match=f"Expected the {next(iter(values))} of a channel"):
        ChannelSpec(**{"name": "a", **values})


def test_a_spec_may_have_numbers_of_numpy() -> None:
    spec = ChannelSpec("a", nodata=np.uint16(9), wavelength_nm=np.float32(650))  # type: ignore[arg-type]
    assert json.loads(json.dumps(asdict(spec)))["nodata"] == 9
    assert np.isnan(ChannelSpec("a", nodata=float("nan")).nodata)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "leading"), [((0, 4, 5), ""), ((2, 0, 5), ""), ((2, 4, 0), ""), ((0, 2, 4, 5), "T")])
def test_a_stack_of_nothing_is_refused(shape: tuple[int, ...], leading: str) -> None:
    with pytest.raises(StackError, match="at least 1 channel and 1 pixel"):
        ChannelStack(np.zeros(shape), tuple(ChannelSpec(str(at)) for at in range(shape[-3])), leading=leading)


@pytest.mark.parametrize("leading", ["X", "ZT", 5, None])
def test_leading_axes_of_other_names_are_refused(leading: Any) -> None:
    with pytest.raises(StackError, match="leading axes of '', 'T', 'Z', 'TZ'"):
        ChannelStack(np.zeros((1, 1, 4, 5)), (ChannelSpec("a"),), leading=leading)


@pytest.mark.parametrize("index", ["x", None, 0.5, True, 2, -1])
def test_a_plane_that_is_not_there_is_refused(index: Any) -> None:
    series = ChannelStack(np.zeros((2, 1, 4, 5)), (ChannelSpec("a"),), leading="T")
    assert series.plane(np.int64(1)).size == (4, 5)  # type: ignore[arg-type]
    with pytest.raises(StackError, match=r"Expected T in 0\.\.1"):
        series.plane(index)


def test_an_array_that_names_its_type_is_taken() -> None:
    class Named:
        shape, dtype = (1, 4, 5), "uint16"

        def __getitem__(self, key: Any) -> Any:
            return np.arange(20, dtype=np.uint16).reshape(1, 4, 5)[key]

    taken = ChannelStack(Named(), (ChannelSpec("a"),))  # type: ignore[arg-type]
    assert taken.data.dtype.itemsize == 2
    assert taken.read(slice(1, 2)).tolist() == [[[5, 6, 7, 8, 9]]]
    assert np.asarray(taken.data).shape == (1, 4, 5)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
def test_what_is_masked_is_not_measured(dtype: type) -> None:
    mask = np.zeros((2, 1, 4, 5), bool)
    mask[1, 0, 2, 1:3] = True
    data = np.ma.masked_array(np.ones(mask.shape, dtype), mask)
    series = ChannelStack(data, (ChannelSpec("a"),), leading="T")
    found = series.plane(1)
    np.testing.assert_array_equal(found.valid, ~mask[1])
    np.testing.assert_array_equal(found.valid_of(found.read(slice(2, 3))), ~mask[1][:, 2:3])
    assert (found.read()[found.valid] == 1).all()
    whole = ChannelStack(np.ma.masked_array(data.data), (ChannelSpec("a"),), leading="T")
    assert whole.data.dtype == dtype
    assert not isinstance(whole.data, np.ma.MaskedArray)


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
        (np.array(2), r"got array\(2\)"),
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


def test_a_list_of_files_stays_with_every_stack_that_is_made_of_it() -> None:
    files = (Path("f/b.png"), Path("f/a.png"))
    series = ChannelStack(np.zeros((2, 1, 4, 5)), (ChannelSpec("a"),), source=Path("f"), leading="T", files=files)
    assert series.plane(1).files == files
    assert shifted(series, {"a": (1.0, 0.0)}).files == files
    assert replace(series, source=None).files == ()
