"""Torch modules, one a file; `e2sam` composes them and `build` holds every size."""
