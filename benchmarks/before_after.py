"""Compare this checkout with another one on this machine, alternating in one run, as ratios of medians.

    .venv/bin/python benchmarks/before_after.py FOLDER [--only greedy] [--seconds 16] [--output benchmarks/results/NAME]

FOLDER is a checkout of the code before a change. Both run in this interpreter, with `peers/ours.py` of this checkout;
only PYTHONPATH differs. For each workload and variant two processes start one after the other, load, and run once,
which compiles. Then they run in turn, A B A B, for `--seconds` in total and at least five times each. At most two
models are in memory, and one process computes at a time. Nothing else should run on the machine. About 10 minutes on
two cores. Writes NAME.json after every row, and NAME.md.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoints import checkpoint
from run import HERE, WORKLOADS, Worker, processor, task_of


NAMES = [
    "greedy, batch 1",
    "4 beams, batch 1",
    "4 beams, batch 8",
    "encode, batch 1",
    "encode, batch 8",
    "train step, batch 4, source 128, target 64",
]
VARIANTS = ["float32", "bfloat16", "int8"]
SIDES = ["before", "after"]
FEWEST, MOST = 5, 40


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables with which that checkout is imported and nothing is read from a compilation cache."""
    source = (checkout / "src").resolve()
    variables = os.environ | {"PYTHONPATH": str(source)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    program = "import bart_eqx; print(bart_eqx.__file__)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(found).is_relative_to(source):
        raise SystemExit(f"{checkout} must be a checkout with src/bart_eqx. Python imports {found} there.")
    return variables


def compare(workload: dict[str, Any], variant: str, folder: Path, sides: dict[str, Any], seconds: float):
    """One row: for each side the seconds of every turn, of importing, of loading and of the first run."""
    row: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    tokens = {}
    for side, variables in sides.items():  # one after the other, so that loading is timed alone
        workers[side] = Worker(sys.executable, "ours", variant, folder, task_of(workload), variables)
        started = workers[side].answer()
        if started is None:
            raise SystemExit(f"{side} has failed.")
        tokens[side] = started["tokens"]
        started["load"] -= started["imports"]
        row[side] = {name: started[name] for name in ("imports", "load", "first")} | dict(seconds=[])
    spent = 0.0
    for turn in itertools.count():
        if turn >= MOST or (turn >= FEWEST and spent >= seconds):
            break
        for side, worker in workers.items():
            answer = worker.run()
            if answer is None:
                raise SystemExit(f"{side} has failed.")
            row[side]["seconds"].append(answer["seconds"])
            row[side]["peak_mib"] = answer["peak_mib"]
            spent += answer["seconds"]
    for side, worker in workers.items():
        worker.stop()
        row[side]["median"] = statistics.median(row[side]["seconds"])
        row[side]["compile"] = row[side]["first"] - row[side]["median"]
    pairs = zip(*(row[side]["seconds"] for side in SIDES), strict=True)
    paired = statistics.median(after / before for before, after in pairs)
    same = None if tokens["before"] is None else tokens["before"] == tokens["after"]
    return row | dict(paired=paired, same_tokens=same)


def spread(seconds: list[float]) -> float:
    """Half of the interquartile range, as a share of the median."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 2 / middle


def table(record: dict[str, Any]) -> str:
    machine = record["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores. A ratio is after / before, of medians of alternating runs; "
        "± is half of the interquartile range; paired is the median of the turns' ratios.",
        "",
        "| workload | | before, s | after, s | ratio | paired | compile | peak memory | turns | same tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        before, after = (row[side] for side in SIDES)
        ratio = lambda name, after=after, before=before: f"{after[name] / before[name]:.3f}"
        times = (f"{side['median']:.3f} ± {spread(side['seconds']):.1%}" for side in (before, after))
        compiling = f"{before['compile']:.1f} → {after['compile']:.1f} s"
        same = {True: "yes", False: "NO", None: ""}[row["same_tokens"]]
        lines.append(
            f"| {row['workload']} | {row['variant']} | {' | '.join(times)} | **{ratio('median')}** | "
            f"{row['paired']:.3f} | {compiling} | {ratio('peak_mib')} | {len(after['seconds'])} | {same} |"
        )
    lines += ["", "| medians of all rows | before, s | after, s | ratio |", "|---|---|---|---|"]
    for name, title in (("imports", "import"), ("load", "load"), ("compile", "compile")):
        one, other = (statistics.median(row[side][name] for row in record["rows"]) for side in SIDES)
        lines.append(f"| {title} | {one:.2f} | {other:.2f} | **{other / one:.3f}** |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="FOLDER", help="a checkout of the code before")
    parser.add_argument("--only", default="", help="run the workloads whose name contains this")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="run only this; may be repeated")
    parser.add_argument("--seconds", type=float, default=16, help="for each workload and variant")
    parser.add_argument("--size", default="bart-base", help="bart-base, bart-large or tiny")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "before-after")
    arguments = parser.parse_args()
    sides = {"before": environment(arguments.before), "after": environment(HERE.parent)}
    record: dict[str, Any] = dict(machine=dict(processor=processor(), cores=len(os.sched_getaffinity(0))), rows=[])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint(arguments.size, Path(temporary) / arguments.size, flax=False)
        for name in NAMES:
            for variant in arguments.variant or VARIANTS:
                if arguments.only not in name or (variant == "int8" and "train" in name):
                    continue  # int8 weights are not trained
                row = compare(WORKLOADS[name], variant, folder, sides, arguments.seconds)
                record["rows"].append(dict(workload=name, variant=variant, **row))
                arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
                arguments.output.with_suffix(".md").write_text(table(record))
                print(f"{name}, {variant}: {row['after']['median'] / row['before']['median']:.3f}", flush=True)
    print("\n" + table(record))


if __name__ == "__main__":
    main()
