"""Settings as a compiled loop takes them: as arrays, so that another value is not another program.

By way of NumPy, which compiles nothing: `jnp.asarray` of a number or a list, or of an array of NumPy's, is a small
program for each shape, and a dozen of these came before the first token.
"""

import jax
import numpy as np
from numpy.typing import ArrayLike

from ..generation_config import TokenIds
from ..typing import Array


def floats(values: ArrayLike) -> Array:
    return jax.device_put(np.asarray(values, np.float32))


def integers(values: ArrayLike) -> Array:
    return jax.device_put(np.asarray(values, np.int32))


def ids(values: int | TokenIds) -> Array:
    return integers(np.atleast_1d(values))
