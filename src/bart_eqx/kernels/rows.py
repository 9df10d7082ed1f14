"""Batches, a few rows at a time: on one CPU, what a layer computes for a few rows stays in the processor's cache."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, PyTree

from ..typing import Array
from .platforms import by_platform, has_one_cpu


# `in_parts`: batches of this many tokens are cut, into parts whose states take this many bytes.
MANY_TOKENS, PART_BYTES = 4096, 3 << 19
# `row_by_row`: a row is computed at the first of these parts of the batch's width that holds its last token. Rows of
# fewer tokens than `LONG` do not keep every core busy alone. (Measurements of both in `docs/performance.md`.)
WIDTHS, LONG = (4, 2, 1), 128


def in_turn(
    function: Callable[[Any], PyTree[Array]], arrays: PyTree[Array], batch: tuple[int, ...], *, rows: int
) -> Any:
    """`function(arrays)`, `rows` rows of the batch at a time, and what is left at the end.

    Every array is `[*batch, ...]`, and `function` is given `[rows, ...]`; it computes each row independently of the
    others. (`jax.lax.map` with a `batch_size` would map over the rows of a part, and `function` could not see that
    there are several.)
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), arrays)
    count = math.prod(batch)
    whole = count - count % rows
    groups = jax.tree.map(lambda x: x[:whole].reshape(-1, rows, *x.shape[1:]), flat)
    outputs = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), jax.lax.map(function, groups))
    if whole < count:
        rest = function(jax.tree.map(lambda x: x[whole:], flat))
        outputs = jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, rest)
    return jax.tree.map(lambda y: y.reshape(*batch, *y.shape[1:]), outputs)


def in_parts(
    function: Callable[..., PyTree[Array]], x: Float[Array, "*batch seq dim"], *others: PyTree[Array]
) -> PyTree[Array]:
    """`function(x, *others)`, for a function that computes each row of the batch independently of the others.

    On one CPU a batch of many tokens goes through in parts. `function` is a PyTree, so that a call without `jax.jit`
    compiles it once.
    """
    *batch, seq, _ = x.shape
    if not all(isinstance(size, int) for size in (*batch, seq)):  # symbolic, in `jax.export`
        return function(x, *others)
    count = math.prod(batch)
    if count == 1 or count * seq < MANY_TOKENS or not has_one_cpu():
        return function(x, *others)
    rows = math.ceil(count / math.ceil(x.nbytes / PART_BYTES))
    return _in_parts(function, (x, *others), tuple(batch), rows)


@eqx.filter_jit
def _in_parts(
    function: Callable[..., PyTree[Array]], arrays: tuple[PyTree[Array], ...], batch: tuple[int, ...], rows: int
) -> PyTree[Array]:
    whole = lambda *arrays: function(*arrays)
    in_parts = lambda *arrays: in_turn(lambda part: function(*part), arrays, batch, rows=rows)
    return by_platform(whole, *arrays, cpu=in_parts)


def row_by_row(
    encode: Callable[[Array, Array | None], Float[Array, "*rows src dim"]],
    input_ids: Integer[Array, "batch src"],
    attention_mask: Bool[Array, "batch src"] | None,
) -> Float[Array, "batch src dim"]:
    """`encode(input_ids, attention_mask)`, except at padding, where some states are zeros.

    On one CPU each row is encoded alone, at a quarter, half or all of the width, as its last token demands: a short row
    costs what it has. Rows too short to keep every core busy are encoded together.
    """
    batch, src = input_ids.shape
    if not isinstance(src, int) or not isinstance(batch, int):  # symbolic, in `jax.export`
        return encode(input_ids, attention_mask)
    if batch == 1 or src < LONG or not has_one_cpu():
        return encode(input_ids, attention_mask)
    if attention_mask is None:
        each = lambda ids: jax.lax.map(lambda row: encode(row, None), ids)
        return by_platform(lambda ids: encode(ids, None), input_ids, cpu=each)
    widths = [-(-src // part) for part in WIDTHS]

    def at_width(width: int) -> Callable[[Array, Array], Array]:
        def encode_row(ids: Integer[Array, " src"], mask: Bool[Array, " src"]) -> Float[Array, "src dim"]:
            return jnp.pad(encode(ids[:width], mask[:width]), ((0, src - width), (0, 0)))

        return encode_row

    def each_at_its_width(ids: Array, mask: Array) -> Array:
        ends = jnp.max(jnp.where(mask, jnp.arange(1, src + 1), 0), axis=-1)
        which = jnp.searchsorted(jnp.asarray(widths), ends)
        branches = [at_width(width) for width in widths]
        return jax.lax.map(lambda row: jax.lax.switch(row[0], branches, row[1], row[2]), (which, ids, mask))

    return by_platform(encode, input_ids, attention_mask, cpu=each_at_its_width)
