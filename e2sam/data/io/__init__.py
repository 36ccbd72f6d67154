"""Files in and out: one module for each format family, one registry."""

from __future__ import annotations

from e2sam.data.io.labels import read_labels, write_labels
from e2sam.data.io.registry import STACK_SUFFIXES, is_part_of, read_stack, read_with_notes, stem_of
from e2sam.data.io.stacks_out import write_stack

__all__ = [
    "STACK_SUFFIXES",
    "is_part_of",
    "read_labels",
    "read_stack",
    "read_with_notes",
    "stem_of",
    "write_labels",
    "write_stack",
]
