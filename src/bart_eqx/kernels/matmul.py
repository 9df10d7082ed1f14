"""Products of rows and a weight matrix, as a checkpoint stores it: `[out_dim, in_dim]`."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Float, Int8, Num

from ..typing import Array
from .narrow_product import in_order, narrow_product
from .platforms import by_platform


# XLA on CPU packs the second operand of a product. Up to this many rows, packing the matrix takes longer than the sums.
FEW_ROWS = 64


# Compiled on their own where they are called without `jax.jit`; part of the program inside of it.
@partial(jax.jit, inline=True)
def matmul(x: Float[Array, "*batch in_dim"], weight: Float[Array, "out_dim in_dim"]) -> Float[Array, "*batch out_dim"]:
    """`x @ weight.T`, summed in at least float32 and returned in the dtype of `x`."""
    rows = x.reshape(-1, x.shape[-1])
    if x.dtype.itemsize == 2 and x.dtype == weight.dtype:
        product = _narrow_matmul(rows, weight)
    else:
        product = _times_transposed(rows, weight, np.promote_types(x.dtype, np.float32)).astype(x.dtype)
    return product.reshape(*x.shape[:-1], weight.shape[0])


@jax.custom_jvp
def _narrow_matmul(
    x: Float[Array, "rows in_dim"], weight: Float[Array, "out_dim in_dim"]
) -> Float[Array, "rows out_dim"]:
    """`x @ weight.T` of 16-bit numbers, summed in float32.

    The derivative multiplies 16-bit numbers too (`narrow_product.py`). JAX's own would first convert cotangent and
    operand to float32, which changes no bit of the gradient and halves the rate of a GPU.
    """
    return _times_transposed(x, weight, np.float32).astype(x.dtype)


def _narrow_matmul_jvp(primals, tangents):
    (x, weight), (x_dot, weight_dot) = primals, tangents
    terms = []
    if not isinstance(x_dot, SymbolicZero):
        terms.append(narrow_product(x_dot, weight, contract=(1, 1)))
    if not isinstance(weight_dot, SymbolicZero):  # weights that are not trained cost no product
        terms.append(narrow_product(x, weight_dot, contract=(1, 1)))
    return _narrow_matmul(x, weight), functools.reduce(jnp.add, terms)


_narrow_matmul.defjvp(_narrow_matmul_jvp, symbolic_zeros=True)


@partial(jax.jit, inline=True)
def int8_matmul(
    x: Float[Array, "*batch in_dim"], weight: Int8[Array, "out_dim in_dim"], weight_scale: Float[Array, " out_dim"]
) -> Float[Array, "*batch out_dim"]:
    """`x @ (weight_scale[:, None] * weight).T`, with each row of `x` rounded to int8 as well.

    The integers are summed exactly, in int32. `plain()` rounds as well: this is what int8 weights compute. The
    derivative of rounding is zero; the one used here is that of the product before `x` was rounded (a straight-through
    estimator, arXiv:1308.3432).
    """
    wide = np.promote_types(x.dtype, np.float32)
    product = _int8_matmul(x.reshape(-1, x.shape[-1]).astype(wide), weight, weight_scale.astype(wide))
    return product.reshape(*x.shape[:-1], weight.shape[0]).astype(x.dtype)


@jax.custom_jvp
def _int8_matmul(
    x: Float[Array, "rows in_dim"], weight: Int8[Array, "out_dim in_dim"], weight_scale: Float[Array, " out_dim"]
) -> Float[Array, "rows out_dim"]:
    return _unscaled_int8_matmul(x, weight) * weight_scale


@_int8_matmul.defjvp
def _int8_matmul_jvp(primals, tangents):
    (x, weight, weight_scale), (x_dot, _, weight_scale_dot) = primals, tangents
    product_dot = _times_transposed(x_dot, weight.astype(x.dtype), x.dtype) * weight_scale
    product_dot += _unscaled_int8_matmul(x, weight) * weight_scale_dot
    return _int8_matmul(x, weight, weight_scale), product_dot


def _unscaled_int8_matmul(
    x: Float[Array, "rows in_dim"], weight: Int8[Array, "out_dim in_dim"]
) -> Float[Array, "rows out_dim"]:
    integers, scale = quantize_rows(x)
    return _times_transposed(integers, weight, jnp.int32).astype(x.dtype) * scale[:, None]


def quantize_rows(x: Float[Array, "rows dim"]) -> tuple[Int8[Array, "rows dim"], Float[Array, " rows"]]:
    """`round(x / scale[:, None])`, from -127 to 127, and `scale`, in the dtype of `x`.

    The scale is that of the row's largest number, `max(abs(x)) / 127`; a row that holds NaN or an infinity, or whose
    sum overflows, has the scale NaN.
    """
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    largest = jnp.max(jnp.abs(wide), axis=-1, keepdims=True)
    # XLA's maximum on CPU leaves NaN out where there are many rows (jaxlib 0.10.2); its sum does not.
    largest += 0 * jnp.sum(wide, axis=-1, keepdims=True)
    # Rounded before the integers, which are relative to the rounded scale.
    scale = (largest / 127).astype(x.dtype)
    scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
    integers = jnp.round(wide / scale.astype(wide.dtype))
    if x.dtype != wide.dtype:  # a scale that was rounded down may leave more than 127 steps
        integers = jnp.clip(integers, -127, 127)
    return integers.astype(jnp.int8), scale[:, 0]


def _times_transposed(
    x: Num[Array, "rows in_dim"], matrix: Num[Array, "out_dim in_dim"], dtype: DTypeLike
) -> Num[Array, "rows out_dim"]:
    """`x @ matrix.T`, summed and returned in `dtype`.

    On CPU a product of few rows is computed as `(matrix @ x.T).T` (measurements in `docs/performance.md`).
    """

    # One `dot_general`: with an explicit transpose XLA misses its fast int8 kernel.
    def reference(x: Array, matrix: Array) -> Array:
        return jax.lax.dot_general(x, matrix, (((1,), (1,)), ((), ())), preferred_element_type=dtype)

    def matrix_first(x: Array, matrix: Array) -> Array:
        barrier, few = jax.lax.optimization_barrier, x
        if x.dtype != dtype:
            # XLA's kernel for 16-bit numbers and int8 needs two rows, and rows that are contiguous: another product may
            # have left them transposed.
            few = jnp.concatenate([x, x]) if x.shape[0] == 1 else in_order(x)
        product = barrier(reference(matrix, few))  # without the barrier XLA swaps the operands back
        return product.T[: x.shape[0]]

    rows = x.shape[0]
    if not isinstance(rows, int) or rows > FEW_ROWS:  # the number of rows is symbolic in some calls of `jax.export`
        return reference(x, matrix)
    return by_platform(reference, x, matrix, cpu=matrix_first)
