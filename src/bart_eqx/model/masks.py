"""Masks and shifted targets. A mask is boolean, True where attention is allowed, and is made here only."""

import jax.numpy as jnp
from jaxtyping import Bool, Integer

from ..typing import Array, HostArray, Mask
from .signature import one_sentence_errors


def padding_mask(attention_mask: Mask[HostArray, "*batch kv"] | None) -> Bool[Array, "*batch 1 1 kv"] | None:
    """Every head and every query may attend to the tokens, and not to the padding, where the mask is zero or False."""
    return None if attention_mask is None else jnp.asarray(attention_mask).astype(bool)[..., None, None, :]


def causal_mask(query_slots: Integer[Array, " q"], key_slots: Integer[Array, " kv"]) -> Bool[Array, "q kv"]:
    """Query slot `i` may attend to the key slots up to `i`. Compared where it is needed: no triangle is stored."""
    return key_slots <= query_slots[:, None]


@one_sentence_errors
def shift_tokens_right(
    input_ids: Integer[HostArray, "*batch seq"], pad_token_id: int, decoder_start_token_id: int
) -> Integer[Array, "*batch seq"]:
    """Decoder inputs from labels: `[a, b, c] -> [start, a, b]`, and -100, the label that no loss counts, -> padding.

    As `shift_tokens_right` in transformers' `modeling_flax_bart.py`. Built by concatenation: writing an array's shifted
    self into itself is miscompiled on CPU by current XLA (openxla/xla#49176).

    Args:
        input_ids: The labels.
        pad_token_id: The token in place of -100.
        decoder_start_token_id: The first token of every row.
    """
    ids = jnp.asarray(input_ids)
    start = jnp.full_like(ids[..., :1], decoder_start_token_id)
    shifted = jnp.concatenate([start, ids[..., :-1]], axis=-1)
    return jnp.where(shifted == -100, pad_token_id, shifted)
