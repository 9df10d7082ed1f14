"""Greedy search: at every step the likeliest token."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..generation_config import GenerationConfig
from ..model.cache import DecoderCache
from ..model.conditional_generation import BartForConditionalGeneration
from ..typing import Array


class GreedyState(eqx.Module):
    """What one step hands to the next."""

    sequences: Integer[Array, "*batch max_len"]
    """The tokens so far, then padding."""
    length: Integer[Array, ""]
    """How many there are: the same in every row, of which some may have ended."""
    finished: Bool[Array, "*batch"]
    """Which rows have written `</s>`."""
    cache: DecoderCache
    """Of all tokens but the last, which the next step feeds."""


def force_tokens(
    logits: Float[Array, "*batch vocab"], length: Integer[Array, ""], max_length: int, config: GenerationConfig
) -> Float[Array, "*batch vocab"]:
    """The scores of the token that follows `length` tokens, with no choice left where one is forced."""
    tokens = jnp.arange(logits.shape[-1])
    if config.forced_bos_token_id is not None:
        barred = (length == 1) & (tokens != config.forced_bos_token_id)
        logits = jnp.where(barred, -jnp.inf, logits)
    if config.forced_eos_token_id is not None:
        barred = (length == max_length - 1) & (tokens != config.forced_eos_token_id)
        logits = jnp.where(barred, -jnp.inf, logits)
    return logits


@eqx.filter_jit
def greedy_search(
    model: BartForConditionalGeneration,
    input_ids: Integer[Array, "*batch src"],
    attention_mask: Bool[Array, "*batch src"],
    config: GenerationConfig,
) -> tuple[Integer[Array, "*batch max_len"], Integer[Array, "*batch"]]:
    """The sequences, from the start token on, and how long each is."""
    batch = input_ids.shape[:-1]
    max_length = config.max_length if config.max_new_tokens is None else 1 + config.max_new_tokens
    encoded = model.encode(input_ids, attention_mask)
    padding = jnp.full((*batch, max_length), config.pad_token_id, jnp.int32)
    start = GreedyState(
        sequences=padding.at[..., 0].set(config.decoder_start_token_id),
        length=jnp.ones((), jnp.int32),
        finished=jnp.zeros(batch, bool),
        cache=model.init_cache(encoded, attention_mask, max_length=max_length - 1),  # the last token is never fed
    )

    def step(state: GreedyState) -> GreedyState:
        last = jax.lax.dynamic_slice_in_dim(state.sequences, state.length - 1, 1, axis=-1)
        output, cache = model.decode(last, state.cache)
        logits = force_tokens(output.logits[..., -1, :], state.length, max_length, config)
        token = jnp.where(state.finished, config.pad_token_id, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        return GreedyState(
            sequences=jax.lax.dynamic_update_slice_in_dim(state.sequences, token[..., None], state.length, axis=-1),
            length=state.length + 1,
            finished=state.finished | (token == config.eos_token_id),
            cache=cache,
        )

    end = jax.lax.while_loop(lambda state: (state.length < max_length) & ~jnp.all(state.finished), step, start)
    # `</s>` ends a sequence, except as the start token.
    ends = (end.sequences == config.eos_token_id).at[..., 0].set(False)
    return end.sequences, jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1) + 1, end.length)
