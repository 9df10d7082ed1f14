"""Multi-head attention, in two halves: projecting keys and values, and attending to them.

Where keys and values come from is no business of attention's. The same class therefore serves the encoder, the causal
decoder and cross attention, with a cache or without one, and has no flag for any of them.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray

from ..typing import Array
from .layers import AbstractLinear, Linear, at_least_float32
from .rows import in_turn, may_take_turns


# On CPU, a row of a batch whose scores take so many bytes is attended to alone (`docs/performance.md`).
LARGE = 4 << 20


class AbstractAttention(eqx.Module):
    """What a layer asks of its attention. Put any module of this kind in the place of a `BartAttention`.

    Keys are `[*batch, heads, head_dim, kv]` and values `[*batch, heads, kv, head_dim]`. With the keys' positions last,
    both products of a decoding step read memory in order, for one query as for the beams of a source (measurements in
    `docs/design.md`).
    """

    @abc.abstractmethod
    def project_kv(
        self, source: Float[Array, "*batch kv dim"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        """The keys and values of a sequence: computed once for each token, then kept in a cache."""

    @abc.abstractmethod
    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*#batch #heads #q kv"] | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
        """What each position of `x` finds, and with what weights; `None` from an attention that never forms them.

        `mask` is True where attention is allowed; `None` allows all.
        """


class BartAttention(AbstractAttention):
    """Scaled dot-product attention (arXiv:1706.03762), as `FlaxBartAttention` in `modeling_flax_bart.py`.

    Two differences, both in `docs/parity.md`: `attention_dropout` is applied, which the reference forgets, and softmax
    is computed in at least float32. A query that may see nothing sees everything alike, as in the reference.
    """

    k_proj: AbstractLinear
    v_proj: AbstractLinear
    q_proj: AbstractLinear
    out_proj: AbstractLinear
    dropout: eqx.nn.Dropout
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        dropout: float,
        init_std: float,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        if dim % num_heads:
            raise ValueError(f"`dim` must be divisible by `num_heads`. Got dim={dim} and num_heads={num_heads}.")
        k_key, v_key, q_key, out_key = jr.split(key, 4)
        self.k_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=k_key)
        self.v_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=v_key)
        self.q_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=q_key)
        self.out_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=out_key)
        self.dropout = eqx.nn.Dropout(dropout, inference=True)
        self.num_heads = num_heads

    def _split_heads(self, x: Float[Array, "*batch seq dim"]) -> Float[Array, "*batch heads seq head_dim"]:
        *batch, seq, dim = x.shape
        return jnp.swapaxes(x.reshape(*batch, seq, self.num_heads, dim // self.num_heads), -2, -3)

    @jax.named_scope("bart_eqx.project_kv")
    def project_kv(
        self, source: Float[Array, "*batch kv dim"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        keys = self._split_heads(self.k_proj(source))
        return jnp.swapaxes(keys, -1, -2), self._split_heads(self.v_proj(source))

    @jax.named_scope("bart_eqx.attend")
    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*#batch #heads #q kv"] | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"]]:
        queries = self._split_heads(self.q_proj(x)) * (keys.shape[-2] ** -0.5)
        *batch, heads, q, _ = queries.shape
        draws_nothing = self.dropout.inference or self.dropout.p == 0
        size = heads * q * keys.shape[-1] * jnp.dtype(at_least_float32(x.dtype)).itemsize
        if draws_nothing and size >= LARGE and may_take_turns(tuple(batch)):
            if mask is not None:
                mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))
            arrays = (queries, keys, values, mask)
            found, weights = in_turn(lambda row: self._find(*row, key=key), arrays, tuple(batch), rows=1)
        else:
            found, weights = self._find(queries, keys, values, mask, key=key)
        return self.out_proj(jnp.swapaxes(found, -2, -3).reshape(x.shape)), weights

    def _find(
        self,
        queries: Float[Array, "*batch heads q head_dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*#batch #heads #q kv"] | None,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "*batch heads q head_dim"], Float[Array, "*batch heads q kv"]]:
        dtype, wide = queries.dtype, at_least_float32(queries.dtype)
        scores = jnp.matmul(queries, keys, preferred_element_type=wide)
        if mask is not None:  # a finite fill: an infinite one makes NaN of a query that may see nothing
            scores = jnp.where(mask, scores, jnp.finfo(wide).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
        dropped = self.dropout(weights, key=key)
        return jnp.matmul(dropped, values, preferred_element_type=wide).astype(dtype), weights
