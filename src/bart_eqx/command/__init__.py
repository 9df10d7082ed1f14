"""The shell command `bart-eqx`: one file for each command, or for a family of them; `app.py` lists them all.

A command is a function whose typed, documented parameters are its options (cyclopts). JAX is imported inside it, so
that help and a wrong option are answered at once.
"""

import os
from typing import NoReturn

from ..process import run


def main() -> NoReturn:
    """The entry point of `bart-eqx` and of `python -m bart_eqx`."""
    # Checks of shapes are for callers of the library. They take a quarter of the command's time to the first result.
    os.environ.setdefault("JAXTYPING_DISABLE", "1")
    run("bart_eqx.command.app")
