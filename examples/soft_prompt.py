"""Soft prompts (arXiv:2104.08691): trained vectors in front of the source; the model itself stays as it is."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

import bart_eqx
from bart_eqx.model.outputs import BaseModelOutput
from bart_eqx.typing import HostArray, Mask


def encode_with_prompt(
    model: bart_eqx.BartForConditionalGeneration,
    prompt: Float[Array, "prompt {model.config.d_model}"],
    input_ids: Integer[HostArray, "*batch src"],
    attention_mask: Mask[HostArray, "*batch src"],
) -> tuple[BaseModelOutput, Bool[Array, "*batch prompt+src"]]:
    """The encoded source behind a prompt, and its mask.

    Both go to `generate` as `encoder_outputs` and `attention_mask`, and to `decode` as `encoder_outputs` and
    `encoder_attention_mask`.
    """
    batch = input_ids.shape[:-1]
    vectors = jnp.broadcast_to(prompt, (*batch, *prompt.shape))
    embedded = jnp.concatenate([vectors, model.model.shared(input_ids)], axis=-2)
    mask = jnp.concatenate([jnp.ones((*batch, len(prompt)), bool), jnp.asarray(attention_mask, bool)], axis=-1)
    return model.model.encoder(embedded, mask), mask
