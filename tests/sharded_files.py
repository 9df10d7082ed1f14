"""Run by `test_shard_files.py` in a process with 8 devices, for devices are counted when JAX starts."""

import dataclasses
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import bart_eqx
from bart_eqx.checkpoint.errors import NonFiniteError
from bart_eqx.checkpoint.write import WEIGHTS
from bart_eqx.parallel import RULES, make_mesh, shard
from support import flatten, random_model, write_file
from test_shard_files import CONFIG, write_index


def loads(folder: Path, mesh: Mesh, cls: Any = None, rules: Any = RULES, **options: Any) -> Any:
    """The model that is loaded on one device and then sharded, bit by bit."""
    wanted = shard(bart_eqx.from_pretrained(folder, cls, **options), mesh, rules)
    found = bart_eqx.from_pretrained(folder, cls, mesh=mesh, rules=rules, **options)
    arrays = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(arrays(found), arrays(wanted), strict=True):
        assert (one.sharding, one.dtype) == (other.sharding, other.dtype)
        assert np.array_equal(np.asarray(one), np.asarray(other))
    return found


def check_loading(folder: Path) -> None:
    meshes = [make_mesh(fsdp=8), make_mesh(data=2, fsdp=2, tensor=2)]
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    for mesh in meshes:
        for to in ("safetensors", "flax"):
            bart_eqx.save_pretrained(model, folder / to, to=to)
            loads(folder / to, mesh)
        write_index(folder / "safetensors", folder / "index")
        loads(folder / "index", mesh, dtype=jnp.bfloat16)
    mesh = meshes[1]
    loads(folder / "flax", mesh, bart_eqx.BartForCausalLM)
    loads(folder / "flax", mesh, bart_eqx.BartForSequenceClassification, key=jax.random.key(3))
    loads(folder / "flax", mesh, rules=((r"fc1\.weight", PartitionSpec("fsdp", "data")), *RULES))
    for vocab in (61, 103):  # rows that are left out, or new
        config = dataclasses.replace(CONFIG, vocab_size=vocab)
        changes = dict(config=config, ignore_mismatched_sizes=True, key=jax.random.key(0))
        loads(folder / "safetensors", mesh, **changes)
    bart_eqx.save_pretrained(bart_eqx.quantize(model), folder / "int8")
    assert loads(folder / "int8", mesh).model.shared.weight.dtype == jnp.int8

    untied = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    untied_model = random_model(bart_eqx.BartForConditionalGeneration, untied)
    bart_eqx.save_pretrained(untied_model, folder / "untied")  # as three tables, whose values are equal
    loaded = loads(folder / "untied", mesh)
    assert loaded.model.encoder.embed_tokens is None


def check_errors(folder: Path) -> None:
    mesh = make_mesh(fsdp=8)
    model = random_model(bart_eqx.BartModel, CONFIG)
    bart_eqx.save_pretrained(model, folder / "broken", to="flax")
    arrays = {name: np.array(array) for name, array in flatten(bart_eqx.to_flax(model)).items()}
    arrays["encoder.layers.0.fc1.kernel"][3, 5] = np.nan
    write_file(folder / "broken/flax_model.msgpack", arrays)
    try:
        bart_eqx.from_pretrained(folder / "broken", mesh=mesh)
    except NonFiniteError as error:
        assert "1 of the" in str(error) and "encoder.layers.0.fc1.weight" in str(error), error
    else:
        raise AssertionError("NaN was accepted")


def check_saving(folder: Path) -> None:
    """The bytes of a model on one device. No copy of an array stays on the host."""
    model = random_model(bart_eqx.BartForConditionalGeneration, dataclasses.replace(CONFIG, vocab_size=100_000))
    largest = model.model.shared.weight.nbytes
    sharded = shard(model, make_mesh(fsdp=4, tensor=2))
    for to, file in WEIGHTS.items():
        bart_eqx.save_pretrained(model, folder / "one" / to, to=to)
        tracemalloc.start()
        bart_eqx.save_pretrained(sharded, folder / "eight" / to, to=to)
        stays, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (folder / "one" / to / file).read_bytes() == (folder / "eight" / to / file).read_bytes()
        assert stays < largest / 2 and peak < 2 * largest + 2e6, (stays, peak, largest)


if __name__ == "__main__":
    assert jax.device_count() == 8
    check_loading(Path(sys.argv[1]))
    check_errors(Path(sys.argv[1]))
    check_saving(Path(sys.argv[1]))
    print("all the same")
