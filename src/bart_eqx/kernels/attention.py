"""Attention to keys and values, once queries, keys and values are projected."""

import abc
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from ..typing import Array
from .platforms import by_rows
from .rows import in_turn


# Bytes. On CPU, rows whose scores are larger are computed one at a time (measurements in `docs/performance.md`).
LARGE_SCORES = 4 << 20


class AbstractDotProduct(eqx.Module):
    """Interface for replacing what a `BartAttention` does between its projections."""

    @abc.abstractmethod
    def __call__(
        self,
        queries: Float[Array, "*batch heads q head_dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        dropout: eqx.nn.Dropout,
        *,
        bias: Float[Array, "*batch #heads #q kv"] | None = None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "*batch heads q head_dim"], Float[Array, "*batch heads q kv"] | None]:
        """The context of each query, and the attention weights; `None` where they are not computed.

        Queries come scaled. `mask` is True where attention is allowed, `None` allows all. `bias` is added to the
        scores, such as that of ALiBi; BART has none.
        """


class DotProduct(AbstractDotProduct):
    """`dropout(weights) @ values` and `weights = softmax(where(mask, queries @ keys + bias, finfo.min))`.

    The softmax is computed in at least float32. A query that may attend to nothing attends to every key alike: the fill
    is finite, as in the reference. On CPU, scores too large for the processor's cache are computed for one row of the
    batch at a time.
    """

    def __call__(
        self,
        queries: Float[Array, "*batch heads q head_dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        dropout: eqx.nn.Dropout,
        *,
        bias: Float[Array, "*batch #heads #q kv"] | None = None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "*batch heads q head_dim"], Float[Array, "*batch heads q kv"]]:
        if not (dropout.inference or dropout.p == 0):
            return _attention(queries, keys, values, mask, bias, dropout, key)
        *batch, heads, q, _ = queries.shape
        arrays = (queries, keys, values, mask, bias)
        whole = partial(_attention, dropout=dropout, key=None)
        sizes = (*batch, heads, q, keys.shape[-1])
        if not all(isinstance(size, int) for size in sizes):  # symbolic, in `jax.export`
            return whole(*arrays)
        row_bytes = math.prod(sizes[len(batch) :]) * jnp.dtype(np.promote_types(queries.dtype, np.float32)).itemsize
        if row_bytes < LARGE_SCORES or math.prod(batch) == 1:
            return whole(*arrays)

        one_row_at_a_time = lambda *arrays: in_turn(lambda row: whole(*row), arrays, tuple(batch), rows=1)
        return by_rows(whole, *arrays, cpu=one_row_at_a_time)


@jax.named_scope("bart_eqx.attention")
def _attention(
    queries: Float[Array, "*batch heads q head_dim"],
    keys: Float[Array, "*batch heads head_dim kv"],
    values: Float[Array, "*batch heads kv head_dim"],
    mask: Bool[Array, "*batch #heads #q kv"] | None,
    bias: Float[Array, "*batch #heads #q kv"] | None,
    dropout: eqx.nn.Dropout,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, "*batch heads q head_dim"], Float[Array, "*batch heads q kv"]]:
    dtype, wide = queries.dtype, np.promote_types(queries.dtype, np.float32)
    scores = jnp.matmul(queries, keys, preferred_element_type=wide)
    if bias is not None:
        scores += bias.astype(wide)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    context = jnp.matmul(dropout(weights, key=key), values, preferred_element_type=wide)
    return context.astype(dtype), weights
