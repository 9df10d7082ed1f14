"""The largest of many scores."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..typing import Array


def top_k(scores: Float[Array, "*rows n"], k: int) -> tuple[Float[Array, "*rows k"], Integer[Array, "*rows k"]]:
    """`jax.lax.top_k`, also of equals, for long rows.

    That one is a serial sort on CPU, of all scores where it stands in a loop. The `k` largest stand in the `k` chunks
    that have the largest maxima, and maxima are found in parallel.
    """
    *rows, n = scores.shape
    # A divisor where there is one, for filling up to a multiple copies all scores.
    chunk = next((size for size in range(96, 31, -1) if n % size == 0), 64)
    if n < 2 * k * chunk:
        best, at = jax.lax.top_k(scores, k)
        return best, at
    padded = jnp.pad(scores, [*[(0, 0)] * len(rows), (0, -n % chunk)], constant_values=-jnp.inf)
    maxima = jnp.max(padded.reshape(*rows, -1, chunk), axis=-1)
    chunks = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=-1)  # in their order, for of equals the first counts
    places = (chunks[..., None] * chunk + jnp.arange(chunk)).reshape(*rows, k * chunk)
    best, at = jax.lax.top_k(jnp.take_along_axis(padded, places, axis=-1), k)
    return best, jnp.take_along_axis(places, at, axis=-1)
