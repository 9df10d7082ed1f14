"""Checks of values, where values are known.

Outside `jax.jit` an id that does not exist is an error. Inside it values are not known while the program is built, and
the embedding makes NaN of such an id instead of the silent neighbour that JAX's clamping would give. Setting
`BART_EQX_ERROR_IF=1` turns those NaNs into errors too, at the price of a host callback in every call.
"""

import os

import equinox as eqx
import numpy as np
from jax.core import Tracer
from jaxtyping import Integer

from ..typing import HostArray


def is_known(values: object) -> bool:
    """Whether `values` can be looked at now: not inside a transformation, and not spread over other hosts."""
    return not isinstance(values, Tracer) and getattr(values, "is_fully_addressable", True)


def check_range(
    name: str, values: Integer[HostArray, "..."], low: int, high: int, remedy: str
) -> Integer[HostArray, "..."]:
    """`values`, all of which are in `[low, high)`.

    Raises:
        ValueError: if some are not, and it can be seen.
    """
    if is_known(values):
        host = np.asarray(values)
        if host.size and (host.min() < low or host.max() >= high):
            worst = host.min() if host.min() < low else host.max()
            raise ValueError(f"`{name}` must be in [{low}, {high}). Got {worst}. {remedy}")
    elif os.environ.get("BART_EQX_ERROR_IF") == "1":
        outside = (values < low) | (values >= high)
        values = eqx.error_if(values, outside, f"`{name}` must be in [{low}, {high}). {remedy}")
    return values


def check_token_ids(
    name: str, ids: Integer[HostArray, "*batch seq"], vocab_size: int
) -> Integer[HostArray, "*batch seq"]:
    return check_range(name, ids, 0, vocab_size, "Are the tokenizer and the checkpoint of one kind?")
