"""The panels, one a file; `main` docks them."""
