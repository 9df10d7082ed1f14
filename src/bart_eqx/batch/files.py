"""Files that appear complete or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..checkpoint.atomic_folder import sync_folder
from .errors import OutputError


PARTIAL = ".partial"


@contextlib.contextmanager
def atomic_file(path: Path, folder: Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` at the end of the block. If the block fails, it is removed.

    Args:
        path: The file. An existing one is replaced.
        folder: Where it is written, on the same disk. The files that a killed process leaves there end in `PARTIAL`.

    Raises:
        OutputError: if it cannot be written.
    """
    partial = folder / f"{uuid.uuid4().hex[:12]}{PARTIAL}"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): free some space or choose another disk. What is "
            "finished is kept: run the same command again to continue."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_file(path, path.parent) as file:
        file.write(content)
