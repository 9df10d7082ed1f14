"""Between named arrays and a model: build its skeleton, fill every leaf, account for every name on both sides."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from ..config import BartConfig
from .errors import CheckpointError
from .names import EMBEDDING, canonical, flatten, from_flax_leaf, to_flax_leaf, unflatten


Model = TypeVar("Model", bound=eqx.Module)

_HEADS = ("lm_head.", "classification_head.", "qa_outputs.")
_BIAS = "final_logits_bias"  # zero in every model that nobody gave another
_NEVER_PARAMETERS = ("encoder.version", "decoder.version", "_float_tensor")  # fairseq left these in early files


class Account(eqx.Module):
    """What became of the arrays of a checkpoint."""

    filled: tuple[str, ...]
    """Parameters of the model that the checkpoint had."""
    initialised: tuple[str, ...]
    """Parameters of the model's head that it had not, and that are new."""
    dropped: tuple[str, ...]
    """Arrays of the checkpoint that this class of model has no place for: another head's, or an encoder's."""


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


def fill(
    cls: type[Model],
    config: BartConfig,
    tensors: dict[str, np.ndarray],
    *,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    transformation: Callable[[Any], Any] = lambda model: model,
    **fields: Any,
) -> tuple[Model, Account]:
    """A `cls` in inference mode, with the arrays of a checkpoint for its parameters.

    Args:
        cls: One of the five classes.
        config: Its configuration.
        tensors: Arrays by name, of Flax or of PyTorch. Emptied, so that the memory of each can go as soon as the
            parameter has its own.
        dtype: Of the parameters; by default that of the arrays, the widest if they differ.
        key: For a head that the checkpoint does not have.
        ignore_mismatched_sizes: Make head parameters of another shape anew, too.
        transformation: What was done to the model before it was saved: `quantize`.
        **fields: Further arguments of `cls`.

    Raises:
        CheckpointError: if parameters are missing, arrays are left over, shapes differ, or the names under which the
            embedding is stored disagree. All such faults are reported together.
    """

    make: Callable[..., Model] = functools.partial(cls, config, **fields)
    build: Callable[..., Model] = lambda *, key: transformation(make(key=key))
    skeleton = eqx.filter_eval_shape(build, key=jr.key(0))
    parameters = named_parameters(skeleton)
    shapes = {name: leaf.shape for name, leaf in parameters.items()}
    integers = {canonical(n, tied=config.tie_word_embeddings) for n, p in parameters.items() if p.dtype == jnp.int8}
    wanted = {canonical(name, tied=config.tie_word_embeddings): name for name in shapes}

    faults: list[str] = []
    found = _canonical_arrays(tensors, config, wanted, integers, faults)
    dtype = _common_dtype(found, dtype)

    filled: dict[str, jax.Array] = {}
    misshapen: set[str] = set()
    dropped: list[str] = []
    for name in list(found):
        array = found.pop(name)
        target = wanted.get(name)
        if target is None and _may_be_dropped(name, wanted):
            dropped.append(name)
        elif target is None:
            faults.append(f"`{name}` is no parameter of {cls.__name__} with this configuration.")
        elif array.shape == shapes[target]:
            filled[target] = _to_device(target, array, jnp.dtype(jnp.int8) if name in integers else dtype, faults)
        elif not (ignore_mismatched_sizes and _is_of_head(target)):
            faults.append(f"`{target}` must have shape {shapes[target]}. Got {array.shape}.")
            misshapen.add(target)

    initialised = [name for name in shapes if name not in filled and name not in misshapen]
    faults += [f"`{name}`, of shape {shapes[name]}, is missing." for name in initialised if not _is_of_head(name)]
    if not faults and key is None and any(name.startswith(_HEADS) for name in initialised):
        faults.append(f"the head is not in it ({', '.join(initialised)}): pass a `key` to make a new one.")
    if faults:
        raise CheckpointError(
            f"This is not a checkpoint of {cls.__name__} with its configuration:\n"
            + "\n".join(f"- {fault}" for fault in faults)
        )
    if initialised:
        new = _initialise(build, initialised, jr.key(0) if key is None else key)
        filled |= {name: leaf if leaf.dtype == jnp.int8 else leaf.astype(dtype) for name, leaf in new.items()}
    model = jtu.tree_map_with_path(lambda path, leaf: filled[_name(path)] if _is_parameter(leaf) else leaf, skeleton)
    loaded = tuple(name for name in shapes if name not in initialised)
    return model, Account(loaded, tuple(initialised), tuple(sorted(dropped)))


