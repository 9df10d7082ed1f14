"""The parts of every layer: linear maps, layer norms, residual connections, the feed-forward block, LayerDrop.

All take any number of leading axes. `equinox.nn.Linear` takes a single vector; `jax.vmap` over it costs two transposes
and two copies a call on CPU. It also initialises uniformly, where BART draws from a normal distribution.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray, TypeCheckError

from ..kernels.matmul import matmul
from ..typing import Array


class AbstractLinear(eqx.Module):
    """Interface for replacing a `Linear`."""

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
        """
        Args:
            in_dim: Width of the input.
            out_dim: Width of the output.
            use_bias: Whether to add a bias.
            init_std: Standard deviation of the initial weights.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        self.weight = init_std * jr.normal(key, (out_dim, in_dim), dtype)
        self.bias = jnp.zeros(out_dim, dtype) if use_bias else None

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        if x.shape[-1] != self.weight.shape[1]:
            raise TypeCheckError(
                f"`x` must have the width of the weights, in_dim={self.weight.shape[1]}. Got {x.dtype}{list(x.shape)}."
            )
        y = matmul(x, self.weight)
        return y if self.bias is None else y + for_rows(self.bias, y)


class LayerNorm(eqx.Module):
    """Layer normalisation over the last axis (arXiv:1607.06450); mean and variance in at least float32."""

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float = 1e-5, dtype: DTypeLike = jnp.float32):
        """
        Args:
            dim: Width of the input.
            eps: Added to the variance.
            dtype: The dtype of the parameters.
        """
        self.weight = jnp.ones(dim, dtype)
        self.bias = jnp.zeros(dim, dtype)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[0]}"]) -> Float[Array, "*batch dim"]:
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normalised = (centred * jax.lax.rsqrt(variance + self.eps)).astype(x.dtype)
        return normalised * for_rows(self.weight, x) + for_rows(self.bias, x)


def for_rows(parameter: Float[Array, " dim"], x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """A parameter for each row of `x`, in its own dtype. Its gradient, a sum over all rows, is summed in at least
    float32."""
    wide = parameter.astype(np.promote_types(parameter.dtype, np.float32))
    return jnp.broadcast_to(wide, x.shape).astype(parameter.dtype)


class AbstractResidual(eqx.Module):
    """The place of the norm in a residual connection. A layer has a connection around each of its blocks."""

    @abc.abstractmethod
    def before(self, x: Float[Array, "*batch dim"], norm: Callable[[Array], Array]) -> Float[Array, "*batch dim"]:
        """The input of the block, from that of the connection."""

    @abc.abstractmethod
    def after(
        self, x: Float[Array, "*batch dim"], y: Float[Array, "*batch dim"], norm: Callable[[Array], Array]
    ) -> Float[Array, "*batch dim"]:
        """The output of the connection, from its input `x` and the block's output `y`."""


class PostNorm(AbstractResidual):
    """`norm(x + block(x))` (arXiv:1706.03762): BART."""

    def before(self, x: Float[Array, "*batch dim"], norm: Callable[[Array], Array]) -> Float[Array, "*batch dim"]:
        return x

    def after(
        self, x: Float[Array, "*batch dim"], y: Float[Array, "*batch dim"], norm: Callable[[Array], Array]
    ) -> Float[Array, "*batch dim"]:
        return norm(x + y)


class PreNorm(AbstractResidual):
    """`x + block(norm(x))` (arXiv:2002.04745): mBART, Whisper. The stack then ends with a norm of its own."""

    def before(self, x: Float[Array, "*batch dim"], norm: Callable[[Array], Array]) -> Float[Array, "*batch dim"]:
        return norm(x)

    def after(
        self, x: Float[Array, "*batch dim"], y: Float[Array, "*batch dim"], norm: Callable[[Array], Array]
    ) -> Float[Array, "*batch dim"]:
        return x + y


def feed_forward(
    x: Float[Array, "*batch dim"],
    fc1: AbstractLinear,
    activation_fn: Callable[[Array], Array],
    activation_dropout: eqx.nn.Dropout,
    fc2: AbstractLinear,
    *,
    key: PRNGKeyArray | None,
) -> Float[Array, "*batch dim"]:
    """The position-wise block of a layer. Its two maps are fields of the layer, as in the checkpoint's names."""
    return fc2(activation_dropout(activation_fn(fc1(x)), key=key))


class LayerDrop(eqx.Module):
    """Skips whole layers in training, each with probability `p` (arXiv:1909.11556).

    Follows `equinox.nn.Dropout`: `inference` turns it off, and otherwise a missing `key` is an error. One draw serves
    the whole call; for one per sequence, `jax.vmap` over keys. A skipped layer is still computed, so that shapes do not
    depend on the draw: this is a regulariser here, and saves no time.
    """

    p: float
    inference: bool

    def __init__(self, p: float, *, inference: bool = False):
        """
        Args:
            p: The probability of skipping a layer.
            inference: Whether to skip none.
        """
        self.p = p
        self.inference = inference

    def __call__(
        self, output: Float[Array, "*batch dim"], x: Float[Array, "*batch dim"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "*batch dim"]:
        """`output`, the layer's output for `x`; or `x` itself, where the layer is skipped."""
        if self.inference or self.p == 0:
            return output
        if key is None:
            raise RuntimeError("LayerDrop requires a key when running in non-deterministic mode.")
        return jnp.where(jr.bernoulli(key, self.p), x, output)
