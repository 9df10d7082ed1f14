"""Filling a model's skeleton with the arrays of a checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from .embeddings import SHARED, TableConfig, resolve_tables
from .errors import MismatchError
from .finite import checked
from .formats.lazy_array import LazyArray, from_numpy, widest_float
from .formats.prefetch import prefetch
from .match import HEADS, Match, match
from .names import bare
from .place import Placement, placement
from .pytree import Model, builder, is_parameter, named_parameters, parameter_name, skeleton_of
from .rows import fit_rows


def fill(
    cls: type[Model],
    config: TableConfig,
    arrays: Mapping[str, LazyArray],
    *,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
    int8: bool = False,
    shardings: Callable[[Any], Any] | None = None,
    **fields: Any,
) -> tuple[Model, Match]:
    """A model in inference mode whose parameters are the arrays of a checkpoint.

    Args:
        cls: One of the five classes, or another one whose attribute paths are these names, with or without `model.`.
        config: Its configuration.
        arrays: By bare names, in PyTorch's layouts.
        dtype: The dtype of the parameters; by default the widest of the arrays.
        key: Initialises a head that the checkpoint lacks, and draws new rows of token tables.
        ignore_mismatched_sizes: Whether head parameters of another shape are initialised, and token tables with another
            number of rows are cut or extended, and not refused.
        allow_nonfinite: Whether values may be NaN or infinite.
        int8: Whether the checkpoint is of a quantised model.
        shardings: A function from the model's skeleton to the same tree with the sharding of each array. By default all
            arrays go to JAX's default device.
        **fields: Further arguments of `cls`.

    Returns:
        The model, and which arrays became which parameters.

    Raises:
        MismatchError: if parameters are missing, arrays are left over, shapes differ, or copies of one parameter
            differ. All of these are listed together, before any array is read.
        NonFiniteError: if a value is NaN or infinite, or would be in `dtype`. Of a sharded array, only the parts that
            this process holds are read.
        ValueError: if `dtype` is not a floating-point dtype, or needs 64-bit mode.
    """
    skeleton = skeleton_of(builder(cls, config, int8=int8, **fields))
    decoder_only = not any(bare(name) == SHARED for name in named_parameters(skeleton))
    tables = resolve_tables(arrays, tied=config.tie_word_embeddings, decoder_only=decoder_only)
    build = builder(cls, config, own_tables=tables.own, int8=int8, **fields)
    skeleton = skeleton_of(build) if tables.own else skeleton
    parameters = named_parameters(skeleton)
    resized: tuple[str, ...] = ()
    if ignore_mismatched_sizes:
        tables, resized = fit_rows(tables, config, {bare(name) for name in parameters}, key)
    matched = match(
        {name: leaf.shape for name, leaf in parameters.items()},
        {name for name, leaf in parameters.items() if leaf.dtype == jnp.int8},
        tables,
        cls.__name__,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    matched = dataclasses.replace(matched, resized=resized)
    initialised = (*matched.initialised, *matched.mismatched)
    if key is None and any(name.startswith(HEADS) for name in initialised):
        missing, other = ", ".join(matched.initialised), ", ".join(matched.mismatched)
        lacks = f"lacks the head of a {cls.__name__} ({missing})" if missing else f"has {other} of another shape"
        raise MismatchError(f"the checkpoint {lacks}: pass a `key` to initialise {'a new one' if missing else 'it'}.")

    dtype = _dtype(matched, dtype)
    arrays = {
        name: checked(name, array, np.dtype(dtype), allow_nonfinite=allow_nonfinite)
        for name, array in matched.arrays.items()
    }
    new: dict[str, jax.Array] = {}
    if initialised:
        new = _initialise(build, initialised, jr.key(0) if key is None else key)
        new = {name: leaf if leaf.dtype == jnp.int8 else leaf.astype(dtype) for name, leaf in new.items()}
    if shardings is None:
        filled = _on_one_device(arrays) | new
    else:
        arrays |= {name: from_numpy(np.asarray(leaf)) for name, leaf in new.items()}
        filled = _on_a_mesh(arrays, shardings(skeleton))
    model = jtu.tree_map_with_path(
        lambda path, leaf: filled[parameter_name(path)] if is_parameter(leaf) else leaf, skeleton
    )
    return model, matched


def _on_one_device(arrays: Mapping[str, LazyArray]) -> dict[str, jax.Array]:
    contents = prefetch(lambda name: arrays[name].read(), {name: array.nbytes for name, array in arrays.items()})
    # On the CPU, `device_put` takes over an aligned array, and `jnp.asarray` copies it.
    return dict(zip(arrays, map(jax.device_put, contents), strict=True))


def _on_a_mesh(arrays: Mapping[str, LazyArray], shardings: Any) -> dict[str, jax.Array]:
    places: dict[str, Placement] = {}
    for path, sharding in jtu.tree_leaves_with_path(shardings):
        name = parameter_name(path)
        places[name] = placement(arrays[name].shape, sharding)
    sizes = {name: places[name].nbytes(array.dtype) for name, array in arrays.items()}
    contents = prefetch(lambda name: places[name].read(arrays[name]), sizes)
    return {
        name: places[name].put(array.dtype, content)
        for (name, array), content in zip(arrays.items(), contents, strict=True)
    }


def _dtype(matched: Match, dtype: DTypeLike | None) -> jnp.dtype:
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(widest_float(matched.arrays.values()))
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype={jnp.dtype(dtype)} needs 64-bit mode: jax.config.update('jax_enable_x64', True).")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be floating-point. Got {jnp.dtype(dtype)}.")
    return jnp.dtype(dtype)


def _initialise(build: Callable[..., Any], names: Sequence[str], key: PRNGKeyArray) -> dict[str, jax.Array]:
    """The initial values of these parameters. Compiled, so that the other parameters are never computed."""

    @eqx.filter_jit
    def initialise(key: PRNGKeyArray) -> dict[str, jax.Array]:
        parameters = named_parameters(build(key=key))
        return {name: parameters[name] for name in names}

    return initialise(key)
