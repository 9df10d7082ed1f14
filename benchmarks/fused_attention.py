"""`jax.nn.dot_product_attention` instead of BART's own attention: with cuDNN's kernel on a GPU."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

import bart_eqx


FEW_QUERIES = 64


class FusedAttention(bart_eqx.AbstractAttention):
    """The projections of a `BartAttention` around a fused kernel. It has no dropout and returns no weights.

    Fewer queries than `FEW_QUERIES`, such as a decoding step's, go to the `BartAttention`.
    """

    inner: bart_eqx.BartAttention
    implementation: Literal["cudnn", "xla"] = eqx.field(static=True)
    """"cudnn" needs an NVIDIA GPU and a 16-bit dtype."""

    def project_kv(self, source: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.project_kv(source, positions)

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array | None,
        query_positions: jax.Array,
        key_positions: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        if x.shape[-2] < FEW_QUERIES:
            return self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)
        heads, head_dim = keys.shape[-3], keys.shape[-2]
        if mask is not None:  # cuDNN does not broadcast along the queries
            mask = jnp.broadcast_to(mask, (*mask.shape[:-2], x.shape[-2], keys.shape[-1]))
        found = jax.nn.dot_product_attention(
            self.inner.q_proj(x).reshape(*x.shape[:-1], heads, head_dim),
            jnp.moveaxis(keys, -1, -3),
            jnp.swapaxes(values, -2, -3),
            mask=mask,
            implementation=self.implementation,
        )
        return self.inner.out_proj(found.reshape(x.shape)), None


def with_fused_attention(
    model: bart_eqx.BartForConditionalGeneration, implementation: Literal["cudnn", "xla"]
) -> bart_eqx.BartForConditionalGeneration:
    def attentions(model: bart_eqx.BartForConditionalGeneration) -> list[bart_eqx.AbstractAttention]:
        found = [layer.self_attn for layer in model.model.encoder.layers]
        for layer in model.model.decoder.layers:
            found += [layer.self_attn, layer.encoder_attn]
        return found

    return eqx.tree_at(attentions, model, [FusedAttention(inner, implementation) for inner in attentions(model)])
