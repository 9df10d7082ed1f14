"""One peer, one workload: loads, prepares, and then runs it once for every line on standard input.

Started by `run.py` with the peer's own interpreter, which need not have any of the other peers.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


PADDING = 1


def main() -> None:
    started = time.perf_counter()
    module, variant, folder, workload = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")  # whatever the peers print must not stand between the answers
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    peer = import_module(f"peers.{module}").Peer(folder, variant)
    loaded = time.perf_counter()
    kind = workload.pop("kind")
    if not hasattr(peer, kind):
        answer(supported=False)
        return
    generator = np.random.default_rng(0)
    lengths = np.array(workload.pop("lengths"))
    ids = generator.integers(4, 50000, (len(lengths), lengths.max())).astype(np.int32)
    ids[:, 0], ids[np.arange(len(lengths)), lengths - 1] = 0, 2
    ids[np.arange(lengths.max()) >= lengths[:, None]] = PADDING
    targets = generator.integers(4, 50000, (len(lengths), workload.get("tgt", 1))).astype(np.int32)
    if module == "hf_torch":
        ids, targets = ids.astype(np.int64), targets.astype(np.int64)
    run = getattr(peer, kind)(ids, targets=targets, **workload)
    result = run()
    first = time.perf_counter() - loaded
    tokens = result.tolist() if isinstance(result, np.ndarray) else None
    answer(supported=True, load=loaded - started, first=first, versions=peer.versions, tokens=tokens)
    for _ in sys.stdin:
        begin = time.perf_counter()
        run()
        seconds = time.perf_counter() - begin
        answer(seconds=seconds, peak_mib=peak_mib())


def peak_mib() -> float:
    """The most memory that was resident. `getrusage` would count that of the process which started this one, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
