"""What every search shares: when a sequence ends, what is recorded, and the loop, in stages."""

import logging
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ..model.cache import DecoderCache
from ..typing import Array


logger = logging.getLogger("bart_eqx.generation")  # announces every compilation


class EndAndPadding(eqx.Module):
    """When a sequence ends, and the token that pads it from there on."""

    max_length: Integer[Array, ""]
    """Slots that a sequence may use, prompt included; at most those of its buffer."""
    eos_token_ids: Integer[Array, " n"]
    """Each of these ends a sequence."""
    pad_token_id: Integer[Array, ""]

    def is_eos(self, tokens: Integer[Array, "*rows"]) -> Bool[Array, "*rows"]:
        return jnp.any(tokens[..., None] == self.eos_token_ids, axis=-1)


class StepRecords(eqx.Module):
    """The scores of the whole vocabulary at every step; `None` where they were not requested."""

    scores: Float[Array, "batch beams steps vocab"] | None
    """After the processors."""
    logits: Float[Array, "batch beams steps vocab"] | None
    """The model's own."""

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: DTypeLike, *, scores: bool, logits: bool) -> "StepRecords":
        zeros = lambda wanted: jnp.zeros(shape, dtype) if wanted else None
        return cls(zeros(scores), zeros(logits))

    def write(
        self,
        step: Integer[Array, ""],
        scores: Float[Array, "batch beams vocab"],
        logits: Float[Array, "batch beams vocab"],
    ) -> "StepRecords":
        def put(record: Array | None, new: Array) -> Array | None:
            if record is None:
                return None
            return jax.lax.dynamic_update_slice_in_dim(record, new[:, :, None].astype(record.dtype), step, axis=2)

        return StepRecords(put(self.scores, scores), put(self.logits, logits))


class SearchResult(eqx.Module):
    """What every search returns: `returned` sequences for each source. `None` for what was not requested, or does not
    apply."""

    tokens: Integer[Array, "batch returned buffer"]
    lengths: Integer[Array, "batch returned"]
    """Slots in use, with the padding in front of the prompt."""
    finite: Bool[Array, "batch returned"]
    """Whether `can_choose` held at every step, and no token of the sequence was masked out."""
    scores: Float[Array, "batch returned"] | None = None
    beam_indices: Integer[Array, "batch returned steps"] | None = None
    records: StepRecords | None = None
    model_calls: Integer[Array, " batch"] | None = None


def all_comparable(scores: Float[Array, "*rows vocab"]) -> Bool[Array, "*rows"]:
    """Whether no score is NaN or plus infinity. (Minus infinity masks a token out.)"""
    return jnp.all(scores < jnp.inf, axis=-1)


def can_choose(scores: Float[Array, "*rows vocab"]) -> Bool[Array, "*rows"]:
    """Whether the scores are comparable, and some token is not masked out."""
    # 0 for a masked token, 1 for a possible one, 2 for NaN and infinity. With two reductions XLA on CPU copies scores.
    kinds = jnp.where(scores < jnp.inf, (scores > -jnp.inf).astype(jnp.int8), 2)
    return jnp.max(kinds, axis=-1) == 1


class AbstractLoopState(eqx.Module):
    """The loop state that all searches have in common."""

    length: eqx.AbstractVar[Integer[Array, ""]]
    """Slots in use, the same in every row, ended or not: the next token goes into slot `length`."""
    cache: eqx.AbstractVar[DecoderCache]
    """The keys and values of all tokens but the last of each sequence, which the next step decodes."""


State = TypeVar("State", bound=AbstractLoopState)


# Each stage is compiled separately. `docs/performance.md` has what these numbers cost and save.
FIRST_STAGE, STAGE_GROWTH = 64, 4


def stage_ends(steps: int) -> list[int]:
    """The step at which each stage ends; the last is `steps`."""
    ends, end = [], FIRST_STAGE
    while 2 * end <= steps:
        ends.append(end)
        end *= STAGE_GROWTH
    return [*ends, steps]


def with_slots(state: State, slots: int) -> State:
    """The state with a cache of `slots` slots."""
    return eqx.tree_at(lambda s: s.cache, state, state.cache.with_room(slots))


def staged_while_loop(
    unfinished: Callable[[State], Bool[Array, ""]],
    step: Callable[[State], State],
    state: State,
    *,
    prompt_length: int,
    steps: int,
    slots: Callable[[int], int],
) -> State:
    """`jax.lax.while_loop(unfinished, step, state)`, for at most `steps` tokens after the prompt.

    It runs in stages, each with a longer cache, so that early steps do not pay for slots that are still empty.
    `slots(n)` is the number of slots that the cache needs for `n` steps.
    """
    for end in stage_ends(steps):

        def unfinished_in_stage(state: State, stage_length: int = prompt_length + end) -> Bool[Array, ""]:
            return unfinished(state) & (state.length < stage_length)

        state = jax.lax.while_loop(unfinished_in_stage, step, with_slots(state, slots(end)))
    return state
