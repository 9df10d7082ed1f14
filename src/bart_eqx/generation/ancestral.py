"""Greedy search and sampling: one token for every row at every step, the likeliest or a drawn one."""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..model.cache import DecoderCache
from ..typing import Array
from .feeding import Beginning, Request, Writer, begin, feed_last, room_for, scores_dtype
from .limits import Limits, logger
from .processors import LogitsProcessor, apply
from .results import Found, Records, all_numbers
from .stages import AbstractSearchState, in_stages


class AbstractChoice(eqx.Module):
    """How a token comes out of its scores."""

    @abc.abstractmethod
    def __call__(
        self, logits: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]: ...


class Likeliest(AbstractChoice):
    def __call__(
        self, logits: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        return jnp.argmax(logits, axis=-1)


class Draw(AbstractChoice):
    """A draw from the softmax. Each row and step has a key of its own, so that a row's draws do not depend on the
    other rows."""

    key: PRNGKeyArray

    def __call__(
        self, logits: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        rows = logits.shape[:-1]
        draw = lambda row, scores: jr.categorical(jr.fold_in(jr.fold_in(self.key, row), length), scores)
        return jnp.vectorize(draw, signature="(),(v)->()")(jnp.arange(rows[0] * rows[1]).reshape(rows), logits)


class FlaxDraw(AbstractChoice):
    """The draws of transformers 4.57's Flax loop from the same key: one key for all rows, split at every step."""

    key: PRNGKeyArray
    prompt_length: Integer[Array, ""]

    def __call__(
        self, logits: Float[Array, "batch beams vocab"], length: Integer[Array, ""]
    ) -> Integer[Array, "batch beams"]:
        key = jax.lax.fori_loop(0, length - self.prompt_length, lambda _, key: jr.split(key)[1], self.key)
        return jr.categorical(jr.split(key)[0], logits[:, 0], axis=-1)[:, None]


class AncestralState(AbstractSearchState):
    """What one step hands to the next."""

    tokens: Integer[Array, "batch beams buffer"]
    length: Integer[Array, ""]
    """Slots taken: the same in every row, of which some may have ended."""
    lengths: Integer[Array, "batch beams"]
    """The same, without what follows a row's end."""
    finished: Bool[Array, "batch beams"]
    finite: Bool[Array, "batch beams"]
    """Whether every token was chosen among numbers."""
    cache: DecoderCache
    """Of all tokens but the last, which the next step feeds."""
    records: Records

    @classmethod
    def start(cls, beginning: Beginning, records: Records) -> "AncestralState":
        rows = beginning.tokens.shape[:-1]
        return cls(
            tokens=beginning.tokens,
            length=beginning.length,
            lengths=jnp.broadcast_to(beginning.length, rows),
            finished=jnp.zeros(rows, bool),
            finite=jnp.ones(rows, bool),
            cache=beginning.cache,
            records=records,
        )

    def with_room(self, steps: int, prompt_length: int) -> "AncestralState":
        cache = room_for(steps, self.cache, self.tokens.shape[1], prompt_length)
        return eqx.tree_at(lambda state: state.cache, self, cache)

    def going(self, limits: Limits) -> Bool[Array, ""]:
        return (self.length < limits.max_length) & ~jnp.all(self.finished)


def step(
    model: Writer,
    state: AncestralState,
    padding: Integer[Array, "batch 1"] | None,
    processors: Sequence[LogitsProcessor],
    choose: AbstractChoice,
    limits: Limits,
    prompt_length: int,
) -> AncestralState:
    _, num_beams, buffer = state.tokens.shape
    taken = jnp.arange(buffer - prompt_length) <= state.length - prompt_length
    own = jnp.where(taken, jnp.arange(num_beams)[:, None], -1)  # each sequence descends from itself alone
    ancestors = jnp.broadcast_to(own, (*state.tokens.shape[:2], buffer - prompt_length))
    logits, cache = feed_last(model, state.tokens, state.length, state.cache, ancestors, padding)
    scores = apply(processors, logits, state.tokens, state.length)
    token = jnp.where(state.finished, limits.pad, choose(scores, state.length).astype(jnp.int32))
    return AncestralState(
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[..., None], state.length, axis=-1),
        length=state.length + 1,
        lengths=state.lengths + ~state.finished,
        finished=state.finished | limits.is_eos(token),
        finite=state.finite & (state.finished | all_numbers(scores)),
        cache=cache,
        records=state.records.write(state.length - prompt_length, scores, logits),
    )


@eqx.filter_jit
def ancestral_search(
    model: Writer,
    request: Request,
    processors: Sequence[LogitsProcessor],
    choose: AbstractChoice,
    limits: Limits,
    *,
    num_sequences: int,
    buffer: int,
    output_scores: bool,
    output_logits: bool,
) -> Found:
    batch, prompt_length = request.prompt.shape
    logger.info("Compiling %s: %d x %d sequences, %d tokens", type(choose).__name__, batch, num_sequences, buffer)
    beginning = begin(model, request, num_sequences, buffer)
    shape = (batch, num_sequences, buffer - prompt_length, model.config.vocab_size)
    records = Records.empty(shape, scores_dtype(beginning.cache), scores=output_scores, logits=output_logits)
    start = AncestralState.start(beginning, records)
    end = in_stages(
        lambda state: state.going(limits),
        lambda state: step(model, state, beginning.padding, processors, choose, limits, prompt_length),
        start,
        prompt_length=prompt_length,
        steps=buffer - prompt_length,
    )
    return Found(tokens=end.tokens, lengths=end.lengths, finite=end.finite, records=end.records)
