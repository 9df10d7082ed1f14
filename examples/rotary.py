"""Rotary positions (arXiv:2104.09864): queries and keys are rotated, and scores depend on distances only."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


def rotated(
    x: Float[Array, "*batch heads seq head_dim"], positions: Integer[Array, "*batch seq"], base: float
) -> Float[Array, "*batch heads seq head_dim"]:
    """Channels `i` and `i + head_dim / 2` are a complex number, turned by `positions * base ** (-2i / head_dim)`."""
    a, b = jnp.split(x, 2, axis=-1)
    frequencies = base ** -(jnp.arange(a.shape[-1], dtype=jnp.float32) / a.shape[-1])
    angles = positions[..., None, :, None] * frequencies
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class RotaryAttention(bart_eqx.AbstractAttention):
    """`attention` with rotary positions. Keys are rotated once, and stay so in the cache."""

    attention: bart_eqx.BartAttention
    base: float = eqx.field(static=True, default=10000.0)

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        keys, values = self.attention.project_kv(source, positions)
        return jnp.swapaxes(rotated(jnp.swapaxes(keys, -1, -2), positions, self.base), -1, -2), values

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
        queries = rotated(self.attention.project_q(x), query_positions, self.base)
        context, weights = self.attention.dot_product(queries, keys, values, mask, self.attention.dropout, key=key)
        return self.attention.project_out(context), weights
