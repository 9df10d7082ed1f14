"""Greedy search that drafts tokens by looking them up, and verifies a whole draft in one call of the model.

The last tokens of a sequence are looked up in the source and in its earlier tokens; the tokens that follow them there
are the draft. transformers' `PromptLookupCandidateGenerator` looks in the decoder's tokens alone, which do not hold a
summariser's source. A draft of any length costs one call of the model, and is accepted up to the first token that
greedy search would not have chosen. The result is that of greedy search, with every processor at every position.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from ..kernels.top_k import argmax
from ..model.cache import DecoderCache
from ..model.language_model import AbstractLanguageModel
from ..typing import Array
from .decode_loop import AbstractLoopState, EndAndPadding, SearchResult, can_choose, logger, staged_while_loop
from .model_calls import ModelInputs, chunk_logits, prefill
from .processors.scores import LogitsProcessor, apply, last_tokens


class LookupState(AbstractLoopState):
    """The loop state of prompt lookup. The buffer has room for a draft after its last slot."""

    tokens: Integer[Array, "batch 1 buffer"]
    length: Integer[Array, ""]
    lengths: Integer[Array, "batch 1"]
    """`length`, without the padding after a row's end."""
    ended: Bool[Array, "batch 1"]
    finite: Bool[Array, "batch 1"]
    """Whether `can_choose` held for every token of the row."""
    cache: DecoderCache
    model_calls: Integer[Array, ""]


def draft(
    history: Integer[Array, "batch seq"],
    tokens: Integer[Array, "batch buffer"],
    length: Integer[Array, ""],
    num_tokens: int,
    max_ngram: int,
) -> Integer[Array, "batch num_tokens"]:
    """The `num_tokens` tokens that follow, in `history`, the first occurrence of the row's last tokens: of its last
    `max_ngram`, or else of one fewer, and so on down to one. -1 where nothing follows."""
    batch, seq = history.shape
    padded = jnp.concatenate([history, jnp.full((batch, num_tokens + max_ngram), -1, history.dtype)], axis=-1)
    start, matched = jnp.full(batch, seq, jnp.int32), jnp.zeros(batch, bool)
    for size in range(max_ngram, 0, -1):
        ending = last_tokens(tokens, length, size)
        matches = (padded[:, size : size + seq] >= 0) & jnp.all(ending >= 0, axis=-1, keepdims=True)
        for i in range(size):
            matches = matches & (padded[:, i : i + seq] == ending[:, i : i + 1])
        start = jnp.where(matched, start, jnp.argmax(matches, axis=-1).astype(jnp.int32) + size)
        matched = matched | jnp.any(matches, axis=-1)
    start = jnp.where(matched, start, seq)  # into the -1 after `history`
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, num_tokens))(padded, start)


def step(
    model: AbstractLanguageModel,
    state: LookupState,
    padding: Integer[Array, "batch 1"] | None,
    source: Integer[Array, "batch src"],
    processors: Sequence[LogitsProcessor],
    ending: EndAndPadding,
    num_tokens: int,
    max_ngram: int,
) -> LookupState:
    """Draft `num_tokens` tokens, decode them after the last one, and append those that greedy search would choose."""
    length = state.length
    gap = jnp.full((source.shape[0], 1), -1, jnp.int32)  # no match spans the source and the target
    history = jnp.concatenate([source, gap, state.tokens[:, 0]], axis=-1)
    drafts = draft(history, state.tokens[:, 0], length, num_tokens, max_ngram)[:, None]

    drafted = jax.lax.dynamic_update_slice_in_dim(state.tokens, drafts, length, axis=-1)
    chunk = jax.lax.dynamic_slice_in_dim(drafted, length - 1, num_tokens + 1, axis=-1)
    logits, cache = chunk_logits(model, chunk[:, 0], state.cache, padding)
    logits = logits[:, None]

    # At each position of the draft the processors see the tokens before it, and no later ones.
    lengths = length + jnp.arange(num_tokens + 1, dtype=jnp.int32)
    slots = jnp.arange(drafted.shape[-1])
    at_position = lambda scores, n: apply(processors, scores, jnp.where(slots < n, drafted, -1), n)
    scores = jax.vmap(at_position, (2, 0), 2)(logits, lengths)
    chosen = argmax(scores).astype(jnp.int32)

    ends = ending.is_eos(chosen)
    ends_so_far = jnp.cumsum(ends, axis=-1, dtype=jnp.int32)
    ended_before = state.ended[..., None] | (ends_so_far - ends.astype(jnp.int32) > 0)
    right = (chosen[..., :-1] == drafts) | ended_before[..., :-1] | ends[..., :-1]
    accepted = jnp.min(jnp.sum(jnp.cumprod(right, axis=-1), axis=-1, dtype=jnp.int32))  # all rows advance alike
    count = jnp.minimum(accepted + 1, ending.max_length - length)

    counted = jnp.arange(num_tokens + 1) < count
    appended = jnp.where(counted, jnp.where(ended_before, ending.pad_token_id, chosen), -1)
    return LookupState(
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, appended, length, axis=-1),
        length=length + count,
        lengths=state.lengths + jnp.sum(~ended_before & counted, axis=-1, dtype=jnp.int32),
        ended=state.ended | jnp.any(ends & ~ended_before & counted, axis=-1),
        finite=state.finite & jnp.all(can_choose(scores) | ended_before | ~counted, axis=-1),
        # The slots of tokens that were not accepted are free again.
        cache=eqx.tree_at(lambda c: c.position, cache, length + count - 1),
        model_calls=state.model_calls + 1,
    )


@eqx.filter_jit
def prompt_lookup(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    source: Integer[Array, "batch src"] | None,
    processors: Sequence[LogitsProcessor],
    ending: EndAndPadding,
    *,
    num_tokens: int,
    max_ngram: int,
    buffer: int,
) -> SearchResult:
    """One sequence for each source, of at most `buffer` slots. `source` holds its tokens, -1 at padding."""
    batch, prompt_length = inputs.prompt.shape
    logger.info("Compiling prompt lookup: %d sequences, %d tokens, drafts of %d", batch, buffer, num_tokens)
    tokens, cache = prefill(model, inputs, 1, buffer)
    room = jnp.full((batch, 1, num_tokens), -1, jnp.int32)
    length = jnp.asarray(prompt_length, jnp.int32)
    start = LookupState(
        tokens=jnp.concatenate([tokens, room], axis=-1),
        length=length,
        lengths=jnp.broadcast_to(length, (batch, 1)),
        ended=jnp.zeros((batch, 1), bool),
        finite=jnp.ones((batch, 1), bool),
        cache=cache,
        model_calls=jnp.zeros((), jnp.int32),
    )
    source = jnp.full((batch, 0), -1, jnp.int32) if source is None else source
    end = staged_while_loop(
        lambda state: (state.length < ending.max_length) & ~jnp.all(state.ended),
        lambda state: step(model, state, inputs.padding, source, processors, ending, num_tokens, max_ngram),
        start,
        prompt_length=prompt_length,
        steps=buffer - prompt_length,
        slots=lambda steps: prompt_length - 1 + steps + num_tokens,
    )
    calls = jnp.broadcast_to(end.model_calls, (batch,))
    return SearchResult(tokens=end.tokens[..., :buffer], lengths=end.lengths, finite=end.finite, model_calls=calls)
