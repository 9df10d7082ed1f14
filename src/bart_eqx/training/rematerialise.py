"""Training with the memory of one layer: what a layer computes is computed again in the backward pass."""

from typing import Any, TypeVar

import equinox as eqx
import jax

from ..model.attention import AbstractAttention
from ..model.decoder import BartDecoderLayer
from ..model.encoder import BartEncoderLayer


Model = TypeVar("Model", bound=eqx.Module)
_LAYERS = (BartEncoderLayer, BartDecoderLayer)


class Rematerialised(eqx.Module):
    """A layer of which a backward pass keeps the inputs alone (arXiv:1604.06174)."""

    layer: Any

    @property
    def self_attn(self) -> AbstractAttention:
        return self.layer.self_attn

    @property
    def encoder_attn(self) -> AbstractAttention:
        return self.layer.encoder_attn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return eqx.filter_checkpoint(lambda layer, args, kwargs: layer(*args, **kwargs))(self.layer, args, kwargs)


def rematerialise(model: Model) -> Model:
    """The model as a loss should see it where memory is short: every layer is run twice, and kept never.

    A view, to be made inside the function that is differentiated; the gradient, the optimiser and `save_pretrained`
    have to do with the model itself. Outputs and gradients are the same, dropout's too.

    On CPU, XLA merges the second run with the first, and nothing is won, unless it is told not to:
    `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander`.
    """
    is_layer = lambda node: isinstance(node, _LAYERS)
    return jax.tree.map(lambda node: Rematerialised(node) if is_layer(node) else node, model, is_leaf=is_layer)
