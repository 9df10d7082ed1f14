"""ALiBi (arXiv:2108.12409): scores fall linearly with the distance, at another rate in each head."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


class ALiBiAttention(bart_eqx.AbstractAttention):
    """`attention` with ALiBi: `-slopes[head] * distance` is added to the scores."""

    attention: bart_eqx.BartAttention
    slopes: Float[Array, " heads"]

    def __init__(self, attention: bart_eqx.BartAttention):
        """
        Args:
            attention: Slopes are the paper's for its number of heads: 2^(-8/heads), 2^(-16/heads), ...
        """
        self.attention = attention
        self.slopes = 2.0 ** (-8 / attention.num_heads * jnp.arange(1, attention.num_heads + 1))

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        return self.attention.project_kv(source, positions)

    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch heads head_dim kv"],
        values: Float[Array, "*batch heads kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        query_positions: Integer[Array, "*batch q"],
        key_positions: Integer[Array, "*batch kv"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
        attention, queries = self.attention, self.attention.project_q(x)
        distances = jnp.abs(query_positions[..., :, None] - key_positions[..., None, :])
        bias = -self.slopes[:, None, None] * distances[..., None, :, :]
        context, weights = attention.dot_product(queries, keys, values, mask, attention.dropout, bias=bias, key=key)
        return attention.project_out(context), weights
