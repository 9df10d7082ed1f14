"""`run_stream`: a task over a pipe, in memory that does not grow with it."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from .records import MAX_LINE, RecordFormat
from .run_records import Lines, Run, run_lines


BLOCK_BYTES = 2**20


def run_stream(
    run: Run,
    input: BinaryIO,
    output: BinaryIO,
    *,
    format: RecordFormat,
    on_failure: Callable[[bytes], object],
    block_bytes: int = BLOCK_BYTES,
) -> tuple[int, int]:
    """Run a task over the lines of a stream, and write each block of results as soon as it is computed.

    Nothing is kept: a run that is started again begins at the beginning. `run_file` continues.

    Args:
        run: The task.
        input: Read line by line.
        output: Written, and flushed after each block.
        format: How lines are read.
        on_failure: Called with the line of each failure, `{"id": ..., "error": ...}`.
        block_bytes: The least size of a block of lines that are computed together; 1 computes each line alone.

    Returns:
        The number of results, and of failures.

    Raises:
        OSError: if the output cannot be written; a `BrokenPipeError` if nobody reads it any more.
    """
    records = failed = 0
    for block in _blocks(input, block_bytes):
        lines: Lines = run_lines(run, block, format)
        output.write(b"".join(lines.results))
        output.flush()
        for line in lines.failures:
            on_failure(line)
        records, failed = records + lines.records, failed + lines.failed
    return records, failed


def _blocks(input: BinaryIO, block_bytes: int) -> Iterator[list[tuple[int, bytes]]]:
    block: list[tuple[int, bytes]] = []
    number = size = 0
    while line := input.readline(MAX_LINE + 1):
        number += 1
        block.append((number, line))
        size += len(line)
        while line and not line.endswith(b"\n") and len(line) > MAX_LINE:  # the rest of a line that is too long
            line = input.readline(MAX_LINE + 1)
        if size >= block_bytes:
            yield block
            block, size = [], 0
    if block:
        yield block
