"""Procedural scenes of many channels with exact masks."""

from __future__ import annotations

from e2sam.data.synthetic.material import Material
from e2sam.data.synthetic.scene import KINDS, Scene, SceneOptions, make_scene
from e2sam.data.synthetic.stack import synthetic_stack

__all__ = ["KINDS", "Material", "Scene", "SceneOptions", "make_scene", "synthetic_stack"]
