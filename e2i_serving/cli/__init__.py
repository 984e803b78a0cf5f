"""The command line, ``e2i-serving``."""

from e2i_serving.cli.application import app, main

__all__ = ["app", "main"]
