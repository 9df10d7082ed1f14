"""The model classes as PyTrees: leaves by their parameter names, and skeletons without memory."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import PRNGKeyArray

from ..model.bart import BartModel
from ..model.causal_lm import BartForCausalLM
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.quantized import quantize
from ..model.question_answering import BartForQuestionAnswering
from ..model.sequence_classification import BartForSequenceClassification
from .embeddings import SHARED, SIDES, TableConfig
from .formats.lazy_array import Index, LazyArray, part_of
from .names import bare


# `architectures.ARCHITECTURES` has the same five, without JAX.
AnyBart = (
    BartModel
    | BartForConditionalGeneration
    | BartForSequenceClassification
    | BartForQuestionAnswering
    | BartForCausalLM
)
CLASSES = {cls.__name__: cls for cls in get_args(AnyBart)}
Model = TypeVar("Model", bound=eqx.Module)


def named_parameters(model: Any) -> dict[str, Any]:
    """The arrays of a model by their attribute paths, which are transformers' parameter names in PyTorch.

    `model` may be any PyTree of a model's structure: gradients, a skeleton, an optimiser's moments.
    """
    leaves, _ = jtu.tree_flatten_with_path(eqx.filter(model, is_parameter))
    return {parameter_name(path): leaf for path, leaf in leaves}


def is_parameter(leaf: object) -> bool:
    """Whether a leaf is an array, or the shape of one. Anything else, such as a configuration, is a setting."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def parameter_name(path: jtu.KeyPath) -> str:
    return jtu.keystr(path, simple=True, separator=".")


def to_numpy(model: Any) -> dict[str, np.ndarray]:
    """The parameters of a model on the host, by PyTorch's names and in its layouts. All processes that have a part of
    the model must call it.
    """
    return {name: array.read() for name, array in lazy_parameters(model).items()}


def lazy_parameters(model: Any) -> dict[str, LazyArray]:
    """As `to_numpy`, each copied to the host when it is read; then all processes must read them, in the same order."""

    def lazy(leaf: Any) -> LazyArray:
        return LazyArray(leaf.shape, np.dtype(leaf.dtype), functools.partial(_read, leaf))

    return {name: lazy(leaf) for name, leaf in named_parameters(model).items()}


def _read(leaf: Any, index: Index = ()) -> np.ndarray:
    return part_of(_on_the_host(leaf), index)


def _on_the_host(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if not leaf.is_fully_addressable:
        return process_allgather(leaf, tiled=True)
    # JAX keeps the host's copy of an array as long as the array itself: here, of another one in the same memory.
    parts = [shard.data for shard in leaf.addressable_shards]
    return np.asarray(jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts))


def builder(
    cls: Callable[..., Model], config: TableConfig, *, own_tables: Sequence[str] = (), int8: bool = False, **fields: Any
) -> Callable[..., Model]:
    """A function from a `key` to a new model.

    Args:
        cls: Its class.
        config: Its configuration.
        own_tables: The sides, `"encoder"` or `"decoder"`, that get a token table of their own.
        int8: Whether it is quantised.
        **fields: Further arguments of `cls`.
    """

    def build(*, key: PRNGKeyArray) -> Model:
        model = with_own_tables(cls(config, key=key, **fields), own_tables)
        return quantize(model) if int8 else model

    return build


def skeleton_of(build: Callable[..., Model]) -> Model:
    """The model that `build` makes, with `jax.ShapeDtypeStruct`s for arrays. Nothing is allocated or compiled."""
    return eqx.filter_eval_shape(lambda: build(key=jr.key(0)))


def with_own_tables(model: Model, sides: Sequence[str]) -> Model:
    """The model with a copy of the shared token table for each side, `"encoder"` or `"decoder"`."""
    for side in sides:
        model = eqx.tree_at(
            lambda tree: getattr(_bart(tree), side).embed_tokens,  # noqa: B023
            model,
            _bart(model).shared,
            is_leaf=lambda node: node is None,
        )
    return model


def own_tables(model: Any) -> tuple[str, ...]:
    """The sides, `"encoder"` or `"decoder"`, that have a token table in addition to the shared one."""
    names = {bare(name) for name in named_parameters(model)}
    return tuple(side for side in SIDES if {SHARED, f"{side}.embed_tokens.weight"} <= names)


def _bart(model: Any) -> Any:
    return model if isinstance(model, BartModel) else model.model
