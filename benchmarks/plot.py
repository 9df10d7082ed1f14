"""Draw the figure of docs/performance.md from a record of run.py: python benchmarks/plot.py (needs matplotlib).

One panel for each workload, one bar for each peer, and a line at the machine's bound for float32.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt


HERE = Path(__file__).parent
PANELS = ["greedy, batch 1", "4 beams, batch 1", "4 beams, batch 8", "bart-large, 4 beams, source 1024, 142 tokens"]
OURS, THEIRS = "#3f51b5", "#b0b4c8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=HERE / "results" / "xeon-amx.json")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "performance.svg")
    arguments = parser.parse_args()
    workloads = json.loads(arguments.record.read_text())["workloads"]
    panels = [name for name in PANELS if name in workloads]

    matplotlib.rcParams["svg.hashsalt"] = "bart_eqx"  # the same record gives the same file
    figure, axes = plt.subplots(len(panels), figsize=(7, 1.9 * len(panels)), squeeze=False, layout="constrained")
    for name, axis in zip(panels, axes[:, 0], strict=True):
        rows = workloads[name]["rows"][::-1]
        peers, seconds = [row["peer"] for row in rows], [row["median"] for row in rows]
        bars = axis.barh(peers, seconds, color=[OURS if peer.startswith("bart_eqx") else THEIRS for peer in peers])
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axis.axvline(workloads[name]["bound"], color="black", linestyle=":", linewidth=1)
        axis.set_title(name, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.08)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("seconds; dotted: the least that this machine needs in float32", fontsize=8)
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
