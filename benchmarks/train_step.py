"""A step of fine-tuning, AdamW over float32 weights with dropout: its time and memory, beside HF Flax and HF PyTorch.

    .venv/bin/python benchmarks/train_step.py --peer hf_flax=.venv-oracle/bin/python --peer hf_torch=OTHER/bin/python \\
        [--only bfloat16] [--rounds 3] [--size bart-base] [--output benchmarks/results/train-step]

Times: all peers are loaded, and run in turn, A B C A B C; ratios are medians over rounds. Memory: one process after the
other, the peak of its resident memory, loading included; with bart_eqx's layers recomputed, too. On CPU, XLA
recomputes only with `--xla_disable_hlo_passes=cse_barrier_expander`, which is set for that row.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoints import checkpoint
from run import HERE, Worker, processor, task_of


MODULES = {"bart_eqx": ("ours", "float32"), "hf_flax": ("hf_flax", "jit"), "hf_torch": ("hf_torch", "eager")}
SHAPE = dict(kind="fine_tune", src=128, tgt=64)
TIMES = {
    f"{compute}, batch {batch}": dict(SHAPE, compute=compute, batch=batch)
    for compute in ("float32", "bfloat16")
    for batch in (4, 16)
}
MEMORY = {"memory, float32, batch 16": dict(SHAPE, compute="float32", batch=16, src=256, tgt=128)}
RECOMPUTE = dict(os.environ, XLA_FLAGS="--xla_disable_hlo_passes=cse_barrier_expander")


def started(name: str, python: str, folder: Path, workload: dict[str, Any], **options: Any) -> tuple[Worker, Any]:
    worker = Worker(python, *MODULES[name], folder, task_of(workload), **options)
    answer = worker.answer()
    if answer is None:
        raise SystemExit(f"{name} cannot run {workload}.")
    return worker, answer


def times(workload: dict[str, Any], folder: Path, peers: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    workers, rows = [], []
    for name, python in peers.items():
        worker, answer = started(name, python, folder, workload)
        workers.append(worker)
        rows.append(dict(peer=name, first=answer["first"], versions=answer["versions"], seconds=[]))
    for _ in range(rounds):
        for worker, row in zip(workers, rows, strict=True):
            answer = worker.run()
            assert answer is not None
            row["seconds"].append(answer["seconds"])
    for worker in workers:
        worker.stop()
    for row in rows:
        row["median"] = statistics.median(row["seconds"])
        row["ratio"] = statistics.median(a / b for a, b in zip(row["seconds"], rows[0]["seconds"], strict=True))
    return rows


def memory(workload: dict[str, Any], folder: Path, peers: dict[str, str]) -> list[dict[str, Any]]:
    runs = [(name, python, workload, {}) for name, python in peers.items()]
    recomputed = ("bart_eqx", peers["bart_eqx"], dict(workload, recompute=True), dict(environment=RECOMPUTE))
    rows = []
    for name, python, task, options in [*runs, recomputed]:
        worker, _ = started(name, python, folder, task, **options)
        answer = worker.run()
        worker.stop()
        assert answer is not None
        named = f"{name}, recomputed" if "recompute" in task else name
        rows.append(dict(peer=named, peak_mib=answer["peak_mib"], median=answer["seconds"]))
    for row in rows:
        row["ratio"] = row["peak_mib"] / rows[0]["peak_mib"]
    return rows


def table(record: dict[str, Any]) -> str:
    lines = [f"{record['machine']['processor']}, {record['machine']['cores']} cores; {record['size']}."]
    for name, rows in record["workloads"].items():
        lines += ["", f"**{name}**", "", "| | seconds | peak MiB | times bart_eqx's |", "|---|---|---|---|"]
        for row in rows:
            peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
            lines.append(f"| {row['peer']} | {row['median']:.2f} | {peak} | {row['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="hf_flax, hf_torch")
    parser.add_argument("--only", default="", help="run the workloads whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="bart-base", help="or bart-large, or tiny, to try the program")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "train-step")
    arguments = parser.parse_args()
    peers = {"bart_eqx": sys.executable} | dict(pair.split("=", 1) for pair in arguments.peer)
    if unknown := peers.keys() - MODULES.keys():
        parser.error(f"--peer knows {', '.join(MODULES)}. Got {', '.join(unknown)}.")
    machine = dict(processor=processor(), cores=len(os.sched_getaffinity(0)))
    record: dict[str, Any] = dict(machine=machine, size=arguments.size, workloads={})
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint(arguments.size, Path(temporary) / arguments.size)
        for name, workload in (TIMES | MEMORY).items():
            if arguments.only not in name:
                continue
            measured = memory(workload, folder, peers) if name in MEMORY else times(
                workload, folder, peers, arguments.rounds
            )  # fmt: skip
            record["workloads"][name] = measured
            arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
            print(table(dict(record, workloads={name: measured})), flush=True)
    arguments.output.with_suffix(".md").write_text(table(record))


if __name__ == "__main__":
    main()
