"""Time from a shell to the first tokens: importing, loading and compiling, each in its own process.

    .venv/bin/python benchmarks/startup.py [--size bart-base] [--repeats 3]

The program loads a checkpoint of random weights and generates 8 tokens. It runs with an empty folder for compiled
programs (`JAX_COMPILATION_CACHE_DIR`), then with the programs that the first run left there, and then also without
checks of signatures (`JAXTYPING_DISABLE=1`).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkpoints import checkpoint


WRITE = """
import sys, numpy as np, bart_eqx
model = bart_eqx.from_pretrained(sys.argv[1])
ids = np.random.default_rng(0).integers(4, 50000, (1, 128))
np.asarray(bart_eqx.generate(model, ids, num_beams=1, max_length=9).sequences)
"""
LOAD = WRITE.split("ids =")[0]


def seconds(program: str, folder: Path, cache: Path, **variables: str) -> float:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"),  # as in an installation, where it can be written
        **variables,
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="bart-base")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint(arguments.size, Path(temporary) / arguments.size) / "pytorch"
        rows: dict[str, list[float]] = {}
        seconds(LOAD, folder, Path(temporary) / "unused")  # compiles to bytecode
        for turn in range(arguments.repeats):
            cache = Path(temporary) / f"programs-{turn}"
            for name, program, variables in (
                ("import bart_eqx", "import bart_eqx", {}),
                ("and load", LOAD, {}),
                ("and write 8 tokens, compiling", WRITE, {}),
                ("the same, programs on disk", WRITE, {}),
                ("and signatures unchecked", WRITE, {"JAXTYPING_DISABLE": "1"}),
            ):
                rows.setdefault(name, []).append(seconds(program, folder, cache, **variables))
    for name, times in rows.items():
        print(f"{name:<34}{statistics.median(times):6.2f} s   ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
