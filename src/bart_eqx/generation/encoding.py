"""The encoder over a batch of sources, at the price of their tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..model.conditional_generation import BartForConditionalGeneration
from ..typing import Array


# A row is computed at the first of these parts of the batch's width into which it fits.
PARTS = (4, 2, 1)
# Fewer tokens are not work enough for all cores: rows that are shorter are computed together.
WORTHWHILE = 128


def encoded(
    model: BartForConditionalGeneration,
    input_ids: Integer[Array, "batch src"],
    attention_mask: Bool[Array, "batch src"] | None,
) -> Float[Array, "batch src dim"]:
    """`model.encode`, but for what it makes of padding.

    On CPU row after row: the scores of one stay in the processor's cache, and a row that ends early costs what it has.
    Elsewhere the batch at once, as a batch of one everywhere: it was padded to share a program.
    """
    whole = lambda ids, mask: model.encode(ids, mask).last_hidden_state
    batch, src = input_ids.shape
    if batch == 1 or src < WORTHWHILE:
        return whole(input_ids, attention_mask)
    rows = lambda ids, mask: _row_by_row(model, ids, mask)
    return jax.lax.platform_dependent(input_ids, attention_mask, cpu=rows, default=whole)


def _row_by_row(
    model: BartForConditionalGeneration,
    input_ids: Integer[Array, "batch src"],
    attention_mask: Bool[Array, "batch src"] | None,
) -> Float[Array, "batch src dim"]:
    if attention_mask is None:
        return jax.lax.map(lambda ids: model.encode(ids).last_hidden_state, input_ids)
    src = input_ids.shape[-1]
    widths = [-(-src // part) for part in PARTS]

    def at_width(width: int):
        def encode(ids: Integer[Array, " src"], mask: Bool[Array, " src"]) -> Float[Array, "src dim"]:
            states = model.encode(ids[:width], mask[:width]).last_hidden_state
            return jnp.pad(states, ((0, src - width), (0, 0)))

        return encode

    ends = jnp.max(jnp.where(attention_mask, jnp.arange(1, src + 1), 0), axis=-1)
    which = jnp.searchsorted(jnp.asarray(widths), ends)
    branches = [at_width(width) for width in widths]
    return jax.lax.map(lambda row: jax.lax.switch(row[0], branches, row[1], row[2]), (which, input_ids, attention_mask))
