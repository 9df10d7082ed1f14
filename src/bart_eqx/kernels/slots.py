"""Writing new slots into a cache."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..typing import Array
from .platforms import by_platform


@partial(jax.jit, static_argnames="axis", inline=True)
def write_slots(
    x: Float[Array, "..."], new: Float[Array, "..."], start: Integer[Array, ""], *, axis: int
) -> Float[Array, "..."]:
    """`jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)`.

    On CPU XLA would convert all of a 16-bit `x` to float32 for it, and back. There, the bits are written.
    """
    reference = lambda x, new, start: jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)
    if x.dtype.itemsize != 2:
        return reference(x, new, start)
    bits = lambda y: jax.lax.bitcast_convert_type(y, jnp.uint16)

    @jax.custom_jvp
    def write_bits(x: Array, new: Array, start: Array) -> Array:
        return jax.lax.bitcast_convert_type(reference(bits(x), bits(new), start), x.dtype)

    @write_bits.defjvp
    def _(primals, tangents):  # integers have no derivative: that of a write is the same write
        x, new, start = primals
        return write_bits(x, new, start), reference(tangents[0], tangents[1], start)

    return by_platform(reference, x, new, start, cpu=write_bits)
