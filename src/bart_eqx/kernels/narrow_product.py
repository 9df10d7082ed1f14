"""A product of 16-bit matrices whose derivatives are products of the same kind.

XLA on CPU (jaxlib 0.10.2) has a fast kernel for bfloat16, but only for a product that is float32, and of which no
operand lies transposed in memory: all others it widens. Which form a gradient has is decided where JAX transposes the
product, so that this one is a primitive.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float, Shaped

from ..typing import Array
from .platforms import by_platform


Axes = tuple[int, int]


def narrow_product(a: Float[Array, "_ _"], b: Float[Array, "_ _"], *, contract: Axes) -> Float[Array, "_ _"]:
    """`a @ b.T` for `contract=(1, 1)`, `a @ b` for `(1, 0)`: the sum over an axis of `a` and one of `b`, in float32,
    returned in their dtype. It may be differentiated as often as one likes."""
    return _product.bind(a, b, contract=contract)


def in_order(x: Shaped[Array, "rows columns"]) -> Shaped[Array, "rows columns"]:
    """`x`, row after row in memory: XLA cannot fold this reshape into a transposition before it."""
    return jax.lax.optimization_barrier(x[None]).reshape(x.shape)


def _dimension_numbers(contract: Axes) -> Any:
    return ((contract[:1], contract[1:]), ((), ()))


def _reference(a: Array, b: Array, *, contract: Axes) -> Array:
    return jax.lax.dot_general(a, b, _dimension_numbers(contract))


def _on_cpu(a: Array, b: Array, *, contract: Axes) -> Array:
    rows = a if contract[0] == 1 else in_order(a.T)
    numbers = _dimension_numbers((1, contract[1]))
    return jax.lax.dot_general(rows, b, numbers, preferred_element_type=np.float32).astype(a.dtype)


def _chosen(a: Array, b: Array, *, contract: Axes) -> Array:
    reference = partial(_reference, contract=contract)
    if a.dtype != jnp.bfloat16:  # for float16 XLA on CPU has no such kernel
        return reference(a, b)
    return by_platform(reference, a, b, cpu=partial(_on_cpu, contract=contract))


def _abstract(a: Any, b: Any, *, contract: Axes) -> Any:
    options = dict(precision=None, preferred_element_type=None, out_sharding=None)
    return dot_general_p.abstract_eval(a, b, dimension_numbers=_dimension_numbers(contract), **options)


def _for_a(cotangent: Array, a: Any, b: Array, *, contract: Axes) -> Array:
    free = 1 - contract[1]
    if contract[0] == 1:
        return narrow_product(cotangent, b, contract=(1, free))
    return narrow_product(b, cotangent, contract=(free, 1))


def _for_b(cotangent: Array, a: Array, b: Any, *, contract: Axes) -> Array:
    free = 1 - contract[0]
    if contract[1] == 1:
        return narrow_product(cotangent, a, contract=(0, free))
    return narrow_product(a, cotangent, contract=(free, 0))


def _batched(
    operands: tuple[Array, Array], axes: tuple[int | None, int | None], *, contract: Axes
) -> tuple[Array, int]:
    return jax.vmap(partial(_reference, contract=contract), axes)(*operands), 0


_product = Primitive("narrow_product")
_product.def_impl(jax.jit(_chosen, static_argnames="contract"))
_product.def_effectful_abstract_eval(_abstract)
ad.defbilinear(_product, _for_a, _for_b)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_chosen, multiple_results=False))
