"""The measurements of a run, a JSON object in each line, which follow the run when it goes back to a checkpoint."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class MetricsFile:
    """`metrics.jsonl`: records in the order of their `step`. Use it in a `with` block."""

    def __init__(self, path: Path, *, step: int):
        """
        Args:
            path: The file. Records after `step`, and what a killed process left of a line, are dropped.
            step: That of the checkpoint from which the run goes on; 0 for a new run.
        """
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(b"".join(kept))
        os.replace(partial, path)
        self._file = path.open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record; it has a `step`."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()
