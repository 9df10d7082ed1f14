"""Run by `test_parallel.py`, in processes of their own, for devices are counted when JAX starts.

`sharded_meshes.py` uses all 8 devices of one process. `sharded_meshes.py PORT RANK` is one of two processes that have 4
devices each, so that no process sees all of an array. With `every` at the end, all is compared on all meshes, for which
CI has no time; in one process, on more of them.
"""

import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh

import bart_eqx
from bart_eqx.parallel import gathered, make_mesh, shard, shard_batch, shardings
from bart_eqx.training import Checkpoints, make_train_step, rematerialise, seq2seq_loss
from bart_eqx.training.step import _compiled as compiled_step
from benchmarks.collectives import bytes_moved
from sharded_generation import given_parts
from support import configured, random_model, relative_error
from training_support import in_micro_batches, ragged_batch


# No power of two divides the vocabulary, like BART's. One rate of dropout is left, that of attention, which `tensor`
# divides: the others take long to compile.
CONFIG = configured(
    "unequal", d_model=64, vocab_size=1025, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=768, decoder_ffn_dim=768, decoder_layers=1, dropout=0.0, activation_dropout=0.0,
)  # fmt: skip
MESHES: dict[str, dict[str, Any]] = {
    "data 8": dict(data=8),
    "fsdp 8": dict(fsdp=8),
    "data 2, fsdp 4": dict(data=2, fsdp=4),
    "fsdp 4, tensor 2": dict(fsdp=4, tensor=2),
}
MORE: dict[str, dict[str, Any]] = {
    "data 4, tensor 2": dict(data=4, tensor=2),
    "data 2, tensor 4": dict(data=2, tensor=4),
    "fsdp 2, tensor 4": dict(fsdp=2, tensor=4),
    "data 2, fsdp 2, tensor 2": dict(data=2, fsdp=2, tensor=2),
}
STEPS = 10
IDS = np.random.default_rng(0).integers(4, 1025, (16, 9)).astype(np.int32)
BATCH = in_micro_batches(ragged_batch(32, src=20, tgt=15, vocab=1025), 2)


class Trained(NamedTuple):
    """What ten steps have left."""

    losses: np.ndarray
    step: Any
    state: Any

    def lowered(self) -> Any:
        """The program of a step. To trace it once more takes seconds."""
        mesh = self.step.mesh
        batch = BATCH if mesh is None else shard_batch(BATCH, mesh, axis=1)
        compiled: Any = compiled_step
        return compiled.lower((self.step, batch), self.state)


def a_model() -> Any:
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    bias = model.final_logits_bias.at[0, CONFIG.eos_token_id].add(9.0)
    return eqx.tree_at(lambda m: m.final_logits_bias, model, bias)


def searched(model: Any, ids: Any) -> dict[str, Any]:
    search = lambda **options: bart_eqx.generate(model, ids, max_length=8, **options)
    greedy = search(output_logits=True)
    return {
        "greedy": greedy.sequences,
        "beams": search(num_beams=4).sequences,
        "samples": search(do_sample=True, key=jax.random.key(0)).sequences,
        "logits": greedy.step_logits,
    }


def error(ours: jax.Array, wanted: Any) -> float:
    """Of the shards that this process has, relative to the largest number of all."""
    wanted = np.asarray(wanted, np.float32)
    assert ours.shape == wanted.shape and np.isfinite(wanted).all()
    differences = [np.abs(np.asarray(part.data, np.float32) - wanted[part.index]) for part in ours.addressable_shards]
    return float(max(map(np.max, differences)) / np.abs(wanted).max())


def check_generation(model: Any, meshes: dict[str, Any], streams: tuple[str, ...]) -> None:
    """Logits and tokens of one device, and the rows stay on theirs."""
    wanted = {name: np.asarray(array) for name, array in searched(model, IDS).items()}
    assert len({tuple(row) for row in wanted["greedy"].tolist()}) >= 8
    for name, axes in meshes.items():
        mesh = make_mesh(**axes)
        view, ids = gathered(shard(model, mesh), mesh), shard_batch(IDS, mesh)
        found = searched(view, ids)
        assert all(array.sharding.spec[0] == ("data", "fsdp") for array in found.values()), name
        print(f"{name}: logits {error(found['logits'], wanted['logits']):.1e}", flush=True)
        assert error(found.pop("logits"), wanted["logits"]) <= 2e-5, name  # measured 1e-6
        for search, tokens in found.items():
            assert error(tokens, wanted[search]) == 0, (name, search)
        if name in streams:
            sampled: dict[str, Any] = dict(do_sample=True, key=jax.random.key(0)) if axes.get("tensor") else {}
            tokens = list(bart_eqx.stream(view, ids, max_length=8, **sampled))
            of_search = wanted["samples" if sampled else "greedy"]
            assert len(tokens) >= 5 and all(error(token, of_search[:, i + 1]) == 0 for i, token in enumerate(tokens))


