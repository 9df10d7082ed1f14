"""Multi-head attention, in two halves: projecting keys and values, and attending to them.

Attention does not know where its keys and values come from. The same class therefore serves the encoder, the causal
decoder and cross attention, with a cache or without one, and has no flag for any of them.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..kernels.attention import AbstractDotProduct, DotProduct
from ..typing import Array
from .layers import AbstractLinear, Linear


class AbstractAttention(eqx.Module):
    """Interface for replacing a `BartAttention`.

    Keys are `[*batch, kv_heads, head_dim, kv]` and values `[*batch, kv_heads, kv, head_dim]`. With the keys' positions
    last, both products of a decoding step read memory in order, for one query as for the beams of a source
    (measurements in `docs/design.md`).

    Positions are those of the tokens, not of their slots in a cache. Padding is not counted, and all beams at one step
    have the same position, though their slots differ. Rotary positions, ALiBi, relative biases and windows need nothing
    else; `BartAttention` ignores them. In cross attention the queries have the positions of target tokens, and the keys
    those of source tokens.
    """

    @abc.abstractmethod
    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch kv_heads head_dim kv"], Float[Array, "*batch kv_heads kv head_dim"]]:
        """The keys and values of a sequence: computed once for each token, then kept in a cache."""

    @abc.abstractmethod
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
        """The attention output of each position of `x`, and its weights; `None` from an attention without weights.

        `mask` is True where attention is allowed; `None` allows all. `key` is for dropout.
        """


class BartAttention(AbstractAttention):
    """Scaled dot-product attention (arXiv:1706.03762), as `FlaxBartAttention` in `modeling_flax_bart.py`.

    Two differences, both in `docs/parity.md`: `attention_dropout` is applied, which the reference forgets, and softmax
    is computed in at least float32. A query that may attend to nothing attends to every key alike, as in the reference.
    """

    k_proj: AbstractLinear
    v_proj: AbstractLinear
    q_proj: AbstractLinear
    out_proj: AbstractLinear
    dropout: eqx.nn.Dropout
    dot_product: AbstractDotProduct
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
        """
        Args:
            dim: Width of the model.
            num_heads: The number of heads, a divisor of `dim`.
            dropout: The rate at which weights are dropped in training.
            init_std: Standard deviation of the initial weights.
            dtype: The dtype of the parameters.
            key: For the initial weights.

        Raises:
            ValueError: if `num_heads` does not divide `dim`.
        """
        if dim % num_heads:
            raise ValueError(f"`dim` must be divisible by `num_heads`. Got dim={dim} and num_heads={num_heads}.")
        k_key, v_key, q_key, out_key = jr.split(key, 4)
        self.k_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=k_key)
        self.v_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=v_key)
        self.q_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=q_key)
        self.out_proj = Linear(dim, dim, init_std=init_std, dtype=dtype, key=out_key)
        self.dropout = eqx.nn.Dropout(dropout, inference=True)
        self.dot_product = DotProduct()
        self.num_heads = num_heads

    def split_heads(self, x: Float[Array, "*batch seq dim"]) -> Float[Array, "*batch {self.num_heads} seq head_dim"]:
        *batch, seq, dim = x.shape
        return jnp.swapaxes(x.reshape(*batch, seq, self.num_heads, dim // self.num_heads), -2, -3)

    def project_q(self, x: Float[Array, "*batch q dim"]) -> Float[Array, "*batch {self.num_heads} q head_dim"]:
        """The queries, scaled: their products with keys are the scores."""
        queries = self.split_heads(self.q_proj(x))
        return queries * queries.shape[-1] ** -0.5

    def project_out(self, context: Float[Array, "*batch {self.num_heads} q head_dim"]) -> Float[Array, "*batch q dim"]:
        """The output of all heads together."""
        *batch, heads, q, head_dim = context.shape
        return self.out_proj(jnp.swapaxes(context, -2, -3).reshape(*batch, q, heads * head_dim))

    @jax.named_scope("bart_eqx.project_kv")
    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch heads head_dim kv"], Float[Array, "*batch heads kv head_dim"]]:
        keys = self.split_heads(self.k_proj(source))
        return jnp.swapaxes(keys, -1, -2), self.split_heads(self.v_proj(source))

    @jax.named_scope("bart_eqx.attend")
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
        context, weights = self.dot_product(self.project_q(x), keys, values, mask, self.dropout, key=key)
        return self.project_out(context), weights


def project_kv(
    attention: AbstractAttention, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
) -> tuple[Float[Array, "*batch kv_heads head_dim kv"], Float[Array, "*batch kv_heads kv head_dim"]]:
    """`attention.project_kv`, as layers call it: shapes are checked also where its class has no annotations."""
    return attention.project_kv(source, positions)


def attend(
    attention: AbstractAttention,
    x: Float[Array, "*batch q dim"],
    keys: Float[Array, "*batch kv_heads head_dim kv"],
    values: Float[Array, "*batch kv_heads kv head_dim"],
    mask: Bool[Array, "*batch #heads #q kv"] | None,
    query_positions: Integer[Array, "*batch q"],
    key_positions: Integer[Array, "*batch kv"],
    *,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
    """`attention.attend`, as layers call it: shapes are checked also where its class has no annotations."""
    return attention.attend(x, keys, values, mask, query_positions, key_positions, key=key)
