"""What the tests of `bart_eqx.batch` share: a task that reverses texts, without a model and without JAX."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bart_eqx.batch import Record, RecordFormat, Report, Run, run_file


FORMAT = RecordFormat("jsonl", result_fields=("reversed",))
IDENTITY = {"model": "reverse", "task": "reverse", "options": {"beams": 4}}


def write_input(path: Path, records: int) -> Path:
    """Records of unequal length, some of which fail: by themselves, in the task, and for want of a text."""
    with path.open("w") as file:
        for index in range(records):
            text = "unlucky" if index % 500 == 77 else f"text {index} " * (index % 23)
            file.write(f'{{"id": "r{index}", "text": "{text}", "kept": [{index}, {{"é": null}}]}}\n')
            if index % 700 == 5:
                file.write('{"id": "torn", "te\n\n{"id": "empty"}\n')
    return path


def load(delay: float = 0, kill_at: str | None = None, marks: str = "") -> Run:
    """
    Args:
        delay: Seconds for each record.
        kill_at: The id of a record at which the process kills itself: always, or once if there are `marks`.
        marks: A folder that remembers that it did, and which processes ran the task.
    """

    def run(records: Sequence[Record]) -> list[Mapping[str, Any]]:
        time.sleep(delay * len(records))
        if marks:
            (Path(marks) / f"ran-{os.getpid()}").touch()
        if any(record.id == kill_at for record in records) and not (marks and (Path(marks) / "killed").exists()):
            if marks:
                (Path(marks) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if any(record.inputs["text"] == "unlucky" for record in records):
            raise ValueError("a text without luck")
        return [{"reversed": record.inputs["text"][::-1]} for record in records]

    return run


def run_in(folder: Path, name: str = "out.jsonl", load: Callable[[], Run] = load, **options: Any) -> Report:
    """A run over the input in a folder."""
    options = dict(format=FORMAT, identity=IDENTITY, part_bytes=2**13) | options
    return run_file(load, folder / "in.jsonl", folder / name, **options)


def contents(folder: Path, name: str) -> tuple[bytes, bytes]:
    """The output of a run, and its failures."""
    return (folder / f"{name}.jsonl").read_bytes(), (folder / f"{name}.failures.jsonl").read_bytes()
