"""LoRA (arXiv:2106.09685): a low-rank update beside each chosen linear map; the update alone is trained."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path
from jaxtyping import Array, Float, PRNGKeyArray

import bart_eqx
from bart_eqx.model.layers import Linear
from bart_eqx.model.quantized import QuantizedLinear


class LoRALinear(bart_eqx.AbstractLinear):
    """`linear(x) + scaling * lora_B @ lora_A @ x`, over float or int8 weights."""

    linear: Linear | QuantizedLinear
    lora_A: Float[Array, "rank in_dim"]
    lora_B: Float[Array, "out_dim rank"]
    scaling: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch {self.lora_A.shape[1]}"]) -> Float[Array, "*batch out_dim"]:
        return self.linear(x) + (self.scaling * (x @ self.lora_A.T @ self.lora_B.T)).astype(x.dtype)


def named(model: Any, *kinds: type) -> dict[str, Any]:
    """The modules of these kinds by their paths, which are the names of checkpoints."""
    nodes = tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, kinds))
    return {keystr(path, simple=True, separator="."): node for path, node in nodes if isinstance(node, kinds)}


def attach(model: Any, paths: str, *, rank: int, alpha: float, key: PRNGKeyArray) -> Any:
    """An adapter at each linear map whose whole path matches the regular expression. The outputs stay the same."""
    where = lambda model: [n for name, n in named(model, Linear, QuantizedLinear).items() if re.fullmatch(paths, name)]
    if not (linears := where(model)):
        raise ValueError(f"No linear map's path matches {paths!r}, of {[*named(model, Linear, QuantizedLinear)]}.")
    a = lambda key, linear: jr.normal(key, (rank, linear.weight.shape[1])) * linear.weight.shape[1] ** -0.5
    new = lambda key, linear: LoRALinear(linear, a(key, linear), jnp.zeros((len(linear.weight), rank)), alpha / rank)
    return eqx.tree_at(where, model, list(map(new, jr.split(key, len(linears)), linears)))


def is_adapter(model: Any) -> Any:
    """True at the arrays of adapters: `eqx.partition(model, is_adapter(model))` is what is trained, and the rest."""
    return tree_map_with_path(lambda path, _: str(path[-1]) in (".lora_A", ".lora_B"), model)


def merge(model: Any) -> Any:
    """Each update is added to its weights: for `save_pretrained`, and for speed."""
    where = lambda model: [*named(model, LoRALinear).values()]
    return eqx.tree_at(where, model, [_plus(node, node.linear, 1) for node in where(model)])


def unmerge(merged: Any, model: Any) -> Any:
    """`merged`, with the adapters of `model` apart again: each update is subtracted from its weights."""
    apart = lambda lora, linear: eqx.tree_at(lambda lora: lora.linear, lora, _plus(lora, linear, -1))
    is_lora = lambda node: isinstance(node, LoRALinear)
    return jax.tree.map(lambda old, new: apart(old, new) if is_lora(old) else new, model, merged, is_leaf=is_lora)


def _plus(lora: LoRALinear, linear: Linear | QuantizedLinear, sign: int) -> Linear:
    if not isinstance(linear, Linear):
        raise TypeError("int8 weights hold no update: it would be rounded. Merge it into the model's float weights.")
    return eqx.tree_at(lambda map: map.weight, linear, linear.weight + sign * lora.scaling * lora.lora_B @ lora.lora_A)
