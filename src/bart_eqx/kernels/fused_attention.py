"""Attention in one kernel, which writes no scores to memory (FlashAttention-2, arXiv:2307.08691)."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from ..typing import Array
from .attention import AbstractDotProduct, DotProduct


# With fewer queries, as in a step of decoding, there is little to fuse, and cuDNN's kernel would read a mask per query.
FEW_QUERIES = 64


class FusedDotProduct(AbstractDotProduct):
    """`softmax(where(mask, queries @ keys + bias, finfo.min)) @ values`, without the weights.

    Fewer queries than `FEW_QUERIES` go through `DotProduct`, and have weights.
    """

    implementation: Literal["cudnn", "xla"] = eqx.field(static=True)

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
        *batch, heads, q, head_dim = queries.shape
        kv = keys.shape[-1]
        if q < FEW_QUERIES:
            return DotProduct()(queries, keys, values, mask, dropout, bias=bias, key=key)
        if not (dropout.inference or dropout.p == 0):
            raise ValueError(
                f"Fused attention has no dropout, and `attention_dropout` is {dropout.p}. Train without it "
                "(`attention_dropout=0` in the configuration), or without `fuse_attention`."
            )
        if self.implementation == "cudnn" and queries.dtype.itemsize != 2:
            raise ValueError(
                f"cuDNN's attention needs bfloat16 or float16; the queries are {queries.dtype}. Load the model with "
                "`dtype=jnp.bfloat16`."
            )
        # cuDNN broadcasts along batch and heads, but not along queries.
        along_queries = lambda x: jnp.broadcast_to(x, (*x.shape[:-2], q, kv)).reshape(-1, x.shape[-3], q, kv)
        mask, bias = jax.tree.map(along_queries, (mask, bias))
        context = jax.nn.dot_product_attention(
            jnp.swapaxes(queries, -2, -3).reshape(-1, q, heads, head_dim),
            jnp.moveaxis(keys, -1, -3).reshape(-1, kv, heads, head_dim),
            jnp.swapaxes(values, -2, -3).reshape(-1, kv, heads, head_dim),
            mask=mask,
            bias=bias,
            scale=1.0,
            implementation=self.implementation,
        )
        return jnp.swapaxes(context.reshape(*batch, q, heads, head_dim), -2, -3), None
