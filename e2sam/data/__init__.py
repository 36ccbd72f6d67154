"""Pixels and what is known about them: NumPy only."""
