"""`run_stream`: a task over a pipe, in memory that does not grow with it."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from .csv_rows import QUOTE
from .lines import MAX_LINE
from .records import RecordFormat
from .run_records import Run, run_lines


def run_stream(
    run: Run,
    input: BinaryIO,
    output: BinaryIO,
    *,
    format: RecordFormat,
    on_failure: Callable[[bytes], object],
    block_bytes: int = 2**12,
    largest_block_bytes: int = 2**20,
) -> tuple[int, int]:
    """Run a task over the lines of a stream, and write each block of results as soon as it is computed.

    A run cannot be continued, unlike one of `run_file`.

    Args:
        run: The task.
        input: Read line by line.
        output: Written, and flushed after each block.
        format: How lines are read.
        on_failure: Called with the line of each failure, `{"id": ..., "error": ...}`.
        block_bytes: The minimum size of the first block of lines that are computed together. Each block is twice the
            size of the last: the first results come soon, and the others cost no more than those of a file.
        largest_block_bytes: The limit of this growth. With 1, each line is computed as it comes.

    Returns:
        The number of results, and of failures.

    Raises:
        OSError: if the output cannot be written; a `BrokenPipeError` if its reader has closed it.
    """
    records = failed = 0
    largest = largest_block_bytes
    for block in _blocks(input, min(block_bytes, largest), largest, quoted=format.kind == "csv"):
        lines = run_lines(run, block, format)
        output.write(b"".join(lines.results))
        output.flush()
        for line in lines.failures:
            on_failure(line)
        records, failed = records + lines.records, failed + lines.failed
    return records, failed


def _blocks(input: BinaryIO, wanted: int, largest: int, *, quoted: bool) -> Iterator[list[tuple[int, bytes]]]:
    """Lines that are computed together; of CSV, whole rows."""
    block: list[tuple[int, bytes]] = []
    number = size = quotes = 0
    while line := input.readline(MAX_LINE + 1):
        number += 1
        block.append((number, line))
        size += len(line)
        quotes += line.count(QUOTE)
        while line and not line.endswith(b"\n") and len(line) > MAX_LINE:  # the rest of a line that is too long
            line = input.readline(MAX_LINE + 1)
        if size >= wanted and not (quoted and quotes % 2 and size < MAX_LINE):
            yield block
            block, size, quotes, wanted = [], 0, 0, min(2 * wanted, largest)
    if block:
        yield block
