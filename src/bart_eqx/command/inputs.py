"""Where records come from: arguments, standard input, or a file. `files.py` has the rules."""

import contextlib
import dataclasses
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from ..batch import Field, RecordFormat
from .errors import UsageError
from .files import FileOptions
from .tasks import Job


_FILE_NAME, _JSON_NAME = re.compile(r"\S+\.(jsonl|ndjson|txt)"), re.compile(r".*\.(jsonl|ndjson)")


@dataclasses.dataclass(frozen=True)
class Input:
    """The source of the records.

    Args:
        form: The form of the user's input: texts, or JSON objects.
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
        UsageError: if they contradict each other.
        OSError, ValueError: if a document cannot be read.
    """
    file = _file(arguments)
    texts = () if file is not None or arguments in ((), ("-",)) else arguments
    form = options.from_ or ("jsonl" if file is not None and _JSON_NAME.fullmatch(file.name) else "text")
    if texts and form == "jsonl":
        raise UsageError("Arguments are texts: give JSON lines in a file, or to standard input.")
    if form == "document" and not texts:
        texts = (_document(file),)
    main, *others = job.reads
    if form != "jsonl":
        if named := [name for name, value in (("--id", options.id), ("--field", options.field)) if value is not None]:
            raise UsageError(f"{named[0]} is for JSON lines, and the input is text: --from jsonl if it is not.")
        if others:
            raise UsageError(
                f"A text alone has no {others[0]}: give it as an option, or give JSON lines that have it, in a .jsonl "
                "file or with --from jsonl."
            )
    name = job.reads[main].name if options.field is None else options.field
    reads = {**job.reads, main: Field(name)}
    if texts:
        lines = "".join(f"{json.dumps({name: text})}\n" for text in texts).encode()
        format = RecordFormat("jsonl", reads, None, job.writes)
        text = texts[0] if len(texts) == 1 else None
        return Input("text", format, lambda: contextlib.nullcontext(io.BytesIO(lines)), text=text)
    kind = "jsonl" if form == "jsonl" else "text"
    format = RecordFormat(kind, reads, options.id, job.writes)
    if file is not None:
        return Input(kind, format, lambda: file.open("rb"), file=file)
    terminal = sys.stdin.isatty()
    if options.from_ is None and not terminal and sys.stdin.buffer.peek(1).startswith(b"{"):  # pyright: ignore
        raise UsageError("The input begins with {: is it JSON lines (--from jsonl), or text (--from text)?")
    if terminal:
        print("Reading one record per line from the terminal. Ctrl-D ends.", file=sys.stderr)
    return Input(kind, format, lambda: contextlib.nullcontext(sys.stdin.buffer), live=terminal)


def _file(arguments: tuple[str, ...]) -> Path | None:
    """The file that is the only argument, if it is one."""
    if len(arguments) != 1 or arguments[0] == "-":
        return None
    path = Path(arguments[0])
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a text that cannot be a path
        return None
    if not exists and _FILE_NAME.fullmatch(arguments[0]):
        raise FileNotFoundError(2, "there is no such file", arguments[0])
    return path if exists and not path.is_dir() else None


def _document(file: Path | None) -> str:
    content = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'Standard input'} is not UTF-8 ({error}).") from None
