"""Running a task: from its input to a stream or a file, and to the terminal."""

import contextlib
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ..batch import RecordFormat, Run
from ..batch.output import Output
from ..convert.progress import progress_bar
from ..process import INTERRUPTED, exit_on_interrupt
from ..text.progress import no_progress
from .errors import UsageError, as_options, one_line
from .files import FileOptions
from .inputs import input_of
from .outputs import check_outputs
from .tasks import Job, load, of_records
from .text_output import TextOutput


if TYPE_CHECKING:
    from ..batch import Report

_FIRST_BLOCK, _LARGEST_BLOCK = 2**12, 2**20  # bytes of a stream that are computed together; the first ones soon


def run_job(
    job: Job, arguments: tuple[str, ...], options: FileOptions, *, stream: Callable[[Run, str], bool] | None = None
) -> int:
    """Run a task over its input.

    Args:
        job: The task.
        arguments: The positional ones: texts, or a file, or none.
        options: Those of input and output.
        stream: Writes the result of one text to the terminal as it is generated, or returns `False` if it cannot.

    Returns:
        The exit status: 1 if a record has failed.
    """
    given = input_of(job, arguments, options)
    check_outputs(given.file, options)
    if given.file is not None and options.output is not None:
        return _from_file_to_file(job, given.file, options.output, given.format, options)
    for name, value in (("--shard", options.shard), ("--ray-workers", options.ray_workers)):
        if value is not None:
            raise UsageError(f"{name} is for a file with a record on each line, and needs --output.")
    from ..batch import run_stream

    exit_on_interrupt("interrupted.")
    to_text = options.output is None and (options.to or given.form) == "text"
    alone = given.text is not None
    with given.open() as records:
        run = job.load()
        if stream and given.text is not None and to_text and sys.stdout.isatty() and stream(run, given.text):
            return 0
        with _output(options) as output, _failures(options, alone) as on_failure:
            lines = None
            if to_text:
                encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
                aligned = given.form == "text" and not alone
                lines = TextOutput(output, job.text, encoding=encoding, aligned=aligned)
            done, failed = run_stream(
                of_records(run),
                records,
                output if lines is None else cast(BinaryIO, lines),
                format=given.format,
                on_failure=on_failure,
                block_bytes=1 if given.live else _FIRST_BLOCK,
                largest_block_bytes=1 if given.live else _LARGEST_BLOCK,
            )
            if lines is not None:
                lines.end(done + failed)
            if done + failed == 0:
                print("the input has no records.", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def _output(options: FileOptions) -> Iterator[BinaryIO]:
    if options.output is None:
        yield sys.stdout.buffer
        return
    with options.output.open("wb") as file:
        yield file


@contextlib.contextmanager
def _failures(options: FileOptions, alone: bool) -> Iterator[Callable[[bytes], object]]:
    """A function that is called with the line of each failure."""
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
        raise UsageError("From a file to --output, failures are written next to the output: leave --failures out.")
    model = job.model
    identity = dict(
        model=checkpoint_identity(model.model, revision=model.revision, subfolder=model.subfolder),
        versions=versions(),
        **job.identity,
    )
    same: dict[str, Any] = dict(
        format=format, identity=identity, part_bytes=options.part_bytes, overwrite=options.overwrite
    )
    shard = None
    if options.shard is not None:
        index, count = map(int, options.shard.split("/"))
        if not index < count:
            raise UsageError(f"--shard k/n counts from 0, so that k is less than n. Got {options.shard}.")
        shard = (index, count)
    size = file.stat().st_size
    # Of a file that is one part, the bar shows the rows inside; of others, the parts.
    bars = _progress(job.task, size), no_progress()
    if size <= options.part_bytes:
        bars = contextlib.nullcontext(lambda done, total: None), contextlib.nullcontext()
    try:
        with Stop() as stop, bars[0] as progress, bars[1]:
            if options.ray_workers is None:
                before: dict[str, Any] = dict(shard=shard, before_part=stop.check, progress=progress)
                report = run_file(lambda: load(**job.arguments), file, output, **same, **before)
            else:
                parts = lambda done, total: progress(size * done // total, size)
                report = _on_ray(job, options, file, output, **same, before_wait=stop.check, progress=parts)
    except BatchError as error:
        raise ValueError(as_options(one_line(error), frozenset({"overwrite", "shard"}))) from None
    except KeyboardInterrupt:
        print(_interrupted(Output(output.resolve()), options.part_bytes), file=sys.stderr)
        return INTERRUPTED
    print(_summary(report), file=sys.stderr)
    return 1 if report.failed else 0


def _on_ray(job: Job, options: FileOptions, file: Path, output: Path, **arguments: Any) -> "Report":
    from ..batch.ray import run_file_on_ray

    folder = Path(job.model.model).expanduser()  # a worker may have another current directory
    source = str(folder.resolve()) if folder.exists() else job.model.model
    return run_file_on_ray(
        f"{load.__module__}:{load.__name__}",
        job.arguments | dict(source=source),
        file,
        output,
        workers=options.ray_workers or 1,
        num_cpus=options.ray_cpus,
        num_gpus=options.ray_gpus,
        address=options.ray_address,
        **arguments,
    )


def _summary(report: "Report") -> str:
    if not report.complete:
        return f"{report.output}: computed {report.computed} of {report.parts} parts; the last shard writes the output."
    failed = f", {report.failed} failed: {report.failures}" if report.failed else ""
    return f"{report.output}: {report.records} records{failed}"


@contextlib.contextmanager
def _progress(label: str, size: int) -> Iterator[Callable[[int, int], object]]:
    """A function that is called with the bytes that are done, and all bytes; it shows a bar on a terminal."""
    with progress_bar(label, size) as add:
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            add(done - before)
            before = done

        yield progress


def _interrupted(output: Output, part_bytes: int) -> str:
    parts = output.parts_done() if output.folder.is_dir() else 0
    if parts == 0:
        return (
            f"interrupted before a part was complete: the same command begins again. Parts have {part_bytes:,} bytes, "
            "and smaller ones (--part-bytes) lose less."
        )
    return f"interrupted: {parts} parts are complete, and the same command goes on from there."
