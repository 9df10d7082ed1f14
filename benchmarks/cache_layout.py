"""Time the layouts of keys in one decoding step: the measurement behind `docs/design.md`.

    .venv/bin/python benchmarks/cache_layout.py

One attention with 16 heads of 64 runs inside a compiled loop, as in decoding, with one layout after the other. Prints
the median of several runs in milliseconds per step. Axes: b batch, h heads, s slots or source, d head_dim, q queries.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


HEADS, HEAD_DIM, STEPS = 16, 64, 48

# For each layout: the products of attention, and the axis of slots in keys and in values.
LAYOUTS = {
    "keys bhsd": ("bhqd,bhsd->bhqs", "bhqs,bhsd->bhqd", 2, 2),
    "keys bhds": ("bhqd,bhds->bhqs", "bhqs,bhsd->bhqd", 3, 2),
    "all bshd": ("bqhd,bshd->bhqs", "bhqs,bshd->bqhd", 1, 1),
}


def buffer(letters: str, batch: int, slots: int) -> jax.Array:
    sizes = {"b": batch, "h": HEADS, "s": slots, "d": HEAD_DIM}
    return jnp.zeros([sizes[letter] for letter in letters])


@functools.partial(jax.jit, static_argnames=("layout", "write"))
def decode(query: jax.Array, keys: jax.Array, values: jax.Array, layout: str, write: bool) -> jax.Array:
    score, collect, key_axis, value_axis = LAYOUTS[layout]
    slots = keys.shape[key_axis]

    def step(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        found, keys, values = carry
        now = query + 1e-3 * found  # so that no step can be optimised away
        if write:  # self-attention: the token's own keys and values first
            new = jnp.einsum("bqhd->bhqd", now) if layout == "all bshd" else now
            new_keys = jnp.einsum(f"bhsd->{score.split(',')[1].split('-')[0]}", new)
            new_values = jnp.einsum(f"bhsd->{collect.split(',')[1].split('-')[0]}", new)
            keys = jax.lax.dynamic_update_slice_in_dim(keys, new_keys, index, key_axis)
            values = jax.lax.dynamic_update_slice_in_dim(values, new_values, index, value_axis)
        scores = jnp.einsum(score, now, keys)
        if write:
            scores = jnp.where(jnp.arange(slots) <= index, scores, jnp.finfo(scores.dtype).min)
        return jnp.einsum(collect, jax.nn.softmax(scores, axis=-1), values), keys, values

    return jax.lax.fori_loop(0, STEPS, step, (jnp.zeros_like(query), keys, values))[0]


def median(run: Callable[[], jax.Array], repeats: int) -> float:
    run().block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run().block_until_ready()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times) / STEPS


def row(title: str, batch: int, queries: int, slots: int, *, write: bool, repeats: int) -> None:
    times = []
    for layout, (score, collect, *_) in LAYOUTS.items():
        letters = score.split(",")[0], score.split(",")[1].split("-")[0], collect.split(",")[1].split("-")[0]
        shape = (batch, queries, HEADS, HEAD_DIM) if layout == "all bshd" else (batch, HEADS, queries, HEAD_DIM)
        arrays = jnp.ones(shape), *(buffer(kind, batch, slots) for kind in letters[1:])
        times.append(median(lambda arrays=arrays, layout=layout: decode(*arrays, layout, write), repeats))
    print(f"{title:<52}" + "".join(f"{milliseconds:>12.3f}" for milliseconds in times), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, milliseconds per step")
    print(f"{'':<52}" + "".join(f"{layout:>12}" for layout in LAYOUTS))
    for batch, slots in ((1, 64), (4, 142), (8, 64), (4, 1024), (32, 128)):
        row(f"self, batch {batch}, {slots} slots", batch, 1, slots, write=True, repeats=repeats)
    for batch, slots in ((2, 1024), (8, 512)):
        row(f"cross, {batch} sources of {slots}, 4 beams as queries", batch, 4, slots, write=False, repeats=repeats)
        row(
            f"cross, {batch} sources of {slots}, repeated for 4 beams",
            4 * batch,
            1,
            slots,
            write=False,
            repeats=repeats,
        )


if __name__ == "__main__":
    main()
