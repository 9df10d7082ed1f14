"""The logit lens: which words the decoder would predict if it stopped after each layer.

Every layer of BART ends in a norm, so that the head reads its states as they are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import bart_eqx


def logit_lens(
    model: bart_eqx.BartForConditionalGeneration, decoder_hidden_states: tuple[Float[Array, "*batch tgt dim"], ...]
) -> Float[Array, "states *batch tgt vocab"]:
    """The logits of every layer, the embedded input first: from `model(..., output_hidden_states=True)`."""
    return jax.lax.map(model.lm_logits, jnp.stack(decoder_hidden_states))
