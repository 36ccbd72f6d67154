"""Messages between the window and its engine process: one JSON head and raw arrays, over a pair of pipes.

Nothing is pickled: a head is JSON, an array its bytes. Writing and reading release the interpreter's lock, so that a
large stack crosses without a stall of the window.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["LineBuffer", "Message", "receive", "send"]

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 24


class LineBuffer:
    """Whole lines of what a process prints in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece, without their ends."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        return lines


@dataclass(frozen=True)
class Message:
    """One request or answer.

    Attributes
    ----------
    what
        Name of the request ("predict") or of the answer ("done", "progress", "failed").
    ticket
        Number that an answer shares with its request.
    body
        JSON values.
    arrays
        Arrays by name, any shape, of a plain number or bool type.
    """

    what: str
    ticket: int
    body: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def send(stream: BinaryIO, message: Message) -> None:
    """Write one message; returns when the other side has taken it."""
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    head = json.dumps(
        {
            "what": message.what,
            "ticket": message.ticket,
            "body": dict(message.body),
            "arrays": [[name, array.dtype.str, array.shape] for name, array in arrays.items()],
        }
    ).encode()
    stream.write(_LENGTH.pack(len(head)) + head)
    for array in arrays.values():
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _CHUNK):
            stream.write(data[start : start + _CHUNK])
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read one message, or None when the other side has left."""
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    text = stream.read(_LENGTH.unpack(length)[0])
    if len(text) < _LENGTH.unpack(length)[0]:
        return None
    head = json.loads(text)
    arrays = {}
    for name, dtype, shape in head["arrays"]:
        array = np.empty(shape, np.dtype(dtype))
        if not _fill(stream, array.reshape(-1).view(np.uint8).data):
            return None
        arrays[name] = array
    return Message(head["what"], head["ticket"], head["body"], arrays)


def _fill(stream: BinaryIO, target: memoryview) -> bool:
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + _CHUNK])  # type: ignore[attr-defined]
        if not count:
            return False
        done += count
    return True
