"""Bytes and operations of each device for bart-large on 1, 8 and 256 devices, counted in the compiled programs.

    python benchmarks/scaling.py --output benchmarks/results/scaling.json --docs docs/scaling.md

Nothing is run, and no weights are made: the programs are compiled for virtual CPU devices, from shapes. There are two:
a training step with AdamW (float32, dropout, rematerialised), and a step of greedy search over a full cache. Each is
compiled with 1 and with 2 layers on either side; what the second layers add is added 10 times more. (`--layers 12` is
all of bart-large, and takes minutes for each mesh.)

Compilers for GPU and TPU differ from that for CPU: they sum gradients with reduce-scatter where a device keeps a part,
they fuse more, and they order operations for memory.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
LAYERS = 12  # of bart-large
ROWS, SRC, TGT = 8, 512, 128  # of a training step; rows are those of one device along `data` and `fsdp`
DECODE_SRC, SLOTS = 1024, 142  # of a greedy step, with as many rows
Axes = dict[str, int]
TRAINING: list[Axes] = [{}, dict(data=8), dict(fsdp=8), dict(data=32, fsdp=8)]
GREEDY: list[Axes] = [{}, dict(tensor=8), dict(data=32, tensor=8)]
BEGIN, END = "<!-- the tables of benchmarks/scaling.py -->\n", "<!-- their end -->\n"


def measure(program: str, axes: Axes, layers: int) -> dict[str, Any]:
    """Compile once, here."""
    import equinox as eqx
    import jax

    import bart_eqx
    from bart_eqx.parallel import make_mesh
    from benchmarks.collectives import bytes_moved

    config = bart_eqx.BartConfig(encoder_layers=layers, decoder_layers=layers)
    model = eqx.filter_eval_shape(lambda: bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0)))
    mesh = make_mesh(**dict[str, Any](axes))
    rows = ROWS * axes.get("data", 1) * axes.get("fsdp", 1)
    function, changed, others, held = (training_step if program == "training" else greedy_step)(model, mesh, rows)
    start = time.perf_counter()
    with bart_eqx.kernels.plain():  # without loops over rows: a loop's operations count once
        compiled = jax.jit(function, donate_argnums=0).lower(changed, others).compile()
    seconds = time.perf_counter() - start
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None and cost is not None and text is not None
    return dict(
        layers=layers,
        compile_seconds=round(seconds, 1),
        flops=cost["flops"],
        temporaries=memory.temp_size_in_bytes,
        **{name: bytes_of_a_device(tree) for name, tree in held.items()},
        **bytes_moved(text),
    )


def training_step(model: Any, mesh: Any, rows: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A function, the argument that it changes, its other argument, and what a device holds of them."""
    from functools import partial

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    from bart_eqx.parallel import shardings
    from bart_eqx.training import make_train_step, rematerialise, seq2seq_loss

    loss = partial(seq2seq_loss, rows=rows * TGT)  # the head at once, and not in a loop
    optimizer = optax.adamw(1e-4)
    step, state = eqx.filter_eval_shape(
        lambda model: make_train_step(model, loss, optimizer, key=jax.random.key(0), mesh=mesh, view=rematerialise),
        model,
    )
    state = placed(state, shardings(state, mesh))
    ids = lambda length: shape_of_rows((1, rows, length), jnp.int32, mesh, None)
    batch = dict(input_ids=ids(SRC), attention_mask=ids(SRC), labels=ids(TGT))
    return step, state, batch, dict(parameters=state.params, moments=state.opt_state)


