"""Training with the memory of one layer: each layer is computed again in the backward pass."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..model.cache import KVCache
from ..model.decoder import AbstractDecoderLayer, EncodedSource
from ..model.encoder import AbstractEncoderLayer
from ..typing import Array


Model = TypeVar("Model", bound=eqx.Module)
Policy = Callable[..., Any]


class RematerialisedEncoderLayer(AbstractEncoderLayer):
    """A layer of which the backward pass keeps only the inputs (arXiv:1604.06174)."""

    layer: AbstractEncoderLayer
    policy: Policy | None = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        run = eqx.filter_checkpoint(lambda layer, *args: layer(*args, key=key), policy=self.policy)
        return run(self.layer, x, mask, positions)


class RematerialisedDecoderLayer(AbstractDecoderLayer):
    """A layer of which the backward pass keeps only the inputs (arXiv:1604.06174)."""

    layer: AbstractDecoderLayer
    policy: Policy | None = eqx.field(static=True)

    def empty_past(self, states: jax.ShapeDtypeStruct) -> KVCache:
        return self.layer.empty_past(states)

    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> KVCache:
        return self.layer.project_source(encoder_hidden_states, positions)

    def __call__(
        self,
        x: Float[Array, "*batch new dim"],
        past: KVCache,
        start: Integer[Array, ""],
        mask: Bool[Array, "*batch 1 new max_len"],
        positions: Integer[Array, "*batch new"],
        past_positions: Integer[Array, "*batch max_len"],
        source: EncodedSource | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "*batch new dim"],
        KVCache,
        Float[Array, "*batch heads new max_len"] | None,
        Float[Array, "*batch heads new src"] | None,
    ]:
        run = eqx.filter_checkpoint(lambda layer, *args: layer(*args, key=key), policy=self.policy)
        return run(self.layer, x, past, start, mask, positions, past_positions, source)


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

    def wrapped(node: object) -> object:
        if isinstance(node, AbstractEncoderLayer):
            return RematerialisedEncoderLayer(node, policy)
        return RematerialisedDecoderLayer(node, policy) if isinstance(node, AbstractDecoderLayer) else node

    is_layer = lambda node: isinstance(node, (AbstractEncoderLayer, AbstractDecoderLayer))
    return jax.tree.map(wrapped, model, is_leaf=is_layer)
