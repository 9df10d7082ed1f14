"""Masks and shifted targets. A mask is boolean, True where attention is allowed, and is made here only."""

import jax.numpy as jnp
from jaxtyping import Bool, Integer

from ..typing import Array, HostArray, Mask


def as_boolean(attention_mask: Mask[HostArray, "*batch seq"]) -> Bool[Array, "*batch seq"]:
    return jnp.asarray(attention_mask) != 0


def padding_mask(attention_mask: Bool[Array, "*batch kv"]) -> Bool[Array, "*batch 1 1 kv"]:
    """Every head and every query may see the tokens and not the padding."""
    return attention_mask[..., None, None, :]


def causal_mask(query_slots: Integer[Array, " q"], key_slots: Integer[Array, " kv"]) -> Bool[Array, "q kv"]:
    """Query slot `i` may see the key slots up to `i`. Compared on the spot: no triangle is stored."""
    return key_slots <= query_slots[:, None]


def shift_tokens_right(
    input_ids: Integer[HostArray, "*batch seq"], pad_token_id: int, decoder_start_token_id: int
) -> Integer[Array, "*batch seq"]:
    """Decoder inputs from labels: `[a, b, c] -> [start, a, b]`; -100, the label that no loss counts, turns to padding.

    As `shift_tokens_right` in transformers' `modeling_flax_bart.py`. Built by concatenation: writing an array's shifted
    self into itself is miscompiled on CPU by current XLA (openxla/xla#49176).
    """
    ids = jnp.asarray(input_ids)
    start = jnp.full_like(ids[..., :1], decoder_start_token_id)
    shifted = jnp.concatenate([start, ids[..., :-1]], axis=-1)
    return jnp.where(shifted == -100, pad_token_id, shifted)
