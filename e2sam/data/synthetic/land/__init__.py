"""Land seen from above: what aerial cameras and satellites see of fields, forests, waters and towns."""

from e2sam.data.synthetic.land.layout import paint_land

__all__ = ["paint_land"]
