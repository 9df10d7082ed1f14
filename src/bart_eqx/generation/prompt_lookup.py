"""Greedy search that drafts its next tokens by looking them up, and verifies a whole draft in one call of the model.

What was last written is searched for in the source and in what was written before; what followed there is the draft.
transformers' `PromptLookupCandidateGenerator` searches the decoder's tokens alone, in which a summariser's source does
not occur. A draft costs one call of the model however long it is, and is accepted up to the first token that greedy
search would not have chosen: the output is that of greedy search, with every processor applied at every position.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from ..model.cache import DecoderCache
from ..typing import Array
from .feeding import Request, Writer, begin, feed, room_for
from .limits import Limits, logger
from .processors import LogitsProcessor, apply, last_tokens
from .results import Found, all_numbers
from .stages import AbstractSearchState, in_stages


class LookupState(AbstractSearchState):
    """What one call of the model hands to the next."""

    tokens: Integer[Array, "batch 1 buffer"]
    length: Integer[Array, ""]
    lengths: Integer[Array, "batch 1"]
    finished: Bool[Array, "batch 1"]
    finite: Bool[Array, "batch 1"]
    """Whether every token was chosen among numbers."""
    cache: DecoderCache
    model_calls: Integer[Array, ""]
    num_tokens: int = eqx.field(static=True)
    """Of a draft."""

    def with_room(self, steps: int, prompt_length: int) -> "LookupState":
        cache = room_for(steps + self.num_tokens, self.cache, 1, prompt_length)
        return eqx.tree_at(lambda state: state.cache, self, cache)


def draft(
    history: Integer[Array, "batch seq"],
    tokens: Integer[Array, "batch buffer"],
    length: Integer[Array, ""],
    num_tokens: int,
    max_ngram: int,
) -> Integer[Array, "batch num_tokens"]:
    """What followed in `history` where it first has the last tokens of the row, of which the most are matched that can
    be; -1 where nothing followed."""
    batch, seq = history.shape
    longer = jnp.concatenate([history, jnp.full((batch, num_tokens + max_ngram), -1, history.dtype)], axis=-1)
    start, found = jnp.full(batch, seq, jnp.int32), jnp.zeros(batch, bool)
    for size in range(max_ngram, 0, -1):
        ending = last_tokens(tokens, length, size)
        matches = (longer[:, size : size + seq] >= 0) & jnp.all(ending >= 0, axis=-1, keepdims=True)
        for i in range(size):
            matches = matches & (longer[:, i : i + seq] == ending[:, i : i + 1])
        start = jnp.where(found, start, jnp.argmax(matches, axis=-1).astype(jnp.int32) + size)
        found = found | jnp.any(matches, axis=-1)
    start = jnp.where(found, start, seq)  # beyond all tokens
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, num_tokens))(longer, start)


def step(
    model: Writer,
    state: LookupState,
    padding: Integer[Array, "batch 1"] | None,
    source: Integer[Array, "batch src"],
    processors: Sequence[LogitsProcessor],
    limits: Limits,
    max_ngram: int,
) -> LookupState:
    length, num_tokens = state.length, state.num_tokens
    gap = jnp.full((source.shape[0], 1), -1, jnp.int32)  # no match runs from the source into the target
    history = jnp.concatenate([source, gap, state.tokens[:, 0]], axis=-1)
    drafts = draft(history, state.tokens[:, 0], length, num_tokens, max_ngram)[:, None]

    drafted = jax.lax.dynamic_update_slice_in_dim(state.tokens, drafts, length, axis=-1)
    chunk = jax.lax.dynamic_slice_in_dim(drafted, length - 1, num_tokens + 1, axis=-1)
    logits, cache = feed(model, chunk[:, 0], state.cache, padding)
    logits = logits[:, None]

    # At every position of the draft the processors see what stands before it, and no more.
    lengths = length + jnp.arange(num_tokens + 1, dtype=jnp.int32)
    slots = jnp.arange(drafted.shape[-1])
    at_position = lambda scores, n: apply(processors, scores, jnp.where(slots < n, drafted, -1), n)
    scores = jax.vmap(at_position, (2, 0), 2)(logits, lengths)
    chosen = jnp.argmax(scores, axis=-1).astype(jnp.int32)

    ends = limits.is_eos(chosen)
    ended_before = state.finished[..., None] | ((jnp.cumsum(ends, axis=-1) - ends) > 0)
    right = (chosen[..., :-1] == drafts) | ended_before[..., :-1] | ends[..., :-1]
    accepted = jnp.min(jnp.sum(jnp.cumprod(right, axis=-1), axis=-1, dtype=jnp.int32))  # rows go on together
    count = jnp.minimum(accepted + 1, limits.max_length - length)

    counted = jnp.arange(num_tokens + 1) < count
    written = jnp.where(counted, jnp.where(ended_before, limits.pad, chosen), -1)
    return LookupState(
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, written, length, axis=-1),
        length=length + count,
        lengths=state.lengths + jnp.sum(~ended_before & counted, axis=-1, dtype=jnp.int32),
        finished=state.finished | jnp.any(ends & ~ended_before & counted, axis=-1),
        finite=state.finite & jnp.all(all_numbers(scores) | ended_before | ~counted, axis=-1),
        # The slots of what was not accepted are free again.
        cache=eqx.tree_at(lambda c: c.position, cache, length + count - 1),
        model_calls=state.model_calls + 1,
        num_tokens=num_tokens,
    )


@eqx.filter_jit
def prompt_lookup_search(
    model: Writer,
    request: Request,
    source: Integer[Array, "batch src"] | None,
    processors: Sequence[LogitsProcessor],
    limits: Limits,
    *,
    num_tokens: int,
    max_ngram: int,
    buffer: int,
) -> Found:
    batch, prompt_length = request.prompt.shape
    logger.info("Compiling prompt lookup: %d sequences, %d tokens, drafts of %d", batch, buffer, num_tokens)
    beginning = begin(model, request, 1, buffer)
    spare = jnp.full((batch, 1, num_tokens), -1, jnp.int32)
    start = LookupState(
        tokens=jnp.concatenate([beginning.tokens, spare], axis=-1),
        length=beginning.length,
        lengths=jnp.broadcast_to(beginning.length, (batch, 1)),
        finished=jnp.zeros((batch, 1), bool),
        finite=jnp.ones((batch, 1), bool),
        cache=beginning.cache,
        model_calls=jnp.zeros((), jnp.int32),
        num_tokens=num_tokens,
    )
    source = jnp.full((batch, 0), -1, jnp.int32) if source is None else source
    end = in_stages(
        lambda state: (state.length < limits.max_length) & ~jnp.all(state.finished),
        lambda state: step(model, state, beginning.padding, source, processors, limits, max_ngram),
        start,
        prompt_length=prompt_length,
        steps=buffer - prompt_length,
    )
    calls = jnp.broadcast_to(end.model_calls, (batch,))
    return Found(tokens=end.tokens[..., :buffer], lengths=end.lengths, finite=end.finite, model_calls=calls)
