"""Greedy search and sampling: at every step the likeliest token of each sequence, or a random draw."""

import abc
from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..kernels.top_k import argmax
from ..model.cache import DecoderCache
from ..model.language_model import AbstractLanguageModel
from ..typing import Array
from .decode_loop import (
    AbstractLoopState,
    EndAndPadding,
    SearchResult,
    StepRecords,
    can_choose,
    logger,
    staged_while_loop,
    with_slots,
)
from .model_calls import ModelInputs, logits_dtype, next_logits, prefill, tree_slots
from .processors.scores import LogitsProcessor, apply


class AbstractChoice(eqx.Module):
    """How a token is chosen from the processed scores of the vocabulary."""

    @abc.abstractmethod
    def __call__(
        self, scores: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        """The token for slot `length` of every row."""


class Greedy(AbstractChoice):
    """The likeliest token."""

    def __call__(
        self, scores: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        return argmax(scores)


class Draw(AbstractChoice):
    """A draw from the softmax. Its key is `key` folded with the row and the slot, so that the draws of a row do not
    depend on the other rows."""

    key: PRNGKeyArray

    def __call__(
        self, scores: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        rows = scores.shape[:-1]
        draw = lambda row, scores: jr.categorical(jr.fold_in(jr.fold_in(self.key, row), length), scores)
        return jnp.vectorize(draw, signature="(),(v)->()")(jnp.arange(rows[0] * rows[1]).reshape(rows), scores)


class FlaxDraw(AbstractChoice):
    """The draws of transformers 4.57's Flax loop from the same key: one key for all rows, split at every step."""

    key: PRNGKeyArray
    prompt_length: Integer[Array, ""]

    def __call__(
        self, scores: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        key = jax.lax.fori_loop(0, length - self.prompt_length, lambda _, key: jr.split(key)[1], self.key)
        return jr.categorical(jr.split(key)[0], scores[:, 0], axis=-1)[:, None]


class SampleState(AbstractLoopState):
    """The loop state of greedy search and sampling."""

    tokens: Integer[Array, "batch beams buffer"]
    length: Integer[Array, ""]
    lengths: Integer[Array, "batch beams"]
    """`length`, without the padding after a row's end."""
    ended: Bool[Array, "batch beams"]
    finite: Bool[Array, "batch beams"]
    """Whether `can_choose` held for every token of the row."""
    cache: DecoderCache
    records: StepRecords

    @classmethod
    def start(
        cls,
        tokens: Integer[Array, "batch beams buffer"],
        cache: DecoderCache,
        prompt_length: int,
        records: StepRecords,
    ) -> "SampleState":
        """The state after `prefill`."""
        rows = tokens.shape[:-1]
        length = jnp.asarray(prompt_length, jnp.int32)
        return cls(
            tokens=tokens,
            length=length,
            lengths=jnp.broadcast_to(length, rows),
            ended=jnp.zeros(rows, bool),
            finite=jnp.ones(rows, bool),
            cache=cache,
            records=records,
        )

    def unfinished(self, ending: EndAndPadding) -> Bool[Array, ""]:
        return (self.length < ending.max_length) & ~jnp.all(self.ended)


def own_ancestors(shape: tuple[int, int, int], step: Integer[Array, ""]) -> Integer[Array, "batch beams steps"]:
    """For `next_logits`: a sample attends to its own tokens only."""
    _, num_beams, steps = shape
    return jnp.broadcast_to(jnp.where(jnp.arange(steps) <= step, jnp.arange(num_beams)[:, None], -1), shape)


def step(
    model: AbstractLanguageModel,
    state: SampleState,
    padding: Integer[Array, "batch 1"] | None,
    processors: Sequence[LogitsProcessor],
    choose: AbstractChoice,
    ending: EndAndPadding,
    prompt_length: int,
) -> SampleState:
    """Decode the last token of every row, process the scores, and append a token."""
    batch, num_beams, buffer = state.tokens.shape
    ancestors = own_ancestors((batch, num_beams, buffer - prompt_length), state.length - prompt_length)
    logits, cache = next_logits(model, state.tokens, state.length, state.cache, ancestors, padding, prompt_length)
    scores = apply(processors, logits, state.tokens, state.length)
    token = jnp.where(state.ended, ending.pad_token_id, choose(scores, state.length).astype(jnp.int32))
    return SampleState(
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[..., None], state.length, axis=-1),
        length=state.length + 1,
        lengths=state.lengths + (~state.ended).astype(jnp.int32),
        ended=state.ended | ending.is_eos(token),
        finite=state.finite & (state.ended | can_choose(scores)),
        cache=cache,
        records=state.records.write(state.length - prompt_length, scores, logits),
    )


@eqx.filter_jit
def sample(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    processors: Sequence[LogitsProcessor],
    choose: AbstractChoice,
    ending: EndAndPadding,
    *,
    num_sequences: int,
    buffer: int,
    output_scores: bool,
    output_logits: bool,
) -> SearchResult:
    """`num_sequences` sequences for each source, of at most `buffer` slots."""
    batch, prompt_length = inputs.prompt.shape
    steps = buffer - prompt_length
    logger.info("Compiling %s: %d x %d sequences, %d tokens", type(choose).__name__, batch, num_sequences, buffer)
    tokens, cache = prefill(model, inputs, num_sequences, buffer)
    shape = (batch, num_sequences, steps, model.config.vocab_size)
    records = StepRecords.empty(shape, logits_dtype(cache), scores=output_scores, logits=output_logits)
    end = staged_while_loop(
        lambda state: state.unfinished(ending),
        lambda state: step(model, state, inputs.padding, processors, choose, ending, prompt_length),
        SampleState.start(tokens, cache, prompt_length, records),
        prompt_length=prompt_length,
        steps=steps,
        slots=tree_slots(prompt_length, num_sequences),
    )
    return SearchResult(tokens=end.tokens, lengths=end.lengths, finite=end.finite, records=end.records)


def sample_steps(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    processors: Sequence[LogitsProcessor],
    choose: AbstractChoice,
    ending: EndAndPadding,
    *,
    num_sequences: int,
    buffer: int,
) -> Iterator[Integer[Array, "batch beams"]]:
    """The tokens of `sample`, one step at a time. Each step is one call of a compiled function.

    Raises:
        FloatingPointError: if `can_choose` does not hold for a row.
    """
    state, padding = _start(model, inputs, num_sequences, buffer)
    unchanged = (model, padding, processors, choose, ending, inputs.prompt.shape[-1])
    unfinished = True
    while unfinished:
        state, token, unfinished, finite = _next(unchanged, state)
        if not finite:
            raise FloatingPointError(
                "A token cannot be chosen: scores are NaN or infinite (look at the model's weights and its dtype), or "
                "options and processors together mask out every token."
            )
        yield token


@eqx.filter_jit
def _start(
    model: AbstractLanguageModel, inputs: ModelInputs, num_sequences: int, buffer: int
) -> tuple[SampleState, Integer[Array, "batch 1"] | None]:
    batch, prompt_length = inputs.prompt.shape
    logger.info("Compiling a stream: %d x %d sequences, %d tokens", batch, num_sequences, buffer)
    tokens, cache = prefill(model, inputs, num_sequences, buffer)
    state = SampleState.start(tokens, cache, prompt_length, StepRecords(None, None))
    slots = tree_slots(prompt_length, num_sequences)(buffer - prompt_length)
    return with_slots(state, slots), inputs.padding


@eqx.filter_jit(donate="all-except-first")
def _next(
    unchanged: tuple[
        AbstractLanguageModel,
        Integer[Array, "batch 1"] | None,
        Sequence[LogitsProcessor],
        AbstractChoice,
        EndAndPadding,
        int,
    ],
    state: SampleState,
) -> tuple[SampleState, Integer[Array, "batch beams"], Bool[Array, ""], Bool[Array, ""]]:
    """One step: the state, its new token, whether it is unfinished, and whether all tokens could be chosen.

    All that a step does not change is one tuple, because `donate` spares only the first argument.
    """
    model, padding, processors, choose, ending, prompt_length = unchanged
    state = step(model, state, padding, processors, choose, ending, prompt_length)
    token = jax.lax.dynamic_index_in_dim(state.tokens, state.length - 1, axis=-1, keepdims=False)
    return state, token, state.unfinished(ending), jnp.all(state.finite)
