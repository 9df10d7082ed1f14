"""Beam search, and its relatives: sampled, in groups, with words that must occur."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Integer, PRNGKeyArray

from ..model.cache import DecoderCache
from ..typing import Array
from .beam_rules import AbstractBeamRules
from .beams import BeamGroup, Candidates, Hypotheses
from .feeding import Beginning, Request, Writer, begin, feed_last, room_for, scores_dtype
from .limits import Limits, logger
from .processors import DiversityPenalty, LogitsProcessor, apply
from .results import Found, Records, all_numbers
from .stages import AbstractSearchState, in_stages


class BeamSearchState(AbstractSearchState):
    """What one step hands to the next."""

    groups: tuple[BeamGroup, ...]
    length: Integer[Array, ""]
    going: Bool[Array, ""]
    finite: Bool[Array, " batch"]
    """Whether every token was chosen among numbers."""
    cache: DecoderCache
    """Of all tokens but the last, as they were fed: it is not reordered."""
    records: Records

    def with_room(self, steps: int, prompt_length: int) -> "BeamSearchState":
        cache = room_for(steps, self.cache, self.tokens.shape[1], prompt_length)
        return eqx.tree_at(lambda state: state.cache, self, cache)

    @property
    def tokens(self) -> Integer[Array, "batch beams buffer"]:
        return jnp.concatenate([group.tokens for group in self.groups], axis=1)


def start_groups(
    beginning: Beginning, rules: AbstractBeamRules, num_groups: int, dtype: DTypeLike
) -> tuple[BeamGroup, ...]:
    """All beams alike, and all but the first of a group out of the race, so that the first step draws from one."""
    batch, num_beams, buffer = beginning.tokens.shape
    size = num_beams // num_groups
    alone = jnp.where(jnp.arange(size) == 0, 0.0, rules.out_of_race).astype(dtype)
    indices = jnp.full((batch, size, buffer - rules.scale.prompt_length), -1, jnp.int32)
    own_indices = jnp.arange(batch * num_beams, dtype=jnp.int32).reshape(batch, num_beams)
    groups = []
    for first in range(0, num_beams, size):
        tokens = beginning.tokens[:, first : first + size]
        finished = Hypotheses(
            tokens=tokens,
            scores=jnp.full((batch, size), rules.nothing, dtype),
            lengths=jnp.broadcast_to(beginning.length, (batch, size)),
            complete=jnp.zeros((batch, size), bool),
            beam_indices=indices,
        )
        groups.append(
            BeamGroup(
                tokens=tokens,
                scores=jnp.broadcast_to(alone, (batch, size)),
                beam_indices=indices,
                own_indices=own_indices[:, first : first + size],
                finished=finished,
                open=jnp.ones(batch, bool),
                progress=rules.progress(tokens),
            )
        )
    return tuple(groups)


def ancestors_of(groups: Sequence[BeamGroup], step: Integer[Array, ""]) -> Integer[Array, "batch beams steps"]:
    """Which of a row's beams each was at every step, up to this one.

    The token that a step chose was chosen for the beam that had been fed, and that is what `beam_indices` remember.
    """
    own = jnp.concatenate([group.own_indices for group in groups], axis=1)
    fed = jnp.concatenate([group.beam_indices for group in groups], axis=1)
    fed = jax.lax.dynamic_update_slice_in_dim(fed, own[..., None], step, axis=-1)
    return jnp.where(fed < 0, -1, fed - own[:, :1, None])


def step(
    model: Writer,
    state: BeamSearchState,
    padding: Integer[Array, "batch 1"] | None,
    processors: Sequence[LogitsProcessor],
    rules: AbstractBeamRules,
    limits: Limits,
    key: PRNGKeyArray | None,
) -> BeamSearchState:
    length = state.length
    ancestors = ancestors_of(state.groups, length - rules.scale.prompt_length)
    logits, cache = feed_last(model, state.tokens, length, state.cache, ancestors, padding)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    step_key = None if key is None else jr.fold_in(key, length)

    groups, all_scores, going, chosen, first = [], [], jnp.zeros((), bool), [], 0
    finite = state.finite
    for group in state.groups:
        size = group.scores.shape[-1]
        told = tuple(_told(processor, chosen) for processor in processors)
        scores = apply(told, log_probs[:, first : first + size], group.tokens, length)
        finite &= jnp.all(all_numbers(scores), axis=-1) | ~group.open
        totals = scores + group.scores[..., None]
        k = min(max(2, 1 + limits.eos.shape[0]) * size, size * totals.shape[-1])
        candidates = Candidates.best(totals, k, limits, step_key)
        moved, group_going = rules.advance(group, totals, candidates, length)
        ids = jax.lax.dynamic_index_in_dim(moved.tokens, length, axis=-1, keepdims=False)
        chosen.append(jnp.where(group.open[:, None], ids, limits.pad))
        groups.append(moved)
        all_scores.append(scores)
        going |= group_going
        first += size

    return BeamSearchState(
        groups=tuple(groups),
        length=length + 1,
        going=going,
        finite=finite,
        cache=cache,
        records=state.records.write(length - rules.scale.prompt_length, jnp.concatenate(all_scores, axis=1), logits),
    )


def _told(processor: LogitsProcessor, chosen: list[Integer[Array, "batch n"]]) -> LogitsProcessor:
    """A diversity penalty learns what the groups before have chosen at this step; other processors need not know."""
    if isinstance(processor, DiversityPenalty) and chosen:
        return DiversityPenalty(processor.penalty, jnp.concatenate(chosen, axis=1))
    return processor


@eqx.filter_jit
def beam_search(
    model: Writer,
    request: Request,
    processors: Sequence[LogitsProcessor],
    rules: AbstractBeamRules,
    limits: Limits,
    *,
    num_beams: int,
    num_groups: int,
    num_return_sequences: int,
    buffer: int,
    key: PRNGKeyArray | None,
    output_scores: bool,
    output_logits: bool,
) -> Found:
    batch, prompt_length = request.prompt.shape
    logger.info("Compiling %s: %d x %d beams, %d tokens", type(rules).__name__, batch, num_beams, buffer)
    beginning = begin(model, request, num_beams, buffer)
    shape = (batch, num_beams, buffer - prompt_length, model.config.vocab_size)
    dtype = scores_dtype(beginning.cache)
    start = BeamSearchState(
        groups=start_groups(beginning, rules, num_groups, dtype),
        length=beginning.length,
        going=jnp.ones((), bool),
        finite=jnp.ones(batch, bool),
        cache=beginning.cache,
        records=Records.empty(shape, dtype, scores=output_scores, logits=output_logits),
    )
    end = in_stages(
        lambda state: state.going,
        lambda state: step(model, state, beginning.padding, processors, rules, limits, key),
        start,
        prompt_length=prompt_length,
        steps=buffer - prompt_length,
    )
    first, *others = [rules.finish(group, end.length) for group in end.groups]
    for other in others:
        first = first.joined(other)
    best = first.best(num_return_sequences)
    finite = jnp.broadcast_to(end.finite[:, None], best.lengths.shape)
    return Found(best.tokens, best.lengths, finite, best.scores, best.beam_indices, end.records)
