"""Checkpoints, the model zoo and the embedded model."""
