"""Cutting a file into parts of whole lines, and reading them, in memory that does not grow with the file."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from ..checkpoint.formats.writer import hash_file
from .csv_rows import QUOTE
from .errors import InputError
from .lines import MAX_LINE


_BLOCK = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of a file that holds whole lines.

    Args:
        index: Its place among the parts, from 0.
        start: Its first byte.
        end: The byte after its last.
        line: The number of its first line, from 1.
        blake3: The hash of its bytes.
    """

    index: int
    start: int
    end: int
    line: int
    blake3: str


class Scan:
    """One pass over a file that cuts it into parts.

    A part ends with the first line that brings it to `part_bytes`.

    Args:
        path: The file.
        part_bytes: The least size of a part; the last one may be smaller.
        quoted: Whether line breaks between quotation marks are no ends of lines, as in CSV.
    """

    size: int
    """The number of bytes, once all parts are read."""
    blake3: str
    """The hash of all bytes, once all parts are read."""

    def __init__(self, path: Path, part_bytes: int, *, quoted: bool = False):
        self._path = path
        self._part_bytes = part_bytes
        self._quoted = quoted

    def parts(self) -> Iterator[Part]:
        """The parts, in order.

        Raises:
            InputError: if the file cannot be read, or a quotation mark is never closed.
        """
        whole, own = blake3(), blake3()
        index = start = end = lines = quotes = 0
        first_line = 1
        for block in _blocks(self._path):
            whole.update(block)
            position = 0
            while True:
                # The newline that brings the part to its size.
                missing = max(self._part_bytes - (end - start) - 1, 0)
                newline = block.find(b"\n", position + missing)
                counted = position
                while self._quoted and newline >= 0:
                    quotes += block.count(QUOTE, counted, newline)
                    counted = newline
                    if quotes % 2 == 0:
                        break
                    newline = block.find(b"\n", newline + 1)
                stop = len(block) if newline < 0 else newline + 1
                own.update(memoryview(block)[position:stop])
                lines += block.count(b"\n", position, stop)
                quotes += block.count(QUOTE, counted, stop) if self._quoted else 0
                end += stop - position
                position = stop
                if newline < 0:
                    break
                yield Part(index, start, end, first_line, own.hexdigest())
                index, start, first_line, own, quotes = index + 1, end, lines + 1, blake3(), 0
            if self._quoted and quotes % 2 and end - start > self._part_bytes + MAX_LINE:
                raise InputError(
                    f"{self._path} has a quotation mark after line {first_line} that is not closed: double those "
                    "that are text."
                )
        if end > start:
            yield Part(index, start, end, first_line, own.hexdigest())
        self.size, self.blake3 = end, whole.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def hash_input(path: Path) -> str:
    """The BLAKE3 hash of an input.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return hash_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def read_part(path: Path, part: Part) -> list[tuple[int, bytes]]:
    """The lines of a part with their numbers. A line of more than `MAX_LINE` bytes is cut after one more byte.

    Raises:
        InputError: if the file cannot be read, or its bytes are no longer those of the part.
    """
    hasher = blake3()
    lines: list[tuple[int, bytes]] = []
    try:
        with path.open("rb") as file:
            file.seek(part.start)
            while (left := part.end - file.tell()) > 0:
                line = file.readline(min(left, MAX_LINE + 1))
                hasher.update(line)
                lines.append((part.line + len(lines), line))
                while line and not line.endswith(b"\n") and file.tell() < part.end:
                    line = file.readline(min(part.end - file.tell(), _BLOCK))
                    hasher.update(line)
                if not line:
                    break
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if hasher.hexdigest() != part.blake3:
        raise InputError(
            f"{path} was changed since its parts were cut (bytes {part.start} to {part.end}): restore it, or choose "
            "another output."
        )
    return lines


def file_size(path: Path) -> tuple[int, int]:
    """The size of a regular file, and when it was modified, in nanoseconds.

    Raises:
        InputError: if there is no such file, or it is not a regular one.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    if not path.is_file():
        raise InputError(f"{path} is not a regular file, and cannot be read in parts.")
    return status.st_size, status.st_mtime_ns