def trained(model: Any, mesh: Mesh | None, **options: Any) -> Trained:
    """Ten steps with Adam over two micro-batches, with dropout."""
    step, state = make_train_step(model, seq2seq_loss, optax.adam(1e-2), key=jax.random.key(1), mesh=mesh, **options)
    places = [array.sharding for array in jax.tree.leaves(state)]
    losses = []
    for _ in range(STEPS):
        given = jax.tree.leaves((state.params, state.opt_state))
        state, metrics = step(state, BATCH)
        losses.append(float(metrics.loss))
        assert all(array.is_deleted() for array in given)
    for array, place in zip(jax.tree.leaves(state), places, strict=True):
        assert array.sharding.is_equivalent_to(place, array.ndim)
    return Trained(np.array(losses), step, state)


def check_training(model: Any, meshes: dict[str, Any]) -> None:
    """Losses; and in the compiled step what is moved, in bytes of the parameters, and what each device computes."""
    wanted = trained(model, None)
    assert wanted.losses[-1] < 0.5 * wanted.losses[0]
    alone = jax.process_count() == 1
    of_one = wanted.lowered().compile().compiled.cost_analysis()["flops"] if alone else None
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(wanted.state.params))
    for name, axes in meshes.items():
        again = name == "fsdp 8"  # rematerialised: gathered twice
        found = trained(model, make_mesh(**axes), **(dict(view=rematerialise) if again else {}))
        print(f"{name}: losses {relative_error(found.losses, wanted.losses):.1e}", flush=True)
        assert relative_error(found.losses, wanted.losses) <= 1e-5, name  # measured 4e-6
        if alone and name in ("fsdp 8", "data 2, fsdp 4", "fsdp 4, tensor 2"):
            program = found.lowered().compile().compiled
            moved = {kind: size / whole for kind, size in bytes_moved(program.as_text()).items()}
            share = program.cost_analysis()["flops"] / of_one
            print(f"{name}: {share:.4f} of one device's operations, moved {moved}", flush=True)
            assert moved["all-gather"] <= (2.1 if again else 1.1)
            assert moved.get("all-reduce", 0) + moved.get("reduce-scatter", 0) <= 1.5
            assert moved.get("all-to-all", 0) <= 0.01
            assert share <= (1.4 if again else 1.05) / 8
            if axes.get("tensor"):  # the token table is never whole
                assert f"f32[{CONFIG.vocab_size},{CONFIG.d_model}]" not in program.as_text()
        if again and alone:
            check_checkpoint(found.state)


def check_checkpoint(state: Any) -> None:
    """Of one mesh, restored on another and on one device: every bit, in its place there."""
    bits = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state, {}, {})
        one_device = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), state)
        for places in (
            one_device,
            shardings(state, make_mesh(data=2, fsdp=4)),
            shardings(state, make_mesh(fsdp=4, tensor=2)),
        ):
            like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, places)
            with Checkpoints(folder) as checkpoints:
                restored = checkpoints.restore(like)
            assert restored is not None
            for found, saved, place in zip(*map(jax.tree.leaves, (restored.state, state, places)), strict=True):
                assert np.array_equal(bits(found), bits(saved))
                assert found.sharding.is_equivalent_to(place, found.ndim)
    print("a checkpoint of fsdp 8: restored", flush=True)


