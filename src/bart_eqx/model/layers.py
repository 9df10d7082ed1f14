"""The leaves of the network: linear maps, layer norms, embedding tables, the feed-forward block, LayerDrop.

All take any number of leading axes. `equinox.nn.Linear` takes none, and under `jax.vmap` costs two transposes and two
copies a call on CPU; it also initialises uniformly where BART draws from a normal distribution.
"""

import abc
from collections.abc import Callable, Mapping
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray, Shaped

from ..typing import Array, HostArray
from .checks import check_range


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """The dtype of statistics, of softmax and of the sums inside products: float32, or float64 in a float64 model."""
    return jnp.promote_types(dtype, jnp.float32)


def _quick_gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return x * jax.nn.sigmoid(1.702 * x)


def _gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Exact, not the approximation by tanh. Narrow numbers by way of float32, where they are rounded once: in their own
    arithmetic this is slower too, and to them `erf` is as good as the `erfc` that keeps float32's small tail."""
    wide = x.astype(at_least_float32(x.dtype))
    if x.dtype == wide.dtype:
        return jax.nn.gelu(x, approximate=False)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


_gelu_tanh = partial(jax.nn.gelu, approximate=True)

# By the names of `transformers`' ACT2FN. `jax.nn.gelu` defaults to the approximation.
ACTIVATION_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def times_transposed(x: Shaped[Array, "m k"], y: Shaped[Array, "n k"], dtype: DTypeLike) -> Shaped[Array, "m n"]:
    """`x @ y.T`, summed in `dtype`; said so that XLA sees no transposition, which costs integers their quick kernel."""
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=dtype)


def rows_times_matrix(
    rows: Shaped[Array, "m k"], matrix: Shaped[Array, "n k"], dtype: DTypeLike
) -> Shaped[Array, "m n"]:
    """`rows @ matrix.T`, summed in `dtype`, in the form for which XLA has a quick kernel (`docs/performance.md`).

    On CPU it packs the second operand and reads the first as it lies. Up to 64 rows, packing the matrix takes longer
    than the sums, and therefore it comes first: behind a barrier, for of a transposed product XLA makes the product of
    the operands exchanged back. Narrow numbers have a kernel for two rows and more, which lie one after the other: what
    is left of another product is transposed, and a reshape that cannot be folded undoes that.
    """
    if rows.shape[0] > 64 or jax.default_backend() != "cpu":
        return times_transposed(rows, matrix, dtype)
    barrier, few = jax.lax.optimization_barrier, rows
    if rows.dtype != dtype:
        few = jnp.concatenate([rows, rows]) if rows.shape[0] == 1 else barrier(rows[None]).reshape(rows.shape)
    return barrier(times_transposed(matrix, few, dtype)).T[: rows.shape[0]]


def project(x: Float[Array, "*batch in_dim"], weight: Float[Array, "out_dim in_dim"]) -> Float[Array, "*batch out_dim"]:
    """`x @ weight.T`, summed in at least float32 and returned in the dtype of `x`."""
    product = rows_times_matrix(x.reshape(-1, x.shape[-1]), weight, at_least_float32(x.dtype))
    return product.reshape(*x.shape[:-1], weight.shape[0]).astype(x.dtype)


class AbstractLinear(eqx.Module):
    """What stands where the checkpoint has a linear map: put any module of this kind in the place of a `Linear`."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]: ...


class Linear(AbstractLinear):
    """`x @ weight.T + bias`, with BART's initialisation: weights from N(0, `init_std`²), biases zero."""

    weight: Float[Array, "out_dim in_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        use_bias: bool = True,
        init_std: float,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        self.weight = init_std * jr.normal(key, (out_dim, in_dim), dtype)
        self.bias = jnp.zeros(out_dim, dtype) if use_bias else None

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        y = project(x, self.weight)
        return y if self.bias is None else y + self.bias


class LayerNorm(eqx.Module):
    """Layer normalisation over the last axis (arXiv:1607.06450); mean and variance in at least float32."""

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float = 1e-5, dtype: DTypeLike = jnp.float32):
        self.weight = jnp.ones(dim, dtype)
        self.bias = jnp.zeros(dim, dtype)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        wide = x.astype(at_least_float32(x.dtype))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps)).astype(x.dtype) * self.weight + self.bias


