"""How a search drives a model: what is read before the first token is chosen, and how a token is fed.

A search holds `[batch, beams, ...]`: the sequences that it writes about one source stand side by side. The tokens of a
row fill the first slots of a buffer, and a slot without one is -1.

The model sees one sequence per source, whose new tokens at each step are the beams' last. They are the branches of a
tree: each attends to the prompt and to its own ancestors among the slots of earlier steps, and a mask says which these
are. So the beams are rows of one query, to the source as to their past; a prompt is read and stored once; and when
beams are chosen anew no key or value moves, only the integers that name the ancestors.
(Tree attention: arXiv:2305.09781.)
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ..kernels.rows import row_by_row
from ..model.cache import DecoderCache
from ..model.causal_lm import BartForCausalLM
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from ..typing import Array, at_least_float32


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
    def padding(self) -> Integer[Array, "batch 1"] | None:
        """How many slots of each row's prompt hold no token; `None` where there are none."""
        if self.prompt_mask is None:
            return None
        return jnp.sum(~self.prompt_mask, axis=-1, keepdims=True, dtype=jnp.int32)


class Beginning(eqx.Module):
    """A search before its first choice. All but the last token of the prompt has been read, once for each source."""

    tokens: Integer[Array, "batch beams buffer"]
    length: Integer[Array, ""]
    cache: DecoderCache
    """Of those tokens alone, as `empty_cache` has it; `room_for` makes room for more."""
    padding: Integer[Array, "batch 1"] | None
    """Slots before a row's prompt that hold no token; its positions are counted from there."""


def begin(model: Writer, request: Request, num_beams: int, buffer: int) -> Beginning:
    """Read the source and the prompt, and make room for `buffer` tokens in every beam."""
    batch, prompt_length = request.prompt.shape
    prompt, padding = request.prompt, request.padding
    if request.prompt_mask is not None:  # padding goes to the front, so that all rows go on in the same slot
        order = jnp.argsort(request.prompt_mask, axis=-1, stable=True)
        mask = jnp.take_along_axis(request.prompt_mask, order, axis=-1)
        prompt = jnp.where(mask, jnp.take_along_axis(prompt, order, axis=-1), -1)
    empty = jnp.full((batch, buffer - prompt_length), -1, jnp.int32)
    tokens = jnp.concatenate([prompt.astype(jnp.int32), empty], axis=-1)

    cache = empty_cache(model, request, max(prompt_length - 1, 1))
    if prompt_length > 1:
        _, cache = run(model, tokens[:, : prompt_length - 1], cache, padding)
    return Beginning(
        tokens=jnp.broadcast_to(tokens[:, None], (batch, num_beams, buffer)),
        length=jnp.asarray(prompt_length, jnp.int32),
        cache=cache,
        padding=padding,
    )


def scores_dtype(cache: DecoderCache) -> DTypeLike:
    """Of what `feed` returns."""
    return at_least_float32(cache.self_attn[0].keys.dtype)


def empty_cache(model: Writer, request: Request, slots: int) -> DecoderCache:
    """A row that is alone has a cache without an axis for rows, and `run` feeds it so. With that axis, XLA on CPU
    copies the whole cache four times at a greedy step (`docs/performance.md`)."""
    batch = request.prompt.shape[0]
    states, mask = request.encoder_hidden_states, request.encoder_attention_mask
    if states is None and isinstance(model, BartForConditionalGeneration):
        assert request.input_ids is not None
        encode = lambda ids, mask: model.encode(ids, mask).last_hidden_state
        states = row_by_row(encode, request.input_ids, mask)
    if batch == 1:
        states, mask = jax.tree.map(lambda x: x[0], (states, mask))
    if isinstance(model, BartForCausalLM):
        rows = None if batch == 1 else batch
        return model.init_cache(rows, max_length=slots, encoder_hidden_states=states, encoder_attention_mask=mask)
    assert states is not None
    return model.init_cache(BaseModelOutput(states), mask, max_length=slots)


def run(
    model: Writer,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1"] | None,
    *,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
    """Decode `tokens`, one after the other. A padded prompt is read as if it stood alone: padding is masked, and
    positions are counted without it."""
    positions = cache.position + jnp.arange(tokens.shape[-1])
    mask = None if padding is None else tokens >= 0
    outputs = dict(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
    return _run(model, tokens, cache, positions, mask, padding, **outputs)


def _run(
    model: Writer,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    positions: Integer[Array, " new"],
    mask: Bool[Array, "batch new"] | Bool[Array, "batch new slots"] | None,
    padding: Integer[Array, "batch 1"] | None,
    **outputs: Any,
) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
    alone = cache.attention_mask.ndim == 1
    if alone:
        tokens, mask, padding = jax.tree.map(lambda x: x[0], (tokens, mask, padding))
    # Drafts past the last position are thrown away, and must not make NaN of the call that has them.
    positions = jnp.minimum(positions, model.config.max_position_embeddings - 1)
    if padding is not None:
        positions = jnp.maximum(positions - padding, 0)
    ids = jnp.maximum(tokens, 0)  # what stands at a masked slot does not matter, but it must be a token
    if isinstance(model, BartForCausalLM):
        output, cache = model(ids, mask, positions, cache=cache, **outputs)
    else:
        output, cache = model.decode(ids, cache, decoder_attention_mask=mask, decoder_position_ids=positions, **outputs)
    return jax.tree.map(lambda x: x[None], output) if alone else output, cache


def feed(
    model: Writer,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1"] | None,
) -> tuple[Float[Array, "batch new vocab"], DecoderCache]:
    """The scores of what follows each of `tokens`, in at least float32, and the cache with them."""
    output, cache = run(model, tokens, cache, padding)
    return output.logits.astype(scores_dtype(cache)), cache


def room_for(steps: int, cache: DecoderCache, num_beams: int, prompt_length: int) -> DecoderCache:
    """The cache of a search that has made no more than `steps` steps, with slots for so many."""
    return cache.with_room(prompt_length - 1 + steps * num_beams)


def feed_last(
    model: Writer,
    tokens: Integer[Array, "batch beams buffer"],
    length: Integer[Array, ""],
    cache: DecoderCache,
    ancestors: Integer[Array, "batch beams steps"],
    padding: Integer[Array, "batch 1"] | None,
) -> tuple[Float[Array, "batch beams vocab"], DecoderCache]:
    """The scores of the token that goes into slot `length`.

    `ancestors` say whose each step was, of the beams that there were at it, up to and with this step.
    """
    num_beams = tokens.shape[1]
    prompt_length = tokens.shape[-1] - ancestors.shape[-1]
    steps = (cache.max_length - prompt_length + 1) // num_beams
    of_steps = jnp.repeat(ancestors[..., :steps], num_beams, axis=-1) == jnp.tile(jnp.arange(num_beams), steps)
    of_prompt = jnp.ones((*tokens.shape[:2], prompt_length - 1), bool)
    mask = jnp.concatenate([of_prompt, of_steps], axis=-1)

    last = jax.lax.dynamic_index_in_dim(tokens, length - 1, axis=-1, keepdims=False)
    positions = jnp.broadcast_to(length - 1, (num_beams,))
    output, cache = _run(model, last, cache, positions, mask, padding)
    return output.logits.astype(scores_dtype(cache)), cache
