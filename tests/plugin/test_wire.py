"""Messages cross a pipe whole, whatever is in them."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_e2sam._wire import Message, receive, send

TYPES = st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64, np.bool_])


@given(hnp.arrays(TYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)), st.integers(0, 2**40))
def test_arrays_and_numbers_come_back_equal(array: np.ndarray, ticket: int) -> None:
    stream = io.BytesIO()
    send(stream, Message("predict", ticket, {"text": "ä", "values": [1, None, 2.5]}, {"one": array, "two": array.T}))
    stream.seek(0)
    got = receive(stream)
    assert got is not None
    assert (got.what, got.ticket, got.body) == ("predict", ticket, {"text": "ä", "values": [1, None, 2.5]})
    np.testing.assert_array_equal(got.arrays["one"], array)
    np.testing.assert_array_equal(got.arrays["two"], array.T)
    assert got.arrays["one"].dtype == array.dtype
    assert receive(stream) is None


def test_a_message_larger_than_a_pipe_crosses() -> None:
    reading, writing = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    array = np.arange(3_000_000, dtype=np.uint16)
    with reading, writing:
        thread = threading.Thread(target=send, args=(writing, Message("stack", 1, {}, {"data": array})))
        thread.start()
        got = receive(reading)
        thread.join()
    assert got is not None
    np.testing.assert_array_equal(got.arrays["data"], array)


@pytest.mark.parametrize("kept", [0, 3, 8, 30, -1])
def test_a_message_cut_short_is_the_end(kept: int) -> None:
    stream = io.BytesIO()
    send(stream, Message("done", 1, {}, {"mask": np.ones((4, 4), bool)}))
    whole = stream.getvalue()
    cut = io.BytesIO(whole[:kept] if kept >= 0 else whole[:-1])
    assert receive(cut) is None
