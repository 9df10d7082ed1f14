"""The largest of many scores."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..typing import Array
from .platforms import by_platform


@partial(jax.jit, static_argnums=1, inline=True)
def top_k(scores: Float[Array, "*rows n"], k: int) -> tuple[Float[Array, "*rows k"], Integer[Array, "*rows k"]]:
    """`jax.lax.top_k(scores, k)`, the order of equal scores included; NaN is as large as infinity.

    On CPU XLA sorts, serially, and inside a loop it sorts all scores; on a GPU it reads a row with one of its many
    processors, or sorts. There, long rows are cut into chunks: the `k` largest are in the `k` chunks with the largest
    maxima, and maxima are found in parallel.
    """
    *rows, n = scores.shape
    chunk = _chunk_size(n)

    def reference(scores: Array) -> tuple[Array, Array]:
        values, indices = jax.lax.top_k(scores, k)
        return values, indices

    def by_chunks(scores: Array) -> tuple[Array, Array]:
        padded = jnp.pad(scores, [*[(0, 0)] * len(rows), (0, -n % chunk)], constant_values=-jnp.inf)
        # XLA's maximum may leave NaN out. `top_k` puts NaN above all numbers, or below if its sign bit is set.
        ordered = jnp.where(jnp.isnan(padded), jnp.where(jnp.signbit(padded), -jnp.inf, jnp.inf), padded)
        maxima = jnp.max(ordered.reshape(*rows, -1, chunk), axis=-1)
        chunks = jnp.sort(reference(maxima)[1], axis=-1)  # in order: of equal scores the first counts
        places = (chunks[..., None] * chunk + jnp.arange(chunk)).reshape(*rows, k * chunk)
        values, indices = reference(jnp.take_along_axis(padded, places, axis=-1))
        return values, jnp.take_along_axis(places, indices, axis=-1)

    if n < 2 * k * chunk:
        return reference(scores)
    return by_platform(reference, scores, cpu=by_chunks, cuda=by_chunks, rocm=by_chunks)


@partial(jax.jit, inline=True)
def argmax(scores: Float[Array, "*rows n"]) -> Integer[Array, "*rows"]:
    """`jnp.argmax(scores, axis=-1)`, where infinity counts as the largest finite number.

    XLA on CPU compares values and indices one by one. There, only the chunk with the largest maximum is searched this
    way. (A search calls no row `finite` that has an infinite score: `can_choose`.)
    """
    *rows, n = scores.shape
    chunk = _chunk_size(n)
    reference = lambda scores: jnp.argmax(scores, axis=-1)

    def by_chunks(scores: Array) -> Array:
        chunks = jnp.pad(scores, [*[(0, 0)] * len(rows), (0, -n % chunk)], constant_values=-jnp.inf)
        chunks = chunks.reshape(*rows, -1, chunk)
        # XLA's maximum may leave NaN out, and NaN comes before infinity.
        ordered = jnp.where(jnp.isnan(chunks), jnp.inf, jnp.minimum(chunks, jnp.finfo(scores.dtype).max))
        first = reference(jnp.max(ordered, axis=-1))
        within = jnp.take_along_axis(chunks, first[..., None, None], axis=-2)[..., 0, :]
        return first * chunk + reference(within)

    return reference(scores) if n < 2 * chunk else by_platform(reference, scores, cpu=by_chunks)


def _chunk_size(n: int) -> int:
    """A divisor of `n` where there is one: padding to a multiple would copy all scores."""
    return next((size for size in range(96, 31, -1) if n % size == 0), 64)
