"""The rows of a CSV file: a header, and records that may span several lines."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence

from .lines import MAX_LINE, decoded


QUOTE = b'"'
DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Between two fields, by the ending of a file's name."""


def joined_rows(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Rows from lines, each with the number of its first line: between quotation marks, a line break is text.

    Args:
        lines: Pairs of a line's number and its bytes, from the beginning of a row.
    """
    row: list[bytes] = []
    first = quotes = 0
    for number, line in lines:
        first = first if row else number
        row.append(line)
        quotes += line.count(QUOTE)
        if quotes % 2 == 0:
            yield first, b"".join(row)
            row, quotes = [], 0
    if row:
        yield first, b"".join(row)


def header_of(content: bytes, delimiter: str) -> tuple[str, ...]:
    """The names of the columns.

    Args:
        content: The beginning of a file, with the whole first row.
        delimiter: What is between two fields.

    Raises:
        ValueError: if the first row does not name columns, or two of them alike.
    """
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    (_, row), *_ = itertools.chain(joined_rows(enumerate(lines, 1)), [(1, b"")])
    names = tuple(name.strip() for name in values_of(decoded(row.rstrip(b"\r\n")), delimiter))
    if not any(names):
        raise ValueError("its first line must name the columns, and is empty")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"its first line has the column {twice[0]!r} twice")
    return names


def fields_of(row: str, columns: Sequence[str], delimiter: str) -> dict[str, str]:
    """The fields of a row.

    Raises:
        ValueError: with the reason, if it is no row of this table.
    """
    values = values_of(row, delimiter)
    if len(values) != len(columns):
        raise ValueError(f"it has {len(values)} fields, and the header names {len(columns)}")
    return dict(zip(columns, values, strict=True))


def values_of(row: str, delimiter: str) -> list[str]:
    """The values of a row, which are quoted where they hold a delimiter, a line break or a quotation mark."""
    csv.field_size_limit(MAX_LINE)  # that of Python is 131,072
    try:
        return next(csv.reader([row], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"it is not CSV ({error}): is a quotation mark missing, or one too many?") from None
