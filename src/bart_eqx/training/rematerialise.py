"""Training with the memory of one layer: each layer is computed again in the backward pass."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax

from ..model.wrapped import is_layer, wrapped


Model = TypeVar("Model", bound=eqx.Module)
Policy = Callable[..., Any]


class Rematerialised(eqx.Module):
    """Of each call, the backward pass keeps only the inputs (arXiv:1604.06174)."""

    policy: Policy | None = eqx.field(static=True)

    def __call__(self, call: Callable[..., Any], layer: Any, *args: Any) -> Any:
        return eqx.filter_checkpoint(call, policy=self.policy)(layer, *args)


def rematerialise(model: Model, *, policy: Policy | None = None) -> Model:
    """A view of the model for a loss that is short of memory: recompute each layer in the backward pass.

    Make it inside the function that is differentiated; the gradient, the optimiser and `save_pretrained` take the model
    itself. Outputs and gradients are the same, with dropout too. Whatever stands in `layers` is wrapped.

    On CPU, XLA merges the second computation with the first, and nothing is saved, unless
    `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander` is set.

    Args:
        model: A model, or any PyTree that holds encoder or decoder layers.
        policy: What is kept nevertheless, one of `jax.checkpoint_policies`; by default only the inputs of each layer.
            `dots_with_no_batch_dims_saveable` keeps the results of linear maps, so that attention and activations are
            what is computed again.
    """
    around = Rematerialised(policy)
    return jax.tree.map(lambda node: wrapped(node, around) if is_layer(node) else node, model, is_leaf=is_layer)
