"""int8 weights: a quarter of the memory, for models that no longer learn.

Weights are rounded once, with a scale for each output; inputs as they come, with a scale for each row. Products are
summed exactly, as int32, and scaled back. (Dynamic quantisation, as LLM.int8, arXiv:2208.07339, without its outliers.)
Norms, biases, positions, attention's own products and everything between stay as they are. What it costs in quality is
in `docs/performance.md`.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8, Integer, PyTree

from ..typing import Array, HostArray
from .layers import AbstractEmbedding, AbstractLinear, Embedding, Linear, rows_times_matrix


Model = TypeVar("Model", bound=PyTree)


def quantize(model: Model) -> Model:
    """The model with int8 weights: every linear map and the token embedding, the tied head with it.

    `generate`, `save_pretrained` and `from_pretrained` take it as any other. It cannot be trained: rounding has no
    gradient.

    Raises:
        ValueError: if there is nothing in `model` to be quantised.
    """
    taken = (Linear, Embedding)
    leaves = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, taken))
    if not any(isinstance(leaf, taken) for leaf in leaves):
        raise ValueError("`quantize` found no weights to round. Has the model int8 weights already?")

    def quantized(node: object) -> object:
        if isinstance(node, Linear):
            return QuantizedLinear(node)
        return QuantizedEmbedding(node) if isinstance(node, Embedding) else node

    return jax.tree.map(quantized, model, is_leaf=lambda node: isinstance(node, taken))


def is_quantized(model: PyTree) -> bool:
    kinds = (QuantizedLinear, QuantizedEmbedding)
    return any(isinstance(leaf, kinds) for leaf in jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, kinds)))


class QuantizedLinear(AbstractLinear):
    """A `Linear` with int8 weights."""

    weight: Int8[Array, "out_dim in_dim"]
    weight_scale: Float[Array, " out_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(self, linear: Linear):
        self.weight, self.weight_scale = rounded(linear.weight)
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        y = project_rounded(x, self.weight, self.weight_scale)
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(AbstractEmbedding):
    """An `Embedding` with int8 weights. Its scales have the dtype of the vectors that it returns."""

    weight: Int8[Array, "vocab dim"]
    weight_scale: Float[Array, " vocab"]

    def __init__(self, embedding: Embedding):
        self.weight, self.weight_scale = rounded(embedding.weight)

    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        ids = jnp.asarray(ids)
        scale = self.weight_scale.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return scale[..., None] * self.weight.at[ids].get(mode="fill", fill_value=0, wrap_negative_indices=False)

    def scores(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch vocab"]:
        return project_rounded(x, self.weight, self.weight_scale)


def rounded(x: Float[Array, "rows dim"]) -> tuple[Int8[Array, "rows dim"], Float[Array, " rows"]]:
    """Each row as integers from -127 to 127, and what these are to be multiplied with."""
    wide = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-1, keepdims=True)
    largest += 0 * jnp.sum(wide, axis=-1, keepdims=True)  # a NaN stays one: XLA's maximum of many rows leaves it out
    scale = jnp.where(largest == 0, 1, largest / 127)
    return jnp.round(wide / scale).astype(jnp.int8), scale[:, 0].astype(x.dtype)


def project_rounded(
    x: Float[Array, "*batch in_dim"], weight: Int8[Array, "out_dim in_dim"], weight_scale: Float[Array, " out_dim"]
) -> Float[Array, "*batch out_dim"]:
    """`x @ (weight_scale * weight).T`, with `x` rounded as well."""
    rows, scale = rounded(x.reshape(-1, x.shape[-1]).astype(jnp.float32))
    product = rows_times_matrix(rows, weight, jnp.int32).astype(jnp.float32) * scale[:, None] * weight_scale
    return product.reshape(*x.shape[:-1], weight.shape[0]).astype(x.dtype)
