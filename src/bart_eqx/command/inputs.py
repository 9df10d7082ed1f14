"""Where records come from: arguments, standard input, or a file. `files.py` has the rules."""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..batch import Field, RecordFormat
from ..batch.csv_rows import DELIMITERS, header_of
from .errors import UsageError
from .file_kinds import FILE_NAME, check_first_bytes, form_of
from .files import FileOptions
from .tasks import Job


_HEADER = 2**16  # bytes in which the header of a table must end


@dataclasses.dataclass(frozen=True)
class Input:
    """The source of the records.

    Args:
        form: The form of results, if the user does not choose it: texts, or JSON objects.
        format: How records are read.
        open: Opens the records.
        file: The file whose lines they are, if any.
        text: The text, if there is only one.
        live: Whether they are typed into a terminal: each is computed at once.
    """

    form: Literal["text", "jsonl"]
    format: RecordFormat
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]
    file: Path | None = None
    text: str | None = None
    live: bool = False


def input_of(job: Job, arguments: tuple[str, ...], options: FileOptions) -> Input:
    """The input that arguments and options ask for.

    Raises:
        UsageError: if they contradict each other, or the input is not what they say.
        OSError, ValueError: if a document cannot be read.
    """
    file = _file(arguments)
    texts = () if file is not None or arguments in ((), ("-",)) else arguments
    form = options.from_ or ("text" if file is None else form_of(file))
    if texts and form in ("jsonl", "csv"):
        raise UsageError("Arguments are texts: give JSON lines or CSV in a file, or to standard input.")
    if form == "document" and not texts:
        texts = (_document(file),)
    main, *others = job.reads
    if form not in ("jsonl", "csv"):
        if named := [name for name, value in (("--id", options.id), ("--field", options.field)) if value is not None]:
            raise UsageError(f"{named[0]} is for JSON lines and CSV, and the input is text: --from jsonl if it is not.")
        if others:
            raise UsageError(
                f"A text alone has no {others[0]}: give it as an option, or give JSON lines or CSV that "
                "have it, in a file or with --from jsonl."
            )
    name = job.reads[main].name if options.field is None else options.field
    reads = {**job.reads, main: dataclasses.replace(job.reads[main], name=name)}
    if texts:
        lines = "".join(f"{json.dumps({name: text})}\n" for text in texts).encode()
        format = RecordFormat("jsonl", reads, None, job.writes)
        text = texts[0] if len(texts) == 1 else None
        return Input("text", format, lambda: contextlib.nullcontext(io.BytesIO(lines)), text=text)
    terminal = file is None and sys.stdin.isatty()
    if terminal:
        print("Reading one record per line from the terminal. Ctrl-D ends.", file=sys.stderr)
    named = "The input" if file is None else str(file)
    start = b"" if terminal and form != "csv" else _start(file)
    check_first_bytes(start, named, None if options.from_ is None and form == "text" else form)
    kind = form if form in ("jsonl", "csv") else "text"
    table = _table(start, named, file, [*reads.values()], job, options) if kind == "csv" else {}
    format = RecordFormat(kind, reads, options.id, job.writes, **table)
    shown = "text" if kind == "text" else "jsonl"
    if file is not None:
        return Input(shown, format, lambda: file.open("rb"), file=file)
    return Input(shown, format, lambda: contextlib.nullcontext(sys.stdin.buffer), live=terminal)


def _file(arguments: tuple[str, ...]) -> Path | None:
    """The file that is the only argument, if it is one.

    Raises:
        UsageError: if a name stands among texts, or for something else than a file.
        FileNotFoundError: if it looks like a name, and there is no such file.
    """
    named = [argument for argument in arguments if argument != "-" and _names_a_file(argument)]
    if len(arguments) > 1 and named:
        raise UsageError(f"{named[0]} is a file, and not the only argument: give one file, or cat A B | bart-eqx ...")
    if not named:
        return None
    path = Path(named[0])
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file. If it is a text, give it to standard input.")
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file", named[0])
    return path


def _names_a_file(argument: str) -> bool:
    try:
        return FILE_NAME.fullmatch(argument) is not None or (argument != "" and Path(argument).exists())
    except (OSError, ValueError):  # a text that is no path
        return False


def _start(file: Path | None) -> bytes:
    """The first bytes of an input, which stay there; none of a pipe that has a name."""
    if file is None:
        return sys.stdin.buffer.peek(1)  # pyright: ignore
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(_HEADER)


def _table(
    start: bytes, named: str, file: Path | None, reads: Sequence[Field], job: Job, options: FileOptions
) -> dict[str, Any]:
    """The columns of a table, and its delimiter. What it lacks is said once, and not of every record."""
    delimiter = "," if file is None else DELIMITERS.get(file.suffix.lower(), ",")
    try:
        columns = header_of(start, delimiter)
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from None
    wanted = [*(field.name for field in reads), *filter(None, [options.id])]
    if missing := [name for name in wanted if name not in columns]:
        raise UsageError(f"{named} has no column {missing[0]!r}. Its first line names {', '.join(columns):.200}.")
    read = {field.name for field in reads}
    if taken := [name for name in columns if name in job.writes and name not in read]:
        raise UsageError(f"{named} has a column {taken[0]!r}, which the result would replace: rename it.")
    return dict(columns=columns, delimiter=delimiter)


def _document(file: Path | None) -> str:
    content = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'Standard input'} is not UTF-8 ({error}).") from None
