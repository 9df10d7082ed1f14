"""`run_file`: a task over a file, computed in parts that survive whatever happens to the process."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .manifest import Request
from .output import Output, Shard
from .parts import Part, read_part
from .records import RecordFormat
from .run_records import Lines, Run, run_lines


PART_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did.

    Args:
        records: The records with a result: of the whole output if it is complete, and else of this run.
        failed: Those without, likewise.
        complete: Whether the output is written. If not, other shards have parts to compute.
        parts: The number of parts of the input.
        computed: How many of them this run computed.
        output: The output.
        failures: The file of the failures, if there is one.
    """

    records: int
    failed: int
    complete: bool
    parts: int
    computed: int
    output: Path
    failures: Path | None


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

    The input is cut into parts of whole lines. Each part is computed alone and written to a file of its own in
    `OUT.parts/`, which appears complete or not at all; when all are there, they are joined. A run that ends early, in
    whatever way, continues when it is started again, and the output is that of an uninterrupted run, byte for byte.

    Args:
        load: Returns the task. Called once, when the first part is computed.
        input: A regular file.
        output: The file to write. Failures go beside it: those of `OUT.jsonl` to `OUT.failures.jsonl`.
        format: How lines are read.
        identity: Whatever the results depend on, as JSON: model, task, options, versions. `checkpoint_identity` and
            `versions` help. An output that was started with another one is not continued.
        shard: `(k, n)`: compute only the parts whose index is `k` modulo `n`, from 0. Any number of shards may run at
            once, on any machines that share the folder; the one that finds all parts computed joins them.
        part_bytes: The least size of a part in bytes. It is what a kill loses at most, and what is in memory.
        overwrite: Whether an output of another origin may be replaced.
        before_part: Called before each part. An exception ends the run.
        progress: Called with the bytes of the input that are done, and all bytes.

    Raises:
        BatchError: an `InputError`, `OutputError`, `OutputLockedError` or `ManifestMismatchError`.
        ValueError: if `shard` or `part_bytes` is out of range.
        Exception: what `load` raises, and what the task raises except for the errors of records (`Run`).
    """
    if part_bytes < 1:
        raise ValueError(f"`part_bytes` must be at least 1. Got {part_bytes}.")
    source, target = Path(input), Output(Path(output).resolve())
    request = Request(format, json.loads(json.dumps(identity)), part_bytes)
    of = None if shard is None else Shard(*shard)
    run: Run | None = None
    records = failed = computed = 0
    with target.open(source, request, of, overwrite=overwrite) as manifest:
        if target.done() is None:
            for part in target.parts():
                if (of is not None and part not in of) or target.has(part):
                    continue
                before_part()
                run = load() if run is None else run
                lines = compute(run, source, target, part, format)
                records, failed, computed = records + lines.records, failed + lines.failed, computed + 1
                progress(part.end, manifest.input["size"])
        done = target.join(manifest)
    if done is not None:
        records, failed = done.records, done.failed
    failures = target.failures if done is not None and failed else None
    return Report(records, failed, done is not None, manifest.parts, computed, target.path, failures)


def compute(run: Run, input: Path, output: Output, part: Part, format: RecordFormat) -> Lines:
    """Compute a part and write it."""
    lines = run_lines(run, read_part(input, part), format)
    output.write(part, lines)
    return lines
