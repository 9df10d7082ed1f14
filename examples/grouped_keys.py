"""Grouped keys (arXiv:2305.13245): several heads of queries share one of keys and values, and the cache shrinks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


class GroupedKeysAttention(bart_eqx.AbstractAttention):
    """`attention`, whose keys and values have `kv_heads` heads: at first the means over each group of the old heads."""

    attention: bart_eqx.BartAttention
    kv_heads: int = eqx.field(static=True)

    def __init__(self, attention: bart_eqx.BartAttention, kv_heads: int):
        """
        Args:
            attention: The attention whose heads are grouped.
            kv_heads: A divisor of its number of heads.
        """
        mean = lambda x: x.reshape(kv_heads, attention.num_heads // kv_heads, -1, *x.shape[1:]).mean(1)
        where = lambda a: [p for linear in (a.k_proj, a.v_proj) for p in (linear.weight, linear.bias)]
        means = [mean(p).reshape(-1, *p.shape[1:]) for p in where(attention)]
        self.attention, self.kv_heads = eqx.tree_at(where, attention, means), kv_heads

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch kv_heads head_dim kv"], Float[Array, "*batch kv_heads kv head_dim"]]:
        split = lambda x: jnp.swapaxes(x.reshape(*x.shape[:-1], self.kv_heads, -1), -2, -3)
        return jnp.swapaxes(split(self.attention.k_proj(source)), -1, -2), split(self.attention.v_proj(source))

    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch {self.kv_heads} head_dim kv"],
        values: Float[Array, "*batch {self.kv_heads} kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        query_positions: Integer[Array, "*batch q"],
        key_positions: Integer[Array, "*batch kv"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
        attention, queries = self.attention, self.attention.project_q(x)
        heads_shape = *queries.shape[:-1], keys.shape[-1]
        # The queries of a group are more rows of one product: no key is repeated.
        group = lambda x: x.reshape(*x.shape[:-3], self.kv_heads, -1, x.shape[-1])
        mask = None if mask is None else group(jnp.broadcast_to(mask, heads_shape))
        context, weights = attention.dot_product(group(queries), keys, values, mask, attention.dropout, key=key)
        weights = None if weights is None else weights.reshape(heads_shape)
        return attention.project_out(context.reshape(queries.shape)), weights
