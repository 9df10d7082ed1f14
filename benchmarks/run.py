"""Compare bart_eqx with other libraries on this machine, alternating in one run, as ratios of medians.

    .venv/bin/python benchmarks/run.py --peer hf_flax=.venv-oracle/bin/python --peer hf_torch=OTHER/bin/python \\
        --peer ctranslate2=OTHER/bin/python [--only greedy] [--rounds 5] [--output benchmarks/results/NAME]

Each peer has its own environment (README.md), and is left out if none is given. Every workload starts a new process for
each peer, waits until all have loaded and run once (which compiles), and then runs them in turn, A B C A B C, so that a
change of the machine's speed affects all. Writes NAME.json, and NAME.md, a table; workloads that are already in
NAME.json and are not run now stay there.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bounds import SIZES, Ceilings
from checkpoints import checkpoint


HERE = Path(__file__).parent
BASE = dict(size="bart-base", src=512)
WORKLOADS: dict[str, dict[str, Any]] = {
    "encode, batch 1": dict(BASE, kind="encode", batch=1),
    "encode, batch 8": dict(BASE, kind="encode", batch=8),
    "forward, batch 8, target 64": dict(BASE, kind="forward", batch=8, tgt=64),
    "first token, batch 1": dict(BASE, kind="generate", batch=1, beams=1, new=1, sample=False),
    "32 calls of one token, batch 1": dict(BASE, kind="steps", batch=1, new=32),
    "greedy, batch 1": dict(BASE, kind="generate", batch=1, beams=1, new=64, sample=False),
    "sample, batch 1": dict(BASE, kind="generate", batch=1, beams=1, new=64, sample=True),
    "4 beams, batch 1": dict(BASE, kind="generate", batch=1, beams=4, new=64, sample=False),
    "greedy, batch 8": dict(BASE, kind="generate", batch=8, beams=1, new=64, sample=False),
    "4 beams, batch 8": dict(BASE, kind="generate", batch=8, beams=4, new=64, sample=False),
    "4 beams, batch 8, ragged": dict(BASE, kind="generate", batch=8, beams=4, new=64, sample=False, ragged=True),
    "64 tokens, greedy, 65 allowed": dict(BASE, kind="generate_in_room", batch=1, new=64, room=65),
    "64 tokens, greedy, 1000 allowed": dict(BASE, kind="generate_in_room", batch=1, new=64, room=1000),
    "64 copied tokens, greedy": dict(BASE, kind="copy", batch=1, new=64, drafts=None),
    "64 copied tokens, drafts of 7": dict(BASE, kind="copy", batch=1, new=64, drafts=7),
    "64 free tokens, drafts of 7": dict(BASE, kind="copy", batch=1, new=64, drafts=7, free=True),
    "train step, batch 4, source 128, target 64": dict(size="bart-base", kind="train", batch=4, src=128, tgt=64),
    "bart-large, 4 beams, source 1024, 142 tokens": dict(
        size="bart-large", kind="generate", batch=1, src=1024, beams=4, new=142, sample=False
    ),
}
VARIANTS = {
    "bart_eqx": [("ours", "float32"), ("ours", "bfloat16"), ("ours", "int8")],
    "hf_flax": [("hf_flax", "jit")],
    "hf_torch": [("hf_torch", "eager"), ("hf_torch", "compile")],
    "ctranslate2": [("ctranslate2_peer", "float32"), ("ctranslate2_peer", "int8")],
}


class Worker:
    """A process with one peer. `environment` holds its environment variables, by default this process's."""

    def __init__(
        self,
        python: str,
        module: str,
        variant: str,
        folder: Path,
        workload: dict[str, Any],
        environment: dict[str, str] | None = None,
        script: str = "worker.py",
    ):
        command = [python, str(HERE / script), module, variant, str(folder), json.dumps(workload)]
        self.name = f"{module.removesuffix('_peer')} {variant}".replace("ours", "bart_eqx")
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )

    def answer(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            print(f"{self.name} has failed:\n{self.log.read()[-2000:]}", file=sys.stderr)
            return None
        return json.loads(line)

    def run(self) -> dict[str, Any] | None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def lengths(workload: dict[str, Any]) -> list[int]:
    """The number of tokens of each source."""
    batch, src = workload["batch"], workload["src"]
    return [src * (row + 1) // batch for row in range(batch)] if workload.get("ragged") else [src] * batch


def bound(ceilings: Ceilings, workload: dict[str, Any]) -> float:
    """The least seconds in float32. A training step has the products of three forward passes: two are backward."""
    size, sources = SIZES[workload["size"]], lengths(workload)
    new, beams = workload.get("new", 0), workload.get("beams", 1)
    match workload["kind"]:
        case "encode":
            return size.encode(ceilings, sources)
        case "forward":
            return size.generate(ceilings, sources, workload["tgt"], 1)
        case "train":
            return 3 * size.generate(ceilings, sources, workload["tgt"], 1)
        case "steps":
            return size.read_source(ceilings, sources) + new * size.decode(ceilings, sources, beams)
        case "copy" if workload["drafts"] and not workload.get("free"):  # a call accepts its draft, and adds a token
            rows = workload["drafts"] + 1
            return size.generate(ceilings, sources, rows, -(-new // rows))
        case _:
            return size.generate(ceilings, sources, beams, new)


def task_of(workload: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a worker for a workload."""
    task = {name: value for name, value in workload.items() if name not in ("size", "ragged", "src", "batch")}
    return task | dict(lengths=lengths(workload))


def measure(workload: dict[str, Any], folder: Path, peers: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    task = task_of(workload)
    rows, workers = [], []
    for peer, python in peers.items():
        for module, variant in VARIANTS[peer]:  # one after the other, so that loading is timed alone
            if workload["kind"] == "train" and variant == "int8":
                continue  # int8 weights are not trained
            worker = Worker(python, module, variant, folder, task)
            started = worker.answer()
            if started is None or not started.pop("supported"):
                worker.stop()
                continue
            workers.append(worker)
            rows.append(dict(peer=worker.name, seconds=[], **started))
    for _ in range(rounds):
        for row, worker in zip(rows, workers, strict=True):
            result = worker.run()
            assert result is not None
            row["seconds"].append(result["seconds"])
            row["peak_mib"] = result["peak_mib"]
    for worker in workers:
        worker.stop()
    if not rows or rows[0]["peer"] != "bart_eqx float32":
        raise SystemExit("bart_eqx itself has failed: there is nothing to compare with.")
    ours = rows[0]
    for row in rows:
        row["median"] = statistics.median(row["seconds"])
        pairs = zip(row["seconds"], ours["seconds"], strict=True)
        row["ratio"] = statistics.median(theirs / own for theirs, own in pairs)
        tokens, own = row.pop("tokens"), ours.get("tokens_")
        if row is ours:
            row["tokens_"] = tokens
        if tokens is not None and own is not None and not workload.get("sample"):
            same = [a == b for one, two in zip(tokens, own, strict=True) for a, b in zip(one, two, strict=False)]
            row["same_tokens"] = sum(same) / len(same)
    ours.pop("tokens_", None)
    return rows


def table(record: dict[str, Any]) -> str:
    lines = [f"{record['machine']['processor']}, {record['machine']['cores']} cores. Medians of alternating runs."]
    for name, entry in record["workloads"].items():
        ceilings = entry["ceilings"]
        lines += [
            "",
            f"**{name}**; {entry['rounds']} rounds, {ceilings['bytes_per_second'] / 1e9:.1f} GB/s, "
            f"{ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s; the float32 bound is {entry['bound']:.2f} s",
            "",
            "| | seconds | times bart_eqx's | of the bound | load | first run | peak MiB | same tokens |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in entry["rows"]:
            reached = f"{entry['bound'] / row['median']:.0%}"
            same = f"{row['same_tokens']:.0%}" if "same_tokens" in row else ""
            lines.append(
                f"| {row['peer']} | {row['median']:.2f} | {row['ratio']:.2f} | {reached} | {row['load']:.1f} | "
                f"{row['first']:.1f} | {row['peak_mib']:.0f} | {same} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(VARIANTS))
    parser.add_argument("--only", default="", help="run the workloads whose name contains this")
    parser.add_argument("--without", action="append", default=[], help="skip the variants whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoints", type=Path, help="keep random checkpoints here; use those that exist")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest")
    arguments = parser.parse_args()
    for peer, variants in VARIANTS.items():
        VARIANTS[peer] = [pair for pair in variants if not any(part in " ".join(pair) for part in arguments.without)]
    peers = {"bart_eqx": sys.executable} | dict(pair.split("=", 1) for pair in arguments.peer)
    if unknown := peers.keys() - VARIANTS.keys():
        parser.error(f"--peer knows {', '.join(VARIANTS)}. Got {', '.join(unknown)}.")
    machine = dict(processor=processor(), cores=len(os.sched_getaffinity(0)), python=platform.python_version())
    record: dict[str, Any] = dict(machine=machine, workloads={})
    results = arguments.output.with_suffix(".json")
    if results.exists():
        record = json.loads(results.read_text())
        if record["machine"] != machine:
            parser.error(f"{results} is of another machine, {record['machine']}: choose another --output.")
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.checkpoints or Path(temporary)
        for name, workload in WORKLOADS.items():
            if arguments.only not in name:
                continue
            folder = checkpoint(workload["size"], home / workload["size"])
            ceilings = Ceilings.measure()
            rows = measure(workload, folder, peers, arguments.rounds)
            entry = dict(rounds=arguments.rounds, ceilings=vars(ceilings), bound=bound(ceilings, workload), rows=rows)
            record["workloads"][name] = entry
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(record, indent=1) + "\n")
            arguments.output.with_suffix(".md").write_text(table(record))
            print(table(dict(machine=machine, workloads={name: entry})), flush=True)


def processor() -> str:
    cpu = Path("/proc/cpuinfo")
    named = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
    return named[0] if named else platform.processor()


if __name__ == "__main__":
    main()
