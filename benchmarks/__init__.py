"""Side-by-side measurements: each a command `python -m benchmarks.NAME [--json]` that prints figures and their bars."""
