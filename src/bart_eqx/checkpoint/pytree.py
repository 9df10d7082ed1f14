"""Between named arrays and a model: build its skeleton, and fill every leaf."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from beartype import beartype
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from ..config import BartConfig
from ..lazy_beartype import CONF
from ..model.quantized import quantize
from .embeddings import SHARED, resolve
from .errors import MismatchError
from .finite import checked
from .match import HEADS, Match, canonical, match, widest_float
from .names import bare, flatten, to_flax_leaf, unflatten
from .stored import StoredArray, ahead, in_memory


Model = TypeVar("Model", bound=eqx.Module)


def named_parameters(model: Any) -> dict[str, Any]:
    """The arrays of a model, by the names that transformers' PyTorch gives them, which are their paths here.

    Any PyTree of a model's structure will do: gradients, a skeleton, an optimiser's moments.
    """
    leaves, _ = jtu.tree_flatten_with_path(eqx.filter(model, _is_parameter))
    return {_name(path): leaf for path, leaf in leaves}


def _is_parameter(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _name(path: jtu.KeyPath) -> str:
    return jtu.keystr(path, simple=True, separator=".")


def builder(
    cls: Callable[..., Model], config: BartConfig, *, own_tables: Sequence[str] = (), int8: bool = False, **fields: Any
) -> Callable[..., Model]:
    """What makes a model of this structure from a `key`: with token tables of its own for these sides, with int8
    weights.
    """

    def build(*, key: PRNGKeyArray) -> Model:
        model = with_own_tables(cls(config, key=key, **fields), own_tables)
        return quantize(model) if int8 else model

    return build


def with_own_tables(model: Model, sides: Sequence[str]) -> Model:
    """The model with a copy of the shared token table for each of these sides, "encoder" or "decoder"."""
    for side in sides:
        model = eqx.tree_at(
            lambda tree: getattr(_bart(tree), side).embed_tokens,  # noqa: B023
            model,
            _bart(model).shared,
            is_leaf=lambda node: node is None,
        )
    return model


def own_tables(model: Any) -> tuple[str, ...]:
    """The sides that have a token table beside the shared one."""
    bart = _bart(model)
    return tuple(s for s in ("encoder", "decoder") if hasattr(bart, "shared") and getattr(bart, s).embed_tokens)


def _bart(model: Any) -> Any:
    return getattr(model, "model", model)


def skeleton_of(build: Callable[..., Model]) -> Model:
    """The model with shapes for arrays."""
    return eqx.filter_eval_shape(lambda: build(key=jr.key(0)))  # the key is traced, too: nothing is compiled


def fill(
    cls: type[Model],
    config: BartConfig,
    arrays: Mapping[str, StoredArray],
    *,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
    int8: bool = False,
    **fields: Any,
) -> tuple[Model, Match]:
    """A `cls` in inference mode, with the arrays of a checkpoint for its parameters.

    Args:
        cls: One of the five classes.
        config: Its configuration.
        arrays: By bare names, in PyTorch's layout.
        dtype: Of the parameters; by default that of the arrays, the widest if they differ.
        key: For a head that the checkpoint does not have.
        ignore_mismatched_sizes: Make head parameters of another shape anew, too.
        allow_nonfinite: Take numbers that are NaN or infinite.
        int8: Whether the model was quantised before it was saved.
        **fields: Further arguments of `cls`.

    Raises:
        MismatchError: if parameters are missing, arrays are left over, shapes differ, or copies of one differ. All such
            faults are reported together, before any array is read.
        NonFiniteError: if a number is NaN or infinite, or would be as `dtype`.
    """
    skeleton = skeleton_of(builder(cls, config, int8=int8, **fields))
    alone = not any(bare(name) == SHARED for name in named_parameters(skeleton))
    tables = resolve(arrays, tied=config.tie_word_embeddings, alone=alone)
    build = builder(cls, config, own_tables=tables.own, int8=int8, **fields)
    skeleton = skeleton_of(build) if tables.own else skeleton
    parameters = named_parameters(skeleton)
    matched = match(
        {name: leaf.shape for name, leaf in parameters.items()},
        {name for name, leaf in parameters.items() if leaf.dtype == jnp.int8},
        tables,
        cls.__name__,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    if key is None and any(name.startswith(HEADS) for name in matched.initialised):
        raise MismatchError(
            f"the head of a {cls.__name__} is not in it ({', '.join(matched.initialised)}): pass a `key` to make a new "
            "one."
        )

    dtype = _dtype(matched, dtype)
    arrays = {
        name: checked(name, array, np.dtype(dtype), allow_nonfinite=allow_nonfinite)
        for name, array in matched.arrays.items()
    }
    # On the CPU, `device_put` takes an aligned array as it is; `jnp.asarray` copies it.
    contents = ahead(lambda name: arrays[name].read(), {name: array.nbytes for name, array in arrays.items()})
    filled = dict(zip(arrays, map(jax.device_put, contents), strict=True))
    if matched.initialised:
        new = _initialise(build, matched.initialised, jr.key(0) if key is None else key)
        filled |= {name: leaf if leaf.dtype == jnp.int8 else leaf.astype(dtype) for name, leaf in new.items()}
    model = jtu.tree_map_with_path(lambda path, leaf: filled[_name(path)] if _is_parameter(leaf) else leaf, skeleton)
    return model, matched


def _dtype(matched: Match, dtype: DTypeLike | None) -> jnp.dtype:
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(widest_float(matched.arrays.values()))
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype={jnp.dtype(dtype)} needs 64-bit mode: jax.config.update('jax_enable_x64', True).")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be floating-point. Got {jnp.dtype(dtype)}.")
    return jnp.dtype(dtype)


def _initialise(build: Callable[..., Any], names: Sequence[str], key: PRNGKeyArray) -> dict[str, jax.Array]:
    """These parameters as `build` makes them. Compiled, so that none of the others is ever made."""

    @eqx.filter_jit
    def only(key: PRNGKeyArray) -> dict[str, jax.Array]:
        parameters = named_parameters(build(key=key))
        return {name: parameters[name] for name in names}

    return only(key)


def to_tensors(model: Any) -> dict[str, np.ndarray]:
    """The parameters of a model on the host, in PyTorch's names and layouts."""
    return {name: np.asarray(leaf) for name, leaf in named_parameters(model).items()}