def check_other_weights(model: Any, meshes: dict[str, Any]) -> None:
    """int8 and bfloat16: bit for bit what one device computes for as many rows at a time.

    In another number of rows, sums have other last bits; and a state that differs in its last bit may be rounded to the
    next of int8's 127 steps, on one device too.
    """
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, model)
    steps: dict[str, Any] = dict(max_length=8, min_length=8, output_logits=True)  # as many for all rows
    for kind, weights in {"int8": bart_eqx.quantize(model), "bfloat16": narrow}.items():
        at_once = bart_eqx.generate(weights, IDS, **steps)
        for name, axes in meshes.items():
            mesh = make_mesh(**axes)
            rows = len(IDS) // math.prod(axes.get(axis, 1) for axis in ("data", "fsdp"))
            parts = [bart_eqx.generate(weights, part, **steps) for part in IDS.reshape(-1, rows, IDS.shape[1])]
            found = bart_eqx.generate(gathered(shard(weights, mesh), mesh), shard_batch(IDS, mesh), **steps)
            of_logits, of_tokens = (error(getattr(found, f), getattr(at_once, f)) for f in ("step_logits", "sequences"))
            print(f"{kind}, {name}: from 16 rows at once, logits {of_logits:.1e}, tokens {of_tokens:.1e}", flush=True)
            for field in ("sequences", "step_logits"):
                wanted = np.concatenate([np.asarray(getattr(part, field), np.float32) for part in parts])
                assert error(getattr(found, field), wanted) == 0, (kind, name, field)


def check_bfloat16_training(model: Any, meshes: dict[str, Any]) -> None:
    """Losses in bfloat16 over float32 parameters; and weights are converted first, and then gathered.

    One device that computes another number of rows at a time rounds elsewhere, too: its losses differ by 1.5e-3, and
    those of float32 by 1.5e-2.
    """
    wanted = trained(model, None, compute_dtype=jnp.bfloat16).losses
    assert wanted[-1] < 0.5 * wanted[0]
    for name, axes in meshes.items():
        found = trained(model, make_mesh(**axes), compute_dtype=jnp.bfloat16)
        print(f"bfloat16, {name}: losses {relative_error(found.losses, wanted):.1e}", flush=True)
        assert relative_error(found.losses, wanted) <= 5e-3, name  # measured 9e-4, with `tensor` 2.8e-3
        if axes.get("fsdp"):
            assert gathered_dtypes(found.lowered()) == {"bf16"}, name


def gathered_dtypes(program: Any) -> set[str]:
    """The dtypes in which a program that is divided over devices gathers matrices, before the passes for CPU, which
    gathers in float32. (The gradients of biases, which are vectors, are summed in float32.)"""
    jax.config.update("jax_enable_compilation_cache", False)  # what is found there is not compiled
    reset_cache()
    with tempfile.TemporaryDirectory() as folder:
        program.lowered.compile(dict(xla_dump_to=folder, xla_dump_hlo_pass_re="spmd-partitioning"))
        (text,) = (file.read_text() for file in Path(folder).glob("*.after_spmd-partitioning.*"))
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()
    return set(re.findall(r"= \(?(\w+)\[\d+,[^=]*all-gather\(", text))


def check_wrong_rows(mesh: Mesh) -> None:
    try:
        shard_batch(np.zeros((2, 12, 9)), mesh, axis=1)
    except ValueError as wrong:
        assert "8 devices together, must divide the rows" in str(wrong) and "Got 12 in [2, 12, 9]" in str(wrong)
    else:
        raise AssertionError("nothing was raised")


def chosen(*names: str) -> dict[str, Any]:
    return {name: MESHES[name] for name in names}


def main(arguments: list[str]) -> None:
    every = "every" in arguments
    if len(arguments) >= 2:
        jax.distributed.initialize(f"127.0.0.1:{arguments[0]}", 2, int(arguments[1]))
        sync_global_devices("all are there")  # they wait half a minute for each other, and no longer
    assert jax.device_count() == 8
    model, of_two = a_model(), jax.process_count() == 2
    if every:
        meshes = MESHES if of_two else MESHES | MORE
        check_training(model, meshes)
        check_generation(model, meshes, streams=tuple(meshes))
        check_other_weights(model, meshes)
        check_bfloat16_training(model, meshes)
        if of_two:
            given_parts()
    elif of_two:
        check_training(model, chosen("data 8", "data 2, fsdp 4"))
        check_generation(model, chosen("fsdp 8", "fsdp 4, tensor 2"), streams=("fsdp 4, tensor 2",))
        given_parts()
    else:
        check_training(model, chosen("fsdp 8", "fsdp 4, tensor 2"))
        check_generation(model, MESHES, streams=("fsdp 8", "fsdp 4, tensor 2"))
        check_other_weights(model, chosen("fsdp 4, tensor 2"))
        check_bfloat16_training(model, chosen("fsdp 4, tensor 2"))
        check_wrong_rows(make_mesh(fsdp=8))
    print("all the same")


if __name__ == "__main__":
    main(sys.argv[1:])
