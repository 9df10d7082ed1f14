"""Parity and speed of bart_eqx on an accelerator, in under 8 minutes, without a network: `make accelerator`.

    PYTHONPATH=src python3 benchmarks/accelerator.py [--torch PYTHON] [--only PART] [--minutes 7.5] [--output FILE.json]

First, parity with the stored references. Then bart-large-cnn's setting (source 1024, 142 tokens, 4 beams; random
weights), batch encoding and a training step, compared with Hugging Face's PyTorch with sdpa if torch and transformers
can be imported. Load, compile, prefill and decode are timed separately; a decoding step is compared with the bytes that
it must read.

The parts run one after the other, the most valuable first. Each is a process that has the device to itself and is
killed when its time is up. The record is rewritten after every figure, so that an interrupted run keeps its figures.
Without an accelerator the same parts run on tiny shapes.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerator_table import device_of, rows_of, table
from bounds import SIZES


HERE = Path(__file__).parent
# Seconds. With less time left, a part is not started: imports and loading would use it up.
TOO_SHORT = 20


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    seconds: float
    """Its budget. The process is then killed; the figures that it has written are kept."""
    peer: tuple[str, str] | None
    tasks: Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """The sizes of all tasks."""

    size: str
    src: int
    new: int
    batches: tuple[int, ...]
    batch: int
    """The one of `batches` that every variant runs first."""
    train: dict[str, int]

    def generate(self, batch: int) -> dict[str, Any]:
        return dict(kind="generate", batch=batch, src=self.src, beams=4, new=self.new)

    def parts(self) -> list[Part]:
        """In order of value, since a run may be interrupted."""
        train = dict(kind="train", **self.train)
        first, all_batches = self.generate(self.batch), [self.generate(batch) for batch in self.batches]
        others = [task for task in all_batches if task != first]
        encode = [dict(kind="encode", batch=batch, src=self.src) for batch in self.batches if batch >= self.batch]
        fused = [task | dict(fused=True) for task in (*encode, train)]
        parts = [
            Part("bart_eqx bfloat16", 120, ("ours", "bfloat16"), all_batches),
            Part("hf_torch bfloat16", 100, ("hf_torch", "bfloat16"), [*all_batches, *encode, train]),
            Part("bart_eqx bfloat16, both attentions", 170, ("ours", "bfloat16"), fused),
            Part("bart_eqx float32", 80, ("ours", "float32"), [first, encode[0], train]),
            Part("hf_torch tf32", 50, ("hf_torch", "tf32"), [first, encode[0], train]),
            Part("bart_eqx highest", 60, ("ours", "highest"), [first]),
            Part("hf_torch eager", 50, ("hf_torch", "eager"), [first]),
            Part("bart_eqx float32, other batches", 90, ("ours", "float32"), others),
            Part("hf_torch tf32, other batches", 60, ("hf_torch", "tf32"), others),
            Part("bart_eqx highest, other batches", 90, ("ours", "highest"), others),
        ]
        return [part for part in parts if part.tasks]


FULL = Setting("bart-large", src=1024, new=142, batches=(1, 8, 64), batch=8, train=dict(batch=8, src=512, tgt=128))
SMALL = Setting("tiny", src=32, new=8, batches=(2,), batch=2, train=dict(batch=2, src=16, tgt=8))


def figures_of(command: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """The figures that a process writes, one per line, until it ends or its time is up; an "error" if it failed."""
    variables = os.environ | dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PYTHONUNBUFFERED="1")
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables) as process,
    ):
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.endswith("\n"):  # a killed process may leave half a line
                    yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        log.seek(0)
        if status == -signal.SIGKILL:
            yield dict(error=f"Ended after {seconds:.0f} seconds, or for lack of memory.")
        elif status:
            yield dict(error=log.read()[-3000:])


def commit() -> str | None:
    """The commit of this checkout, marked if files are modified; `None` without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def can_import(python: str, *modules: str) -> bool:
    program = "import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))"
    return subprocess.run([python, "-c", program, *modules], check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="an interpreter with torch")
    parser.add_argument("--only", action="append", default=[], help="run the parts whose name contains this")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together")
    parser.add_argument("--cases", type=int, default=36, help="at most, in each parity check of generation")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "accelerator.json")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    record: dict[str, Any] = dict(
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), commit=commit(), parts=[]
    )

    def write() -> None:
        record["seconds"] = time.perf_counter() - start
        record["generate"] = rows_of(record)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        partial = options.output.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(options.output)

    def run(part: Part, python: str, task: dict[str, Any]) -> None:
        left = options.minutes * 60 - (time.perf_counter() - start)
        entry: dict[str, Any] = dict(name=part.name, seconds=0.0, figures=[], error=None)
        record["parts"].append(entry)
        if left < TOO_SHORT:
            entry["error"] = "Not begun: no time is left."
            return write()
        begin = time.perf_counter()
        command = [python, str(HERE / "accelerator_part.py"), json.dumps(task | dict(peer=part.peer))]
        for figure in figures_of(command, min(part.seconds, left)):
            if "figure" in figure:
                entry["figures"].append(figure)
            else:
                entry |= figure
            entry["seconds"] = time.perf_counter() - begin
            write()
        print(f"{part.name}: {len(entry['figures'])} figures, {entry['seconds']:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        record["setting"] = dataclasses.asdict(SMALL)
        first = Part("device and parity", 130, None, [])
        run(first, sys.executable, dict(ceilings=dict(elements=1 << 30, side=8192), cases=options.cases))
        device = device_of(record)
        setting = SMALL if device is None or device["platform"] == "cpu" else FULL
        record["setting"] = dataclasses.asdict(setting)
        torch = record["torch"] = can_import(options.torch, "torch", "transformers")
        for part in setting.parts():
            theirs = "hf_torch" in part.name
            if (theirs and not torch) or not any(name in part.name for name in options.only or [""]):
                continue
            python = options.torch if theirs else sys.executable
            task = dict(folder=str(Path(temporary) / setting.size), size=setting.size, tasks=part.tasks)
            run(part, python, task | dict(vocab=SIZES[setting.size].vocab))
    write()
    print("\n" + table(record) + f"\n{options.output}")
    checks = [figure for figure in record["parts"][0]["figures"] if figure["figure"] == "parity"]
    return int(not checks or any(check["passed"] is False for check in checks))


if __name__ == "__main__":
    raise SystemExit(main())
