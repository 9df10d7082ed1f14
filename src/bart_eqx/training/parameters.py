"""Which parameters are trained, and which decay: PyTrees of bool, chosen by path or by class."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.tree_util import tree_leaves_with_path, tree_map_with_path
from jaxtyping import PyTree

from ..checkpoint.pytree import parameter_name
from ..model.layers import LayerNorm


Trainable = Callable[[str], bool] | PyTree[bool]
"""A function of a parameter's name, as in `model.decoder.layers.0.fc1.weight`; or a PyTree of bool, which may be a
prefix of the model, as for `equinox.partition`."""

NORMS = (LayerNorm, eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm)


def every_parameter(name: str) -> bool:
    """The default of `trainable`."""
    return True


def trainable_mask(model: PyTree, trainable: Trainable) -> PyTree[bool]:
    """True at each floating-point array of the model that `trainable` chooses.

    Raises:
        ValueError: if it chooses none.
    """
    leaves = jax.tree.leaves(trainable)
    if callable(trainable) and not all(isinstance(leaf, bool) for leaf in leaves):  # a tree of bool may be a model
        choose = lambda path, leaf: eqx.is_inexact_array(leaf) and bool(trainable(parameter_name(path)))
        chosen = tree_map_with_path(choose, model)
    else:
        spread = lambda chosen, node: jax.tree.map(lambda leaf: chosen and eqx.is_inexact_array(leaf), node)
        chosen = jax.tree.map(spread, trainable, model)
    if not any(jax.tree.leaves(chosen)):
        names = [parameter_name(path) for path, leaf in tree_leaves_with_path(model) if eqx.is_inexact_array(leaf)]
        raise ValueError(
            f"`trainable` must choose a parameter. It chose none of {len(names)}: {', '.join(names[:3])}, ..."
        )
    return chosen


def decay_mask(params: PyTree) -> PyTree[bool]:
    """True at each parameter that weight decay is for: all but biases and those of norms, as in HF Flax's examples.

    Args:
        params: A model, or its trained part with `None` elsewhere. It is an argument of optax:
            `optax.adamw(1e-4, mask=decay_mask)`.
    """

    def of_node(path: Any, node: Any) -> Any:
        if isinstance(node, NORMS):
            return jax.tree.map(lambda _: False, node)
        return not parameter_name(path).endswith("bias")

    return tree_map_with_path(of_node, params, is_leaf=lambda node: isinstance(node, NORMS))
