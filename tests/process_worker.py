"""Run by `test_processes.py`: one of two processes with four devices each, over which the arrays are divided.

`process_worker.py PORT RANK FOLDER TASK`, with a function of this file as the task. `files` starts as Slurm starts it.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import bart_eqx
from bart_eqx.checkpoint.errors import NonFiniteError, TargetError
from bart_eqx.checkpoint.formats import lazy_array, writer
from bart_eqx.checkpoint.pytree import lazy_parameters
from bart_eqx.checkpoint.save import save_pretrained
from bart_eqx.parallel import OtherProcessError, initialize, make_mesh
from bart_eqx.parallel.processes import map_over_processes
from bart_eqx.training import Checkpoints, RunLockedError, train
from bart_eqx.training.run_lock import run_lock
from test_processes import HEARTBEAT, STEPS, a_run, examples, parts_of


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


def parts(folder: Path) -> None:
    """Each process computes its own items of a list, or none of a short one. What fails on one fails on both."""
    computed: list[list[int]] = []

    def squares(items: Sequence[int]) -> list[Any]:
        computed.append([*items])
        return [[f"\ud800{item}", item**2] for item in items]

    for count in (5, 1, 0):
        wanted = [[f"\ud800{item}", item**2] for item in range(count)]
        assert map_over_processes(squares, range(count)) == wanted
    assert computed == ([[1, 3], [], []] if jax.process_index() else [[0, 2, 4], [0], []])
    with raises(1, ZeroDivisionError, "division"):
        map_over_processes(lambda items: [1 / (item - 3) for item in items], range(5))


def own_states(folder: Path) -> None:
    """Processes that train apart would have a model each."""
    step, state = a_run("words", None)
    with pytest.raises(ValueError, match=r"every array of `state` must be on all of them: make_train_step\(..., mesh="):
        train(step, state, examples(), folder / "apart", total_steps=1)
    assert not (folder / "apart").exists()


def full_disk(descriptor: int, view: memoryview) -> None:
    if len(view) > 2000:
        raise OSError(errno.ENOSPC, "No space left on device")
    os.write(descriptor, view)


def training(folder: Path, kill_at: int | None = None) -> None:
    """A run on `fsdp` 8; at `kill_at`, process 1 dies. At its end, what process 0 wrote is there for both."""
    kind, mesh = folder.name, make_mesh(fsdp=8)
    step, state = a_run(kind, mesh)
    places = [leaf.sharding for leaf in jax.tree.leaves(state)]
    numbers = iter(range(jax.process_index(), 100))  # scores differ, and those of process 0 count
    records: list[Any] = []
    with run_lock(folder / "run"), raises(0, RunLockedError, "Another run is training"):
        train(step, state, examples(), folder / "run", total_steps=STEPS)
    outcome = train(
        step,
        state,
        dying(examples(), kill_at) if kill_at and jax.process_index() == 1 else examples(),
        folder / "run",
        total_steps=STEPS,
        save_every=2,
        evaluate=lambda model: {"score": 0.1 + next(numbers) * (-1) ** jax.process_index()},
        evaluate_every=3,
        score="score",
        save=save_pretrained if kind == "bart" else save_words,
        on_record=records.append,
    )
    leaves = jax.tree.leaves(outcome.state)
    assert all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf, place in zip(leaves, places, strict=True))
    assert outcome.best_step == STEPS and bool(records) == (jax.process_index() == 0)
    assert any((folder / "run/model").iterdir())
    trained = everything(outcome.state)
    if jax.process_index() == 0:
        np.savez(folder / "state.npz", **trained)

    # Two by four, where other parts are on other devices.
    _, other = a_run(kind, make_mesh(data=2, fsdp=4))
    with Checkpoints(folder / "run/checkpoints") as checkpoints:
        restored = checkpoints.restore(other)
    assert restored is not None
    found = everything(restored.state)
    assert found.keys() == trained.keys() and all(np.array_equal(found[name], trained[name]) for name in trained)


def killed(folder: Path) -> None:
    training(folder, kill_at=6)


def save_words(model: Any, folder: Path) -> None:
    bias = np.asarray(model.bias)
    if jax.process_index() == 0:
        folder.mkdir(exist_ok=True)
        np.save(folder / "bias.npy", bias)


def everything(state: Any) -> dict[str, Any]:
    return {name: array.read() for name, array in lazy_parameters((state.params, state.opt_state, state.step)).items()}


class dying:
    """Batches, of which one kills the process that asks for it."""

    def __init__(self, data: Any, kill_at: int):
        self.data, self.kill_at = data, kill_at

    def __iter__(self) -> Any:
        self.iterator = iter(self.data)
        return self

    def __next__(self) -> Any:
        if self.iterator.get_state()["next_index"] >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return next(self.iterator)

    def get_state(self) -> Any:
        return self.iterator.get_state()

    def set_state(self, state: Any) -> None:
        self.iterator.set_state(state)


def on_slurm(port: str, rank: str) -> dict[str, str]:
    """The variables of a task of a step."""
    names = dict(SLURM_JOB_ID="1", SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2", SLURM_LOCALID=rank)
    return names | dict(SLURM_PROCID=rank, JAX_COORDINATOR_PORT=port)


if __name__ == "__main__":
    _, port, rank, folder, *tasks = sys.argv
    if "files" in tasks:
        os.environ |= on_slurm(port, rank)
        initialize(heartbeat_timeout=HEARTBEAT)
    else:
        initialize(f"127.0.0.1:{port}", 2, int(rank), heartbeat_timeout=HEARTBEAT)
    assert (jax.process_count(), jax.process_index()) == (2, int(rank))
    for task in tasks:
        globals()[task](Path(folder))
    print("all the same")
