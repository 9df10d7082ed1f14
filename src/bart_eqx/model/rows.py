"""Some rows of a batch at a time, on a CPU: what a layer makes of few stays in the processor's cache."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..typing import Array


def may_take_turns(batch: tuple[int, ...]) -> bool:
    """Whether there are rows, on one CPU. A batch that may be spread over devices would be gathered by a loop."""
    return math.prod(batch) > 1 and jax.default_backend() == "cpu" and jax.device_count() == 1


def in_turn(
    function: Callable[[Any], PyTree[Array]], arrays: PyTree[Array], batch: tuple[int, ...], *, rows: int
) -> Any:
    """`function` of `arrays`, `[*batch, ...]`: it is given `[rows, ...]`, the last time what is left.

    It returns as many, and what it makes of a row may not depend on others. `jax.lax.map` with a `batch_size` would
    map over the rows of a part, and hide from attention that there are some.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), arrays)
    count = math.prod(batch)
    whole = count - count % rows
    groups = jax.tree.map(lambda x: x[:whole].reshape(-1, rows, *x.shape[1:]), flat)
    found = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), jax.lax.map(function, groups))
    if whole < count:
        left = function(jax.tree.map(lambda x: x[whole:], flat))
        found = jax.tree.map(lambda *parts: jnp.concatenate(parts), found, left)
    return jax.tree.map(lambda y: y.reshape(*batch, *y.shape[1:]), found)
