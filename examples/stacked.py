"""A stack of layers as one `jax.lax.scan`: the program has one layer, and training has the memory of one.

`stack` is a transformation of a model and `unstack` its inverse; the numbers are the same. In the backward pass each
layer is computed again from its input. What is inside a scan is not seen from outside: there are no attention weights,
no hidden states but the first and the last, and no LayerDrop. A decoding step copies its cache, so unstack a model to
generate much.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray, PyTree

import bart_eqx
from bart_eqx.model.decoder import BartDecoder
from bart_eqx.model.encoder import BartEncoder


def scan(run: Callable[..., Any], x: PyTree, layers: PyTree, others: PyTree, key: PRNGKeyArray | None) -> Any:
    """`x, y = run(x, layer, other, key)` for each layer in turn: the last `x`, and every `y`."""
    arrays, static = eqx.partition(layers, eqx.is_array)
    keys = None if key is None else jr.split(key, len(jax.tree.leaves(arrays)[0]))
    run_one = jax.checkpoint(lambda x, one: run(x, eqx.combine(one[0], static), *one[1:]), prevent_cse=False)
    return jax.lax.scan(run_one, x, (arrays, others, keys))


class StackedEncoderLayers(bart_eqx.AbstractEncoderLayer):
    layers: bart_eqx.AbstractEncoderLayer
    """One layer, whose arrays have an axis for layers in front."""

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], None]:
        def run(x: Array, layer: Any, _: None, key: PRNGKeyArray | None) -> tuple[Array, None]:
            return layer(x, mask, positions, key=key)[0], None

        return scan(run, x, self.layers, None, key)


class StackedDecoderLayers(bart_eqx.AbstractDecoderLayer):
    layers: bart_eqx.AbstractDecoderLayer
    """One layer, whose arrays have an axis for layers in front. So have the arrays of its caches."""

    def empty_past(self, states: jax.ShapeDtypeStruct) -> bart_eqx.KVCache:
        return eqx.filter_vmap(lambda layer: layer.empty_past(states))(self.layers)

    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> bart_eqx.KVCache:
        run = lambda _, layer, *__: (None, layer.project_source(encoder_hidden_states, positions))
        return scan(run, None, self.layers, None, None)[1]

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
    ) -> tuple[Float[Array, "*batch new dim"], bart_eqx.KVCache, None, None]:
        def run(x: Array, layer: Any, caches: Any, key: PRNGKeyArray | None) -> tuple[Array, bart_eqx.KVCache]:
            past, cross = caches
            one = None if source is None else bart_eqx.EncodedSource(cross, source.mask, source.positions)
            return layer(x, past, start, mask, positions, past_positions, one, key=key)[:2]

        x, past = scan(run, x, self.layers, (past, None if source is None else source.cache), key)
        return x, past, None, None


def stack(model: Any) -> Any:
    """The model with its encoder's and its decoder's layers stacked.

    Raises:
        ValueError: if the layers of a side are not alike, or LayerDrop would skip some of them.
    """

    def stacked(side: BartEncoder | BartDecoder) -> Any:
        arrays, settings = zip(*(eqx.partition(layer, eqx.is_array) for layer in side.layers), strict=True)
        shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in arrays]
        if not all(eqx.tree_equal(settings[0], other) for other in settings) or shapes.count(shapes[0]) < len(shapes):
            raise ValueError("Only layers that are alike can be stacked: with the same modules, shapes and settings.")
        if side.layerdrop.p > 0:
            raise ValueError(f"LayerDrop skips single layers, and these are one. Got a rate of {side.layerdrop.p}.")
        layer = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), settings[0])
        kind = StackedEncoderLayers if isinstance(side, BartEncoder) else StackedDecoderLayers
        return eqx.tree_at(lambda side: side.layers, side, (kind(layer),))

    return _of_sides(stacked, model)


def unstack(model: Any) -> Any:
    """The inverse of `stack`: for `save_pretrained`, and to see every layer."""

    def unstacked(side: Any) -> Any:
        arrays, settings = eqx.partition(side.layers[0].layers, eqx.is_array)
        one = lambda i: eqx.combine(jax.tree.map(lambda leaf: leaf[i], arrays), settings)
        return eqx.tree_at(lambda side: side.layers, side, tuple(map(one, range(len(jax.tree.leaves(arrays)[0])))))

    return _of_sides(unstacked, model)


def _of_sides(function: Callable[[Any], Any], model: Any) -> Any:
    is_side = lambda node: isinstance(node, (BartEncoder, BartDecoder))
    return jax.tree.map(lambda node: function(node) if is_side(node) else node, model, is_leaf=is_side)
