"""The states behind finished sequences: one teacher-forced pass over them, whatever search has found them."""

import equinox as eqx
import jax
from jaxtyping import Integer

from ..model.outputs import CausalLMOutputWithCrossAttentions
from ..typing import Array
from .feeding import Request, Writer, empty_cache, run


@eqx.filter_jit
def states_of(
    model: Writer,
    request: Request,
    tokens: Integer[Array, "batch found buffer"],
    *,
    output_attentions: bool,
    output_hidden_states: bool,
) -> CausalLMOutputWithCrossAttentions:
    """What the model attends to and computes as it reads all tokens but the last.

    Cached steps and a whole pass give the same numbers, so nothing needs to be recorded during the search, and beams
    need no bookkeeping for it.
    """
    cache = empty_cache(model, request, tokens.shape[-1] - 1)

    def states(read: Integer[Array, "batch seq"]) -> CausalLMOutputWithCrossAttentions:
        outputs = dict(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        return run(model, read, cache, request.padding, **outputs)[0]

    return jax.vmap(states, in_axes=1, out_axes=1)(tokens[..., :-1])  # all read the one source
