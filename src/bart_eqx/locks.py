"""Locks on files. They end with their process, however it ends."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal


logger = logging.getLogger("bart_eqx")

_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
Mode = Literal["shared", "exclusive"]


class Lock:
    """A lock on a file, held by this process: `flock`, which NFS and most parallel file systems extend to all hosts.

    Where a file system has no locks, or is mounted without them, nothing is locked, and a warning is logged.

    Args:
        path: The file, which is created. It is never removed: another process may be about to lock it.

    Raises:
        OSError: if the file cannot be created.
    """

    supported: bool = True
    """Whether the file system has locks, as far as is known."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self, mode: Mode, *, wait: bool = False) -> bool:
        """Take the lock, or change its mode; `False` if another process holds it and `wait` is false."""
        if os.name != "posix":
            self.supported = False
            return True
        import fcntl

        flags = (fcntl.LOCK_SH if mode == "shared" else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self._descriptor, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self.supported = False
            logger.warning("This file system has no locks: make sure that no two runs write the same output.")
        return True

    def release(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def waiting(lock: Lock) -> Iterator[None]:
    """Hold an exclusive lock for a block, once no other process holds it. It is released at the end."""
    try:
        lock.acquire("exclusive", wait=True)
        yield
    finally:
        lock.release()
