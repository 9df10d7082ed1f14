"""Fully sharded parameters, gathered layer by layer.

Left to itself the compiler may divide the states instead of gathering the weights, which moves more data: it sees one
operation at a time. These views constrain it: inside a layer its weights are whole, and states are divided by rows.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from ..model.wrapped import is_layer, wrapped
from ..typing import Array
from .mesh import BATCH_AXES
from .shardings import RULES, Rules, constrain, mesh_axes, sharding_of


Model = TypeVar("Model", bound=PyTree)


class Gathered(eqx.Module):
    """In each call, the layer's weights are gathered over `fsdp`, and its states are divided by rows."""

    shardings: tuple[NamedSharding | None, ...] = eqx.field(static=True)
    """The sharding of each leaf of the layer, inside it."""
    mesh: Mesh = eqx.field(static=True)

    def __call__(self, call: Callable[..., Any], layer: Any, x: Float[Array, "*batch seq dim"], *args: Any) -> Any:
        result = call(_constrained(layer, self.shardings), _by_rows(x, self.mesh), *args)
        return jax.tree.map(lambda y: _by_rows(y, self.mesh) if y.shape == x.shape else y, result)


def gathered(model: Model, mesh: Mesh, rules: Rules = RULES) -> Model:
    """A view of a sharded model, for use inside a loss, that gathers weights over `fsdp`.

    The weights of a layer are gathered when it is called, and again in the backward pass if the view is rematerialised,
    so that no device holds all weights: `rematerialise(gathered(model, mesh))`. Token tables, positions and heads are
    gathered at once. Along `tensor` all stay divided. Make the view inside the function that is differentiated;
    gradients, the optimiser and `save_pretrained` take the model itself.

    Args:
        model: A model, or any PyTree that holds encoder or decoder layers.
        mesh: That of `shard`.
        rules: Those of `shard`.
    """

    def inside(path: jtu.KeyPath, leaf: Any) -> NamedSharding | None:
        outside = sharding_of(path, leaf, mesh, rules)
        return None if outside is None else NamedSharding(mesh, _without_fsdp(outside.spec))

    def view(path: jtu.KeyPath, node: Any) -> Any:
        of_leaves = tuple(inside((*path, *below), leaf) for below, leaf in jtu.tree_leaves_with_path(node))
        return wrapped(node, Gathered(of_leaves, mesh)) if is_layer(node) else _constrained(node, of_leaves)

    return jtu.tree_map_with_path(view, model, is_leaf=is_layer)


def _constrained(tree: Any, inside: tuple[NamedSharding | None, ...]) -> Any:
    return constrain(tree, jax.tree.unflatten(jax.tree.structure(tree), inside))


def _by_rows(x: Float[Array, "*batch seq dim"], mesh: Mesh) -> Float[Array, "*batch seq dim"]:
    """States with their first batch axis over `data` and `fsdp`."""
    if x.ndim == 2:  # one sequence
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))


def _without_fsdp(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*(tuple(name for name in mesh_axes(entry) if name != "fsdp") or None for entry in spec))