class AbstractEmbedding(eqx.Module):
    """A table of vectors, one for each token."""

    @abc.abstractmethod
    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        """The vectors of tokens. An id outside the table gives NaN, never the vector of another id."""

    @abc.abstractmethod
    def scores(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch vocab"]:
        """The product of `x` with every vector: the tied head."""


class Embedding(AbstractEmbedding):
    """The table that checkpoints have."""

    weight: Float[Array, "vocab dim"]

    def __init__(self, vocab: int, dim: int, *, init_std: float, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        self.weight = init_std * jr.normal(key, (vocab, dim), dtype)

    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        return self.weight.at[jnp.asarray(ids)].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def scores(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch vocab"]:
        return project(x, self.weight)


class LearnedPositionalEmbedding(eqx.Module):
    """A vector per position. The table has two rows more than positions: position `p` is row `p + 2`.

    fairseq's BART numbered positions from its padding id + 1, and the checkpoints keep those two rows. Positions -2 and
    -1 therefore exist; they arise left of a left-padded sequence and are never attended to.
    """

    weight: Float[Array, "rows dim"]
    offset: int = eqx.field(static=True)

    def __init__(self, positions: int, dim: int, *, init_std: float, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        self.offset = 2
        self.weight = init_std * jr.normal(key, (positions + self.offset, dim), dtype)

    @property
    def num_positions(self) -> int:
        return self.weight.shape[0] - self.offset

    def ids_for(self, length: int) -> Integer[Array, " seq"]:
        """The positions of a sequence from its start.

        Raises:
            ValueError: if it is longer than there are positions.
        """
        if length > self.num_positions:
            raise ValueError(
                f"A sequence may have at most max_position_embeddings={self.num_positions} tokens. Got {length}: "
                f"truncate it, or split it."
            )
        return jnp.arange(length)

    def __call__(self, position_ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        position_ids = check_range("position_ids", position_ids, -self.offset, self.num_positions, "Shift them.")
        rows = jnp.asarray(position_ids) + self.offset
        return self.weight.at[rows].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def feed_forward(
    x: Float[Array, "*batch dim"],
    fc1: Callable[[Array], Array],
    activation_fn: Callable[[Array], Array],
    activation_dropout: eqx.nn.Dropout,
    fc2: Callable[[Array], Array],
    *,
    key: PRNGKeyArray | None,
) -> Float[Array, "*batch dim"]:
    """The position-wise block of a layer. Its two maps stand on the layer itself, as in the checkpoint's names."""
    return fc2(activation_dropout(activation_fn(fc1(x)), key=key))


class LayerDrop(eqx.Module):
    """Skips whole layers in training, each with probability `p` (arXiv:1909.11556).

    Holds to the contract of `equinox.nn.Dropout`: `inference` turns it off, and otherwise a missing `key` is an error.
    One draw serves the whole call; for one per sequence, `jax.vmap` over keys. A skipped layer is still computed, so
    that its cache and its attentions have their shapes: this is a regulariser here, and saves no time.
    """

    p: float
    inference: bool

    def __init__(self, p: float, *, inference: bool = False):
        self.p = p
        self.inference = inference

    def __call__(
        self, output: Float[Array, "*batch dim"], x: Float[Array, "*batch dim"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "*batch dim"]:
        """`output`, what the layer made of `x`; or `x`, where the layer is skipped."""
        if self.inference or self.p == 0:
            return output
        if key is None:
            raise RuntimeError("LayerDrop requires a key when running in non-deterministic mode.")
        return jnp.where(jr.bernoulli(key, self.p), x, output)
