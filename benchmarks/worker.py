"""One peer, one workload: load, prepare, and then run it once for every line on standard input.

Started by `run.py` with the peer's own interpreter, which needs none of the other peers.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


PADDING = 1


def main() -> None:
    started = time.perf_counter()
    module, variant, folder, workload = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")  # so that what the peers print does not mix with the answers
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    peer_module = import_module(f"peers.{module}")
    imported = time.perf_counter()
    peer = peer_module.Peer(folder, variant)
    loaded = time.perf_counter()
    kind = workload.pop("kind")
    if not hasattr(peer, kind):
        answer(supported=False)
        return
    ids, targets = inputs(workload.pop("lengths"), workload.get("tgt", 1))
    run = getattr(peer, kind)(ids, targets=targets, **workload)
    result = run()
    first = time.perf_counter() - loaded
    tokens = result.tolist() if isinstance(result, np.ndarray) else None
    times = dict(imports=imported - started, load=loaded - started, first=first)
    answer(supported=True, **times, versions=peer.versions, tokens=tokens)
    for _ in sys.stdin:
        begin = time.perf_counter()
        run()
        seconds = time.perf_counter() - begin
        answer(seconds=seconds, peak_mib=peak_mib())


def inputs(lengths: Sequence[int], tgt: int, vocab: int = 50000) -> tuple[np.ndarray, np.ndarray]:
    """Random sources of these lengths, right-padded, and a target of `tgt` tokens for each."""
    generator = np.random.default_rng(0)
    ends = np.array(lengths)
    ids = generator.integers(4, vocab, (len(ends), ends.max())).astype(np.int32)
    ids[:, 0], ids[np.arange(len(ends)), ends - 1] = 0, 2
    ids[np.arange(ends.max()) >= ends[:, None]] = PADDING
    return ids, generator.integers(4, vocab, (len(ends), tgt)).astype(np.int32)


def peak_mib() -> float:
    """The peak of resident memory. `getrusage` would include that of the process that started this one."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
