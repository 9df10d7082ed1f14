"""Weights laid out for the products of a few rows: what a step of a small beam search multiplies."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ..model.layers import AbstractLinear, Linear
from ..typing import Array
from .feeding import Writer


Model = TypeVar("Model", bound=Writer)

# Where the other layout is faster (figures in `docs/performance.md`). One row is a matrix times a vector, which reads
# the matrix as it lies; and for many rows XLA packs the matrix, at a price that the products then hide.
FEWEST, MOST = 2, 8


class TransposedLinear(AbstractLinear):
    """A `Linear` whose weights lie as `[in, out]`: XLA on CPU multiplies few rows with them as they are."""

    weight_t: Float[Array, "in_dim out_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(self, linear: Linear):
        # Behind the barrier the transposed weights are written out, once; without it they would be a view again.
        self.weight_t = jax.lax.optimization_barrier(linear.weight.T)
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        y = jnp.matmul(x.reshape(-1, x.shape[-1]), self.weight_t).reshape(*x.shape[:-1], self.weight_t.shape[1])
        return y if self.bias is None else y + self.bias


def for_few_rows(model: Model, rows: int) -> Model:
    """The model as a loop uses it whose every step has so many rows: its decoder's weights transposed where that pays.

    To be called inside `jax.jit`, before the loop. It pays on CPU, for float32; the transposed weights of the decoder's
    layers are memory beside the model's own while the loop runs.
    """
    if jax.default_backend() != "cpu" or not FEWEST <= rows <= MOST:
        return model
    is_linear = lambda node: isinstance(node, Linear)
    transposed = lambda node: (
        TransposedLinear(node) if isinstance(node, Linear) and node.weight.dtype == jnp.float32 else node
    )
    layers = lambda model: model.model.decoder.layers
    return eqx.tree_at(layers, model, jax.tree.map(transposed, layers(model), is_leaf=is_linear))