def _canonical_arrays(
    tensors: dict[str, np.ndarray],
    config: BartConfig,
    wanted: Collection[str],
    integers: Collection[str],
    faults: list[str],
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for original in list(tensors):
        name, array = from_flax_leaf(original, tensors.pop(original))
        if name.endswith(_NEVER_PARAMETERS):
            continue
        name = canonical(name, tied=config.tie_word_embeddings)
        # Another head's, which this model drops: nothing says what it should be.
        may_be_int8 = bool(integers) and array.dtype == np.int8 and name not in wanted
        if name in integers and array.dtype != np.int8:
            faults.append(f"`{original}` must be int8. Got {array.dtype}.")
        elif name not in integers and not jnp.issubdtype(array.dtype, jnp.floating) and not may_be_int8:
            faults.append(f"`{original}` must be floating-point. Got {array.dtype}.")
        elif name not in found:
            found[name] = array
        elif found[name].shape != array.shape or not np.array_equal(found[name], array, equal_nan=True):
            where = "the token embedding" if name == EMBEDDING else f"`{name}`"
            faults.append(f"`{original}` is {where} once more, with other numbers.")
    return found


def _common_dtype(found: Mapping[str, np.ndarray], dtype: DTypeLike | None) -> jnp.dtype:
    if dtype is None:
        widest = widest_float(found.values())
        return jax.dtypes.canonicalize_dtype(widest)
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype={jnp.dtype(dtype)} needs 64-bit mode: jax.config.update('jax_enable_x64', True).")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be floating-point. Got {jnp.dtype(dtype)}.")
    return jnp.dtype(dtype)


def widest_float(arrays: Iterable[np.ndarray]) -> jnp.dtype:
    """The dtype of a model with these parameters, of which some may be integers."""
    floating = {array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)}
    return jnp.result_type(*floating) if floating else jnp.dtype(jnp.float32)


def _to_device(name: str, array: np.ndarray, dtype: jnp.dtype, faults: list[str]) -> jax.Array:
    if dtype != array.dtype and jnp.finfo(dtype).max < jnp.finfo(array.dtype).max:
        largest = np.max(np.abs(array), initial=0)
        if np.isfinite(largest) and largest > jnp.finfo(dtype).max:
            faults.append(f"`{name}` holds {largest}, which {dtype} cannot: load it as bfloat16 or float32.")
            return jnp.array(array)
    return jnp.array(array, dtype)  # a copy: on CPU JAX would otherwise share the buffer of the file


def _is_of_head(name: str) -> bool:
    return name.startswith((*_HEADS, _BIAS))


def _may_be_dropped(name: str, wanted: Collection[str]) -> bool:
    """Another head's, or the encoder's where the model has none."""
    return _is_of_head(name) or (name.startswith("encoder.") and not any(w.startswith("encoder.") for w in wanted))


def _initialise(build: Callable[..., Any], names: list[str], key: PRNGKeyArray) -> dict[str, jax.Array]:
    """These parameters as `build` makes them. Compiled, so that none of the others is ever made."""

    @eqx.filter_jit
    def only(key: PRNGKeyArray) -> dict[str, jax.Array]:
        parameters = named_parameters(build(key=key))
        return {name: parameters[name] for name in names}

    return only(key)


def to_tensors(model: Any) -> dict[str, np.ndarray]:
    """The parameters of a model on the host, in PyTorch's names and layouts."""
    return {name: np.asarray(leaf) for name, leaf in named_parameters(model).items()}


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
        CheckpointError: if the parameters are not those of such a model.
    """
    return fill(cls, config, flatten(params), dtype=dtype, key=key)[0]


def to_flax(model: Any) -> dict[str, Any]:
    """The inverse of `from_flax`: a nested dict of NumPy arrays in the names and layouts of Hugging Face's Flax.

    Any PyTree of a model's structure will do, gradients for example.
    """
    return unflatten(dict(to_flax_leaf(name, array) for name, array in to_tensors(model).items()))
