"""The command `e2sam`: one file for each command group."""
