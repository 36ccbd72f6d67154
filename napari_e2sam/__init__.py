"""The napari plugin: shows and asks; the engine `e2sam` computes."""
