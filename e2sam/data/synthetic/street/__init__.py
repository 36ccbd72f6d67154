"""Streets: what a camera on a pavement, in a car or on a bus sees."""

from e2sam.data.synthetic.street.layout import paint_street

__all__ = ["paint_street"]
