"""Checks of values. Under `jax.jit` they are unknown, so a bad one becomes NaN.

NaN, and not the neighbour that JAX's clamping would silently give. `BART_EQX_ERROR_IF=1` turns those NaNs into errors
too, at the price of a host callback in every call; it is read when a function is traced.
"""

import os
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Integer

from ..typing import Array, Dim, HostArray


def is_known(values: object) -> bool:
    """Whether `values` can be read now: they are not traced, and no part of them is on another host."""
    return not isinstance(values, Tracer) and getattr(values, "is_fully_addressable", True)


def _raises_under_jit() -> bool:
    return os.environ.get("BART_EQX_ERROR_IF") == "1"


def check_range(
    name: str, values: Integer[HostArray, "..."], low: int, high: int, remedy: str
) -> Integer[HostArray, "..."]:
    """`values`, all of which are in `[low, high)`.

    Raises:
        ValueError: if some are not, and the values are known.
    """
    if is_known(values):
        host = np.asarray(values)
        if host.size and (host.min() < low or host.max() >= high):
            worst = host.min() if host.min() < low else host.max()
            raise ValueError(f"`{name}` must be in [{low}, {high}). Got {worst}. {remedy}")
    elif _raises_under_jit():
        outside = (values < low) | (values >= high)
        values = eqx.error_if(values, outside, f"`{name}` must be in [{low}, {high}). {remedy}")
    return values


def check_token_ids(
    name: str, ids: Integer[HostArray, "*batch seq"], vocab_size: int
) -> Integer[HostArray, "*batch seq"]:
    """`ids`, all of which are in the vocabulary.

    Raises:
        ValueError: if some are not, and the ids are known; or if they are sharded over an axis of type Explicit.
    """
    check_not_explicit(f"`{name}`", ids)
    return check_range(name, ids, 0, vocab_size, "Are the tokenizer and the checkpoint of one kind?")


def nan_unless(holds: Bool[Array, ""], x: Float[Array, "..."], message: str) -> Float[Array, "..."]:
    """`x`, or NaN where `holds` is False; with `BART_EQX_ERROR_IF=1` an error that says `message`."""
    if _raises_under_jit():
        x = eqx.error_if(x, ~holds, message)
    return jnp.where(holds, x, jnp.nan)


def check_axes(what: str, axes: tuple[Dim, ...], other: str, other_axes: tuple[Dim, ...]) -> None:
    """
    Raises:
        ValueError: if the axes differ. Symbolic ones, in `jax.export`, are not compared.
    """
    known = all(isinstance(size, int) for size in (*axes, *other_axes))
    if len(axes) != len(other_axes) or (known and axes != other_axes):
        raise ValueError(
            f"{what} must have the batch axes of {other}, {list(other_axes)}. Got {list(axes)}; one sequence has none."
        )


def check_not_explicit(what: str, x: HostArray) -> None:
    """
    Raises:
        ValueError: if `x` is sharded over a mesh axis of type Explicit, whose rules BART's operations do not state.
    """
    axes = [axis for axis in getattr(getattr(jax.typeof(x), "sharding", None), "spec", ()) if axis is not None]
    if axes:
        raise ValueError(
            f"Mesh axes must be of type Auto: the compiler then finds the sharding of every step. Got {what} sharded "
            f"over {axes}, of type Explicit. Make the mesh with `jax.make_mesh(shape, names, axis_types="
            "(jax.sharding.AxisType.Auto,) * len(names))`, or wrap the call in `jax.sharding.auto_axes`."
        )


# Frames of these packages are not the caller's.
_INTERNAL = ("bart_eqx", "beartype", "contextlib", "equinox", "jax", "jaxtyping")


def warn_at_caller(message: str) -> None:
    """Warn at the line that called this package, as Python shows it: once for each such line."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INTERNAL:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
