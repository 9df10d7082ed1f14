"""Batches, a few rows at a time: on one CPU, the intermediate results of a few rows stay in the processor's cache."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, PyTree

from ..typing import Array
from .platforms import by_rows


# Measurements are in `docs/performance.md`. `in_parts` cuts batches of this many tokens, into parts whose states take
# this many bytes.
MANY_TOKENS, PART_BYTES = 4096, 3 << 19
# `row_by_row` encodes a row at a quarter, half or all of the batch's width. Rows of fewer tokens than `LONG` do not
# keep every core busy alone.
WIDTH_DIVISORS, LONG = (4, 2, 1), 128
# Groups of such rows have about `GROUP_TOKENS` tokens, and at most `MOST_GROUP_TOKENS`.
GROUP_TOKENS, MOST_GROUP_TOKENS = 512, 1024


def in_turn(
    function: Callable[[Any], PyTree[Array]], arrays: PyTree[Array], batch: tuple[int, ...], *, rows: int
) -> Any:
    """`function(arrays)`, applied to `rows` rows of the batch at a time, and to the rest at the end.

    Every array is `[*batch, ...]`; `function` takes and returns `[rows, ...]`, and computes each row independently of
    the others. (`jax.lax.map` with a `batch_size` would map over the rows of a part, and `function` could not see that
    there are several.)
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), arrays)
    count = math.prod(batch)
    grouped = count - count % rows
    groups = jax.tree.map(lambda x: x[:grouped].reshape(-1, rows, *x.shape[1:]), flat)
    outputs = jax.tree.map(lambda y: y.reshape(grouped, *y.shape[2:]), jax.lax.map(function, groups))
    if grouped < count:
        rest = function(jax.tree.map(lambda x: x[grouped:], flat))
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
    if count == 1 or count * seq < MANY_TOKENS:
        return function(x, *others)
    rows = math.ceil(count / math.ceil(x.nbytes / PART_BYTES))
    return _cut(function, (x, *others), tuple(batch), rows)


@eqx.filter_jit
def _cut(
    function: Callable[..., PyTree[Array]], arrays: tuple[PyTree[Array], ...], batch: tuple[int, ...], rows: int
) -> PyTree[Array]:
    together = lambda *arrays: function(*arrays)
    parts_in_turn = lambda *arrays: in_turn(lambda part: function(*part), arrays, batch, rows=rows)
    return by_rows(together, *arrays, cpu=parts_in_turn)


def row_by_row(
    encode: Callable[[Array, Array | None], Float[Array, "*rows src dim"]],
    input_ids: Integer[Array, "batch src"],
    attention_mask: Bool[Array, "batch src"] | None,
) -> Float[Array, "batch src dim"]:
    """`encode(input_ids, attention_mask)` at tokens; at padding behind them some states are zeros.

    `encode` returns one state for each token, independent of other rows and of padding. On one CPU each row is encoded
    alone, at a quarter, half or all of the width, whichever holds its last token, so that a short row costs less. Rows
    too short to keep every core busy are encoded in groups, whose states stay in the processor's cache.
    """
    batch, src = input_ids.shape
    if not isinstance(src, int) or not isinstance(batch, int):  # symbolic, in `jax.export`
        return encode(input_ids, attention_mask)
    if batch == 1:
        return encode(input_ids, attention_mask)
    if src < LONG:
        if batch * src <= MOST_GROUP_TOKENS:
            return encode(input_ids, attention_mask)
        in_groups = lambda *arrays: _in_groups(lambda group: encode(*group), arrays, rows=group_size(batch, src))
        return by_rows(encode, input_ids, attention_mask, cpu=in_groups)
    if attention_mask is None:
        each = lambda ids: jax.lax.map(lambda row: encode(row, None), ids)
        return by_rows(lambda ids: encode(ids, None), input_ids, cpu=each)
    widths = [-(-src // divisor) for divisor in WIDTH_DIVISORS]

    def at_width(width: int) -> Callable[[Array, Array], Array]:
        def encode_row(ids: Integer[Array, " src"], mask: Bool[Array, " src"]) -> Float[Array, "src dim"]:
            return jnp.pad(encode(ids[:width], mask[:width]), ((0, src - width), (0, 0)))

        return encode_row

    def each_at_its_width(ids: Array, mask: Array) -> Array:
        lengths = jnp.max(jnp.where(mask, jnp.arange(1, src + 1), 0), axis=-1)
        # A row without a token has the states of padding, all of which its queries attend to.
        ends = jnp.where(lengths == 0, src, lengths)
        which = jnp.searchsorted(jnp.asarray(widths), ends)
        branches = [at_width(width) for width in widths]
        return jax.lax.map(lambda row: jax.lax.switch(row[0], branches, row[1], row[2]), (which, ids, mask))

    return by_rows(encode, input_ids, attention_mask, cpu=each_at_its_width)


def group_size(batch: int, src: int) -> int:
    """The rows of a group of about `GROUP_TOKENS` tokens: of similar sizes, the one that fills the last group best."""
    sizes = range(max(GROUP_TOKENS * 3 // 4 // src, 1), min(MOST_GROUP_TOKENS // src, batch) + 1)
    return min(sizes, key=lambda rows: (-batch % rows, abs(rows * src - GROUP_TOKENS)))


def _in_groups(function: Callable[[Any], Float[Array, "*rows src dim"]], arrays: PyTree[Array], *, rows: int) -> Any:
    """`function(arrays)`, applied to `rows` rows at a time. The last row is repeated where the last group lacks some.

    (`in_turn` would compile `function` once more for the rest.)
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    padded = jax.tree.map(lambda x: jnp.pad(x, ((0, -batch % rows), (0, 0)), mode="edge"), arrays)
    states = jax.lax.map(function, jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), padded))
    return states.reshape(-1, *states.shape[2:])[:batch]
