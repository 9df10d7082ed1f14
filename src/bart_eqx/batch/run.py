"""`run_file`: a task over a file, in parts, so that a run that is killed can be continued."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beartype import beartype

from ..lazy_beartype import CONF
from .manifest import Manifest, Request
from .output import Output, Shard
from .parts import Part, read_part
from .records import RecordFormat
from .run_records import Lines, Run, run_lines


PART_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a run.

    Args:
        records: The number of records with a result: in the whole output if it is complete, otherwise in this run.
        failed: The number of records without one, likewise.
        complete: Whether the output is written. If not, other shards still have parts to compute.
        parts: The number of parts of the input.
        computed: The number of parts that this run computed.
        output: The output.
        failures: The file of failures, if there are any.
    """

    records: int
    failed: int
    complete: bool
    parts: int
    computed: int
    output: Path
    failures: Path | None


@beartype(conf=CONF)
def run_file(
    load: Callable[[], Run],
    input: str | Path,
    output: str | Path,
    *,
    format: RecordFormat,
    identity: Mapping[str, Any],
    shard: tuple[int, int] | None = None,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
    before_part: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Run a task over the lines of a file.

    The input is cut into parts of whole lines. Each part is computed alone and written to a file in `OUT.parts/`, which
    appears complete or not at all; when all of these exist, they are joined. However a run ends early, the same call
    continues it, and the output is that of an uninterrupted run, byte for byte.

    Args:
        load: Returns the task. Called once, when the first part is computed.
        input: A regular file.
        output: The file to write. Failures go next to it: those of `OUT.jsonl` to `OUT.failures.jsonl`.
        format: How lines are read.
        identity: All that the results depend on, as JSON: model, task, options, versions. See `checkpoint_identity` and
            `versions`. An output that was started with another identity is not continued.
        shard: `(k, n)`: compute only the parts whose index is `k` modulo `n`, from 0. Any number of shards may run at
            once, on any machines that share the folder; the one that finds all parts computed joins them.
        part_bytes: The minimum size of a part in bytes: the most that a kill loses, and that is in memory.
        overwrite: Whether an output of another origin may be replaced.
        before_part: Called before each part. An exception ends the run.
        progress: Called with the bytes of the input that are done, and all bytes.

    Raises:
        BatchError: an `InputError`, `OutputError`, `OutputLockedError` or `ManifestMismatchError`.
        ValueError: if `shard` or `part_bytes` is out of range.
        Exception: what `load` raises, and what the task raises except for the errors of records (`Run`).
    """
    check_part_bytes(part_bytes)
    of = None if shard is None else Shard(*shard)
    run: Run | None = None
    records = failed = computed = 0
    with open_output(input, output, format, identity, of, part_bytes, overwrite) as (source, target, manifest):
        for part in target.missing_parts(of):
            before_part()
            run = load() if run is None else run
            lines = compute_part(run, source, target, part, format)
            records, failed, computed = records + lines.records, failed + lines.failed, computed + 1
            progress(part.end, manifest.input["size"])
        return report(target, manifest, records, failed, computed)


def check_part_bytes(part_bytes: int) -> None:
    if part_bytes < 1:
        raise ValueError(f"`part_bytes` must be at least 1. Got {part_bytes}.")


@contextlib.contextmanager
def open_output(
    input: str | Path,
    output: str | Path,
    format: RecordFormat,
    identity: Mapping[str, Any],
    shard: Shard | None,
    part_bytes: int,
    overwrite: bool,
) -> Iterator[tuple[Path, Output, Manifest]]:
    """Hold an output for a block: the input's path, the output, its manifest. Arguments and errors of `run_file`."""
    source, target = Path(input), Output(Path(output).resolve())
    request = Request(format, json.loads(json.dumps(identity)), part_bytes)
    with target.open(source, request, shard, overwrite=overwrite) as manifest:
        yield source, target, manifest


def compute_part(run: Run, input: Path, output: Output, part: Part, format: RecordFormat) -> Lines:
    """Compute a part and write it."""
    lines = run_lines(run, read_part(input, part), format)
    output.write(part, lines)
    return lines


def report(output: Output, manifest: Manifest, records: int, failed: int, computed: int) -> Report:
    """Join the parts if all are computed, and report; the counts are those of this run."""
    done = output.join(manifest)
    if done is not None:
        records, failed = done.records, done.failed
    failures = output.failures if done is not None and failed else None
    return Report(records, failed, done is not None, manifest.parts, computed, output.path, failures)
