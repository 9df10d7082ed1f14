"""Run by `test_shard_files.py`: load a checkpoint on `fsdp` 8, and print what it took.

`sharded_load.py FOLDER` is a process with 8 devices; `sharded_load.py FOLDER PORT RANK` one of two with 4 each.
"""

import json
import sys
from pathlib import Path

import equinox as eqx
import jax

import bart_eqx
from bart_eqx.parallel import make_mesh


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def bytes_read() -> int:
    """All that this process has read from files."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))
    mesh = make_mesh(fsdp=8)
    bart_eqx.from_pretrained("demo")  # imports what it needs
    read_at_first = bytes_read()
    model = bart_eqx.from_pretrained(folder, mesh=mesh)
    leaves = jax.block_until_ready(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    parts = {
        (number, str(shard.index)): shard.data.nbytes
        for number, leaf in enumerate(leaves)
        for shard in leaf.addressable_shards
    }
    took = dict(
        whole=sum(leaf.nbytes for leaf in leaves),
        own=sum(parts.values()),
        read=bytes_read() - read_at_first,
        peak=peak_memory(),
    )
    print(json.dumps(took))
    print("all the same")
