"""JSON of which nothing is trusted. Python's reader takes much that no writer of checkpoints writes."""

import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn

from .errors import AccessError, DamagedFileError, SourceNotFoundError


_MAX_BYTES = 2**20  # ten times what a BART's largest configuration, index or header has
_LFS = b"version https://git-lfs"


def read_json(path: Path, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """The object in a file, with or without a byte order mark.

    Raises:
        SourceNotFoundError: if there is no such file.
        AccessError: if it cannot be read.
        DamagedFileError: if it is no JSON, no object, or says something twice; if a number is not finite; if it is
            larger than `max_bytes`: a byte of JSON can need eighty of memory.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The contents of a regular file, of no more than `max_bytes`. Raises as `read_json` does."""
    size = size_of(path)
    if size > max_bytes:
        raise DamagedFileError(f"{path} has {size:,} bytes, and no such file should have more than {max_bytes:,}.")
    return path.read_bytes()


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object in `content`, which messages call `where`."""
    try:
        fields = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_without_repetition,
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{where} is not JSON as a checkpoint has it ({error}); it begins {content[:40]!r}. Download it again."
        ) from None
    if not isinstance(fields, dict):
        raise DamagedFileError(f"{where} must hold an object. Got {type(fields).__name__}: download it again.")
    return fields


def size_of(path: Path) -> int:
    """The size of a regular file that holds what its name says, and not a pointer to it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(f"{path} must be a file, and is a folder or a device.")
        with path.open("rb") as file:
            begins = file.read(len(_LFS))
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path} is missing: is the download complete?") from None
    except PermissionError as error:
        raise AccessError(f"{path} may not be read ({error.strerror}): ask its owner.") from None
    except OSError as error:
        raise SourceNotFoundError(f"{str(path)!r} cannot be opened ({error.strerror}).") from None
    if begins == _LFS:
        raise DamagedFileError(f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` there.")
    if status.st_size == 0:
        raise DamagedFileError(f"{path} is empty: download it again.")
    return status.st_size


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"it says {', '.join(map(repr, twice[:5]))} twice")
    return fields


def _refuse_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is no finite number")
    return number
