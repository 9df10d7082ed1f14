"""Writing a file of weights: part by part, so that a few arrays at most are in memory, and hashed on the way.

Hashes are BLAKE3: as strong as SHA-256, and ten times as fast on a processor without instructions for that (measured:
2.8 against 0.29 GB/s). `b3sum` computes the same.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blake3 import blake3

from .errors import VerificationError
from .stored import StoredArray, ahead, bytes_of


_BLOCK = 2**20  # bytes; in blocks of 16 MiB, Linux took three times as long to write


@dataclasses.dataclass(frozen=True)
class Part:
    """The bytes of an array, from `start` to `stop`."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def write_parts(
    path: Path,
    parts: Iterable[bytes | Part],
    tensors: Mapping[str, StoredArray],
    progress: Callable[[int], object] = lambda count: None,
) -> str:
    """Write a new file, down to the disk, and read all of it again.

    Args:
        path: Of the file.
        parts: What to write, in order: bytes, or parts of these arrays.
        tensors: The arrays. Each is read once, where its first part comes.
        progress: Told how many bytes were written.

    Returns:
        The hash of the file.

    Raises:
        VerificationError: if it does not read as it was written.
        OSError: if it cannot be written.
    """
    parts = list(parts)
    names = list(dict.fromkeys(part.name for part in parts if isinstance(part, Part)))
    hasher = blake3()
    with path.open("xb", buffering=0) as file, ThreadPoolExecutor(1) as behind:
        contents = ahead(lambda name: bytes_of(tensors[name].read()), names)
        name, content = "", np.empty(0, np.uint8)
        for part in parts:
            if isinstance(part, Part) and part.name != name:
                name = part.name
                content = next(contents)
            piece = content[part.start : part.stop] if isinstance(part, Part) else np.frombuffer(part, np.uint8)
            hashed = behind.submit(hasher.update, piece.data)
            for at in range(0, len(piece), _BLOCK):
                _write_all(file.fileno(), piece[at : at + _BLOCK].data)
                progress(len(piece[at : at + _BLOCK]))
            hashed.result()
        # The disk is waited for while the file is read again.
        synced = behind.submit(os.fsync, file.fileno())
        same = hash_of_file(path) == hasher.hexdigest()
        synced.result()
    if not same:
        raise VerificationError(f"{path} does not read as it was written: is the disk sound?")
    return hasher.hexdigest()


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def hash_of_file(path: Path) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb", buffering=0) as file:
        block = bytearray(_BLOCK)
        while count := file.readinto(block):
            hasher.update(memoryview(block)[:count])
    return hasher.hexdigest()
