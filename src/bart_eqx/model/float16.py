"""float16 is for inference: a warning where a model is trained in it."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ..typing import Array
from .checks import warn_at_caller


_ADVICE = (
    "float16 has no number below 6e-8, so that Adam divides by zero and the loss becomes NaN. Keep the parameters in "
    "float32, as in from_pretrained(..., dtype=jnp.float32); to compute in 16 bits, cast them to bfloat16 inside the "
    "loss (docs/training.md)."
)


def warn_of_float16_training(x: Float[Array, "*batch dim"], in_training_mode: bool) -> Float[Array, "*batch dim"]:
    """`x`, the states of a stack of layers. Warns if they are float16, and the stack is in training mode or `x` is
    differentiated."""
    if x.dtype != jnp.float16:
        return x
    if in_training_mode:
        warn_at_caller(f"A float16 model runs in training mode. {_ADVICE}")
    return _warn_if_differentiated(x)


@jax.custom_jvp
def _warn_if_differentiated(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    return x


@_warn_if_differentiated.defjvp
def _warn(
    primals: tuple[Float[Array, "*batch dim"]], tangents: tuple[Float[Array, "*batch dim"]]
) -> tuple[Float[Array, "*batch dim"], Float[Array, "*batch dim"]]:
    warn_at_caller(f"The gradient of a float16 model is computed. {_ADVICE}")
    return primals[0], tangents[0]
