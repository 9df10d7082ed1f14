"""The options of input and output, with the same rules for every task.

- Arguments are texts. A single argument that is the name of a file, or looks like one (`.jsonl`, `.csv`, `.txt`, ...),
  is a file. No argument, or `-`, is standard input.
- A file of JSON lines ends in `.jsonl` or `.ndjson`; a table in `.csv` or `.tsv`, and its first row names the columns;
  for other names, and for standard input, there is `--from jsonl` or `--from csv`. Otherwise each line is a text; or,
  with `--from document`, the whole input is one.
- Results have the form of the input, unless `--to` says otherwise. As text, each input line gives one line, the best
  result. As JSON, a line has the record's id, its other fields, and the fields of the result.
- `--output` writes JSON lines. A run over a file can be stopped at any time; the same command continues it.
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from .errors import UsageError


Form = Literal["text", "jsonl", "csv", "document"]

_GROUP, _RAY = Group("Input and output", sort_key=1), Group("Ray", sort_key=8)


@Parameter(name="*", group=_GROUP)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FileOptions:
    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write JSON lines to this file. If a run over a file was stopped, the same command continues it."""
    from_: Annotated[Form | None, Parameter(name="--from")] = None
    """The form of the input: a text on each line, a JSON object on each line (default for .jsonl), a table (default for
    .csv and .tsv), or one text."""
    to: Literal["text", "jsonl"] | None = None
    """The form of standard output: the best result on each line, or JSON objects; by default that of the input."""
    field: str | None = None
    """JSON, CSV: the field with the text; by default its name in the task (text, context or source)."""
    id: str | None = None
    """JSON, CSV: the field that identifies a record; by default `id`, or else the line number."""
    failures: Path | None = None
    """Write records that fail to this file, as {"id", "error"}; by default to standard error, or next to --output."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace an output that exists, or that was started with other options."""
    shard: str | None = None
    """k/n: compute every n-th part of the file from the k-th, counted from 0; the last shard joins the output."""
    part_bytes: int = 2**20
    """The size of a part of the file in bytes: the most that a kill loses."""
    ray_workers: Annotated[int | None, Parameter(group=_RAY)] = None
    """Compute the parts of the file on a Ray cluster, with this many workers."""
    ray_address: Annotated[str | None, Parameter(group=_RAY)] = None
    """The address of the cluster; by default one that is running, or else a new one on this machine."""
    ray_cpus: Annotated[float, Parameter(group=_RAY)] = 1
    """The CPUs of a worker, for Ray's scheduler. XLA uses all CPUs of a machine: give their number."""
    ray_gpus: Annotated[float, Parameter(group=_RAY)] = 0
    """The GPUs of a worker."""

    def __post_init__(self) -> None:
        if self.part_bytes < 1:
            raise UsageError(f"--part-bytes must be at least 1. Got {self.part_bytes}.")
        if self.output is not None and (self.to == "text" or self.output.suffix in (".txt", ".csv", ".tsv")):
            raise UsageError("--output writes JSON lines: name it .jsonl. For lines of text: --to text > FILE.")
        if self.shard is not None and not re.fullmatch(r"\d+/\d+", self.shard):
            raise UsageError(f"--shard is k/n, such as 3/64. Got {self.shard!r}.")
        if self.ray_workers is None and (self.ray_address, self.ray_cpus, self.ray_gpus) != (None, 1, 0):
            raise UsageError("Options of Ray need --ray-workers.")
        if self.ray_workers is not None and (self.ray_workers < 1 or self.shard is not None):
            raise UsageError("--ray-workers must be at least 1, and divides the file itself: leave --shard out.")
