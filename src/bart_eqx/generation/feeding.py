"""How a search drives a model: what is read before the first token is chosen, and how a token is fed.

A search holds `[batch, beams, ...]`: the sequences that it writes about one source stand side by side and share the
keys and values of that source. The tokens of a row fill the first slots of a buffer, and a slot without one is -1.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ..model.cache import DecoderCache
from ..model.causal_lm import BartForCausalLM
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.layers import at_least_float32
from ..model.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from ..typing import Array


Writer = BartForConditionalGeneration | BartForCausalLM


class Request(eqx.Module):
    """What is to be written about. `None` where a model has no source, or it comes encoded."""

    prompt: Integer[Array, "batch prompt"]
    """The first tokens of every row."""
    prompt_mask: Bool[Array, "batch prompt"] | None
    """False at padding, wherever it stands; `None` where there is none."""
    input_ids: Integer[Array, "batch src"] | None = None
    encoder_hidden_states: Float[Array, "batch src dim"] | None = None
    encoder_attention_mask: Bool[Array, "batch src"] | None = None

    @property
    def padding(self) -> Integer[Array, "batch 1 1"] | None:
        """How many slots of each row's prompt hold no token; `None` where there are none."""
        if self.prompt_mask is None:
            return None
        return jnp.sum(~self.prompt_mask, axis=-1, dtype=jnp.int32)[:, None, None]


class Beginning(eqx.Module):
    """A search before its first choice. All but the last token of the prompt has been read."""

    tokens: Integer[Array, "batch beams buffer"]
    length: Integer[Array, ""]
    cache: DecoderCache
    padding: Integer[Array, "batch 1 1"] | None
    """Slots before a row's prompt that hold no token; its positions are counted from there."""


def begin(model: Writer, request: Request, num_beams: int, buffer: int) -> Beginning:
    """Read the source and the prompt, once for each source, and make room for `buffer` tokens in every beam."""
    batch, prompt_length = request.prompt.shape
    prompt, padding = request.prompt, request.padding
    if request.prompt_mask is not None:  # padding goes to the front, so that all rows go on in the same slot
        order = jnp.argsort(request.prompt_mask, axis=-1, stable=True)
        mask = jnp.take_along_axis(request.prompt_mask, order, axis=-1)
        prompt = jnp.where(mask, jnp.take_along_axis(prompt, order, axis=-1), -1)
    empty = jnp.full((batch, buffer - prompt_length), -1, jnp.int32)
    tokens = jnp.concatenate([prompt.astype(jnp.int32), empty], axis=-1)[:, None]

    cache = empty_cache(model, request, 1, buffer - 1)  # the last token is never fed
    if prompt_length > 1:
        _, cache = feed(model, tokens[..., : prompt_length - 1], cache, padding)
    own = (cache.self_attn, cache.attention_mask)
    for_beams = jax.tree.map(lambda x: jnp.repeat(x, num_beams, axis=1), own)
    return Beginning(
        tokens=jnp.repeat(tokens, num_beams, axis=1),
        length=jnp.asarray(prompt_length, jnp.int32),
        cache=eqx.tree_at(lambda c: (c.self_attn, c.attention_mask), cache, for_beams),
        padding=padding,
    )


def scores_dtype(cache: DecoderCache) -> DTypeLike:
    """Of what `feed` returns."""
    return at_least_float32(cache.self_attn[0].keys.dtype)


def empty_cache(model: Writer, request: Request, num_beams: int, slots: int) -> DecoderCache:
    states, mask = request.encoder_hidden_states, request.encoder_attention_mask
    if isinstance(model, BartForCausalLM):
        return model.init_cache(
            request.prompt.shape[0],
            max_length=slots,
            num_beams=num_beams,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
        )
    if request.input_ids is not None and states is None:
        encoded = model.encode(request.input_ids, mask)
    else:
        assert states is not None
        encoded = BaseModelOutput(states)
    return model.init_cache(encoded, mask, max_length=slots, num_beams=num_beams)


def run(
    model: Writer,
    tokens: Integer[Array, "batch beams new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1 1"] | None,
    *,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
    """Decode `tokens`. A padded prompt is read as if it stood alone: padding is masked, and positions are counted
    without it."""
    # Drafts past the last position are thrown away, and must not make NaN of the call that has them.
    positions = jnp.minimum(cache.position + jnp.arange(tokens.shape[-1]), model.config.max_position_embeddings - 1)
    mask = None
    if padding is not None:
        mask = tokens >= 0
        positions = jnp.maximum(positions - padding, 0)
    ids = jnp.maximum(tokens, 0)  # what stands at a masked slot does not matter, but it must be a token
    outputs: dict[str, Any] = dict(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
    if isinstance(model, BartForCausalLM):
        return model(ids, mask, positions, cache=cache, **outputs)
    return model.decode(ids, cache, decoder_attention_mask=mask, decoder_position_ids=positions, **outputs)


def feed(
    model: Writer,
    tokens: Integer[Array, "batch beams new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1 1"] | None,
) -> tuple[Float[Array, "batch beams new vocab"], DecoderCache]:
    """The scores of what follows each of `tokens`, in at least float32, and the cache with them."""
    output, cache = run(model, tokens, cache, padding)
    return output.logits.astype(at_least_float32(output.logits.dtype)), cache


def feed_last(
    model: Writer,
    tokens: Integer[Array, "batch beams buffer"],
    length: Integer[Array, ""],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1 1"] | None,
) -> tuple[Float[Array, "batch beams vocab"], DecoderCache]:
    """The scores of the token that goes into slot `length`."""
    last = jax.lax.dynamic_slice_in_dim(tokens, length - 1, 1, axis=-1)
    logits, cache = feed(model, last, cache, padding)
    return logits[..., 0, :], cache
