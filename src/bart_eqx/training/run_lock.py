"""The lock of a run's folder: while a run lives, a second one in the same folder is refused."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from ..locks import Lock
from ..parallel.processes import failing_together


class RunLockedError(BlockingIOError):
    """Another run is training in the same folder."""


@contextlib.contextmanager
def run_lock(folder: Path, name: str = "lock") -> Iterator[None]:
    """Hold the folder of a run for a block. The lock ends with its process, however it ends.

    All processes of a job must enter it. Process 0 holds the lock, and all fail together.

    Args:
        folder: Created if it does not exist.
        name: Of the lock's file, which stays.

    Raises:
        RunLockedError: if another run holds it.
        OSError: if the file cannot be created.
        OtherProcessError: if one of these happened on process 0.
    """
    with contextlib.ExitStack() as held:
        with failing_together("locking the folder of the run"):
            if jax.process_index() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                lock = Lock(folder / name)
                held.callback(lock.release)
                if not lock.acquire("exclusive"):
                    raise RunLockedError(
                        f"Another run is training in {folder}: wait for it, stop it, or train in another folder."
                    )
        yield
