"""Activation functions, by the names of transformers' `ACT2FN`.

`prelu` and `xielu` are not here: they have parameters, for which BART's checkpoints have no names.
"""

from collections.abc import Callable, Mapping
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..typing import Array


def _rounded_once(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """16-bit inputs are computed in float32 and rounded once."""

    @wraps(function)
    def wide(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return function(x.astype(np.promote_types(x.dtype, np.float32))).astype(x.dtype)

    return wide


def _gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Exact GELU. 16-bit inputs are computed in float32 and rounded once; to them `erf` is as exact as the `erfc` that
    keeps float32's small tail."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    if x.dtype == wide.dtype:
        return jax.nn.gelu(x, approximate=False)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def _clipped_gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return jnp.clip(_gelu(x), -10, 10)


def _quick_gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return x * jax.nn.sigmoid(1.702 * x)


@_rounded_once
def _laplace(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """The normal distribution's cumulative function that is closest to squared ReLU (arXiv:2209.10655)."""
    return 0.5 * (1 + jax.lax.erf((x - 0.707107) / (0.282095 * 2**0.5)))


@_rounded_once
def _sqrt_softplus(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return jnp.sqrt(jax.nn.softplus(x))


def _linear(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return x


def _squared_relu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return jnp.square(jax.nn.relu(x))


# transformers has five names for it, which differ in their last digits.
_gelu_tanh = partial(jax.nn.gelu, approximate=True)

ACTIVATION_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": jax.nn.hard_swish,
    "laplace": _laplace,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": _linear,
    "mish": _rounded_once(jax.nn.mish),
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "relu2": _squared_relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "sqrtsoftplus": _sqrt_softplus,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
