"""Which files results may be written to: none that is read, and none that is there, unless it may be replaced."""

import os
import stat
import sys
from pathlib import Path

from .errors import UsageError
from .files import FileOptions


def check_outputs(file: Path | None, options: FileOptions) -> None:
    """Refuse what would destroy the input, or another file, before a model is loaded.

    Args:
        file: The input; `None` for arguments and standard input.
        options: Where results and failures go.

    Raises:
        UsageError: if the options contradict each other.
        ValueError: if an output is there, and is not to be replaced.
    """
    resumes = file is not None and options.output is not None  # `run_file` knows its own output
    for name, path in (("--output", options.output), ("--failures", options.failures)):
        if path is None or (name == "--failures" and path.exists() and not path.is_file() and not path.is_dir()):
            continue  # /dev/null, for example
        if not path.parent.is_dir() and not resumes:
            raise UsageError(f"{name}: there is no folder {path.parent}.")
        if not path.exists():
            continue
        if path.is_dir():
            raise UsageError(f"{name}: {path} is a folder: give the name of a file.")
        if not path.is_file():
            raise UsageError(
                f"{name}: {path} is not a regular file: without --output, standard output gets the results."
            )
        if _is_read(path, file):
            raise UsageError(f"{name}: {path} is the input: choose another name.")
    if options.output is not None and options.output == options.failures:
        raise UsageError("--output and --failures are the same file.")
    if options.output is not None and options.output.exists() and not options.overwrite and not resumes:
        raise ValueError(f"{options.output} exists: choose another name, or replace it with --overwrite.")


def _is_read(path: Path, file: Path | None) -> bool:
    """Whether a file is the input, by whatever name."""
    if file is not None:
        return path.samefile(file)
    try:
        read = os.fstat(sys.stdin.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return stat.S_ISREG(read.st_mode) and os.path.samestat(read, path.stat())
