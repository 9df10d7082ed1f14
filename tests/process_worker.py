"""Run by `test_processes.py`: one of two processes with four devices each, over which the arrays are divided.

`process_worker.py PORT RANK TASK FOLDER`, with a function of this file as the task.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import bart_eqx
from bart_eqx.checkpoint.errors import NonFiniteError, TargetError
from bart_eqx.checkpoint.formats import lazy_array, writer
from bart_eqx.parallel import OtherProcessError, initialize, make_mesh
from test_processes import HEARTBEAT, parts_of


def raises(rank: int, error: type[Exception], match: str) -> Any:
    """On this process; the other one says which failed."""
    here = jax.process_index() == rank
    return pytest.raises(
        error if here else OtherProcessError, match=match if here else f"process {rank}: {error.__name__}"
    )


def files(folder: Path) -> None:
    mesh, read = make_mesh(fsdp=8), lazy_array._read
    sizes: list[int] = []

    def counted(*args: Any) -> np.ndarray:
        part = read(*args)
        sizes.append(part.nbytes)
        return part

    for name, file in (("source", "model.safetensors"), ("flax", "flax_model.msgpack")):
        whole = bart_eqx.from_pretrained(folder / name)
        lazy_array._read = counted
        model = bart_eqx.from_pretrained(folder / name, mesh=mesh)
        lazy_array._read = read
        own = parts_of(model)
        assert sum(sizes) == sum(part.nbytes for part in own.values()) < 0.6 * (folder / name / file).stat().st_size
        sizes.clear()
        arrays = jax.tree.leaves(eqx.filter(whole, eqx.is_array))
        for (number, place), part in own.items():
            assert np.array_equal(part, arrays[number][tuple(slice(*pair) for pair in place)])

        bart_eqx.save_pretrained(model, folder / f"saved {name}", to="flax" if name == "flax" else "safetensors")
        assert (folder / f"saved {name}" / file).read_bytes() == (folder / name / file).read_bytes()
    with raises(1, NonFiniteError, "1 of the .* values of `model.encoder.layers.0.fc1.weight`"):
        bart_eqx.from_pretrained(folder / "broken", mesh=mesh)

    before = sorted(os.listdir(folder))
    if jax.process_index() == 0:
        writer._write_all = full_disk
    with raises(0, TargetError, "cannot be written"):
        bart_eqx.save_pretrained(model, folder / "full")
    assert sorted(os.listdir(folder)) == before


def full_disk(descriptor: int, view: memoryview) -> None:
    if len(view) > 2000:
        raise OSError(errno.ENOSPC, "No space left on device")
    os.write(descriptor, view)


if __name__ == "__main__":
    initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]), heartbeat_timeout=HEARTBEAT)
    globals()[sys.argv[3]](Path(sys.argv[4]))
    print("all the same")
