"""Layers with a function around each call: one function for the layers of either stack."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..typing import Array
from .cache import KVCache
from .decoder import AbstractDecoderLayer, EncodedSource
from .encoder import AbstractEncoderLayer


Around = Callable[..., Any]
"""`around(call, layer, x, *args)` returns the result of `call(layer, x, *args)`. Make it an `equinox.Module`, and not a
new function for each layer, so that layers of one structure are traced once."""


class WrappedEncoderLayer(AbstractEncoderLayer):
    layer: AbstractEncoderLayer
    around: Around

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        return self.around(lambda layer, *args: layer(*args, key=key), self.layer, x, mask, positions)


class WrappedDecoderLayer(AbstractDecoderLayer):
    layer: AbstractDecoderLayer
    around: Around

    def empty_past(self, states: jax.ShapeDtypeStruct) -> KVCache:
        return self.layer.empty_past(states)

    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> KVCache:
        project = lambda layer, *args: layer.project_source(*args)
        return self.around(project, self.layer, encoder_hidden_states, positions)

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
        call = lambda layer, *args: layer(*args, key=key)
        return self.around(call, self.layer, x, past, start, mask, positions, past_positions, source)


def is_layer(node: object) -> bool:
    return isinstance(node, AbstractEncoderLayer | AbstractDecoderLayer)


def wrapped(layer: AbstractEncoderLayer | AbstractDecoderLayer, around: Around) -> Any:
    """`layer` with `around` around each call."""
    if isinstance(layer, AbstractEncoderLayer):
        return WrappedEncoderLayer(layer, around)
    return WrappedDecoderLayer(layer, around)
