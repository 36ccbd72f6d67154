"""Tissue as counted ions or few photons show it: a coarse grid, one marker in each channel, Poisson noise."""

from e2sam.data.synthetic.counts.paint import paint_counts

__all__ = ["paint_counts"]
