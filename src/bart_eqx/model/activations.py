"""Activation functions, by the names of transformers' `ACT2FN`."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..typing import Array


def _gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Exact GELU. 16-bit inputs are computed in float32 and rounded once; to them `erf` is as exact as the `erfc` that
    keeps float32's small tail."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    if x.dtype == wide.dtype:
        return jax.nn.gelu(x, approximate=False)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def _quick_gelu(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return x * jax.nn.sigmoid(1.702 * x)


_gelu_tanh = partial(jax.nn.gelu, approximate=True)

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
