"""`stream`: the tokens of `generate`, each as soon as it is decided."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer, PRNGKeyArray

from ..typing import Array, HostArray, Mask
from .ancestral import AbstractChoice, AncestralState, step
from .feeding import Request, Writer, begin
from .limits import Limits, logger
from .plan import Plan, make_plan, with_batch_axes
from .processors import LogitsProcessor
from .results import Records


def stream(
    model: Writer,
    input_ids: Integer[HostArray, "*batch src"] | None = None,
    attention_mask: Mask[HostArray, "*batch src"] | None = None,
    *,
    key: PRNGKeyArray | None = None,
    **arguments: Any,
) -> Iterator[Integer[Array, "*rows"]]:
    """Write as [`generate`][bart_eqx.generate] does, with the same arguments, and hand out every token at once.

    Each step is a call of a compiled function, whose cache is donated: slower than `generate` by the dispatch of one
    call per token, and free to be stopped at any time, for a stop string or because it is late.

    Yields:
        The next token of every row; `pad_token_id` in rows that have ended. The prompt is not repeated.

    Raises:
        TypeError: as `generate`; at the call, not at the first token.
        FloatingPointError: if a token would be chosen among scores that are NaN, or infinite.
        ValueError: as `generate`; and for beam search and prompt lookup, whose tokens are not decided one by one.
    """
    plan = make_plan(model, input_ids, attention_mask, key=key, **arguments)
    c = plan.config
    if c.num_beams > 1 or c.prompt_lookup_num_tokens is not None:
        raise ValueError(
            "Tokens are decided one by one in greedy search and sampling only: num_beams=1, no prompt lookup."
        )
    if c.output_scores or c.output_logits or c.output_attentions or c.output_hidden_states:
        raise ValueError("`stream` yields tokens and nothing else. Turn off the output_* options, or call `generate`.")
    return _tokens(model, plan)


def _tokens(model: Writer, plan: Plan) -> Iterator[Integer[Array, "*rows"]]:
    state, padding = _start(model, plan.request, plan.config.num_return_sequences, plan.buffer)
    unchanged = (model, padding, plan.processors, plan.choice, plan.limits, plan.prompt_length)
    going = True
    while going:
        state, token, more, finite = _next(unchanged, state)
        if not finite:
            raise FloatingPointError(
                "A token cannot be chosen: scores of the model are NaN or infinite. Look at its weights and its dtype."
            )
        yield with_batch_axes(token, plan.batch)
        going = bool(more)


@eqx.filter_jit
def _start(
    model: Writer, request: Request, num_sequences: int, buffer: int
) -> tuple[AncestralState, Integer[Array, "batch 1"] | None]:
    logger.info("Compiling a stream: %d x %d sequences, %d tokens", request.prompt.shape[0], num_sequences, buffer)
    beginning = begin(model, request, num_sequences, buffer)
    prompt_length = request.prompt.shape[-1]
    state = AncestralState.start(beginning, Records(None, None))
    return state.with_room(buffer - prompt_length, prompt_length), beginning.padding


@eqx.filter_jit(donate="all-except-first")
def _next(
    unchanged: tuple[
        Writer, Integer[Array, "batch 1"] | None, tuple[LogitsProcessor, ...], AbstractChoice, Limits, int
    ],
    state: AncestralState,
) -> tuple[AncestralState, Integer[Array, "batch beams"], Bool[Array, ""], Bool[Array, ""]]:
    model, padding, processors, choose, limits, prompt_length = unchanged
    state = step(model, state, padding, processors, choose, limits, prompt_length)
    token = jax.lax.dynamic_index_in_dim(state.tokens, state.length - 1, axis=-1, keepdims=False)
    return state, token, state.going(limits), jnp.all(state.finite)
