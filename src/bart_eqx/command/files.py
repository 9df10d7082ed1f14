"""What goes in and what comes out: texts as arguments, standard input, or a file; text lines, JSON lines, or a file.

The rules, which are the same for every task:

- Arguments are texts. One argument that is the name of a file, or looks like one (`.jsonl`, `.csv`, `.txt`, ...), is a
  file. No argument, or `-`, is standard input.
- A file of JSON is named `.jsonl` or `.ndjson`, and a table `.csv` or `.tsv`; its first row names the columns. `--from`
  says so of other names and of standard input. Otherwise each
  line is a text; or, with `--from document`, all of it is one text.
- Results are written in the form of the input, unless `--to` says otherwise. As text, a line of text in gives a line
  out, which is the best result. As JSON, a line has the record's id, its other fields, and all of the result's.
- `--output` writes JSON lines. From a file, the run can be stopped at any time, and goes on when it is started again.
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
    """Write JSON lines to this file. From a file, a run that was stopped goes on when it is started again."""
    from_: Annotated[Form | None, Parameter(name="--from")] = None
    """What the input is: a text on each line; a JSON object on each line (default for .jsonl); a table (.csv, .tsv); or
    one text."""
    to: Literal["text", "jsonl"] | None = None
    """What standard output gets: the best result on each line, or JSON objects; by default as the input."""
    field: str | None = None
    """JSON, CSV: the field with the text; by default it is named as what the task reads."""
    id: str | None = None
    """JSON, CSV: the field that identifies a record; by default `id`, or else the number of its line."""
    failures: Path | None = None
    """Write records that fail to this file, as {"id", "error"}; by default to standard error, or beside --output."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace an output that is there, or that was started otherwise."""
    shard: str | None = None
    """k/n: compute every n-th part of the file from the k-th, counted from 0; the last shard joins the output."""
    part_bytes: int = 2**20
    """The bytes of a part of the file, which is what a kill loses at most."""
    ray_workers: Annotated[int | None, Parameter(group=_RAY)] = None
    """Compute the parts of the file on a Ray cluster, with this many workers."""
    ray_address: Annotated[str | None, Parameter(group=_RAY)] = None
    """Of the cluster; by default one that is running, or else one on this machine."""
    ray_cpus: Annotated[float, Parameter(group=_RAY)] = 1
    """What Ray counts for a worker. On CPUs give those of a machine, for XLA uses all of them."""
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
