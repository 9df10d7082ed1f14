"""Activation patching and steering: the states after a layer are changed, at a position or at all of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

import bart_eqx


Edit = Callable[[Array, Array], Array]
"""From the states `[*batch, seq, dim]` after a layer, and their positions `[*batch, seq]`, to other states."""


class Patch(eqx.Module):
    """The state at one position becomes that of another run (causal tracing, arXiv:2202.05262).

    It is the same in every row, since rows may be computed apart. `jax.vmap` over patches and rows pairs them.
    """

    state: Float[Array, " dim"]
    position: int | Integer[Array, ""]

    def __call__(
        self, x: Float[Array, "*batch seq {len(self.state)}"], positions: Integer[Array, "*batch seq"]
    ) -> Float[Array, "*batch seq dim"]:
        return jnp.where((positions == self.position)[..., None], self.state.astype(x.dtype), x)


class Steer(eqx.Module):
    """`scale * vector` is added at every position (arXiv:2308.10248)."""

    vector: Float[Array, " dim"]
    scale: float | Float[Array, ""] = 1.0

    def __call__(
        self, x: Float[Array, "*batch seq {len(self.vector)}"], positions: Integer[Array, "*batch seq"]
    ) -> Float[Array, "*batch seq dim"]:
        return x + (self.scale * self.vector).astype(x.dtype)


class EditedEncoderLayer(bart_eqx.AbstractEncoderLayer):
    layer: bart_eqx.AbstractEncoderLayer
    edit: Edit

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        y, weights = self.layer(x, mask, positions, key=key)
        return self.edit(y, positions), weights


class EditedDecoderLayer(bart_eqx.AbstractDecoderLayer):
    layer: bart_eqx.AbstractDecoderLayer
    edit: Edit

    def empty_past(self, states: jax.ShapeDtypeStruct) -> bart_eqx.KVCache:
        return self.layer.empty_past(states)

    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> bart_eqx.KVCache:
        return self.layer.project_source(encoder_hidden_states, positions)

    def __call__(
        self,
        x: Float[Array, "*batch new dim"],
        past: bart_eqx.KVCache,
        start: Integer[Array, ""],
        mask: Bool[Array, "*batch 1 new max_len"],
        positions: Integer[Array, "*batch new"],
        past_positions: Integer[Array, "*batch max_len"],
        source: bart_eqx.EncodedSource | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        y, *others = self.layer(x, past, start, mask, positions, past_positions, source, key=key)
        return self.edit(y, positions), *others


def intervene(model: Any, path: str, edit: Edit) -> Any:
    """The model with an edit after the layer at a path: `"model.decoder.layers.1"`.

    Raises:
        ValueError: if there is no layer at that path.
    """
    edited = {bart_eqx.AbstractEncoderLayer: EditedEncoderLayer, bart_eqx.AbstractDecoderLayer: EditedDecoderLayer}
    is_layer = lambda node: isinstance(node, tuple(edited))
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    layers = {jax.tree_util.keystr(p, simple=True, separator="."): node for p, node in nodes if is_layer(node)}
    if path not in layers:
        raise ValueError(f"There is no layer {path!r}. There are {', '.join(layers)}.")
    wrap = next(edited[kind] for kind in edited if isinstance(layers[path], kind))
    at_path = lambda p, node: wrap(node, edit) if jax.tree_util.keystr(p, simple=True, separator=".") == path else node
    return jax.tree_util.tree_map_with_path(at_path, model, is_leaf=is_layer)
