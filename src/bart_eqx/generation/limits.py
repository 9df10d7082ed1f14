"""Where sequences end, and where compilations are announced: what every loop needs."""

import logging

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from ..typing import Array


logger = logging.getLogger("bart_eqx.generation")


class Limits(eqx.Module):
    """Where sequences end."""

    max_length: Integer[Array, ""]
    """Slots at most: as many as the buffer has, or fewer."""
    eos: Integer[Array, " n"]
    """Tokens that end a sequence."""
    pad: Integer[Array, ""]

    def is_eos(self, tokens: Integer[Array, "*rows"]) -> Bool[Array, "*rows"]:
        return jnp.any(tokens[..., None] == self.eos, axis=-1)
