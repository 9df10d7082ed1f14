"""One peer over texts: load, write the first, and then all of them once for every line on standard input.

Started by `tasks.py` with the peer's own interpreter, as `worker.py` is by `run.py`.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from worker import peak_mib


def main() -> None:
    started = time.perf_counter()
    module, variant, folder, workload = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")  # so that what the peers print does not mix with the answers
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    texts = json.loads(Path(workload["texts"]).read_text())
    compiling = count_compilations() if module == "ours" else {}
    peer = import_module(f"peers.{module}").Peer(folder, variant)
    write = peer.write(Path(workload["tokenizer"]), workload["beams"], workload["new"])
    write(texts[:1])
    answer(first=time.perf_counter() - started, versions=peer.versions)
    for _ in sys.stdin:
        compiling.clear()
        begin = time.perf_counter()
        written = write(texts)
        seconds = time.perf_counter() - begin
        answer(seconds=seconds, compiling=sum(compiling.values()), peak_mib=peak_mib(), written=written)


def count_compilations() -> dict[str, float]:
    """The seconds that JAX spends on lowering and compiling from now on."""
    import jax

    spent: dict[str, float] = {}

    def add(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"):
            spent[event] = spent.get(event, 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)
    return spent


if __name__ == "__main__":
    main()
