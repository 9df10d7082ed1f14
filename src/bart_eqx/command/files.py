"""What goes in and what comes out: texts as arguments, standard input, or a file; text lines, JSON lines, or a file.

The rules, which are the same for every task:

- Arguments are texts. One argument that is the name of a file, or looks like one (`.jsonl`, `.ndjson`, `.txt`), is a
  file. No argument, or `-`, is standard input.
- A file of JSON is named `.jsonl` or `.ndjson`; `--from` says so of other names and of standard input. Otherwise each
  line is a text; or, with `--from document`, all of it is one text.
- Results are written in the form of the input, unless `--to` says otherwise. As text, a line of text in gives a line
  out, which is the best result. As JSON, a line has the record's id, its other fields, and all of the result's.
- `--output` writes JSON lines. From a file, the run can be stopped at any time, and goes on when it is started again.
"""

import contextlib
import dataclasses
import functools
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, cast

from cyclopts import Group, Parameter

from ..batch import Field, RecordFormat, Run
from ..convert.progress import progress_bar
from ..process import INTERRUPTED, exit_on_interrupt
from ..text.progress import no_progress
from .errors import UsageError, as_options, one_line
from .tasks import Job
from .text_output import TextOutput


if TYPE_CHECKING:
    from ..batch import Report


Form = Literal["text", "jsonl", "document"]

_GROUP = Group("Input and output", sort_key=1)
_FILE_NAME, _JSON_NAME = re.compile(r"\S+\.(jsonl|ndjson|txt)"), re.compile(r".*\.(jsonl|ndjson)")
_PART_BYTES = 2**20
_FIRST_BLOCK, _LARGEST_BLOCK = 2**12, 2**20  # bytes of a stream that are computed together: the first results are early


@Parameter(name="*", group=_GROUP)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FileOptions:
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write JSON lines to this file. From a file, a run that was stopped goes on when it is started again."""
    from_: Annotated[Form | None, Parameter(name="--from")] = None
    """What the input is: a text on each line, a JSON object on each line (default for .jsonl), or one text."""
    to: Literal["text", "jsonl"] | None = None
    """What standard output gets: the best result on each line, or JSON objects; by default as the input."""
    field: str | None = None
    """JSON: the field with the text; by default it is named as what the task reads."""
    id: str | None = None
    """JSON: the field that identifies a record; by default `id`, or else the number of its line."""
    failures: Path | None = None
    """Write records that fail to this file, as {"id", "error"}; by default to standard error, or beside --output."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace an output that is there, or that was started otherwise."""
    shard: str | None = None
    """k/n: compute every n-th part of the file from the k-th, counted from 0; the last shard joins the output."""
    part_bytes: int = _PART_BYTES
    """The bytes of a part of the file, which is what a kill loses at most."""

    def __post_init__(self) -> None:
        if self.part_bytes < 1:
            raise UsageError(f"--part-bytes must be at least 1. Got {self.part_bytes}.")
        if self.output is not None and (self.to == "text" or self.output.suffix == ".txt"):
            raise UsageError("--output writes JSON lines. For lines of text, redirect standard output: > FILE.")
        if self.shard is not None and not re.fullmatch(r"\d+/\d+", self.shard):
            raise UsageError(f"--shard is k/n, such as 3/64. Got {self.shard!r}.")


@dataclasses.dataclass(frozen=True)
class Input:
    """Where records come from.

    Args:
        form: What the user gave: texts, or JSON objects.
        format: How they are read.
        open: Opens them.
        file: The file, if they are the lines of one.
        text: The text, if there is one alone.
        first_block: The bytes that are computed first.
    """

    form: Literal["text", "jsonl"]
    format: RecordFormat
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]
    file: Path | None = None
    text: str | None = None
    first_block: int = _LARGEST_BLOCK