def stored_parameters(model: Any) -> dict[str, StoredArray]:
    """The parameters of a model, each brought to the host when it is read."""

    def stored(leaf: Any) -> StoredArray:
        return StoredArray(leaf.shape, np.dtype(leaf.dtype), functools.partial(np.asarray, leaf))

    return {name: stored(leaf) for name, leaf in named_parameters(model).items()}


@beartype(conf=CONF)
def from_flax(
    params: Mapping[str, Any],
    config: BartConfig,
    cls: type[Model],
    *,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
) -> Model:
    """A model from the parameters of Hugging Face's Flax model, `flax_model.params`.

    Args:
        params: The nested dict. Those of another head's class will do, as for `from_pretrained`.
        config: The configuration; `BartConfig.from_dict(flax_model.config.to_dict())`.
        cls: The class of model to make.
        dtype: Of the parameters, by default that of `params`.
        key: For a head that `params` do not have.

    Raises:
        MismatchError: if the parameters are not those of such a model.
        NonFiniteError: if `dtype` cannot hold one of them.
    """
    # Copied when they are read: on the CPU, JAX would otherwise take the caller's own memory.
    arrays = {name: in_memory(array).then(np.array) for name, array in flatten(params).items()}
    return fill(cls, config, canonical(arrays), dtype=dtype, key=key, allow_nonfinite=True)[0]


def to_flax(model: Any) -> dict[str, Any]:
    """The inverse of `from_flax`: a nested dict of NumPy arrays in the names and layouts of Hugging Face's Flax.

    Any PyTree of a model's structure will do, gradients for example.
    """
    return unflatten(dict(to_flax_leaf(name, array) for name, array in to_tensors(model).items()))
