"""Sliding windows (arXiv:2004.05150): a token attends to its neighbours, in the encoder and in the decoder."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


class SlidingWindow(bart_eqx.AbstractAttention):
    """`attention` to positions at most `window` away. All scores are computed, and those outside it are masked."""

    attention: bart_eqx.AbstractAttention
    window: int = eqx.field(static=True)

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch kv_heads head_dim kv"], Float[Array, "*batch kv_heads kv head_dim"]]:
        return self.attention.project_kv(source, positions)

    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch kv_heads head_dim kv"],
        values: Float[Array, "*batch kv_heads kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        query_positions: Integer[Array, "*batch q"],
        key_positions: Integer[Array, "*batch kv"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
        near = jnp.abs(query_positions[..., :, None] - key_positions[..., None, :]) <= self.window
        mask = near[..., None, :, :] if mask is None else mask & near[..., None, :, :]
        return self.attention.attend(x, keys, values, mask, query_positions, key_positions, key=key)