def run_job(
    job: Job, arguments: tuple[str, ...], options: FileOptions, *, stream: Callable[[Run, str], bool] | None = None
) -> int:
    """Run a task over its input.

    Args:
        job: The task.
        arguments: Those without an option: texts, or a file, or none.
        options: What goes in and out.
        stream: Writes the result of one text to the terminal as it is generated; returns whether it has.

    Returns:
        The exit status: 1 if a record has failed.
    """
    given = _input(job, arguments, options)
    if given.file is not None and options.output is not None:
        return _from_file_to_file(job, given.file, options.output, given.format, options)
    if options.shard is not None:
        raise UsageError("--shard is for a file with a record on each line, and needs --output.")
    from ..batch import run_stream

    exit_on_interrupt("interrupted.")
    to_text = options.output is None and (options.to or given.form) == "text"
    alone = given.text is not None
    with given.open() as records, _output(options) as output, _failures(options, alone) as on_failure:
        run = job.load()
        if stream and given.text is not None and to_text and sys.stdout.isatty() and stream(run, given.text):
            return 0
        lines = None
        if to_text:
            encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
            aligned = given.form == "text" and not alone
            lines = TextOutput(output, job.text, encoding=encoding, aligned=aligned)
        done, failed = run_stream(
            run,
            records,
            output if lines is None else cast(BinaryIO, lines),
            format=given.format,
            on_failure=on_failure,
            block_bytes=given.first_block,
        )
        if lines is not None:
            lines.end(done + failed)
    return 1 if failed else 0


def _input(job: Job, arguments: tuple[str, ...], options: FileOptions) -> Input:
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
        print("Reading a record a line from the terminal. Ctrl-D ends.", file=sys.stderr)
    first_block = 1 if terminal else _FIRST_BLOCK
    return Input(kind, format, lambda: contextlib.nullcontext(sys.stdin.buffer), first_block=first_block)


def _file(arguments: tuple[str, ...]) -> Path | None:
    """The file that is the only argument, if it is one."""
    if len(arguments) != 1 or arguments[0] == "-":
        return None
    path = Path(arguments[0])
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a text that is no path
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


@contextlib.contextmanager
def _output(options: FileOptions) -> Iterator[BinaryIO]:
    if options.output is None:
        yield sys.stdout.buffer
        return
    try:
        with options.output.open("wb" if options.overwrite else "xb") as file:
            yield file
    except FileExistsError:
        raise ValueError(f"{options.output} exists: choose another name, or replace it with --overwrite.") from None


@contextlib.contextmanager
def _failures(options: FileOptions, alone: bool) -> Iterator[Callable[[bytes], object]]:
    """What takes the line of each failure."""
    path = options.failures
    if path is None and options.output is not None:
        path = options.output.with_name(re.sub(r"\.jsonl?$", "", options.output.name) + ".failures.jsonl")
    if path is None:
        yield functools.partial(_print_failure, alone)
        return
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None

        def write(line: bytes) -> None:
            nonlocal file
            file = stack.enter_context(path.open("wb")) if file is None else file
            file.write(line)
            file.flush()

        yield write


def _print_failure(alone: bool, line: bytes) -> None:
    failure = json.loads(line)
    record = "" if alone else f"record {failure['id']}: "
    print(f"error: {record}{' '.join(failure['error'].split())}", file=sys.stderr)


def _from_file_to_file(job: Job, file: Path, output: Path, format: RecordFormat, options: FileOptions) -> int:
    from ..batch import BatchError, Stop, checkpoint_identity, run_file, versions

    if options.failures is not None:
        raise UsageError("From a file to --output, failures are written beside the output: leave --failures out.")
    model = job.model
    identity = dict(
        model=checkpoint_identity(model.model, revision=model.revision, subfolder=model.subfolder),
        task=job.task,
        options=job.arguments["options"],
        versions=versions(),
    )
    shard = None
    if options.shard is not None:
        index, count = map(int, options.shard.split("/"))
        if not index < count:
            raise UsageError(f"--shard k/n counts from 0, so that k is less than n. Got {options.shard}.")
        shard = (index, count)
    try:
        with Stop() as stop, _progress(job.task, file) as progress, no_progress():
            report = run_file(
                job.load,
                file,
                output,
                format=format,
                identity=identity,
                shard=shard,
                part_bytes=options.part_bytes,
                overwrite=options.overwrite,
                before_part=stop.check,
                progress=progress,
            )
    except BatchError as error:
        raise ValueError(as_options(one_line(error), frozenset({"overwrite", "shard"}))) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    print(_summary(report), file=sys.stderr)
    return 1 if report.failed else 0


def _summary(report: "Report") -> str:
    if not report.complete:
        return f"{report.output}: computed {report.computed} of {report.parts} parts; the last shard writes the output."
    failed = f", {report.failed} failed: {report.failures}" if report.failed else ""
    return f"{report.output}: {report.records} records{failed}"


@contextlib.contextmanager
def _progress(label: str, file: Path) -> Iterator[Callable[[int, int], object]]:
    """What takes the bytes that are done, and all: a bar on a terminal."""
    with progress_bar(label, file.stat().st_size) as add:
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            add(done - before)
            before = done

        yield progress
