"""The sharding of each parameter: rules by its name, which hold for gradients and an optimiser's moments as well."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..checkpoint.pytree import is_parameter, parameter_name
from .mesh import BATCH_AXES


Tree = TypeVar("Tree", bound=PyTree)
Rules = Sequence[tuple[str, PartitionSpec]]

RULES: Rules = (
    # Megatron's pairs: the first map of a block is cut by its outputs, the second by its inputs.
    (r"(q_proj|k_proj|v_proj|fc1)(\.linear)?\.weight", PartitionSpec("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|fc1)(\.linear)?\.(bias|weight_scale)", PartitionSpec("tensor")),
    (r"(\w+_attn\.out_proj|fc2)(\.linear)?\.weight", PartitionSpec("fsdp", "tensor")),
    # By the width: BART's vocabulary is 3 * 3 * 5 * 1117, which no power of two divides.
    (r"(shared|embed_tokens|lm_head)\.weight", PartitionSpec(None, ("tensor", "fsdp"))),
    (r"embed_positions\.weight", PartitionSpec(None, "fsdp")),
)
"""Pairs of a regular expression and the mesh axes of the parameter's axes.

The first expression that matches the end of a name applies. A match begins at a dot or at the start. Parameters that
none matches (norms, most biases, small heads) are whole on every device.
"""


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Rules = RULES) -> PyTree:
    """The sharding of every array, by its name.

    Args:
        tree: A model, its gradients, the state of its optimiser, or `jax.ShapeDtypeStruct`s for any of these. Names are
            paths in it: `model.encoder.layers.0.fc1.weight`.
        mesh: From `make_mesh`.
        rules: For a model with other parameters, put your rules before `RULES`.

    Returns:
        `tree` with a `NamedSharding` for each array and `None` for any other leaf: for `out_shardings`,
        `jax.device_put`, or a checkpoint that is restored on this mesh. If a parameter has more axes than its rule,
        such as one of stacked layers, the rule applies to its last axes. An axis that a mesh axis does not divide stays
        whole.
    """

    return jtu.tree_map_with_path(lambda path, leaf: sharding_of(path, leaf, mesh, rules), tree)


def sharding_of(path: jtu.KeyPath, leaf: Any, mesh: Mesh | AbstractMesh, rules: Rules) -> NamedSharding | None:
    """The sharding of one array; `None` for any other leaf."""
    if not is_parameter(leaf):
        return None
    matching = (spec for pattern, spec in rules if re.search(rf"(^|\.){pattern}$", parameter_name(path)))
    return NamedSharding(mesh, _fitted(next(matching, PartitionSpec()), leaf.shape, mesh))


def shard(tree: Tree, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """The arrays of `tree` on the devices of `mesh`, as `shardings` says. `generate` and `jax.jit` take such arrays."""
    put = lambda sharding, leaf: leaf if sharding is None else placed(leaf, sharding)
    return jax.tree.map(put, shardings(tree, mesh, rules), tree, is_leaf=lambda node: node is None)


def constrain(tree: Tree, shardings: PyTree) -> Tree:
    """Inside `jax.jit`: the arrays of `tree` where `shardings`, which is `shardings(tree, mesh)`, says."""
    put = lambda sharding, leaf: leaf if sharding is None else jax.lax.with_sharding_constraint(leaf, sharding)
    return jax.tree.map(put, shardings, tree, is_leaf=lambda node: node is None)


def shard_batch(tree: Tree, mesh: Mesh, *, axis: int = 0) -> Tree:
    """Arrays with a batch axis, divided along it over `data` and `fsdp`.

    Args:
        tree: Arrays with all rows, the same in every process.
        mesh: From `make_mesh`.
        axis: The batch axis: 0 in `[batch, ...]`, 1 in a training step's `[micro, batch, ...]`.

    Raises:
        ValueError: if the mesh axes do not divide it.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))
    devices = math.prod(mesh.shape[name] for name in BATCH_AXES)

    def put(leaf: Any) -> Any:
        if (rows := np.shape(leaf)[axis]) % devices:
            raise ValueError(
                f"`data` and `fsdp`, {devices} devices together, must divide the rows of a batch. Got {rows} in "
                f"{list(np.shape(leaf))}: pad the batch, or give `training.batches` row_multiple={devices}."
            )
        return placed(leaf, sharding)

    return jax.tree.map(put, tree)


def on_one_device(tree: Tree, mesh: Mesh) -> Tree:
    """A copy with whole arrays, on one device of this process. All processes of the mesh must call it."""
    whole = NamedSharding(mesh, PartitionSpec())
    copy = lambda leaf: placed(leaf, whole).addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    return jax.tree.map(copy, tree)


def _fitted(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """`spec` for the last axes of `shape`, without the mesh axes that do not divide them."""
    if len(spec) > len(shape):
        return PartitionSpec()
    axes: list[Any] = [None] * (len(shape) - len(spec))
    for size, entry in zip(shape[len(axes) :], spec, strict=True):
        kept: list[str] = []
        for name in mesh_axes(entry):
            if size % (math.prod(mesh.shape[other] for other in kept) * mesh.shape[name]) == 0:
                kept.append(name)
        axes.append(tuple(kept) or None)
    return PartitionSpec(*axes)


def mesh_axes(entry: Any) -> tuple[str, ...]:
    """The mesh axes in an entry of a `PartitionSpec`."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def placed(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array on the devices of a sharding. Of one that each process has as a whole, each puts its part.

    There `jax.device_put` would first compare what the processes have, and it refuses keys.
    """
    if sharding.is_fully_addressable or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return jax.device_put(array, sharding)
    whole = array if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key) else np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
