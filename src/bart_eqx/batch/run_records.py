"""Running a task over records, so that a record that fails does not fail the others."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .records import Failure, Record, RecordFormat, failure_line, read_records, result_line


Run = Callable[[Sequence[Record]], Sequence[Mapping[str, Any] | Failure]]
"""A task: the fields of the result of each record, in order, or a `Failure`.

A `ValueError` or `FloatingPointError` means that one of the records is at fault; any other exception ends the run.
"""


@dataclasses.dataclass
class Lines:
    """The lines that are written for some records.

    Args:
        results: The lines of the output.
        failures: The lines of the file of failures.
        records: The number of results.
        failed: The number of failures.
    """

    results: list[bytes] = dataclasses.field(default_factory=list)
    failures: list[bytes] = dataclasses.field(default_factory=list)

    @property
    def records(self) -> int:
        return len(self.results)

    @property
    def failed(self) -> int:
        return len(self.failures)


def run_lines(run: Run, lines: Iterable[tuple[int, bytes]], format: RecordFormat) -> Lines:
    """Run a task over lines.

    Args:
        run: The task.
        lines: Pairs of a line's number and its bytes.
        format: How they are read.
    """
    read = list(read_records(lines, format))
    records = [record for record in read if isinstance(record, Record)]
    results = iter(_run(run, records))
    written = Lines()
    for record in read:
        result = next(results) if isinstance(record, Record) else record.failure
        if isinstance(record, Record) and not isinstance(result, Failure):
            try:
                written.results.append(result_line(record, result))
                continue
            except ValueError as error:
                result = Failure(str(error))
        assert isinstance(result, Failure)
        written.failures.append(failure_line(record, result))
    return written


def _run(run: Run, records: Sequence[Record]) -> Sequence[Mapping[str, Any] | Failure]:
    """The result of each record. If a call fails, its halves are run, down to single records that fail."""
    if not records:
        return []
    try:
        results = run(records)
    except (ValueError, FloatingPointError) as error:
        if len(records) == 1:
            return [Failure(str(error) or type(error).__name__)]
        middle = len(records) // 2
        return [*_run(run, records[:middle]), *_run(run, records[middle:])]
    if len(results) != len(records):
        raise RuntimeError(f"The task returned {len(results)} results for {len(records)} records.")
    return results