def greedy_step(model: Any, mesh: Any, rows: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Likewise."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from bart_eqx.parallel import shardings

    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(placed(model, shardings(model, mesh)), is_shape)
    start = lambda model, ids: model.init_cache(model.encode(ids), max_length=SLOTS)
    cache = eqx.filter_eval_shape(start, model, jax.ShapeDtypeStruct((rows, DECODE_SRC), jnp.int32))

    def in_place(x: Any) -> Any:
        """As the linear maps leave it: rows over the batch axes, heads over `tensor`."""
        if x.ndim == 0:
            return jax.ShapeDtypeStruct((), x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
        return shape_of_rows(x.shape, x.dtype, mesh, *(["tensor"] if x.ndim == 4 else []), first=True)

    cache = jax.tree.map(in_place, cache)
    tokens = shape_of_rows((rows, 1), jnp.int32, mesh, first=True)

    def step(old: Any, others: Any) -> Any:
        arrays, tokens = others
        output, new = eqx.combine(arrays, static).decode(tokens, old)
        keep = lambda x, like: jax.lax.with_sharding_constraint(x, like.sharding)
        return jax.tree.map(keep, new, cache), jnp.argmax(output.logits, axis=-1)

    return step, cache, (arrays, tokens), dict(parameters=arrays, cache=cache)


def shape_of_rows(shape: tuple[int, ...], dtype: Any, mesh: Any, *others: str | None, first: bool = False) -> Any:
    """A shape whose rows lie over `data` and `fsdp`, before or after the mesh axes `others`."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from bart_eqx.parallel.mesh import BATCH_AXES

    spec = PartitionSpec(BATCH_AXES, *others) if first else PartitionSpec(*others, BATCH_AXES)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def placed(tree: Any, shardings: Any) -> Any:
    import jax

    put = lambda sharding, x: x if sharding is None else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(put, shardings, tree, is_leaf=lambda node: node is None)


def bytes_of_a_device(tree: Any) -> int:
    import jax

    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))


def extrapolated(one: dict[str, Any], two: dict[str, Any], layers: int) -> dict[str, Any]:
    """The figures of `layers`, from those of 1 and 2."""
    names = (one | two).keys() - {"layers", "compile_seconds"}
    return {name: one.get(name, 0) + (layers - 1) * (two.get(name, 0) - one.get(name, 0)) for name in sorted(names)}


def figures(program: str, axes: Axes, layers: int | None) -> dict[str, Any]:
    """Of a mesh, in another process: devices are counted when JAX starts."""
    flags = f"--xla_force_host_platform_device_count={math.prod(axes.values())}"
    # Without the second flag, XLA on CPU merges the second computation of a layer with the first.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of the machine code, which is not run
        "JAXTYPING_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "XLA_FLAGS": f"{flags} --xla_disable_hlo_passes=cse_barrier_expander",
    }
    command = [sys.executable, __file__, "--one", program, json.dumps(axes)]
    command += [] if layers is None else ["--layers", str(layers)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(program: str, records: list[dict[str, Any]]) -> str:
    """The records of a program as Markdown."""
    held = ["parameters", "moments" if program == "training" else "cache", "temporaries"]
    columns = [*held, "all-gather", "all-reduce"]
    lines = [f"| mesh | {' | '.join(columns)} | TFLOP |", "|---|" + "---|" * (len(columns) + 1)]
    for record in records:
        if record["program"] == program:
            mesh = " x ".join(f"`{name}` {size}" for name, size in record["axes"].items()) or "one device"
            sizes = [f"{record['figures'].get(column, 0) / 1e9:.3f}" for column in columns]
            lines.append(f"| {mesh} | {' | '.join(sizes)} | {record['figures']['flops'] / 1e12:.3g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="compile with so many on either side, and extrapolate nothing")
    parser.add_argument("--output", type=Path, help="a record in JSON")
    parser.add_argument("--docs", type=Path, help="a page between whose marks the tables go")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        program, axes = arguments.one[0], json.loads(arguments.one[1])
        counts = (1, 2) if arguments.layers is None else (arguments.layers,)
        counted = [measure(program, axes, layers) for layers in counts]
        whole = extrapolated(counted[0], counted[1], LAYERS) if len(counted) == 2 else counted[0]
        print(json.dumps(dict(program=program, axes=axes, figures=whole, counted=counted)))
        return

    records = []
    for program, meshes in (("training", TRAINING), ("greedy", GREEDY)):
        for axes in meshes:
            records.append(figures(program, axes, arguments.layers))
            print(json.dumps(records[-1]), flush=True)
    setting = dict(layers=LAYERS, rows=ROWS, src=SRC, tgt=TGT, decode_src=DECODE_SRC, slots=SLOTS)
    if arguments.output:
        arguments.output.write_text(json.dumps(dict(setting=setting, records=records), indent=1) + "\n")
    if arguments.docs:
        before, rest = arguments.docs.read_text().split(BEGIN)
        after = rest.split(END)[1]
        tables = (
            f"A training step, {ROWS} rows of {SRC} + {TGT} tokens a device:\n\n{table('training', records)}\n\n"
            f"A greedy step, {ROWS} rows a device along `data`, with sources of {DECODE_SRC} tokens and {SLOTS} slots:"
            f"\n\n{table('greedy', records)}\n"
        )
        arguments.docs.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


if __name__ == "__main__":
    main()
