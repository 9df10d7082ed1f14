"""int8 weights: a quarter of the memory.

Weights are rounded once, with a scale for each output; inputs at each call, with a scale for each row. Products are
summed exactly, in int32, and scaled back: LLM.int8 (arXiv:2208.07339) without its separate treatment of outliers.
Norms, biases, positions and attention's own products stay as they are. `docs/performance.md` has the cost in quality.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8, Integer, PyTree

from ..kernels.matmul import int8_matmul, quantize_rows
from ..typing import Array, HostArray
from .checks import check_not_explicit
from .embeddings import AbstractEmbedding, Embedding
from .layers import AbstractLinear, Linear


Model = TypeVar("Model", bound=PyTree)


def quantize(model: Model) -> Model:
    """The model with int8 weights: every linear map and the token embedding, the tied head with it.

    `generate`, `save_pretrained` and `from_pretrained` take it like any other. The int8 weights themselves cannot be
    trained. Gradients pass through them, for example to adapters: the derivative of each product is that of the product
    before its input was rounded.

    Args:
        model: A model, or any PyTree of `Linear` and `Embedding`.

    Raises:
        ValueError: if `model` has nothing to quantise.
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
        """
        Args:
            linear: The map to round.
        """
        self.weight, self.weight_scale = quantize_rows(linear.weight)
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[1]}"]) -> Float[Array, "*batch out_dim"]:
        y = int8_matmul(x, self.weight, self.weight_scale)
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(AbstractEmbedding):
    """An `Embedding` with int8 weights. Its scales have the dtype of the vectors that it returns."""

    weight: Int8[Array, "vocab dim"]
    weight_scale: Float[Array, " vocab"]

    def __init__(self, embedding: Embedding):
        """
        Args:
            embedding: The table to round.
        """
        self.weight, self.weight_scale = quantize_rows(embedding.weight)

    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        check_not_explicit("the embedding", self.weight)
        ids = jnp.asarray(ids)
        scale = self.weight_scale.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        steps = self.weight.at[ids].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return scale[..., None] * steps.astype(scale.dtype)

    def logits(self, x: Float[Array, "*batch {self.weight.shape[1]}"]) -> Float[Array, "*batch vocab"]:
        return int8_matmul(x, self.weight, self.weight_scale)
