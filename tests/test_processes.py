"""Two processes of one job, on this machine. `process_worker.py` is what they run."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import bart_eqx
from bart_eqx.checkpoint.formats.lazy_array import Bounds, bounds
from support import flatten, random_model, write_file
from test_shard_files import CONFIG
from test_sharding import ends_well, free_port, start


HEARTBEAT = 10  # seconds


def parts_of(model: Any) -> dict[tuple[int, Bounds], np.ndarray]:
    """The parts of its arrays that this process has, by the number of the array and the place in it."""
    leaves = enumerate(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    shards = ((number, leaf.shape, shard) for number, leaf in leaves for shard in leaf.addressable_shards)
    return {(number, bounds(shape, shard.index)): np.asarray(shard.data) for number, shape, shard in shards}


def both(task: str, folder: Path) -> list[Any]:
    port = free_port()
    return [start("process_worker.py", 4, port, rank, task, str(folder)) for rank in ("0", "1")]


def test_files(tmp_path: Path) -> None:
    """Each process reads its half; process 0 writes; what fails on one fails on both."""
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    bart_eqx.save_pretrained(model, tmp_path / "source")
    bart_eqx.save_pretrained(model, tmp_path / "flax", to="flax")
    bart_eqx.save_pretrained(model, tmp_path / "broken", to="flax")
    arrays = {name: np.array(array) for name, array in flatten(bart_eqx.to_flax(model)).items()}
    arrays["model.encoder.layers.0.fc1.kernel"][15, 3] = np.nan  # in the last eighth
    write_file(tmp_path / "broken/flax_model.msgpack", arrays)
    for process in both("files", tmp_path):
        ends_well(process)
