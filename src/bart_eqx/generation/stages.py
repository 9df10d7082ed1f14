"""Loops whose cache grows with what has been written, so that a step costs what is there and not what is allowed."""

import abc
from collections.abc import Callable
from typing import TypeVar, cast

import equinox as eqx
import jax
from jaxtyping import Bool, Integer

from ..typing import Array


# Each stage is compiled on its own. What these numbers cost and save is in `docs/performance.md`.
FIRST, GROWTH = 64, 4


class AbstractSearchState(eqx.Module):
    """What one step of a search hands to the next."""

    length: eqx.AbstractVar[Integer[Array, ""]]
    """Slots of the tokens' buffer that are taken."""

    @abc.abstractmethod
    def with_room(self, steps: int, prompt_length: int) -> "AbstractSearchState":
        """The same, with a cache for so many steps."""


State = TypeVar("State", bound=AbstractSearchState)


def stage_ends(steps: int) -> list[int]:
    """After how many steps the cache is made longer; the last is `steps`."""
    ends, end = [], FIRST
    while 2 * end <= steps:
        ends.append(end)
        end *= GROWTH
    return [*ends, steps]


def in_stages(
    going: Callable[[State], Bool[Array, ""]],
    step: Callable[[State], State],
    start: State,
    *,
    prompt_length: int,
    steps: int,
) -> State:
    """`jax.lax.while_loop(going, step, start)`, for at most `steps` tokens after the prompt."""
    state = start
    for end in stage_ends(steps):
        full = prompt_length + end
        state = jax.lax.while_loop(
            lambda state, full=full: going(state) & (state.length < full),
            step,
            cast(State, state.with_room(end, prompt_length)),
        )
    return state
