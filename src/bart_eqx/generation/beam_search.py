"""Beam search and its relatives: sampled, diverse and constrained beams."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from ..model.language_model import AbstractLanguageModel
from ..typing import Array
from .beam_rules import AbstractBeamRules
from .beams import BeamGroup, BeamSearchState, Continuations, Hypotheses
from .constrained_beams import ConstrainedRules
from .decode_loop import EndAndPadding, SearchResult, StepRecords, all_comparable, logger, staged_while_loop
from .model_calls import ModelInputs, logits_dtype, next_logits, prefill, tree_slots
from .processors.scores import LogitsProcessor, apply


def start_groups(
    tokens: Integer[Array, "batch beams buffer"],
    rules: AbstractBeamRules,
    num_groups: int,
    prompt_length: int,
    dtype: DTypeLike,
) -> tuple[BeamGroup, ...]:
    """The state after `prefill`. All beams start equal, so only the first of each group may be continued in the first
    step."""
    batch, num_beams, buffer = tokens.shape
    size = num_beams // num_groups
    scores = jnp.where(jnp.arange(size) == 0, 0.0, rules.mask_bias).astype(dtype)
    no_indices = jnp.full((batch, size, buffer - prompt_length), -1, jnp.int32)
    own_indices = jnp.arange(batch * num_beams, dtype=jnp.int32).reshape(batch, num_beams)
    groups = []
    for first in range(0, num_beams, size):
        own_tokens = tokens[:, first : first + size]
        finished = Hypotheses(
            tokens=own_tokens,
            scores=jnp.full((batch, size), rules.empty_score, dtype),
            lengths=jnp.full((batch, size), prompt_length, jnp.int32),
            complete=jnp.zeros((batch, size), bool),
            possible=jnp.zeros((batch, size), bool),
            beam_indices=no_indices,
        )
        prompt = own_tokens[..., :prompt_length]
        groups.append(
            BeamGroup(
                tokens=own_tokens,
                scores=jnp.broadcast_to(scores, (batch, size)),
                beam_indices=no_indices,
                own_indices=own_indices[:, first : first + size],
                finished=finished,
                open=jnp.ones(batch, bool),
                progress=rules.start_progress(prompt) if isinstance(rules, ConstrainedRules) else None,
                prompt_length=prompt_length,
            )
        )
    return tuple(groups)


def ancestors_of(groups: Sequence[BeamGroup], step: Integer[Array, ""]) -> Integer[Array, "batch beams steps"]:
    """For each sequence and step, the beam of its row whose slot the sequence may attend to; -1 after step `step`.

    At step t the model decodes the last token of every beam, and each new beam then continues one of them:
    `beam_indices[..., t]`. That beam's key and value are in slot `prompt_length - 1 + t * num_beams + beam`. So the
    beams that a sequence continued are the slots it may attend to; at this step, before the choice, it is its own.
    """
    own = jnp.concatenate([group.own_indices for group in groups], axis=1)
    continued = jnp.concatenate([group.beam_indices for group in groups], axis=1)
    continued = jax.lax.dynamic_update_slice_in_dim(continued, own[..., None], step, axis=-1)
    return jnp.where(continued < 0, -1, continued - own[:, :1, None])


def penalise_repeats(
    log_probs: Float[Array, "batch beams vocab"], chosen: Sequence[Integer[Array, "batch n"]], penalty: Float[Array, ""]
) -> Float[Array, "batch beams vocab"]:
    """Subtract `penalty` from a token once for each beam of an earlier group that has just chosen it
    (arXiv:1610.02424)."""
    if not chosen:
        return log_probs
    rows = jnp.arange(log_probs.shape[0])[:, None]
    counts = jnp.zeros((log_probs.shape[0], log_probs.shape[-1]), log_probs.dtype)
    counts = counts.at[rows, jnp.concatenate(chosen, axis=1)].add(1.0)
    return log_probs - penalty * counts[:, None]


def step(
    model: AbstractLanguageModel,
    state: BeamSearchState,
    padding: Integer[Array, "batch 1"] | None,
    processors: Sequence[LogitsProcessor],
    diversity_penalty: Float[Array, ""],
    rules: AbstractBeamRules,
    ending: EndAndPadding,
    key: PRNGKeyArray | None,
) -> BeamSearchState:
    """Decode the last token of every beam, then let each group in turn choose its next beams."""
    length, prompt_length = state.length, state.groups[0].prompt_length
    ancestors = ancestors_of(state.groups, length - prompt_length)
    logits, cache = next_logits(model, state.tokens, length, state.cache, ancestors, padding, prompt_length)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    step_key = None if key is None else jr.fold_in(key, length)

    groups, all_scores, chosen, first = [], [], [], 0
    unfinished, finite = jnp.zeros((), bool), state.finite
    for group in state.groups:
        size = group.scores.shape[-1]
        scores = penalise_repeats(log_probs[:, first : first + size], chosen, diversity_penalty)
        scores = apply(processors, scores, group.tokens, length)
        finite &= jnp.all(all_comparable(scores), axis=-1) | ~group.open
        totals = scores + group.scores[..., None]
        # Each beam has at most one candidate per EOS id, so at least `size` candidates do not end.
        k = min(max(2, 1 + ending.eos_token_ids.shape[0]) * size, size * totals.shape[-1])
        candidates = Continuations.best(totals, k, step_key)
        advanced, group_unfinished = rules.advance(group, totals, candidates, length)
        ids = jax.lax.dynamic_index_in_dim(advanced.tokens, length, axis=-1, keepdims=False)
        chosen.append(jnp.where(group.open[:, None], ids, ending.pad_token_id))
        groups.append(advanced)
        all_scores.append(scores)
        unfinished |= group_unfinished
        first += size

    return BeamSearchState(
        groups=tuple(groups),
        length=length + 1,
        unfinished=unfinished,
        finite=finite,
        cache=cache,
        records=state.records.write(length - prompt_length, jnp.concatenate(all_scores, axis=1), logits),
    )


@eqx.filter_jit
def beam_search(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    processors: Sequence[LogitsProcessor],
    diversity_penalty: Float[Array, ""],
    rules: AbstractBeamRules,
    ending: EndAndPadding,
    *,
    num_beams: int,
    num_groups: int,
    num_return_sequences: int,
    buffer: int,
    key: PRNGKeyArray | None,
    output_scores: bool,
    output_logits: bool,
) -> SearchResult:
    """The `num_return_sequences` best sequences for each source, of at most `buffer` slots. With a `key`, continuations
    are sampled."""
    batch, prompt_length = inputs.prompt.shape
    steps = buffer - prompt_length
    logger.info("Compiling %s: %d x %d beams, %d tokens", type(rules).__name__, batch, num_beams, buffer)
    tokens, cache = prefill(model, inputs, num_beams, buffer)
    dtype = logits_dtype(cache)
    shape = (batch, num_beams, steps, model.config.vocab_size)
    start = BeamSearchState(
        groups=start_groups(tokens, rules, num_groups, prompt_length, dtype),
        length=jnp.asarray(prompt_length, jnp.int32),
        unfinished=jnp.ones((), bool),
        finite=jnp.ones(batch, bool),
        cache=cache,
        records=StepRecords.empty(shape, dtype, scores=output_scores, logits=output_logits),
    )
    end = staged_while_loop(
        lambda state: state.unfinished,
        lambda state: step(model, state, inputs.padding, processors, diversity_penalty, rules, ending, key),
        start,
        prompt_length=prompt_length,
        steps=steps,
        slots=tree_slots(prompt_length, num_beams),
    )
    first, *others = [rules.finish(group, end.length) for group in end.groups]
    for other in others:
        first = first.joined(other)
    best = first.best(num_return_sequences)
    finite = end.finite[:, None] & best.complete & best.possible
    return SearchResult(best.tokens, best.lengths, finite, best.scores, best.beam_indices, end.records)
