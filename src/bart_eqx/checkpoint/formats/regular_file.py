"""Regular files, checked before they are read: size, contents, and a fingerprint that changes with the file."""

import os
import stat
from pathlib import Path
from typing import IO

from ..errors import AccessError, DamagedFileError, SourceNotFoundError


_LFS = b"version https://git-lfs"
Fingerprint = tuple[int, ...]


def checked_size(path: Path) -> int:
    """The size of a non-empty regular file, in bytes.

    Raises:
        SourceNotFoundError: if there is no such file.
        AccessError: if it cannot be read.
        DamagedFileError: if it is a folder or a device, is empty, or is a git-lfs pointer in place of the file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(f"{path} must be a regular file. Got a folder or a device.")
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path} is missing: is the download complete?") from None
    except PermissionError as error:
        raise AccessError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    except OSError as error:
        raise SourceNotFoundError(f"{str(path)!r} cannot be opened ({error.strerror}).") from None
    if start == _LFS:
        raise DamagedFileError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder.")
    if status.st_size == 0:
        raise DamagedFileError(f"{path} is empty: download it again.")
    return status.st_size


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The contents of a file of at most `max_bytes`.

    Raises:
        CheckpointError: as `checked_size` does; a `DamagedFileError` if the file is larger.
    """
    size = checked_size(path)
    if size > max_bytes:
        raise DamagedFileError(f"{path} has {size:,} bytes, and a file of this kind must not exceed {max_bytes:,}.")
    return path.read_bytes()


def fingerprint(file: IO[bytes]) -> Fingerprint:
    """Device, inode, size and time of modification: another value if the file was changed or replaced."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
