"""Procedural scenes of many channels with exact masks."""
