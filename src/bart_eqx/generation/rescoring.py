"""The states behind finished sequences: one teacher-forced pass over them, whatever search has found them."""

import equinox as eqx
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
    _, num_sequences, buffer = tokens.shape
    cache = empty_cache(model, request, num_sequences, buffer - 1)
    output, _ = run(
        model,
        tokens[..., :-1],
        cache,
        request.padding,
        output_attentions=output_attentions,
        output_hidden_states=output_hidden_states,
    )
    return output
