"""An encoder for long documents, after Longformer (arXiv:2004.05150): more positions, and attention in windows."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


class BlockedWindow(bart_eqx.AbstractAttention):
    """`SlidingWindow` of an encoder in linear time and memory: tokens are cut into blocks, and each attends to three.

    The positions of a row must rise by one from token to token. No weights are returned.
    """

    attention: bart_eqx.BartAttention
    window: int = eqx.field(static=True)

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        return self.attention.project_kv(source, positions)

    def attend(
        self,
        x: Float[Array, "*batch src dim"],
        keys: Float[Array, "*batch heads head_dim src"],
        values: Float[Array, "*batch heads src head_dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        query_positions: Integer[Array, "*batch src"],
        key_positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], None]:
        *batch, src, dim = x.shape
        window, blocks = self.window, -(-src // self.window)

        def cut(x: Array, before: int, size: int) -> Array:
            """`[..., src, n]` to `[..., blocks, size, n]`; block `i` starts at token `i * window - before`."""
            padding = [(0, 0)] * (x.ndim - 2) + [(before, blocks * window + size - src), (0, 0)]
            return jnp.pad(x, padding)[..., jnp.arange(blocks)[:, None] * window + jnp.arange(size), :]

        three = lambda x: jnp.moveaxis(cut(x, window, 3 * window), -3, -4)
        is_token = jnp.ones((*batch, 1, src, 1), bool) if mask is None else jnp.swapaxes(mask, -1, -2)
        distances = jnp.arange(window)[:, None] + window - jnp.arange(3 * window)
        allowed = jnp.swapaxes(three(is_token), -1, -2) & (jnp.abs(distances) <= window)
        queries, keys = self.attention.project_q(cut(x, 0, window)), three(jnp.swapaxes(keys, -1, -2))
        context, _ = self.attention.dot_product(
            queries, jnp.swapaxes(keys, -1, -2), three(values), allowed, self.attention.dropout, key=key
        )
        return self.attention.project_out(context).reshape(*batch, blocks * window, dim)[..., :src, :], None


def with_positions(model: Any, positions: int) -> Any:
    """The model whose encoder has `positions` positions: its table is repeated, as Longformer's was from RoBERTa's."""
    table = model.model.encoder.embed_positions
    rows = [table.weight[: table.offset], *[table.weight[table.offset :]] * (positions // table.num_positions + 1)]
    weight = jnp.concatenate(rows)[: table.offset + positions]
    return eqx.tree_at(lambda model: model.model.encoder.embed_positions.weight, model, weight)
