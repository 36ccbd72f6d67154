"""`tiny`: a promptable model small enough to travel with the library."""

from __future__ import annotations

from e2sam.modeling.tiny_decoder import TinyDecoder
from e2sam.modeling.tiny_encoder import TinyEncoder

__all__ = ["TinyDecoder", "TinyEncoder"]
